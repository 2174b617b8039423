"""`python -m napari_mil.cli` is `napari-mil`."""

from napari_mil.cli import main

main()
