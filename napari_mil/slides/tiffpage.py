"""One page of a TIFF as plain numbers, and the decoding of its tiles from any thread.

tifffile reads a page's tags lazily from a shared file, which is not safe from several threads. So offsets,
byte counts and JPEG tables are taken out once; afterwards a tile is one positioned read and one decoder call.
"""

from __future__ import annotations

import os
import struct
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from napari_mil.errors import SlideError, reason
from napari_mil.slides.cache import slots
from napari_mil.slides.codecs import decoder_of
from napari_mil.slides.info import Pixels
from napari_mil.slides.slide import RefusedError
from napari_mil.slides.tifftables import COUNTS, OFFSETS, Tables

JPEG = 7
JPEG2000_YCBCR = 33003
JPEG2000 = (33003, 33004, 33005, 34712)
_DECODERS = {
    1: lambda data: data,
    5: imagecodecs.lzw_decode,
    8: imagecodecs.zlib_decode,
    32946: imagecodecs.zlib_decode,
    32773: imagecodecs.packbits_decode,
    50000: imagecodecs.zstd_decode,
}
_LARGEST_TILE = 2**27
_SAVE = "if it is a colour image, save it as RGB of 8 bit with the program that made it"
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # JPEG's start-of-frame markers
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR = 0, 1, 2, 6


