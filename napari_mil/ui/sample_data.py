"""File > Open Sample: a synthetic H&E-like slide, drawn when it is first asked for."""

from __future__ import annotations

import tempfile
from pathlib import Path

from napari_mil.ui.layers import LayerData


def sample_slide() -> list[LayerData]:
    """A slide with ductal carcinoma in situ, kept in the machine's folder for temporary files."""
    from napari_mil.samples import make_slide
    from napari_mil.ui.reader import read

    path = Path(tempfile.gettempdir()) / "napari-mil" / "sample-dcis.tif"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        make_slide(path, seed=7, label="Malignant/DCIS", shape_px=(5120, 6144))
    return read(path)
