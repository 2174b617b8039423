"""DICOM whole-slide images: wsidicom finds the frames, imagecodecs decodes them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from napari_mil.errors import SlideError, reason
from napari_mil.slides.address import Address, SlidePath
from napari_mil.slides.dicomfiles import (
    SUFFIXES,
    dicom_files,
    first_of_each,
    is_dicom,
    microscopy_in,
    served,
)
from napari_mil.slides.info import LevelInfo, Pixels, SlideInfo
from napari_mil.slides.remote import RemoteFile, UnreachableError
from napari_mil.slides.slide import RefusedError, UnknownError
from napari_mil.slides.tiffpage import decode_jpeg, decode_jpeg2000

_JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_JPEG2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
_LARGEST_TILE = 2**25
_NAMED = 5  # slides of a folder, in a sentence


class DicomSource:
    """An open pyramid of instances; wsidicom reads frames under a lock of each file, imagecodecs
    decodes outside.
    """

    def __init__(self, slide: Any, planes: tuple[Any, ...], info: SlideInfo) -> None:
        self._slide, self._planes, self.info = slide, planes, info
        self._decoding = [threading.Lock() for _ in planes]

    def tile(self, level: int, row: int, col: int) -> Pixels:
        """(h, w, 3) uint8; a frame that was never stored shows the background."""
        (height, width), (th, tw) = self.info.levels[level].shape_px, self.info.levels[level].tile_px
        size = (min(th, height - row * th), min(tw, width - col * tw))
        try:
            return _cut(_frame(self._planes[level], row, col, self._decoding[level]), size)
        except SlideError:  # of the server
            raise
        except Exception as error:
            raise SlideError(
                f"the frame in row {row}, column {col} of the level of {width} × {height} px is damaged "
                f"({reason(error)}); get an undamaged copy of the slide."
            ) from error

    def close(self) -> None:
        """Give the files back."""
        self._slide.close()


def open_source(path: SlidePath) -> DicomSource:
    """The slide of a folder of DICOM files, or that one of them belongs to."""
    try:
        found, asked = _served(path) if isinstance(path, Address) else _here(path)
    except SlideError:
        raise
    except OSError as error:
        raise RefusedError(
            f"{Path(error.filename or path.name).name} cannot be read ({reason(error)}); check its "
            "permissions"
        ) from error
    if not found:
        raise UnknownError("no DICOM")
    try:
        import wsidicom.config
    except ImportError as error:
        raise SlideError("it needs wsidicom, which comes with: pip install 'napari-mil[dicom]'") from error
    try:
        files = _of_one_slide(found, asked)
        # frames are kept with those of all slides, within their bound
        settings = wsidicom.config.Settings(decoded_frame_cache_size=0, encoded_frame_cache_size=0)
        if isinstance(path, Address):
            from napari_mil.slides.dicomserved import open_served

            slide, taken = open_served(files, settings)
        else:
            slide = wsidicom.WsiDicom.open(files, settings=settings)
            read = {Path(f) for f in slide.files}  # by their real paths, where the folder may be a link
            taken = [file for file in files if file.resolve() in read]
    except SlideError:
        raise
    except Exception as error:  # a damaged file may raise anything inside the parser
        raise SlideError(reason(error)) from error
    try:
        return _understand(slide, taken)
    except SlideError:
        slide.close()
        raise
    except Exception as error:
        slide.close()
        raise SlideError(f"its metadata make no sense ({reason(error)})") from error


def _here(path: Path) -> tuple[list[Path], Path | None]:
    """The DICOM files among which a slide's are, and the one that was asked for."""
    if path.is_dir():
        return list(dicom_files(path)), None
    return list(dicom_files(path.parent, suffixes=(path.suffix.lower(),))) if is_dicom(path) else [], path


def _served(path: Address) -> tuple[list[RemoteFile], RemoteFile | None]:
    """The same of a server, on which a folder is one whose address ends with a slash or has no dot in its
    name.
    """
    asked = None
    if path.suffix and not path.text.endswith("/"):
        asked = RemoteFile(path)
        if not is_dicom(asked):
            return [], asked
    if asked is None:
        return served(path, SUFFIXES), None
    try:
        others = served(path.parent, (path.suffix.lower(),))
    except UnreachableError:
        raise
    except SlideError as error:
        raise RefusedError(
            f"the other files of the slide cannot be looked for ({reason(error)}); they are found where a "
            "server lists its folders, or when the slide is copied to this machine"
        ) from error
    return [asked if other.name == asked.name else other for other in others], asked


def _of_one_slide(files: Sequence[Any], asked: Any) -> list[Any]:
    """The files of the series that was asked for; RefusedError when a folder holds several slides."""
    heads = microscopy_in(files)
    for says in heads.values():
        if says.get("BitsAllocated", 8) != 8:
            raise RefusedError(
                f"its pixels have {says.get('BitsStored')} bit, while bright-field RGB of 8 bit is expected"
            )
    if asked is not None:
        if asked not in heads:
            raise RefusedError("it is a DICOM file of another kind, while a whole-slide image is expected")
        mine = heads[asked].get("SeriesInstanceUID")
        return [file for file, says in heads.items() if says.get("SeriesInstanceUID") == mine]
    slides = first_of_each(heads)
    if len(slides) > 1:
        some = ", ".join(f.name for f in slides[:_NAMED])
        raise RefusedError(
            f"the folder holds {len(slides)} DICOM slides; open a file of the one that is meant, such as "
            f"{some}{' …' if len(slides) > _NAMED else ''}"
        )
    if not slides:
        raise SlideError("no DICOM file of a whole-slide image")
    return list(heads)


