"""How fast slides open, are read and are drawn, beside OpenSlide, tifffile → zarr → dask and napari-wsi.

    scripts/with_screen python benchmarks/slides.py              all tables, some minutes
    scripts/with_screen python benchmarks/slides.py --only views,tiles
    scripts/with_screen python benchmarks/slides.py --minutes 10    memory over ten minutes of panning

Slides of 16,384², 65,536² and 200,000 × 150,000 px are written to --work first: a few tiles encoded once and
written again and again. *Cold* is with our cache empty and the file in the page cache. Peers that are not
installed are left out. *Bare decode* reads and decodes the tiles under a view on two threads and keeps them.
The tables are put into docs/benchmarks.md with --write.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import dask.array as da
import imagecodecs
import numpy as np
import openslide
import tifffile
import zarr
from bigslides import write_slide
from numpy.typing import NDArray
from PIL import Image
from tables import processor, table, write_section

from napari_mil.encode import Views, read_ahead
from napari_mil.slides import Slide, open_slide

PARTS = ("views", "tiles", "open", "window")
VIEW_PX = (1000, 1600)
ROUNDS, TURNS, WARMS_UP, TILES = 17, 5, 2, 512
#: How often the window goes through its script, for each kind of slide.
WINDOW_ROUNDS = 5
SIZES = {"16k": (16_384, 16_384), "4 gigapixel": (65_536, 65_536), "30 gigapixel": (150_000, 200_000)}
#: What is timed until it is sharp.
KINDS = ("pan", "zoom", "rested")
Read = Callable[[int, int, int], Any]  # level, y, x in pixels of the level


def slide_path(work: Path, name: str, codec: str = "jpeg") -> Path:
    path = work / f"{name.replace(' ', '-')}-{codec}.svs"
    if not path.exists():
        work.mkdir(parents=True, exist_ok=True)
        write_slide(path, SIZES[name], codec=codec, empty=4 if name.startswith("30") else 0)
    return path


def warm(path: Path) -> None:
    """Read a file through, so that it lies in the page cache: some systems keep nothing there for long."""
    with path.open("rb", buffering=0) as file:
        part = bytearray(2**24)
        while file.readinto(part):
            pass


def timed(act: Callable[[], Any]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    act()
    return (time.perf_counter() - began) * 1000


def bare(
    slide: Slide, threads: int = 2
) -> Callable[[int, Sequence[tuple[int, int]]], list[NDArray[np.uint8]]]:
    """Positioned reads and decoder calls on two threads, and nothing else."""
    pool, source = ThreadPoolExecutor(threads), slide.engine.source
    fd = os.open(slide.path, os.O_RDONLY)

    def decode(page: Any, tiles: Sequence[tuple[int, int]]) -> list[NDArray[np.uint8]]:
        made = []
        for row, col in tiles:
            at = row * page.lattice[1] + col
            data = os.pread(fd, int(page.counts[at]), int(page.offsets[at]))
            if page.compression == 7:
                made.append(
                    imagecodecs.jpeg8_decode(
                        data, tables=page.tables, colorspace="YCBCR", outcolorspace="RGB"
                    )
                )
            else:
                made.append(imagecodecs.jpeg2k_decode(data))
        return made

    def read(level: int, tiles: Sequence[tuple[int, int]]) -> list[NDArray[np.uint8]]:
        page = source._pages[level]  # noqa: SLF001 - the floor is measured below the reader
        if threads == 1:
            return decode(page, tiles)
        halves = pool.map(decode, [page, page], [tiles[::2], tiles[1::2]])
        return list(itertools.chain.from_iterable(halves))

    return read


def under(slide: Slide, level: int, y: int, x: int) -> list[tuple[int, int]]:
    th, tw = slide.levels[level].tile_px
    rows, cols = (
        range(y // th, (y + VIEW_PX[0] - 1) // th + 1),
        range(x // tw, (x + VIEW_PX[1] - 1) // tw + 1),
    )
    return list(itertools.product(rows, cols))


def peers(path: Path) -> dict[str, Read]:
    """Other ways to the pixels of a view."""
    handle = openslide.OpenSlide(path)

    def by_openslide(level: int, y: int, x: int) -> Any:
        down = handle.level_downsamples[level]
        return np.asarray(handle.read_region((int(x * down), int(y * down)), level, VIEW_PX[::-1]))

    found: dict[str, Read] = {"OpenSlide": by_openslide}
    group = zarr.open(tifffile.imread(path, aszarr=True), mode="r")
    arrays = [da.from_zarr(group[str(i)]) for i in range(len(list(group.array_keys())))]
    found["tifffile → zarr → dask"] = _slices(arrays)
    try:
        from napari_wsi.backends.openslide import OpenSlideStore

        found["napari-wsi"] = _slices(OpenSlideStore(path).to_layer_data_tuples()[0][0])
    except (ImportError, AttributeError):
        pass
    return found


def _slices(arrays: Sequence[Any]) -> Read:
    return lambda level, y, x: np.asarray(arrays[level][y : y + VIEW_PX[0], x : x + VIEW_PX[1]])


def cold(slide: Slide) -> None:
    slide.engine.cache.drop(slide.engine.token)


def views(work: Path) -> str:
    """Cold views at random places and levels."""
    rows = []
    for name, codec in (("4 gigapixel", "jpeg"), ("16k", "jpeg2000")):
        path = slide_path(work, name, codec)
        spent: dict[str, list[float]] = {}
        warm(path)
        with open_slide(path) as slide:
            ways = readers(slide)
            rng = np.random.default_rng(0)
            for turn in range(TURNS):
                places = some_views(slide, rng)
                first = turn % len(ways)
                for key in [*ways][first:] + [*ways][:first]:
                    spent.setdefault(key, []).extend(session(slide, ways[key], places))
        ours = float(np.median(spent["napari-mil"]))
        for key, ms in spent.items():
            middle = float(np.median(ms))
            rows.append([f"{name}, {codec}", key, f"{middle:.1f}", f"{max(ms):.1f}", f"{middle / ours:.2f}"])
    return "### Cold view of 1600 × 1000 px at a random place and level\n\n" + table(
        ["slide", "reader", "median ms", "longest ms", "of ours"], rows
    )


def readers(slide: Slide) -> dict[str, Read]:
    """Every way to a view: ours, the floor below it on two threads and on one, and the peers."""

    def ours(level: int, y: int, x: int) -> Any:
        return slide.levels[level].read(y, x, y + VIEW_PX[0], x + VIEW_PX[1])

    def floor(decode: Any, level: int, y: int, x: int) -> Any:
        return decode(level, under(slide, level, y, x))

    return {
        "napari-mil": ours,
        "bare decode": partial(floor, bare(slide)),
        "bare decode, 1 thread": partial(floor, bare(slide, threads=1)),
        **peers(slide.path),
    }


def some_views(slide: Slide, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """Level, y and x of random views, each level in turn."""
    usable = [i for i, one in enumerate(slide.levels) if min(one.shape_px) > 2000]
    levels = [usable[i % len(usable)] for i in range(ROUNDS)]
    return [
        (i, *(int(rng.integers(0, slide.levels[i].shape_px[k] - VIEW_PX[k])) for k in (0, 1))) for i in levels
    ]


def session(slide: Slide, read: Read, places: Sequence[tuple[int, int, int]]) -> list[float]:
    """Milliseconds of one reader that looks at a view after the other, as who pans does; after another's
    single thread, a virtual machine's second processor takes longer to wake than a view takes.
    """
    gc.collect()
    spent = []
    for place in places:
        cold(slide)
        spent.append(timed(partial(read, *place)))
    return spent[WARMS_UP:]


def tiles(work: Path) -> str:
    """256 px at 0.5 µm/px from a slide of 0.25, antialiased, in the order in which an encoder reads."""
    path, side = slide_path(work, "4 gigapixel"), 512
    cells = [(r * side, c * side) for r, c in itertools.product(range(20, 20 + TILES // 16), range(30, 46))]
    handle = openslide.OpenSlide(path)
    boxes = np.array([(y, x, y + side, x + side) for y, x in cells], float)
    warm(path)
    views = Views(boxes, np.arange(len(cells) + 1))
    with open_slide(path) as slide, ThreadPoolExecutor(2) as pool:
        floor = bare(slide, threads=1)

        def ours() -> None:
            cold(slide)
            for _ in read_ahead(slide, 256, views, views.portions(np.arange(len(cells)), 64)):
                pass

        def half(part: Sequence[tuple[int, int]]) -> None:
            for y, x in part:
                near = [(y // 256 + dy, x // 256 + dx) for dy, dx in itertools.product((0, 1), repeat=2)]
                four = floor(0, near)
                whole = np.concatenate([np.concatenate(four[:2], 1), np.concatenate(four[2:], 1)])
                np.asarray(Image.fromarray(whole).reduce(2))

        def loop() -> None:
            for y, x in cells:
                region = handle.read_region((x, y), 0, (side, side)).convert("RGB")
                np.asarray(region.reduce(2))

        ways = {
            "napari-mil": ours,
            "decode and resample, 2 threads": lambda: list(pool.map(half, [cells[::2], cells[1::2]])),
            "a loop of read_region": loop,
        }
        spent: dict[str, list[float]] = {key: [] for key in ways}
        for turn in range(10):
            for key in [*ways][turn % 3 :] + [*ways][: turn % 3]:
                spent[key].append(timed(ways[key]))
    rates = {key: len(cells) / np.median(ms[1:]) * 1000 for key, ms in spent.items()}
    rows = [[k, f"{r:.0f}", f"{rates['napari-mil'] / r:.2f}"] for k, r in rates.items()]
    return "### Tiles for an encoder: 256 px at 0.5 µm/px from 0.25, antialiased\n\n" + table(
        ["reader", "tiles/s", "ours is so many times as fast"], rows
    )


def opening(work: Path) -> str:
    """From the path to the coarsest level's pixels."""

    def ours(path: Path) -> None:
        with open_slide(path) as slide:
            slide.levels[-1].read(0, 0, *slide.levels[-1].shape_px)

    def theirs(path: Path) -> None:
        with openslide.OpenSlide(path) as handle:
            last = handle.level_count - 1
            np.asarray(handle.read_region((0, 0), last, handle.level_dimensions[last]))

    rows = []
    for name in ("4 gigapixel", "30 gigapixel"):
        path = slide_path(work, name)
        for key, act in (("napari-mil", ours), ("OpenSlide", theirs)):
            ms = [timed(partial(act, path)) for _ in range(6)][1:]
            rows.append([name, key, f"{np.median(ms):.0f}", f"{max(ms):.0f}"])
    return "### Open to the first picture\n\n" + table(["slide", "reader", "median ms", "longest ms"], rows)