class Bytes(Protocol):
    """A file to read from at any place, from any thread."""

    size: int

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`, fewer at the end of the file."""
        ...

    def close(self) -> None:
        """Give the file back."""
        ...


class File:
    """Positioned reads from one file, from any thread."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self.size = os.fstat(self._fd).st_size
        self._lock = threading.Lock()

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`, fewer at the end of the file."""
        if hasattr(os, "pread"):
            return os.pread(self._fd, count, offset)
        with self._lock:  # Windows
            os.lseek(self._fd, offset, os.SEEK_SET)
            return os.read(self._fd, count)

    def close(self) -> None:
        """Give the file back; twice does no harm."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """What decoding a page's tiles (or strips, as tiles of full width) takes.

    Attributes
    ----------
    shape_px : (h, w)
    tile_px : (h, w) of a tile or strip
    compression, photometric, samples, predictor : as the tags say
    multiplied : whether transparent colours are stored times their opacity
    tables : JPEG tables shared by all tiles, or None
    offsets, counts : (tiles,) int64 bytes, row by row; a count of 0 is a tile that was never written
    """

    shape_px: tuple[int, int]
    tile_px: tuple[int, int]
    compression: int
    photometric: int
    samples: int
    predictor: int
    multiplied: bool
    tables: bytes | None
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]

    @classmethod
    def of(cls, page: Any, tables: Tables) -> Page | Planes:
        """Take everything out of a tifffile page; SlideError when a tile of it could not be decoded."""
        _check(page)
        apart = page.planarconfig != 1 and page.samplesperpixel > 1
        planes = int(page.samplesperpixel) if apart else 1
        if page.is_tiled:
            tile = (int(page.tilelength), int(page.tilewidth))
        else:
            tile = (min(int(page.rowsperstrip), int(page.imagelength)), int(page.imagewidth))
        if min(*tile, page.imagelength, page.imagewidth) < 1 or tile[0] * tile[1] > _LARGEST_TILE:
            raise RefusedError(
                f"it is a damaged TIFF (tiles of {tile[1]} × {tile[0]} px); copy the file again"
            )
        count = -(-int(page.imagelength) // tile[0]) * -(-int(page.imagewidth) // tile[1])
        offsets = tables.of(page, OFFSETS, page.dataoffsets)
        counts = tables.of(page, COUNTS, page.databytecounts)
        if min(len(offsets), len(counts)) < planes * count:
            raise RefusedError(
                f"it is a damaged TIFF (its table lists {len(counts)} of {planes * count} tiles); "
                "copy the file again"
            )
        found = tuple(
            cls(
                (int(page.imagelength), int(page.imagewidth)),
                tile,
                int(page.compression),
                BLACK_IS_ZERO if apart else int(page.photometric),
                1 if apart else int(page.samplesperpixel),
                int(page.predictor),
                1 in page.extrasamples,
                page.jpegtables,
                offsets[first : first + count],
                counts[first : first + count],
            )
            for first in range(0, planes * count, count)
        )
        return Planes(found) if apart else found[0]

    @property
    def lattice(self) -> tuple[int, int]:
        """(rows, cols) of tiles."""
        (h, w), (th, tw) = self.shape_px, self.tile_px
        return -(-h // th), -(-w // tw)

    @property
    def end(self) -> int:
        """The byte after the last tile."""
        return int((self.offsets + self.counts)[self.counts > 0].max(initial=0))

    def tile(self, file: Bytes, row: int, col: int, background: tuple[int, int, int]) -> Pixels:
        """(h, w, 3) uint8 of one tile, cut at the page's border; SlideError when its bytes are damaged."""
        height = min(self.tile_px[0], self.shape_px[0] - row * self.tile_px[0])
        width = min(self.tile_px[1], self.shape_px[1] - col * self.tile_px[1])
        at = row * self.lattice[1] + col
        offset, count = int(self.offsets[at]), int(self.counts[at])
        if count == 0:
            return np.full((height, width, 3), background, np.uint8)
        try:
            pixels = self._rgb(self._decode(file.read(offset, count), count), background)[:height, :width]
        except SlideError:  # of the server
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, OSError, struct.error) as error:
            raise self._damaged(row, col, reason(error)) from error
        if pixels.shape[:2] != (height, width):
            raise self._damaged(row, col, f"it holds {pixels.shape[1]} × {pixels.shape[0]} px")
        return pixels

    def _damaged(self, row: int, col: int, why: str) -> SlideError:
        return SlideError(
            f"the tile in row {row}, column {col} of the level of {self.shape_px[1]} × {self.shape_px[0]} px "
            f"is damaged ({why}); get an undamaged copy of the file."
        )

    def whole(self, file: Bytes, background: tuple[int, int, int]) -> Pixels:
        """(h, w, 3) uint8 of the whole page."""
        rows, cols = self.lattice
        lines = [
            np.concatenate([self.tile(file, r, c, background) for c in range(cols)], axis=1)
            for r in range(rows)
        ]
        return np.concatenate(lines, axis=0)

    def _decode(self, data: bytes, count: int) -> NDArray[Any]:
        """(h, w) or (h, w, samples) uint8 as stored, colours made RGB where the codec knows how."""
        if len(data) != count:
            raise ValueError(f"{len(data)} of {count} bytes")
        if self.compression == JPEG:
            stored = {RGB: "RGB", YCBCR: "YCBCR"}.get(self.photometric) if self.samples == 3 else None
            return decode_jpeg(data, stored, self.tile_px, tables=self.tables)
        if self.compression in JPEG2000:
            decoded = decode_jpeg2000(data, self.tile_px)
            return _ycbcr_to_rgb(decoded) if self.compression == JPEG2000_YCBCR else decoded
        if (decode := decoder_of(self.compression)) is not None:
            return decode(data, self.tile_px)
        raw = np.frombuffer(_DECODERS[self.compression](data), np.uint8)
        row = self.tile_px[1] * self.samples
        shaped = raw[: len(raw) // row * row].reshape(-1, self.tile_px[1], self.samples)
        return np.cumsum(shaped, axis=1, dtype=np.uint8) if self.predictor == 2 else shaped

    def _rgb(self, decoded: NDArray[Any], background: tuple[int, int, int]) -> Pixels:
        """(h, w, 3): grey is tripled, transparent pixels show the background."""
        if decoded.dtype != np.uint8:
            raise ValueError(f"samples are {decoded.dtype}, not 8 bit")
        pixels = decoded if decoded.ndim == 3 else decoded[..., None]
        if self.photometric == WHITE_IS_ZERO:
            pixels = np.concatenate([255 - pixels[..., :1], pixels[..., 1:]], axis=2)
        if pixels.shape[2] in {2, 4}:
            return over(pixels, background, multiplied=self.multiplied)
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels[..., :3])


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """Red, green and blue of one picture, each stored as a grey page of the same tiles."""

    pages: tuple[Page, ...]

    @property
    def shape_px(self) -> tuple[int, int]:
        """(h, w)."""
        return self.pages[0].shape_px

    @property
    def tile_px(self) -> tuple[int, int]:
        """(h, w) of a tile or strip."""
        return self.pages[0].tile_px

    @property
    def lattice(self) -> tuple[int, int]:
        """(rows, cols) of tiles."""
        return self.pages[0].lattice

    @property
    def compression(self) -> int:
        """As the tags say."""
        return self.pages[0].compression

    @property
    def counts(self) -> NDArray[np.int64]:
        """(tiles,) bytes of all three."""
        red, green, blue = (page.counts for page in self.pages)
        return red + green + blue

    @property
    def end(self) -> int:
        """The byte after the last tile."""
        return max(page.end for page in self.pages)

    def tile(self, file: Bytes, row: int, col: int, background: tuple[int, int, int]) -> Pixels:
        """(h, w, 3) uint8 of one tile; SlideError when its bytes are damaged."""
        planes = (
            page.tile(file, row, col, (b, b, b)) for page, b in zip(self.pages, background, strict=True)
        )
        return np.stack([plane[..., 0] for plane in planes], axis=-1)

    def whole(self, file: Bytes, background: tuple[int, int, int]) -> Pixels:
        """(h, w, 3) uint8 of the whole picture."""
        planes = (page.whole(file, (b, b, b)) for page, b in zip(self.pages, background, strict=True))
        return np.stack([plane[..., 0] for plane in planes], axis=-1)


