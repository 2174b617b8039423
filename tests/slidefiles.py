"""Slide files for tests, written tag by tag: every odd case of TIFF can be made, and huge ones in no time."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from pathlib import Path

import imagecodecs
import numpy as np

APERIO = "Aperio Image Library v11.2.1 \r\n{w}x{h} ({tw}x{th}) JPEG Q=90|AppMag = 20|MPP = {mpp}"
_KINDS = {"H": 3, "I": 4, "Q": 16, "s": 2, "B": 7}


@dataclass
class PageSpec:
    """One image of a TIFF: its shape, and its encoded tiles row by row; one tile stands for all of them."""

    shape: tuple[int, int]
    tiles: list[bytes]
    tile: tuple[int, int] = (256, 256)
    compression: int = 7
    photometric: int = 2
    samples: int = 3
    bits: int = 8
    description: str = ""
    resolution: tuple[float, float] | None = None  # pixels per cm (y, x)
    reduced: bool = False
    missing: set[int] = field(default_factory=set)


def write_tiff(path: Path, pages: list[PageSpec]) -> Path:
    """Write a BigTIFF; equal tiles are stored once."""
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16))
        for i, page in enumerate(pages):
            at = file.tell()
            file.write(_directory(page, at, last=i == len(pages) - 1))
    return path


def _directory(page: PageSpec, at: int, *, last: bool) -> bytes:
    """The page's tags, then what does not fit into them, then its tiles."""
    rows, cols = -(-page.shape[0] // page.tile[0]), -(-page.shape[1] // page.tile[1])
    tags = [
        (254, "I", [1 if page.reduced else 0]),
        (256, "I", [page.shape[1]]),
        (257, "I", [page.shape[0]]),
        (258, "H", [page.bits] * page.samples),
        (259, "H", [page.compression]),
        (262, "H", [page.photometric]),
        (270, "s", page.description.encode() + b"\0"),
        (277, "H", [page.samples]),
        (282, "R", None),
        (283, "R", None),
        (284, "H", [1]),
        (296, "H", [3]),
        (322, "I", [page.tile[1]]),
        (323, "I", [page.tile[0]]),
        (324, "Q", np.zeros(rows * cols, "<u8")),
        (325, "Q", np.zeros(rows * cols, "<u8")),
        (338, "H", [2] if page.samples in {2, 4} else None),
    ]
    if page.resolution is None:
        tags = [t for t in tags if t[0] not in {282, 283, 296}]
    tags = [t for t in tags if t[2] is not None or t[1] == "R"]
    body = at + 8 + 20 * len(tags) + 8
    length = sum(_length(t) for t in tags)
    offsets, counts = np.zeros(rows * cols, "<u8"), np.zeros(rows * cols, "<u8")
    starts = np.cumsum([0] + [len(t) for t in page.tiles])
    which = np.arange(rows * cols) % len(page.tiles)
    offsets[:] = body + length + starts[:-1][which]
    counts[:] = np.array([len(t) for t in page.tiles])[which]
    for lost in page.missing:
        offsets[lost] = counts[lost] = 0
    head, tail = struct.pack("<Q", len(tags)), b""
    for code, kind, value in tags:
        if kind == "R":
            y, x = page.resolution
            head += struct.pack("<HHQII", code, 5, 1, round((x if code == 282 else y) * 1000), 1000)
            continue
        numbers = {324: offsets, 325: counts}.get(code, value)
        data = value if kind == "s" else np.asarray(numbers, f"<u{struct.calcsize('<' + kind)}").tobytes()
        count = len(data) // struct.calcsize("<" + kind)
        head += struct.pack("<HHQ", code, _KINDS[kind], count)
        head += data.ljust(8, b"\0") if len(data) <= 8 else struct.pack("<Q", body + len(tail))
        tail += data if len(data) > 8 else b""
    end = body + length + int(starts[-1])
    return head + struct.pack("<Q", 0 if last else end) + tail + b"".join(page.tiles)


def _length(tag: tuple) -> int:
    _, kind, value = tag
    size = 0 if kind == "R" else len(value) * struct.calcsize("<" + kind)
    return size if size > 8 else 0


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(h, w, 3) uint8, smooth and pink: JPEG keeps it nearly as it is."""
    a, b, c = np.random.default_rng(seed).uniform(20, 60, 3)
    made = np.empty((height, width, 3), np.uint8)
    made[..., 0] = (200 + 40 * np.sin(np.arange(height) / a)).astype(np.uint8)[:, None]
    made[..., 1] = (150 + 50 * np.sin(np.arange(width) / b)).astype(np.uint8)
    diagonal = (180 + 40 * np.cos(np.arange(height + width - 1) / c)).astype(np.uint8)
    made[..., 2] = np.lib.stride_tricks.sliding_window_view(diagonal, width)
    return made


def half(image: np.ndarray) -> np.ndarray:
    """The next level: means of 2 × 2 pixels, an odd row or column dropped."""
    h, w = image.shape[0] // 2, image.shape[1] // 2
    four = image[: 2 * h, : 2 * w].reshape(h, 2, w, 2, 3).astype(np.uint16)
    return np.rint((four[:, 0, :, 0] + four[:, 0, :, 1] + four[:, 1, :, 0] + four[:, 1, :, 1]) / 4).astype(
        np.uint8
    )


def cut(image: np.ndarray, tile: tuple[int, int]) -> list[np.ndarray]:
    """The image's tiles row by row, those at the border padded with their last pixels."""
    th, tw = tile
    rows, cols = -(-image.shape[0] // th), -(-image.shape[1] // tw)
    pad = ((0, rows * th - image.shape[0]), (0, cols * tw - image.shape[1]), (0, 0))
    padded = np.pad(image, pad, mode="edge")
    return [
        np.ascontiguousarray(padded[r * th : (r + 1) * th, c * tw : (c + 1) * tw])
        for r in range(rows)
        for c in range(cols)
    ]


def encode(tile: np.ndarray, codec: str) -> bytes:
    """One tile as `jpeg-rgb`, `jpeg-ycbcr`, `jp2-rgb` or `jp2-ycbcr` stores it, or as it is."""
    if codec.startswith("jpeg"):
        stored = codec.removeprefix("jpeg-").upper()
        return imagecodecs.jpeg8_encode(
            tile, level=92, colorspace="RGB", outcolorspace=stored, subsampling="444"
        )
    if codec == "webp":
        return imagecodecs.webp_encode(tile, lossless=True)
    if codec.startswith("jxl"):
        return imagecodecs.jpegxl_encode(tile, lossless=True, usecontainer=codec == "jxl-container")
    if codec == "jp2-ycbcr":
        return imagecodecs.jpeg2k_encode(to_ycbcr(tile), level=0, codecformat="j2k", mct=False)
    if codec == "jp2-rgb":
        return imagecodecs.jpeg2k_encode(tile, level=0, codecformat="j2k", mct=False)
    return {"raw": bytes, "lzw": imagecodecs.lzw_encode, "zlib": imagecodecs.zlib_encode}[codec](
        tile.tobytes()
    )


def to_ycbcr(rgb: np.ndarray) -> np.ndarray:
    """Full-range BT.601."""
    r, g, b = (rgb[..., i].astype(float) for i in range(3))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    ycc = np.stack([y, 128 + (b - y) / 1.772, 128 + (r - y) / 1.402], -1)
    return np.clip(ycc.round(), 0, 255).astype(np.uint8)


TAGS = {  # codec -> compression, photometric
    "jpeg-rgb": (7, 2),
    "jpeg-ycbcr": (7, 6),
    "jp2-rgb": (33005, 2),
    "jp2-ycbcr": (33003, 2),
    "raw": (1, 2),
    "lzw": (5, 2),
    "zlib": (8, 2),
}


def page(
    image: np.ndarray, codec: str = "jpeg-ycbcr", *, tile: tuple[int, int] = (256, 256), **more
) -> PageSpec:
    """A page that holds an image."""
    compression, photometric = TAGS[codec]
    tiles = [encode(t, codec) for t in cut(image, tile)]
    return PageSpec(image.shape[:2], tiles, tile, compression, photometric, image.shape[2], **more)


def write_pyramid(
    path: Path,
    image: np.ndarray,
    codec: str = "raw",
    *,
    levels: int = 1,
    tile: tuple[int, int] = (256, 256),
    mpp: tuple[float, float] | None = (0.5, 0.5),
    step: int = 2,
) -> Path:
    """A tiled pyramid of `levels` levels, each smaller by `step` (a power of two), and the pixel size in its
    resolution tags.
    """
    pages = []
    for i in range(levels):
        resolution = None if mpp is None else tuple(1e4 / m / step**i for m in mpp)
        pages.append(page(image, codec, tile=tile, reduced=i > 0, resolution=resolution))
        for _ in range(step.bit_length() - 1):
            image = half(image)
    return write_tiff(path, pages)


def write_modern(path: Path, image: np.ndarray, codec: str, compression: int) -> Path:
    """A tiled pyramid of two levels, where there are pixels for two, of lossless `webp`, `jxl` or
    `jxl-container` tiles.
    """
    pages = [
        PageSpec(level.shape[:2], [encode(tile, codec) for tile in cut(level, (256, 256))], reduced=bool(i))
        for i, level in enumerate((image, half(image)))
        if level.size
    ]
    return write_tiff(path, [replace(one, compression=compression) for one in pages])


def write_svs(path: Path, image: np.ndarray, codec: str, *, mpp: str = "0.25") -> Path:
    """An Aperio slide of one level."""
    words = APERIO.format(h=image.shape[0], w=image.shape[1], th=256, tw=256, mpp=mpp)
    return write_tiff(path, [page(image, codec, description=words)])


def write_huge(path: Path, height: int, width: int) -> Path:
    """A pyramid of any size whose tiles are all the same one: a file of some MB."""
    tile = encode(picture(256, 256), "jpeg-ycbcr")
    pages = []
    while True:
        pages.append(
            PageSpec((height, width), [tile], photometric=6, reduced=bool(pages), resolution=(20000, 20000))
        )
        if max(height, width) <= 1024:
            return write_tiff(path, pages)
        height, width = height // 2, width // 2


def write_zarr(
    path: Path,
    image: np.ndarray,
    version: str = "0.5",
    *,
    levels: int = 1,
    axes: str = "cyx",
    chunk: int = 256,
    mpp: tuple[float, float] = (0.5, 0.5),
    unit: str | None = "micrometer",
    shards: tuple[int, ...] | None = None,
) -> Path:
    """An OME-Zarr image of (h, w, c): 0.4 on zarr format 2, 0.5 on format 3; metadata as the specification
    words them.
    """
    import zarr

    kinds = {"t": "time", "c": "channel"}
    named = [{"name": a, "type": kinds.get(a, "space")} for a in axes]
    named = [a | ({"unit": unit} if unit and a["name"] in "yx" else {}) for a in named]
    datasets = []
    colour = image.dtype == np.uint8 and image.shape[2] == 3
    group = zarr.open_group(path, mode="w", zarr_format=2 if version == "0.4" else 3)
    for i in range(levels):
        stored = image if "c" in axes else image[..., 0]
        stored = np.transpose(stored, ["yxc".index(a) for a in axes if a in "yxc"])
        stored = stored[tuple(slice(None) if a in "yxc" else None for a in axes)]
        chunks = tuple(chunk if a in "yx" else n for a, n in zip(axes, stored.shape, strict=True))
        more = (
            {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
            if version == "0.4"
            else {"shards": shards}
        )
        array = group.create_array(
            str(i), shape=stored.shape, chunks=chunks, dtype=stored.dtype, fill_value=0, **more
        )
        array[...] = stored
        sizes = {"y": mpp[0] * 2**i, "x": mpp[1] * 2**i}
        steps = [{"type": "scale", "scale": [sizes.get(a, 1.0) for a in axes]}]
        steps += [
            {
                "type": "translation",
                "translation": [(sizes[a] - mpp["yx".index(a)]) / 2 if a in sizes else 0.0 for a in axes],
            }
        ]
        datasets.append({"path": str(i), "coordinateTransformations": steps})
        image = half(image) if colour else image[: image.shape[0] // 2, : image.shape[1] // 2]
    said = {"multiscales": [{"name": path.stem, "axes": named, "datasets": datasets}]}
    if version == "0.4":
        said["multiscales"][0]["version"] = version
    group.attrs.update(said if version == "0.4" else {"ome": {"version": version, **said}})
    return path
