"""Makes the sidecar of one slide, in a process of its own that yields to every other:

    python -m napari_mil.slides.sidecarmake SLIDE [--srgb]

One line of JSON per level that is whole, or one with the sentence why there is none. It ends when its
standard input does, so that it never outlives the window.
"""

from __future__ import annotations

import _thread
import contextlib
import itertools
import json
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import imagecodecs
import numpy as np
import psutil
import tifffile

from napari_mil.errors import SlideError, reason
from napari_mil.slides import open_slide
from napari_mil.slides.info import Pixels
from napari_mil.slides.sidecar import Room, about, clean, missing, unfinished
from napari_mil.slides.slide import Slide

QUALITY = 90


def make(slide: Slide, level: int) -> None:
    """Write one level; SlideError (FullError) where there is no room."""
    info, room = slide.engine.levels[level], Room(slide)
    with unfinished(slide, level) as part:
        room.look()
        with tifffile.TiffWriter(part, bigtiff=True) as out, _pool() as pool:
            out.write(
                _tiles(slide, level, room, pool),
                shape=(*info.shape_px, 3),
                tile=_padded(info.tile_px),
                dtype=np.uint8,
                compression="jpeg",
                photometric="ycbcr",
                subsampling=(2, 2),
                description=about(slide, level),
                metadata=None,
                software=False,
            )
        room.look()


def main(arguments: Sequence[str]) -> int:
    """Make what is missing; the exit status."""
    path, srgb = arguments[0], "--srgb" in arguments
    _yield_to_others()
    threading.Thread(target=_end_with_input, daemon=True).start()
    clean()
    try:
        with open_slide(path, srgb=srgb) as slide:
            for level in missing(slide):
                make(slide, level)
                _tell(level=level)
    except (SlideError, OSError) as error:
        _tell(error=str(error) if isinstance(error, SlideError) else f"No copies are made: {reason(error)}.")
        return 1
    except KeyboardInterrupt:
        return 2
    return 0


def _tell(**what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def _tiles(slide: Slide, level: int, room: Room, pool: ThreadPoolExecutor) -> Iterator[bytes]:
    """Encoded tiles in their order, a row at a time."""
    info = slide.engine.levels[level]
    rows, cols = info.lattice
    size = _padded(info.tile_px)

    def encoded(where: tuple[int, int]) -> bytes:
        return _jpeg(slide.engine.decode(level, *where), size)

    for row in range(rows):
        for data in pool.map(encoded, itertools.product([row], range(cols))):
            room.take(len(data))
            yield data


def _jpeg(tile: Pixels, size: tuple[int, int]) -> bytes:
    """A tile as JPEG, its border repeated where it is smaller than the others."""
    room = [(0, size[0] - tile.shape[0]), (0, size[1] - tile.shape[1]), (0, 0)]
    whole = np.pad(tile, room, mode="edge")
    data = imagecodecs.jpeg8_encode(
        whole, level=QUALITY, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"
    )
    return bytes(data)


def _padded(tile_px: tuple[int, int]) -> tuple[int, int]:
    """TIFF wants tiles in multiples of 16."""
    return -(-tile_px[0] // 16) * 16, -(-tile_px[1] // 16) * 16


def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, (os.cpu_count() or 2) // 2))


def _yield_to_others() -> None:
    with contextlib.suppress(psutil.Error, OSError):
        psutil.Process().nice(psutil.IDLE_PRIORITY_CLASS if sys.platform == "win32" else 19)


def _end_with_input() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):  # not sys.stdin, whose lock would be held at the end
            pass
    _thread.interrupt_main()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
