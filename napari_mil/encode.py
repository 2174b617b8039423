"""Slide and grid to bag: tiles are read ahead in threads while the encoder computes."""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from napari_mil.bag import PHOTOGRAPH, SRGB, Bag
from napari_mil.device import describe, is_out_of_memory, pick
from napari_mil.encoders import Encoder
from napari_mil.errors import BagError, DeviceError, TissueError
from napari_mil.grid import TileGrid
from napari_mil.slides.colour import COLOURS
from napari_mil.slides.slide import Slide
from napari_mil.steps import Progress, Steps

BATCHES_AHEAD = 2
"""So many batches are read while one is computed."""
TILES_AT_ONCE = 8
"""A reading thread takes so many tiles at once: to hand over each by itself costs a fifth of the time."""

Indices = NDArray[np.int64]


def encode_steps(
    slide: Slide,
    grid: TileGrid,
    encoder: Encoder,
    *,
    first: Any = None,
    known: tuple[Any, Any] | None = None,
    batch: int = 64,
    device: str | None = None,
) -> Steps[Bag]:
    """Compute the features of every tile of a grid.

    Parameters
    ----------
    slide : where the tiles are read, antialiased, at the grid's µm per pixel
    grid : N tiles; on a montage the photographs, whose vector is the mean over the tiles that cover it
    encoder : gives D numbers per tile
    first : (n,) indices of tiles to do first (those in view), or None
    known : indices (n,) and features (n, D) of tiles that need not be computed again, or None
    batch : tiles computed at once; halved, and said so in the note, when memory does not suffice
    device : "cpu", "cuda", …; None picks the best

    Yields
    ------
    Progress "features" with tiles done and total; payload (indices (n,) int64, features (n, D) float16): what
    was done since the last one. Closing the generator ends the reading threads before it returns.

    Returns
    -------
    Bag of float16 features in the grid's order

    Raises
    ------
    TissueError
        The grid is empty.
    BagError
        The grid is of another slide, `first` names no tile, or the encoder gives numbers that are not finite.
    DeviceError
        Memory does not suffice for a single tile.
    """
    order = _order(slide, grid, first)
    where = pick(device)
    features = np.zeros((len(grid), encoder.width), np.float16)
    if known is not None:
        features[known[0]] = known[1]
        order = order[~np.isin(order, known[0])]
    computing = _Computing(encoder, where, batch)
    views = Views.of(slide, grid)
    tiles = read_ahead(slide, grid.tile_px, views, views.portions(order, batch))
    done = len(grid) - len(order)
    try:
        yield Progress("features", done, len(grid), f"on {describe(where)}")
        for indices, pixels in tiles:
            made = views.means(indices, computing(pixels))
            features[indices] = made
            done += len(indices)
            yield Progress("features", done, len(grid), computing.note, (indices, made))
    finally:
        tiles.close()
    return Bag(slide.fingerprint, grid, features, features_id(encoder, slide), slide.pixel_hash)


def features_id(encoder: Encoder, slide: Slide) -> str:
    """What a bag of this slide carries as its encoder: photographs have features of another kind, and so have
    slides whose colours are converted.
    """
    kind = "" if slide.montage is None else PHOTOGRAPH
    return encoder.id + kind + (SRGB if COLOURS in slide.properties else "")


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """What the encoder looks at for each tile of a grid: the tile itself, of a photograph the tiles in it.

    Attributes
    ----------
    boxes : (M, 4) y0, x0, y1, x1 in level-0 pixels, tile by tile
    first : (N + 1,) where the views of each tile begin
    """

    boxes: NDArray[np.float64]
    first: NDArray[np.int64]

    @classmethod
    def of(cls, slide: Slide, grid: TileGrid) -> Views:
        """The views of a grid's tiles; BagError when it is a montage's grid and the slide is none."""
        if grid.cell_px is None:
            return cls(grid.boxes_px, np.arange(len(grid) + 1))
        photographs = {} if slide.montage is None else {p.cell: p.box_px for p in slide.montage.photographs}
        cells = [(row, col) for row, col in grid.cells.tolist()]
        if not photographs.keys() >= set(cells):
            raise BagError(f"The grid has cells without a photograph on {slide.name}; make a grid for it.")
        each = [_cover(photographs[cell], grid.view_px) for cell in cells]
        return cls(np.concatenate(each), np.cumsum([0, *map(len, each)]))

    def portions(self, order: Indices, batch: int) -> list[Indices]:
        """`order` in portions of about `batch` views; a tile's views stay together."""
        ends = np.cumsum(np.diff(self.first)[order])
        cuts = np.flatnonzero(np.diff((ends - 1) // batch)) + 1
        return [portion for portion in np.split(order, cuts) if len(portion)]

    def at(self, indices: Indices) -> NDArray[np.float64]:
        """(m, 4) the views of some tiles."""
        return np.concatenate([self.boxes[self.first[i] : self.first[i + 1]] for i in indices])

    def count(self, indices: Indices) -> int:
        """M, how many views some tiles have."""
        return int(np.diff(self.first)[indices].sum())

    def means(self, indices: Indices, made: NDArray[np.float16]) -> NDArray[np.float16]:
        """(n, D) the vectors of n tiles from those of all their views (m, D)."""
        counts = np.diff(self.first)[indices]
        if len(made) == len(indices):
            return made
        starts = np.cumsum([0, *counts[:-1]])
        sums = np.add.reduceat(made.astype(np.float32), starts, axis=0)
        return (sums / counts[:, None]).astype(np.float16)


def _cover(box_px: tuple[int, int, int, int], view_px: tuple[float, float]) -> NDArray[np.float64]:
    """(k, 4) views of the same size that cover a box, evenly spread and overlapping where they must.

    Where the box is smaller than a view the views are, too, in both directions alike: a smaller photograph is
    seen enlarged, not distorted.
    """
    size = np.array([box_px[2] - box_px[0], box_px[3] - box_px[1]], float)
    view = np.array(view_px) * min(1.0, *(size / view_px))
    starts = [
        box_px[k] + np.linspace(0, size[k] - view[k], max(1, math.ceil(size[k] / view[k] - 1e-9)))
        for k in (0, 1)
    ]
    corners = np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 2)
    return np.concatenate([corners, corners + view], axis=1)


def _order(slide: Slide, grid: TileGrid, first: Any) -> Indices:
    """(N,) the tiles in the order to do them: `first`, then the rest row by row."""
    if not len(grid):
        raise TissueError(f"{slide.name} has no tiles to compute features of; choose a region with tissue.")
    if tuple(grid.slide_px) != tuple(slide.shape_px):
        raise BagError(
            f"The grid was made for a slide of {tuple(grid.slide_px)} px, but {slide.name} has "
            f"{tuple(slide.shape_px)} px; make a grid for this slide."
        )
    wanted = np.asarray([] if first is None else first, np.int64).reshape(-1)
    if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(grid)):
        raise BagError(
            f"first names tiles {wanted.min()} … {wanted.max()}; this grid has tiles 0 … {len(grid) - 1}."
        )
    _, at = np.unique(wanted, return_index=True)
    wanted = wanted[np.sort(at)]
    rest = np.ones(len(grid), bool)
    rest[wanted] = False
    return np.concatenate([wanted, np.flatnonzero(rest)])


