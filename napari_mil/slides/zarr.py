"""OME-Zarr 0.4 and 0.5: bright-field images as pyramids of chunks."""

from __future__ import annotations

import math
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np

from napari_mil.errors import SlideError, reason
from napari_mil.slides import omexml
from napari_mil.slides.address import Address, SlidePath
from napari_mil.slides.info import LevelInfo, Pixels, SlideInfo
from napari_mil.slides.remote import file_system, folder_system, trying
from napari_mil.slides.slide import RefusedError, UnknownError

WHITE = (255, 255, 255)
WORDS = "OME/METADATA.ome.xml"
DOCUMENTS = ("zarr.json", ".zgroup", ".zattrs")
_SMALLEST_TILE = 256
_LARGEST_CHUNK = 2**25
_MOST_LEVELS = 64
_CLOCKS_S = 2.0  # may differ by so much
_MOST_CHUNKS = 64  # of the coarsest level, in the fingerprint
#: names of units, as UDUNITS has them, in µm
_UM = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6}
_UM |= {"angstrom": 1e-4, "inch": 25400.0, "nm": 1e-3, "um": 1.0, "µm": 1.0, "mm": 1e3}
_NO_IMAGE = "it is a Zarr {} without the metadata `multiscales`, while an OME-Zarr image is expected"
_RGB = ("FF0000", "00FF00", "0000FF")
#: Names that are none, and parts of those of fluorescent dyes.
_NO_NAME = re.compile(r"(channel|chan|ch|c|band|sample)?[\W_]*(\d+([\W_]+\d+)*)?[\W_]*")
_DYE = re.compile(
    r"dapi|hoechst|draq|sytox|fitc|tritc|alexa|texas|atto|opal|rhodamine|cherry|tomato|[cyrg]fp\b|\baf\W?\d{3}"
    r"|\bcy\W?[2357]|spectrum(aqua|green|orange|gold|red)"
)


