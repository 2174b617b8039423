"""What is installed, which GPU, which readers, and what is missing with the line that installs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator

#: module → (what it is for, the line that installs it)
OPTIONAL = {
    "napari": ("the window", "pip install 'napari-mil[pyqt5]'"),
    "PyQt5": ("the default Qt binding", "pip install 'napari-mil[pyqt5]'"),
    "openslide": ("MRXS, NDPI and other vendors' slides", "pip install openslide-python openslide-bin"),
    "imagecodecs": ("JPEG, JPEG 2000, WebP and JPEG XL tiles", "pip install imagecodecs"),
    "wsidicom": ("DICOM slides", "pip install 'napari-mil[dicom]'"),
    "aiohttp": ("slides from https://", "pip install 'napari-mil[remote]'"),
    "s3fs": ("slides from s3://", "pip install 'napari-mil[remote]'"),
    "tensorboardX": ("TensorBoard files of trainings", "pip install 'napari-mil[tensorboard]'"),
    "psycopg": ("a ledger that a team shares", "pip install 'napari-mil[postgres]'"),
}


def findings() -> Iterator[str]:
    """One line per fact, as a person reads it."""
    from napari_mil import __version__

    yield f"napari-mil {__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield f"cores: {os.cpu_count()}, memory: {_memory_gib():.0f} GiB, free disk here: {_free_gib():.0f} GiB"
    yield from _torch()
    yield from _packages()
    yield from _readers()
    yield from _kept()
    from napari_mil import encoders, methods

    yield "methods: " + ", ".join(methods.names())
    yield "encoders: " + ", ".join(encoders.names())
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        yield "screen: none; the window needs one, or a virtual one (xvfb-run napari-mil open ...)"


def _torch() -> Iterator[str]:
    import torch

    threads = torch.get_num_threads()
    yield f"torch {torch.__version__}, {threads} thread{'' if threads == 1 else 's'}"
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(i)
            name = torch.cuda.get_device_name(i)
            yield f"GPU {i}: {name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
    else:
        yield "GPU: none that this torch sees; everything runs on the CPU"


def _readers() -> Iterator[str]:
    from napari_mil.slides import READERS

    for reader in READERS:
        where = (", and copied from servers" if reader.copies else " and from servers") * reader.remote
        missing = "" if reader.installed else f"; missing {reader.needs}: {reader.install}"
        yield f"{reader.name}: {reader.reads}, from disk{where}{missing}"


def _kept() -> Iterator[str]:
    from napari_mil.slides.copies import COPIES
    from napari_mil.slides.sidecar import SIDECARS

    for shelf, what in ((SIDECARS, "sidecars of slides"), (COPIES, "copies of slides from servers")):
        size = f"{shelf.total_bytes() / 2**20:,.0f} MB of at most {shelf.bound_bytes() / 2**30:.0f} GB"
        yield f"{what}: {size} in {shelf.home}; napari-mil doctor --clean deletes them"


def _packages() -> Iterator[str]:
    packages = importlib.metadata.packages_distributions()  # reads what every package tells of itself
    for module, (purpose, line) in OPTIONAL.items():
        if importlib.util.find_spec(module) is None:
            yield f"{module}: missing ({purpose}); {line}"
        else:
            yield f"{module}: {_version(packages.get(module, [module])[0])} ({purpose})"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _memory_gib() -> float:
    import psutil

    return float(psutil.virtual_memory().total) / 2**30


def _free_gib() -> float:
    return shutil.disk_usage(".").free / 2**30
