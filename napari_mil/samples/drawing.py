"""From a plan to a canvas: stroma, fat, the lesion, normal anatomy, and everything that makes it harder."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from napari_mil.samples.canvas import MARGIN, Canvas
from napari_mil.samples.ducts import Lining, Outline, epithelium, fill_points, hollow, soft
from napari_mil.samples.lesions import LESIONS, lobule, normal_duct
from napari_mil.samples.scene import CELL, PLAN, Focus, Plan
from napari_mil.samples.textures import SIDE, Collagen, Field, cloud, enlarge, textures

STRIP = 128


def draw_stroma(canvas: Canvas, rng: np.random.Generator, plan: Plan) -> None:
    """Two weaves of collagen blended along a smooth border, denser here and looser there, and fibroblasts."""
    h, w = plan.shape_px
    weave = [textures().collagen[i] for i in rng.permutation(len(textures().collagen))[:2]]
    shift = rng.integers(0, SIDE, (2, 2))
    blend = np.clip(0.5 + 1.6 * cloud(rng, plan.inside.shape, 34), 0, 1)
    density = np.clip(rng.normal(1.0, 0.06) + 0.13 * cloud(rng, plan.inside.shape, 22), 0.55, 1.45)
    glass = np.clip(0.012 + 0.006 * cloud(rng, plan.inside.shape, 90), 0.003, None)
    noise = (textures().mottle, textures().grain)
    sheets = [
        np.take(t, np.arange(w) + x, axis=1, mode="wrap")
        for t, x in zip(
            (*(c.eosin for c in weave), *noise), (*shift[:, 1], *rng.integers(0, SIDE, 2)), strict=True
        )
    ]
    bed = canvas.planes[:, MARGIN : MARGIN + h, MARGIN : MARGIN + w]
    for y in range(0, h, STRIP):
        rows, (inside, m, dense, base) = _strip((plan.inside, blend, density, glass), y, h, w)
        starts = (*shift[:, 0], 331, 77)
        a, b, fray, fine = (
            s.take(rows + y0, axis=0, mode="wrap") for s, y0 in zip(sheets, starts, strict=True)
        )
        a -= b
        a *= m
        a += b
        fray *= 7
        fray += inside
        fray += 40 * (a - 0.4)
        a *= dense
        edge = soft(fray, 9)
        a *= edge
        fine *= 0.005
        fine += base
        np.add(a, fine, out=bed[1, rows[0] : rows[-1] + 1])
        a *= 0.11
        a += fine
        np.multiply(edge, 0.03, out=edge)
        np.add(a, edge, out=bed[0, rows[0] : rows[-1] + 1])
    _fibroblasts(canvas, rng, plan, weave, shift, blend)


def _strip(
    fields: tuple[NDArray[np.floating], ...], y: int, h: int, w: int
) -> tuple[NDArray[np.intp], list[Field]]:
    """Rows y … of the slide, and the plan's rasters enlarged there."""
    rows = np.arange(y, min(y + STRIP, h))
    low, high = max(0, y // PLAN - 1), min(len(fields[0]), (y + STRIP) // PLAN + 1)
    cut = slice(y - low * PLAN, y - low * PLAN + len(rows))
    return rows, [enlarge(f[low:high], PLAN)[cut, :w] for f in fields]


def _fibroblasts(
    canvas: Canvas,
    rng: np.random.Generator,
    plan: Plan,
    weave: list[Collagen],
    shift: NDArray[np.int64],
    blend: NDArray[np.floating],
) -> None:
    """Nuclei of the stroma, along its fibres; `shift` (2, 2) is where each weave starts."""
    h, w = plan.shape_px
    n = int(h * w / CELL**2 * rng.uniform(13, 22))
    at = rng.uniform(0, 1, (n, 2)) * (h, w)
    plan_at = tuple((at // PLAN).astype(int).T)
    keep = (plan.inside[plan_at] > 12) & ~plan.fat[plan_at]
    at, first = at[keep], blend[plan_at][keep] > 0.5
    angle = np.empty(len(at))
    for texture, move, chosen in zip(weave, shift, (first, ~first), strict=True):
        y, x = ((at[chosen].astype(int) + move) % SIDE).T
        angle[chosen] = texture.angle[y, x]
    canvas.nuclei(rng, "fibroblast", at, angle + 0.15 * rng.standard_normal(len(at)))


def draw_fat(canvas: Canvas, rng: np.random.Generator, plan: Plan) -> None:
    """Fat cells: a foam of white, thin-walled polygons, whole cells only."""
    if not plan.fat.any():
        return
    rows, cols = np.nonzero(plan.fat.any(1))[0], np.nonzero(plan.fat.any(0))[0]
    y0, y1, x0, x1 = (
        int(v) for v in (rows[0] * PLAN, (rows[-1] + 1) * PLAN, cols[0] * PLAN, (cols[-1] + 1) * PLAN)
    )
    spacing = rng.uniform(88, 125)
    r, c = np.meshgrid(
        np.arange(-1, (y1 - y0) / spacing / 0.866 + 2), np.arange(-1, (x1 - x0) / spacing + 2), indexing="ij"
    )
    seeds = np.stack([y0 + r * spacing * 0.866, x0 + (c + 0.5 * (r % 2)) * spacing], -1).reshape(-1, 2)
    seeds += rng.normal(0, 0.17 * spacing, seeds.shape)
    h, w = plan.fat.shape
    cell = np.clip((seeds // PLAN).astype(int), 0, (h - 1, w - 1))
    fatty = plan.fat[tuple(cell.T)]
    ys, xs = np.arange(y0 - 96, y1 + 96, 4) + 1.5, np.arange(x0 - 96, x1 + 96, 4) + 1.5
    points = np.stack(np.meshgrid(ys, xs, indexing="ij"), -1).reshape(-1, 2)
    distance, nearest = cKDTree(seeds).query(points, k=2, distance_upper_bound=spacing * 1.6)
    known = np.isfinite(distance).all(1) & fatty[np.minimum(nearest[:, 0], len(seeds) - 1)]
    gap = np.where(
        known, np.minimum(distance[:, 1] - distance[:, 0], 2.4 * (spacing * 0.66 - distance[:, 0])), -12
    )
    wall = enlarge(gap.reshape(len(ys), len(xs)).astype(np.float32), 4)
    top, left = y0 - 96, x0 - 96
    canvas.blend(top, left, soft(wall + 4, 5), 0.03, 0.30)
    canvas.blend(top, left, soft(wall - 4.5, 3), 0.0, 0.012)
    walls = points[known & (gap > 1) & (gap < 4)]
    points = walls[rng.random(len(walls)) < 0.012]
    canvas.nuclei(rng, "fibroblast", points, rng.uniform(0, np.pi, len(points)))


def draw_lesion(canvas: Canvas, rng: np.random.Generator, plan: Plan, leaf: str, foci: list[Focus]) -> None:
    """Structures of a lesion over its cells; weakly expressed cells mix them with normal ducts."""
    draw, (small, large) = LESIONS[leaf]
    bed = small >= 145 and leaf != "DCIS"
    for focus in foci:
        centre = (np.array(focus.cell) + 0.5) * CELL
        strength, drawn = focus.expression, 0
        for attempt in range(3 if bed else 26):
            radius = rng.uniform(small, large) * (1.0 if attempt < 8 else 0.72)
            y, x = centre + rng.uniform(-1, 1, 2) * (18 if bed else 30 + 5 * attempt)
            if bed and drawn:
                break
            if not bed and not plan.is_free(y, x, 0.93 * radius):
                continue
            lesional = not drawn or rng.random() < 0.35 + 0.65 * strength
            size = radius * (0.75 + 0.25 * strength)
            if lesional:
                draw(canvas, rng, (y, x), size, strength)
            else:
                normal_duct(canvas, rng, (y, x), 0.55 * radius)
            plan.mark(y, x, size)
            plan.mark(y, x, 1.1 * radius, plan.lesion)
            rows, cols, disc = plan._disc(y, x, 1.1 * radius)  # noqa: SLF001 – the plan's own geometry
            plan.expression[rows, cols] = np.where(disc, strength, plan.expression[rows, cols])
            drawn += 1


def draw_look_alike(canvas: Canvas, rng: np.random.Generator, plan: Plan) -> None:
    """One normal structure that is easily taken for a lesion: cut aslant, crowded, reactive."""
    draw, (small, large) = LESIONS[str(rng.choice(list(LESIONS)))]
    radius = 0.7 * rng.uniform(small, large)
    at = plan.place(rng, 1.1 * radius)
    if at is not None:
        draw(canvas, rng, at, radius, rng.uniform(0.0, 0.12))


def draw_anatomy(canvas: Canvas, rng: np.random.Generator, plan: Plan) -> None:
    """Normal lobules, ducts, an occasional cyst, and vessels, wherever there is room."""
    tiles = plan.tissue.sum() * PLAN**2 / CELL**2
    for radius, per_tile, draw in (
        ((110, 215), 0.15, lobule),
        ((34, 95), 0.16, normal_duct),
        ((20, 40), 0.18, vessel),
        ((60, 130), 0.022, cyst),
    ):
        for _ in range(rng.poisson(tiles * per_tile * rng.uniform(0.7, 1.3))):
            size = rng.uniform(*radius)
            at = plan.place(rng, size * 1.2 + 6)
            if at is not None:
                draw(canvas, rng, at, size)


def vessel(canvas: Canvas, rng: np.random.Generator, at: tuple[float, float], radius: float) -> None:
    """A small vessel: a muscular ring, flat endothelium, some red cells."""
    outline = Outline.draw(rng, at, radius, wobble=0.08, aspect=2.2)
    box = epithelium(canvas, rng, outline, Lining(cytoplasm=(0.10, 0.58), mottle=0.06, collar=0.35, halo=0.1))
    hollow(canvas, rng, box, radius * rng.uniform(0.2, 0.42), scallop=1.0)
    points, out = outline.rim(rng, radius * 0.15, 20)
    canvas.nuclei(rng, "fibroblast", points, out + np.pi / 2)
    if rng.random() < 0.6:
        points = fill_points(rng, outline, 11, 0.3, radius * 0.45)
        points = points[rng.random(len(points)) < rng.uniform(0.3, 1)]
        canvas.nuclei(rng, "redcell", points, rng.uniform(0, np.pi, len(points)))


def cyst(canvas: Canvas, rng: np.random.Generator, at: tuple[float, float], radius: float) -> None:
    """A benign cyst: wide, lined by one flat layer, often with pink content."""
    outline = Outline.draw(rng, at, radius, wobble=0.05, aspect=1.5)
    box = epithelium(canvas, rng, outline, Lining(cytoplasm=(0.20, 0.40), collar=0.5))
    hollow(canvas, rng, box, 11, scallop=1.2, secretion=rng.uniform(0.3, 1.0))
    points, out = outline.rim(rng, 5.5, 14.5)
    canvas.nuclei(rng, "luminal", points, out + np.pi / 2)


def draw_inflammation(canvas: Canvas, rng: np.random.Generator, plan: Plan) -> None:
    """Lymphocytes: scattered ones, and a few dense clusters; some red cells that leaked."""
    y, x = np.nonzero((plan.inside > 30) & ~plan.fat)
    everywhere = rng.integers(0, len(y), len(y) // 60)
    points = np.stack([y[everywhere], x[everywhere]], 1) * PLAN + rng.uniform(0, PLAN, (len(everywhere), 2))
    points = points[~plan.taken[y[everywhere], x[everywhere]] | (rng.random(len(points)) < 0.2)]
    canvas.nuclei(rng, "lymphocyte", points, rng.uniform(0, np.pi, len(points)))

    def cluster(kind: str, most: float, spread: float) -> None:
        i, n = rng.integers(len(y)), int(rng.uniform(0.15, 1) * most)
        size = spread * np.sqrt(n / 40) * rng.uniform(0.7, 1.4, 2)
        points = np.array([y[i], x[i]]) * PLAN + size * rng.standard_normal((n, 2))
        points = points[plan.solid(points)]
        lean = rng.uniform(0, np.pi)
        canvas.nuclei(
            rng, kind, points, lean + (0.25 if kind == "crushed" else 3) * rng.standard_normal(len(points))
        )

    for kind, often, most, spread in (
        ("lymphocyte", 3.0, 240, 22),
        ("redcell", 0.8, 300, 18),
        ("crushed", 0.4, 110, 45),
    ):
        for _ in range(rng.poisson(often)):
            cluster(kind, most, spread)


def draw_fold(canvas: Canvas, rng: np.random.Generator, plan: Plan) -> None:
    """A fold: a wavy band across the tissue where it lies twice."""
    h, w = plan.shape_px
    bed = canvas.planes[:, MARGIN : MARGIN + h, MARGIN : MARGIN + w]
    lean, phase = rng.uniform(-0.35, 0.35), rng.uniform(0, 6.3)
    middle = rng.uniform(0.3, 0.7) * w
    y = np.arange(h, dtype=np.float32)
    line = middle + lean * (y - h / 2) + 45 * np.sin(y / 330 + phase) + 14 * np.sin(y / 71)
    half = rng.uniform(30, 46) * np.clip(np.sin(np.pi * y / h) * 2, 0, 1) ** 0.5 + 1
    for row in range(h):
        x0, x1 = int(line[row] - half[row]), int(line[row] + half[row])
        x0, x1 = max(x0, 0), min(x1, w - 1)
        if x1 - x0 > 2:
            across = np.linspace(-1, 1, x1 - x0, dtype=np.float32)
            bed[:, row, x0:x1] *= 1.75 + 0.35 * across**8
            bed[:, row, x0:x1] += 0.05 * (np.abs(across) > 0.93) * (bed[1, row, x0:x1] > 0.1)


def draw_pen(pixels: NDArray[np.uint8], rng: np.random.Generator, plan: Plan) -> None:
    """A felt pen's line around part of the tissue, in place; streaky, darker at its edges."""
    h, w = plan.shape_px
    ink = np.array([[0.92, 0.30, 0.55], [1.05, 0.72, 0.12]][int(rng.integers(2))])
    start, sweep = rng.uniform(0, 6.3), rng.uniform(1.6, 2.6)
    t = np.linspace(0, 1, 900)
    r = 0.86 + 0.04 * np.sin(5 * t + start)
    line = np.stack(
        [h / 2 + r * h / 2 * np.sin(start + sweep * t), w / 2 + r * w / 2 * np.cos(start + sweep * t)], 1
    )
    streaks = textures().mottle[:, np.arange(w) % SIDE]
    for y0 in range(0, h, STRIP):
        rows = np.arange(y0, min(y0 + STRIP, h))
        ys = np.arange(y0 - 4, rows[-1] + 8, 4) + 1.5  # one coarse row more on either side: no seams
        xs = np.arange(0, w, 4) + 1.5
        grid = np.stack(np.meshgrid(ys, xs, indexing="ij"), -1)
        distance = cKDTree(line).query(grid.reshape(-1, 2), distance_upper_bound=120)[0]
        far = np.minimum(distance, 120).reshape(grid.shape[:2]).astype(np.float32)
        away = enlarge(far, 4)[4 : 4 + len(rows), :w]
        if away.min() > 60:
            continue
        amount = soft(42 - away, 5) * (0.85 + 0.35 * np.exp(-((away - 38) ** 2) / 40))
        amount *= 1 + 0.12 * streaks[rows % SIDE]
        strip = pixels[y0 : y0 + STRIP]
        strip[:] = (strip * np.exp(-amount[..., None] * ink)).astype(np.uint8)