@dataclass(frozen=True, slots=True)
class Plane:
    """One level: the array, and which of its axes is what.

    Attributes
    ----------
    array : a zarr array of uint8
    axes : its axes' names in their order, such as "tczyx"
    chunk_px : (h, w)
    """

    array: Any
    axes: str
    chunk_px: tuple[int, int]

    @property
    def shape_px(self) -> tuple[int, int]:
        """(h, w)."""
        return tuple(int(self.array.shape[self.axes.index(a)]) for a in "yx")  # type: ignore[return-value]

    def stored(self, y0: int, x0: int, y1: int, x1: int) -> Iterator[str]:
        """The names of the files that hold a box of the level, from the image's folder on."""
        inside, sizes = {"y": (y0, y1), "x": (x0, x1)}, self.array.shards or self.array.chunks
        spans = (inside.get(axis, (0, n)) for axis, n in zip(self.axes, self.array.shape, strict=True))
        cells = product(*(range(a // n, -(-b // n)) for (a, b), n in zip(spans, sizes, strict=True)))
        return (f"{self.array.path}/{self.array.metadata.encode_chunk_key(cell)}" for cell in cells)

    def read(self, y0: int, x0: int, y1: int, x1: int) -> Pixels:
        """(h, w, 3) uint8; grey is tripled."""
        spans = {"y": slice(y0, y1), "x": slice(x0, x1), "c": slice(None)}
        found = np.asarray(self.array[tuple(spans.get(axis, 0) for axis in self.axes)])
        left = [axis for axis in self.axes if axis in spans]
        if "c" not in left:
            return np.repeat(found[..., None], 3, axis=2)
        pixels = np.transpose(found, [left.index(axis) for axis in "yxc"])
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


class ZarrSource:
    """An open multiscale image; safe from many threads."""

    def __init__(self, path: SlidePath, planes: tuple[Plane, ...], info: SlideInfo) -> None:
        self._path, self._planes, self.info = path, planes, info
        self._changed, self._latest_s = "", _latest_s(info.files)

    def tile(self, level: int, row: int, col: int) -> Pixels:
        """(h, w, 3) uint8; a chunk that is black all over was not scanned and shows the background."""
        plane = self._planes[level]
        (height, width), (th, tw) = plane.shape_px, self.info.levels[level].tile_px
        top, left = row * th, col * tw
        box = (top, left, min(height, top + th), min(width, left + tw))
        read = partial(plane.read, *box)
        try:
            pixels = trying(read, self._path) if isinstance(self._path, Address) else read()
        except SlideError:
            raise
        except Exception as error:
            raise SlideError(
                f"the chunk in row {row}, column {col} of the level of {width} × {height} px is damaged "
                f"({reason(error)}); get an undamaged copy of the slide."
            ) from error
        if isinstance(self._path, Path):
            self._look_at(self._path, plane.stored(*box))
        for y, x in product(*(range(0, pixels.shape[i], plane.chunk_px[i]) for i in (0, 1))):
            chunk = pixels[y : y + plane.chunk_px[0], x : x + plane.chunk_px[1]]
            if not chunk.any():
                chunk[:] = self.info.background
        return pixels

    def _look_at(self, home: Path, names: Iterable[str]) -> None:
        """SlideError where chunks that were read have been written since the slide was opened."""
        for name in names:
            with suppress(OSError):  # one that is not there was not scanned
                if (home / name).stat().st_mtime > self._latest_s:
                    self._changed = f"another program has changed the file {name}; open the slide again."
        if self._changed:
            raise SlideError(self._changed)

    def close(self) -> None:
        """Nothing is held open."""


def open_source(path: SlidePath) -> ZarrSource:
    """The multiscale image of a folder; SlideError when it is no Zarr, RefusedError when it is no slide."""
    try:
        if isinstance(path, Address):
            return _from_server(path)
        if is_zarr(path):
            return _understand(path, path)
    except SlideError:
        raise
    except Exception as error:  # damaged metadata may raise anything inside the parser
        kind = type(error).__name__
        if kind == "ContainsArrayError" or (isinstance(path, Path) and (path / ".zarray").is_file()):
            raise RefusedError(_NO_IMAGE.format("array")) from error
        if kind == "GroupNotFoundError":
            raise UnknownError("not a Zarr group") from error
        raise RefusedError(f"it is a damaged OME-Zarr ({reason(error)}); copy the folder again") from error
    raise UnknownError("not a Zarr group")


def _from_server(address: Address) -> ZarrSource:
    from napari_mil.slides.zarrserved import ServedStore

    system, home = folder_system(address)
    store = ServedStore(system, read_only=True, path=home)

    def read() -> ZarrSource:
        try:
            return _understand(address, store)
        except FileNotFoundError as error:
            if type(error).__name__ == "GroupNotFoundError":  # the server answered, and there is none
                if store.refused is not None:
                    raise store.refused from error
                raise UnknownError("not a Zarr group") from error
            raise

    return trying(read, address)


def is_zarr(folder: Path) -> bool:
    """Whether a folder is a Zarr group or array."""
    return any((folder / name).is_file() for name in (*DOCUMENTS, ".zarray"))


def _understand(path: SlidePath, store: Any) -> ZarrSource:
    import zarr

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a reader may do without is no matter for its user
        group = zarr.open_group(store, mode="r")
        says = _says(group)
        if "bioformats2raw.layout" in says and "multiscales" not in says:
            group = group["0"]
            says = _says(group)
        image = _image(says)
        axes, units = _axes(image)
        datasets = image["datasets"][:_MOST_LEVELS]
        planes = tuple(_plane(_array(group, str(d["path"])), axes) for d in datasets)
    _check(planes, axes, says)
    infos = tuple(LevelInfo(p.shape_px, _tile_px(p)) for p in planes)
    scale = _scale(image, len(axes))
    mpp = tuple(scale[axes.index(a)] * units.get(a, math.nan) for a in "yx")
    version = says.get("version") or image.get("version") or "of unknown version"
    names = {"name": str(image["name"])} if isinstance(image.get("name"), str) else {}
    info = SlideInfo(
        levels=infos,
        files=tuple(_files(path, group, planes)),
        mpp=mpp if all(map(math.isfinite, mpp)) else None,  # type: ignore[arg-type]
        background=WHITE,
        objective_power=_objective(path),
        properties={"format": f"OME-Zarr {version}", "axes": axes, **names},
    )
    return ZarrSource(path, planes, info)


def _says(group: Any) -> Mapping[str, Any]:
    """The metadata of a group: 0.5 keeps it under `ome`, 0.4 does not."""
    attributes = dict(group.attrs)
    ome = attributes.get("ome", attributes)
    return ome if isinstance(ome, Mapping) else {}


def _image(says: Mapping[str, Any]) -> Mapping[str, Any]:
    if "plate" in says or "well" in says:
        raise RefusedError("it is a plate of many images; open the folder of one of them, such as A/1/0")
    found = says.get("multiscales")
    if not found or not isinstance(found, list) or not found[0].get("datasets"):
        raise RefusedError(_NO_IMAGE.format("group"))
    image: Mapping[str, Any] = found[0]
    return image


def _axes(image: Mapping[str, Any]) -> tuple[str, dict[str, float]]:
    """The names of the axes in their order, and µm per unit of those that have one."""
    said = image.get("axes") or list("tczyx")
    axes = [{"name": a} if isinstance(a, str) else a for a in said]
    names = "".join(str(a["name"]) for a in axes)
    if sorted(set(names)) != sorted(names) or len(names) != len(axes) or not {"y", "x"} <= set(names):
        raise RefusedError(
            f"its axes are {', '.join(str(a['name']) for a in axes)}, while y and x are needed"
        )
    return names, {str(a["name"]): _UM[a["unit"]] for a in axes if a.get("unit") in _UM}


def _array(group: Any, path: str) -> Any:
    """A level of an image; RefusedError when it is not there."""
    try:
        return group[path]
    except KeyError as error:
        raise RefusedError(f"its level {path} is not there; copy the folder again") from error


def _plane(array: Any, axes: str) -> Plane:
    if len(array.shape) != len(axes):
        raise RefusedError(f"an array has {len(array.shape)} dimensions and {len(axes)} axes are named")
    return Plane(array, axes, tuple(int(array.chunks[axes.index(a)]) for a in "yx"))  # type: ignore[arg-type]


def _check(planes: Sequence[Plane], axes: str, says: Mapping[str, Any]) -> None:
    """Raise RefusedError for what is no bright-field RGB of 8 bit, and for a pyramid that is none."""
    for plane, finer in zip(planes, (None, *planes), strict=False):
        if plane.array.dtype != np.uint8:
            raise RefusedError(
                f"its pixels are {plane.array.dtype}, while bright-field RGB of 8 bit is expected"
            )
        sizes = dict(zip(axes, map(int, plane.array.shape), strict=True))
        deep = {a: n for a, n in sizes.items() if a not in "cyx" and n != 1}
        if deep:
            many = ", ".join(f"{n} along {a}" for a, n in deep.items())
            raise RefusedError(
                f"it holds a stack of images ({many}), while one bright-field image is expected"
            )
        if sizes.get("c", 1) not in {1, 3}:
            raise RefusedError(
                f"it has {sizes['c']} channels{_named(says)}, while bright-field RGB is expected"
            )
        if min(plane.shape_px) < 1 or math.prod(plane.array.chunks) > 3 * _LARGEST_CHUNK:
            raise RefusedError(f"its chunks of {plane.array.chunks} are too large to be read one by one")
        if finer is not None and any(a > b for a, b in zip(plane.shape_px, finer.shape_px, strict=True)):
            raise RefusedError("its levels are not ordered from the largest to the smallest")
    three = "c" in axes and planes[0].array.shape[axes.index("c")] == 3
    if three and not _are_rgb(_channels(says)):
        raise RefusedError(f"its channels{_named(says)} are no red, green and blue, while RGB is expected")


def _channels(says: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    omero = says.get("omero")
    found = omero.get("channels") if isinstance(omero, Mapping) else None
    return [c for c in found or () if isinstance(c, Mapping)]


def _are_rgb(channels: Sequence[Mapping[str, Any]]) -> bool:
    """Whether nothing says that three channels are other than red, green and blue: dyes are shown in these
    colours too, and say so by their names; channels without colours by any name that is none of a colour.
    """
    colours = [str(c["color"]).upper().removeprefix("#") for c in channels if c.get("color")]
    names = [str(c.get("label") or "").strip().lower() for c in channels]
    if names in (["red", "green", "blue"], ["r", "g", "b"]):
        return not colours or colours == list(_RGB)
    if any(_DYE.search(name) for name in names):
        return False
    return colours == list(_RGB) if colours else all(map(_NO_NAME.fullmatch, names))


def _named(says: Mapping[str, Any]) -> str:
    names = ", ".join(filter(None, (str(c.get("label") or c.get("color") or "") for c in _channels(says))))
    return f" ({names})" if names else ""


def _scale(image: Mapping[str, Any], count: int) -> list[float]:
    """Scale per axis of the finest level: its own, times what holds for all levels."""
    scale = [1.0] * count
    for owner in (image["datasets"][0], image):
        for step in owner.get("coordinateTransformations") or ():
            if step.get("type") == "scale":
                scale = [a * float(b) for a, b in zip(scale, step["scale"], strict=True)]
    return scale


def _latest_s(files: Sequence[SlidePath]) -> float:
    """Until when a slide's files were written: till now, by their disk's clock as far as they tell it."""
    written = [file.stat().st_mtime for file in files if isinstance(file, Path)]
    return max([time.time(), *written]) + _CLOCKS_S


def _objective(path: SlidePath) -> float | None:
    """What the scanner's words say, which bioformats2raw keeps beside the images; Zarr's own metadata have
    no place for it.
    """
    for home in (path, path.parent) if path.name.isdecimal() else (path,):
        try:
            if isinstance(home, Address):
                system, inside = file_system(home / WORDS)
                return omexml.objective(bytes(system.cat_file(inside)).decode(errors="replace"))
            return omexml.objective((home / WORDS).read_text(errors="replace"))
        except Exception:  # noqa: BLE001, S112 - what a slide may leave out is no reason to refuse it
            continue
    return None


def _tile_px(plane: Plane) -> tuple[int, int]:
    """Whole chunks, together not smaller than 256 px."""
    return tuple(c * max(1, _SMALLEST_TILE // c) for c in plane.chunk_px)  # type: ignore[return-value]


def _files(path: SlidePath, group: Any, planes: Sequence[Plane]) -> list[SlidePath]:
    """What tells the slide from others: its documents, and the chunks of its coarsest level.

    A slide may have a hundred thousand chunks: not all of them can be looked at.
    """
    folders = ["", *(f"{one.path}/" for one in (group, *(p.array for p in planes)) if one.path)]
    named = [f"{folder}{name}" for folder in folders for name in (*DOCUMENTS, ".zarray")]
    named += islice(planes[-1].stored(0, 0, *planes[-1].shape_px), _MOST_CHUNKS)
    files: list[SlidePath] = [path / name for name in dict.fromkeys(named)]
    if isinstance(path, Path):
        return [file for file in files if isinstance(file, Path) and file.is_file()]
    system, _ = file_system(path)
    with ThreadPoolExecutor(8) as pool:
        there = pool.map(partial(_exists, system), files)
        return [file for file, found in zip(files, there, strict=True) if found]


def _exists(system: Any, file: SlidePath) -> bool:
    """Whether a server has a file, as far as it tells."""
    try:
        return bool(system.exists(str(file)))
    except PermissionError:  # so S3 says it of a folder that nobody may list
        return False
