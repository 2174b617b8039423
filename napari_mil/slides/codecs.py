"""WebP and JPEG XL: what a stream announces is held against its tile before a decoder asks for memory."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import imagecodecs
from numpy.typing import NDArray

WEBP = (50001, 34927)  # as libtiff numbers it, and as it was numbered before
JPEG_XL = (50002, 52546)  # as GDAL numbers it, and as DNG 1.7 does
_CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


def decoder_of(compression: int) -> Callable[[bytes, tuple[int, int]], NDArray[Any]] | None:
    """What decodes tiles of a TIFF's compression, given the stream and the most (h, w) it may announce; None
    where it is neither WebP nor JPEG XL, or imagecodecs was built without it.
    """
    if compression in WEBP and imagecodecs.WEBP.available:
        return decode_webp
    return decode_jpegxl if compression in JPEG_XL and imagecodecs.JPEGXL.available else None


def decode_webp(data: bytes, most_px: tuple[int, int]) -> NDArray[Any]:
    """(h, w, 3 or 4) uint8 of a WebP; ValueError when it announces more than `most_px`."""
    _refuse_larger(_webp_px(data), most_px)
    decoded: NDArray[Any] = imagecodecs.webp_decode(data)
    return decoded


def decode_jpegxl(data: bytes, most_px: tuple[int, int]) -> NDArray[Any]:
    """(h, w) or (h, w, samples) of the first picture of a JPEG XL; ValueError when it announces more than
    `most_px`.
    """
    _refuse_larger(_jpegxl_px(data), most_px)
    decoded: NDArray[Any] = imagecodecs.jpegxl_decode(data, index=0, numthreads=1)
    return decoded


def _refuse_larger(says: tuple[int, int] | None, most_px: tuple[int, int]) -> None:
    if says is None:
        raise ValueError("its header makes no sense")
    if says[0] > most_px[0] or says[1] > most_px[1]:
        raise ValueError(f"it announces {says[1]} × {says[0]} px")


def _webp_px(data: bytes) -> tuple[int, int] | None:
    """(h, w) in the first chunk of a WebP: lossy, lossless, or the canvas of an extended one."""
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    if data[12:16] == b"VP8 " and data[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<2H", data, 26)
        return height & 0x3FFF, width & 0x3FFF
    if data[12:16] == b"VP8L" and data[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    return None


def _jpegxl_px(data: bytes) -> tuple[int, int] | None:
    """(h, w) at the head of a JPEG XL codestream, which may lie in a container."""
    if data[:12] == _CONTAINER:
        data = _codestream(data)
    if data[:2] != b"\xff\x0a":
        return None
    bits, at = int.from_bytes(data[2:14], "little"), 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return bits >> (at - count) & (1 << count) - 1

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    height = side()
    over, under = _RATIOS.get(take(3), (0, 1))
    return height, height * over // under if over else side()


def _codestream(data: bytes) -> bytes:
    """The head of the first box that holds a part of the codestream; b"" where there is none."""
    at = 0
    while at + 16 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", data, at + 8), 16
        if kind in {b"jxlc", b"jxlp"}:
            head += 4 * (kind == b"jxlp")  # its number
            return data[at + head : at + head + 16]
        if size < head:
            break
        at += size
    return b""
