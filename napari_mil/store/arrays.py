"""Arrays of a project in zarr, with what is known about them as attributes and checksums that tell damage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil import __version__


def write_arrays(
    folder: Path, about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], *, rows: int
) -> None:
    """A zarr group of arrays, cut along their first axis, with what is known about them as attributes."""
    import zarr

    group = zarr.open_group(folder, mode="w", zarr_format=3)
    for name, values in arrays.items():
        chunks = (min(max(len(values), 1), rows), *(max(n, 1) for n in values.shape[1:]))
        group.create_array(name, data=values, chunks=chunks)
    group.attrs.update(
        {**about, "checksums": {name: _sum(a) for name, a in arrays.items()}, "program": __version__}
    )


def read_arrays(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The attributes and arrays that `write_arrays` wrote; ValueError when an array was altered."""
    import zarr

    about = attributes(folder)
    group = zarr.open_group(folder, mode="r")
    arrays = {name: np.asarray(group[name][...]) for name in about["checksums"]}
    for name, values in arrays.items():
        if _sum(values) != about["checksums"][name]:
            raise ValueError(f"the content of {name} does not give its checksum")
    return about, arrays


def attributes(folder: Path) -> dict[str, Any]:
    """The attributes of a zarr group, without zarr: a list reads many of them."""
    found: dict[str, Any] = json.loads((folder / "zarr.json").read_bytes())["attributes"]
    return found


def _sum(values: NDArray[Any]) -> str:
    head = f"{values.dtype.str}{values.shape}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(values).tobytes()).hexdigest()