def window(work: Path, minutes: float) -> str:
    """Each script of views in a process of its own, ours and bare napari."""
    script = Path(__file__).with_name("slideview.py")
    paths = {codec: str(slide_path(work, "16k", codec)) for codec in ("jpeg", "jpeg2000")}
    paths["long"] = str(slide_path(work, "4 gigapixel"))
    home = work / "home"
    os.environ["NAPARI_MIL_HOME"] = str(home)
    for path in paths.values():  # made once, by the process that the window starts for it
        maker = [sys.executable, "-m", "napari_mil.slides.sidecarmake", path]
        with subprocess.Popen(maker, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as child:
            child.wait()
    told: dict[str, list[dict[str, Any]]] = {}
    kinds = ("bare", "jpeg", "jpeg2000", "remote")
    for turn in range(WINDOW_ROUNDS):
        for what in (*kinds[turn % 4 :], *kinds[: turn % 4]):
            told.setdefault(what, []).append(_script(script, what, paths, minutes))
    return _steps(told) + "\n\n" + _memory(_script(script, "memory", paths, minutes))


def _script(script: Path, what: str, paths: dict[str, str], minutes: float) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(script), what, json.dumps(paths), str(minutes)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return made


def _steps(told: dict[str, list[dict[str, Any]]]) -> str:
    """Every step's median over the rounds, less that of bare napari; and all steps of all rounds."""

    def each(what: str, key: str) -> NDArray[np.float64]:
        return np.array([one[key] for one in told[what]])

    def high(ms: Any) -> str:
        return f"{np.percentile(ms, 95):.1f} / {np.max(ms):.1f}"

    rows = []
    for what in ("jpeg", "jpeg2000", "remote"):
        keys = ("steps", "first", "cpu")
        bare = {key: np.median(each("bare", key), 0) for key in keys}
        over, first, cpu = (np.median(each(what, key), 0) - bare[key] for key in keys)
        pan, zoom, rested = (f"{np.median(each(what, k)):.0f} ({np.max(each(what, k)):.0f})" for k in KINDS)
        rows.append(
            [
                {"remote": "JPEG, 80 ms per tile"}.get(what, what),
                high(over),
                high(each(what, "steps") - bare["steps"]),
                high(first),
                high(cpu),
                high(np.concatenate([one["ours"] for one in told[what]])),
                pan,
                zoom,
                rested,
            ]
        )
    steps, first = each("bare", "steps"), each("bare", "first")
    note = (
        f"{WINDOW_ROUNDS} rounds of the same script, each in another order. A step lasts until the canvas "
        "has nothing more to paint. Bare napari, with arrays in memory, paints a new view twice: what the "
        f"view before showed, {np.median(first):.0f} ms ({first.max():.0f}), and then what is in it, "
        f"together {np.median(steps):.0f} ms ({steps.max():.0f}). Here it is painted once, with what is in "
        "it, so that the first painting, taken alone, takes longer and there is no second one. Our own code "
        "may wait up to 6 ms for tiles; a picture that becomes sharp later is drawn twice. The sidecars "
        f"were there. Steps follow upon each other at once; a rest takes {told['jpeg'][0]['rest']:g} s."
    )
    heads = [
        "slide",
        "over bare, medians of rounds, p95 / longest",
        "every single step, p95 / longest",
        "the first painting alone, p95 / longest",
        "processor time over bare, p95 / longest",
        "our own code, p95 / longest",
        "sharp after pan",
        "after zoom",
        "sharp after a pan after a rest",
    ]
    return f"### GUI thread, ms per step of pan or zoom\n\n{table(heads, rows)}\n\n{note}"


def _memory(told: dict[str, Any]) -> str:
    words = "cache bound, MB|over the empty viewer, MB|first half, MB|second half, MB|minutes"
    row = [f"{told[k]:.0f}" for k in ("bound", "most", "first", "second")] + [f"{told['minutes']:g}"]
    return "### Memory while panning at random\n\n" + table(words.split("|"), [row])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--minutes", type=float, default=0.75, help="of panning, for memory")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "napari-mil-slides")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/benchmarks.md")
    chosen = parser.parse_args(arguments)
    load = os.getloadavg()[0]
    acts = {
        "views": views,
        "tiles": tiles,
        "open": opening,
        "window": lambda work: window(work, chosen.minutes),
    }
    made = [acts[part](chosen.work) for part in PARTS if part in chosen.only.split(",")]
    head = (
        f"## Slides\n\n`make bench-slides`, {time.strftime('%Y-%m-%d')}, {processor()}, "
        f"{len(os.sched_getaffinity(0))} cores, load {load:.1f} before."
    )
    text = "\n\n".join([head, *made])
    print(text)
    if chosen.write:
        write_section(Path(__file__).parents[1] / "docs/benchmarks.md", "slides", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