def over(pixels: Pixels, background: tuple[int, int, int], *, multiplied: bool = False) -> Pixels:
    """(h, w, 2 or 4) grey or RGB with alpha laid over the background.

    multiplied : whether colours are times their alpha already
    """
    colour = np.repeat(pixels[..., :1], 3, axis=2) if pixels.shape[2] == 2 else pixels[..., :3]
    alpha = pixels[..., -1:].astype(np.uint16)
    if alpha.min(initial=255) == 255:
        return np.ascontiguousarray(colour)
    behind = np.array(background, np.uint16) * (255 - alpha) + 127
    if multiplied:
        return np.minimum(colour + behind // 255, 255).astype(np.uint8)
    return ((colour * alpha + behind) // 255).astype(np.uint8)


def decode_jpeg(
    data: bytes, stored: str | None, most_px: tuple[int, int], *, tables: bytes | None = None
) -> NDArray[Any]:
    """(h, w) or (h, w, samples) of a JPEG stream.

    stored : "RGB" or "YCBCR" as the file says its three colours are stored, which a JFIF marker overrules;
        None leaves the samples as they are
    most_px : (h, w); ValueError when it announces more, before the decoder asks for memory
    """
    size = _refuse_larger(data, most_px)
    colours = None if stored == "RGB" and b"JFIF" in data[:32] else stored
    wanted = None if stored is None else "RGB"
    out = None if stored is None or size is None or size[2] != 3 else slots.empty(size)
    decoded: NDArray[Any] = imagecodecs.jpeg8_decode(
        data, tables=tables, colorspace=colours, outcolorspace=wanted, out=out
    )
    return decoded


def decode_jpeg2000(data: bytes, most_px: tuple[int, int]) -> NDArray[Any]:
    """(h, w) or (h, w, samples) of a JPEG 2000 stream; ValueError when it announces more than `most_px`."""
    _refuse_larger(data, most_px)
    decoded: NDArray[Any] = imagecodecs.jpeg2k_decode(data)
    return decoded


def _refuse_larger(data: bytes, most_px: tuple[int, int]) -> tuple[int, int, int] | None:
    """What the stream announces; ValueError when that is more than `most_px`."""
    says = _announced(data)
    if says is not None and (says[0] > most_px[0] or says[1] > most_px[1]):
        raise ValueError(f"it announces {says[1]} × {says[0]} px")
    return says


def _announced(data: bytes) -> tuple[int, int, int] | None:
    """(h, w, samples) that a JPEG or JPEG 2000 stream announces in its header, or None when none is found;
    0 samples where it was not looked.
    """
    jpeg = data.startswith(b"\xff\xd8")
    at = -1 if jpeg else data.find(b"\xff\x4f\xff\x51", 0, 4096)
    if at >= 0:
        right, bottom, left, top = struct.unpack_from(">4I", data.ljust(at + 24, b"\0"), at + 8)
        return (bottom - top, right - left, 0)
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _FRAMES:
            height, width, samples = struct.unpack_from(">2HB", data, at + 5)
            return height, width, samples
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return None


def _check(page: Any) -> None:
    """Raise RefusedError for what is no bright-field image, SlideError for what cannot be decoded here."""
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    if bits != 8 or (page.dtype is not None and page.dtype != np.uint8):
        raise RefusedError(
            f"its pixels are {page.dtype or f'{bits} bit'}, while bright-field RGB of 8 bit is expected; "
            f"{_SAVE}"
        )
    alpha = len(page.extrasamples) == 1 and page.extrasamples[0] in {1, 2}
    if page.photometric not in {WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, YCBCR} or (
        page.samplesperpixel - alpha not in {1, 3}
    ):
        raise RefusedError(
            f"it has {_channels(page)} with colours of the kind {_name(page.photometric)}, "
            f"while bright-field RGB is expected; {_SAVE}"
        )
    apart = page.planarconfig != 1 and page.samplesperpixel > 1
    if apart and (page.samplesperpixel != 3 or page.photometric != RGB):
        raise SlideError("its planes are stored separately, and are not those of RGB")
    codec = int(page.compression)
    known = codec in {JPEG, *JPEG2000, *_DECODERS} or decoder_of(codec) is not None
    if (
        not known
        or page.predictor not in {1, 2}
        or (page.photometric == YCBCR and codec not in {JPEG, *JPEG2000})
    ):
        raise SlideError(f"its compression {_name(page.compression)} ({codec}) is not known here")


def _channels(page: Any) -> str:
    many = int(page.samplesperpixel)
    return f"{many} channel{'s' * (many != 1)}"


def _name(tag: Any) -> str:
    return str(getattr(tag, "name", tag))


def _ycbcr_to_rgb(ycc: NDArray[Any]) -> Pixels:
    """Full-range BT.601, as JPEG defines it."""
    y, cb, cr = (ycc[..., i].astype(np.float32) for i in range(3))
    cb -= 128
    cr -= 128
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    pixels: Pixels = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    return pixels