def _understand(slide: Any, taken: Sequence[SlidePath]) -> DicomSource:
    instances = [level.default_instance for level in slide.levels]
    planes = tuple(one.image_data for one in instances)
    for plane in planes:
        _check(plane)
    background = tuple(int(v) for v in np.broadcast_to(planes[0].blank_color, 3))
    optical = _optical(slide)
    spacing = instances[0].mpp
    power = getattr(getattr(optical, "objective", None), "objective_power", None)
    info = SlideInfo(
        levels=tuple(LevelInfo(_shape(p.image_size), _shape(p.tile_size)) for p in planes),
        files=tuple(sorted(taken, key=lambda file: file.name)),
        mpp=(float(spacing.height), float(spacing.width)) if spacing else None,
        background=background,  # type: ignore[arg-type]
        objective_power=None if power is None else float(power),
        properties=_properties(slide, planes[0]),
        associated=_associated(slide),
        icc_profile=getattr(optical, "icc_profile", None),
        slow=str(planes[0].transfer_syntax) in _JPEG2000,
    )
    return DicomSource(slide, planes, info)


def _check(plane: Any) -> None:
    """Raise RefusedError for what is no bright-field image of 8 bit."""
    if plane.bits != 8 or plane.samples_per_pixel not in {1, 3}:
        raise RefusedError(
            f"its pixels have {plane.samples_per_pixel} samples of {plane.bits} bit, while bright-field "
            "RGB of 8 bit is expected"
        )
    if len(plane.optical_paths) > 1:
        raise RefusedError(
            f"it has {len(plane.optical_paths)} optical paths, while one bright-field image is expected"
        )
    height, width = _shape(plane.tile_size)
    if min(height, width, *_shape(plane.image_size)) < 1 or height * width > _LARGEST_TILE:
        raise RefusedError(f"its frames of {width} × {height} px cannot be read one by one")


def _shape(size: Any) -> tuple[int, int]:
    return int(size.height), int(size.width)


def _optical(slide: Any) -> Any:
    """The first optical path, with its objective and colour profile; None where it is not described."""
    try:
        return slide.metadata.pyramid.optical_paths[0]
    except Exception:  # noqa: BLE001 - what a slide may leave out is no reason to refuse it
        return None


def _properties(slide: Any, plane: Any) -> dict[str, str]:
    said = {"format": "DICOM", "transfer syntax": str(plane.transfer_syntax)}
    try:
        equipment = slide.metadata.equipment
        words = {"manufacturer": equipment.manufacturer, "model": equipment.model_name}
    except Exception:  # noqa: BLE001 - the same
        words = {}
    return said | {key: str(value) for key, value in words.items() if value}


def _associated(slide: Any) -> dict[str, Callable[[], Pixels]]:
    groups = {
        "label": slide.labels,
        "macro": slide.overviews,
        "thumbnail": slide.pyramids[0].thumbnails or (),
    }
    return {
        name: partial(_whole, name, group[0], threading.Lock())
        for name, group in groups.items()
        if group and len(group)
    }


def _whole(name: str, image: Any, decoding: threading.Lock) -> Pixels:
    """An associated image in one piece."""
    try:
        plane = image.default_instance.image_data
        _check(plane)
        rows, cols = _shape(plane.tiled_size)
        frames = [[_frame(plane, r, c, decoding) for c in range(cols)] for r in range(rows)]
        lines = [np.concatenate(line, axis=1) for line in frames]
        height, width = _shape(plane.image_size)
        return np.ascontiguousarray(np.concatenate(lines, axis=0)[:height, :width])
    except Exception as error:
        raise SlideError(f"The {name} image cannot be read ({reason(error)}).") from error


def _cut(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """The part of a frame that lies on its level; ValueError when it holds less."""
    if pixels.shape[0] < size[0] or pixels.shape[1] < size[1] or pixels.shape[2] != 3:
        raise ValueError(f"it holds {pixels.shape[1]} × {pixels.shape[0]} px")
    return np.ascontiguousarray(pixels[: size[0], : size[1]])


def _frame(plane: Any, row: int, col: int, decoding: threading.Lock) -> Pixels:
    """(h, w, 3) of a frame; what imagecodecs does not decode is left to wsidicom, one frame of a plane at a
    time: its decoder puts each into the same dataset, and two threads would get the same one.
    """
    from wsidicom.geometry import Point

    where = (Point(col, row), plane.default_z, plane.default_path)
    syntax = str(plane.transfer_syntax)
    if syntax in _JPEG:
        stored = {"RGB": "RGB", "MONOCHROME2": None}.get(plane.photometric_interpretation, "YCBCR")
        pixels = decode_jpeg(plane.get_encoded_tile(*where), stored, _shape(plane.tile_size))
    elif syntax in _JPEG2000:
        pixels = decode_jpeg2000(plane.get_encoded_tile(*where), _shape(plane.tile_size))
    else:
        plane.get_encoded_tile(*where)  # its bytes are near then: no server is waited for behind the lock
        with decoding:
            pixels = np.asarray(plane.get_decoded_tile(*where))
    if pixels.dtype != np.uint8:
        raise ValueError(f"its samples are {pixels.dtype}")
    shaped = pixels if pixels.ndim == 3 else pixels[..., None]
    found: Pixels = np.repeat(shaped, 3, axis=2) if shaped.shape[2] == 1 else shaped
    return found