def read_ahead(
    slide: Slide, tile_px: int, views: Views, batches: list[Indices]
) -> Generator[tuple[Indices, NDArray[np.uint8]], None, None]:
    """(indices, (m, tile_px, tile_px, 3) uint8) of each batch in turn, the next ones being read meanwhile.

    The pixels are good until the next batch is asked for: then others come into their memory.
    """
    size, over = (tile_px, tile_px), threading.Event()

    def read(boxes: NDArray[np.float64], out: NDArray[np.uint8]) -> None:
        for box, tile in zip(boxes, out, strict=True):
            if over.is_set():
                return
            tile[:] = slide.read(tuple(box), out_px=size)

    def submit(indices: Indices) -> tuple[NDArray[np.uint8], list[Future[None]]]:
        boxes = views.at(indices)
        whole = free.pop() if free else np.empty((0, *size, 3), np.uint8)
        if len(whole) < len(boxes):
            whole = np.empty((len(boxes), *size, 3), np.uint8)
        out = whole[: len(boxes)]
        parts = (slice(at, at + TILES_AT_ONCE) for at in range(0, len(boxes), TILES_AT_ONCE))
        return whole, [readers.submit(read, boxes[part], out[part]) for part in parts]

    readers = ThreadPoolExecutor(_readers(), thread_name_prefix="napari-mil-read")
    waiting: deque[tuple[Indices, NDArray[np.uint8], list[Future[None]]]] = deque()
    free: list[NDArray[np.uint8]] = []  # fresh memory for every batch costs a tenth of the time
    coming: Iterator[Indices] = iter(batches)
    try:
        for _ in range(len(batches)):
            while len(waiting) <= BATCHES_AHEAD and (following := next(coming, None)) is not None:
                waiting.append((following, *submit(following)))
            indices, whole, parts = waiting.popleft()
            for part in parts:
                part.result()
            yield indices, whole[: views.count(indices)]
            free.append(whole)
    finally:
        over.set()
        readers.shutdown(wait=True, cancel_futures=True)


def _readers() -> int:
    """Reading threads: they mostly wait for the disk and for decoders that release Python's lock."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(2, min(4, cores))


class _Computing:
    """Runs the encoder on batches, in smaller portions from the moment that memory runs short."""

    def __init__(self, encoder: Encoder, where: torch.device, portion: int) -> None:
        self.encoder, self.where, self.portion = encoder, where, portion
        self.note = f"on {describe(where)}"

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16]:
        """(n, D) float16 for (n, h, w, 3) tiles."""
        made: list[NDArray[np.float16]] = []
        at = 0
        while at < len(pixels):
            part = self._portion(pixels[at : at + self.portion])
            if part is None:
                self._halve()
                continue
            made.append(part)
            at += len(part)
        features = np.concatenate(made)
        if not np.isfinite(features).all():
            raise BagError(
                f"The encoder {self.encoder.id} gave numbers that are not finite or exceed the range of "
                "float16 (65504); use another encoder."
            )
        return features

    def _portion(self, pixels: NDArray[np.uint8]) -> NDArray[np.float16] | None:
        """Features of a portion, or None when memory did not suffice."""
        try:
            with torch.inference_mode():
                made = self.encoder(torch.from_numpy(pixels).to(self.where))
                half: NDArray[np.float16] = made.to(torch.float16).cpu().numpy()
                return half
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                return None
            raise

    def _halve(self) -> None:
        if self.portion <= 1:
            raise DeviceError(
                f"Not enough memory for the features of a single tile on {describe(self.where)}; close other "
                "programs, or set CUDA_VISIBLE_DEVICES to nothing to compute on the CPU."
            )
        self.portion //= 2
        if self.where.type == "cuda":
            torch.cuda.empty_cache()
        self.note = f"on {describe(self.where)}; memory is short, {self.portion} tiles at a time"
