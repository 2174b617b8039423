"""Arrays of a project in zarr, with what is known about them as attributes and checksums that tell damage."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil import __version__
from napari_mil.store.mapping import over_memory


def write_arrays(
    folder: Path, about: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], *, rows: int | None = None
) -> None:
    """A zarr group of arrays with what is known about them as attributes.

    With `rows`, arrays are cut along their first axis and compressed; without, each is one file as it lies in
    memory, so that it can be mapped.
    """
    import zarr

    group = zarr.open_group(folder, mode="w", zarr_format=3)
    for name, values in arrays.items():
        first = max(len(values), 1)
        chunks = (first if rows is None else min(first, rows), *(max(n, 1) for n in values.shape[1:]))
        group.create_array(name, data=values, chunks=chunks, compressors=None if rows is None else "auto")
    group.attrs.update(
        {**about, "checksums": {name: _sum(a) for name, a in arrays.items()}, "program": __version__}
    )


def read_arrays(
    folder: Path, only: tuple[str, ...] = (), *, mapped: bool = False
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """The attributes and arrays, read-only, that `write_arrays` wrote, or only those; ValueError when one was
    altered.

    With `mapped`, an array that is one file stays there, and the system reads of it what is looked at: many
    bags together need no more memory than there is. A disk that goes away then ends the program, so it is
    not for a window.
    """
    about = attributes(folder)
    arrays = {}
    for name in only or about["checksums"]:
        values = _plain(folder / name, mapped=mapped)
        if values is None:
            values = _of_zarr(folder, name)
        values.flags.writeable = False
        if _sum(values) != about["checksums"][name]:
            raise ValueError(f"the content of {name} does not give its checksum")
        arrays[name] = values
    return about, arrays


def _of_zarr(folder: Path, name: str) -> NDArray[Any]:
    import zarr

    return np.asarray(zarr.open_group(folder, mode="r")[name][...])


def _plain(folder: Path, *, mapped: bool) -> NDArray[Any] | None:
    """An array of zarr that is one file as it lies in memory: read without zarr, which takes ten times as
    long, or over the memory of its file; None where it is no such file.
    """
    about = json.loads((folder / "zarr.json").read_bytes())
    shape, kind = tuple(about["shape"]), np.dtype(about["data_type"])
    file = folder.joinpath("c", *("0" for _ in shape))
    plain = about["chunk_grid"]["configuration"]["chunk_shape"] == about["shape"] and [
        (codec["name"], codec.get("configuration", {}).get("endian", "little")) for codec in about["codecs"]
    ] == [("bytes", "little")]
    if not (plain and file.exists() and file.stat().st_size == math.prod(shape) * kind.itemsize):
        return None
    found = over_memory(file, file.stat().st_size) if mapped else np.fromfile(file, np.uint8)
    return np.asarray(found.view(kind.newbyteorder("<")).reshape(shape))


def attributes(folder: Path) -> dict[str, Any]:
    """The attributes of a zarr group, without zarr: a list reads many of them."""
    found: dict[str, Any] = json.loads((folder / "zarr.json").read_bytes())["attributes"]
    return found


def _sum(values: NDArray[Any]) -> str:
    digest = hashlib.sha256(f"{values.dtype.str}{values.shape}".encode())
    digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
