"""The seven leaves, drawn as a textbook would sketch them, and their weak forms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from napari_mil.samples.canvas import Canvas, grain
from napari_mil.samples.ducts import (
    Lining,
    Outline,
    epithelium,
    fill_points,
    holes,
    hollow,
    outside,
    soft,
    spaced,
)

Draw = Callable[[Canvas, np.random.Generator, tuple[float, float], float, float], None]


def _mix(kind: str, strength: float, other: str = "luminal") -> tuple[tuple[str, str], tuple[float, float]]:
    """Kinds and shares of nuclei: only `kind` at full strength, fewer of them the weaker the expression."""
    share = min(1.0, 0.25 + 0.75 * strength)
    return (kind, other), (share, 1 - share)


def normal_duct(
    canvas: Canvas, rng: np.random.Generator, at: tuple[float, float], radius: float, strength: float = 1.0
) -> None:
    """A duct or acinus with one layer of luminal cells, myoepithelium outside, and a lumen."""
    del strength
    outline = Outline.draw(rng, at, radius, wobble=0.10, aspect=1.7)
    thickness = rng.uniform(15, 19)
    box = epithelium(
        canvas, rng, outline, Lining(cytoplasm=(0.24, 0.36), halo=0.4, collar=rng.uniform(0.3, 0.5))
    )
    secretion = rng.uniform(0.2, 0.8) if rng.random() < 0.35 else 0.0
    hollow(canvas, rng, box, thickness, secretion=secretion)
    points, out = outline.rim(rng, 2.5, rng.uniform(22, 34))
    canvas.nuclei(rng, "myo", points, out + np.pi / 2)
    points, out = outline.rim(rng, 9.0, 11.5)
    canvas.nuclei(rng, "luminal", points, out + 0.5 * rng.standard_normal(len(out)))


def lobule(
    canvas: Canvas, rng: np.random.Generator, at: tuple[float, float], radius: float, strength: float = 1.0
) -> None:
    """A terminal lobule: small acini in loose, pale, slightly bluish stroma."""
    bed = Outline.draw(rng, at, radius, wobble=0.12, aspect=1.4)
    y0, x0, depth = bed.field(20)
    loose = 0.16 + 0.07 * grain(rng, depth.shape, coarse=True) + 0.03 * grain(rng, depth.shape)
    canvas.blend(y0, x0, 0.85 * soft(depth, 14), 0.07, np.clip(loose, 0.02, None))
    points = fill_points(rng, bed, 34, 0.35, 4)
    canvas.mixed_nuclei(
        rng, ("fibroblast", "lymphocyte"), (0.75, 0.25), points, rng.uniform(0, np.pi, len(points))
    )
    size = rng.uniform(21, 30)
    for y, x in fill_points(rng, bed, size * 2.75, 0.12, size * 0.7):
        normal_duct(canvas, rng, (y, x), size * rng.uniform(0.75, 1.2), strength)


def adenosis(
    canvas: Canvas, rng: np.random.Generator, at: tuple[float, float], radius: float, strength: float
) -> None:
    """Dense benign tissue: small compressed tubules crowded in smooth, dense collagen."""
    bed = Outline.draw(rng, at, radius, wobble=0.14, aspect=1.3)
    y0, x0, depth = bed.field(20)
    dense = 0.50 + 0.14 * strength + 0.04 * grain(rng, depth.shape, coarse=True)
    canvas.blend(y0, x0, (0.3 + 0.6 * strength) * soft(depth, 30), 0.07, dense)
    stream = rng.uniform(0, np.pi)
    for y, x in fill_points(rng, bed, 47 - 10 * strength, 0.16, 6):
        tubule = Outline.draw(rng, (y, x), rng.uniform(11, 16), wobble=0.12, aspect=2.2)
        if rng.random() < 0.6:
            tubule = Outline(
                y,
                x,
                tubule.radius,
                rng.uniform(1.3, 2.6),
                stream + 0.3 * rng.standard_normal(),
                tubule.harmonics,
            )
        box = epithelium(
            canvas, rng, tubule, Lining(cytoplasm=(0.30, 0.40), collar=0.62, collar_px=4, halo=0.2)
        )
        hollow(canvas, rng, box, 11.5, scallop=1.0)
        points, out = tubule.rim(rng, 1.5, 24)
        canvas.nuclei(rng, "myo", points, out + np.pi / 2)
        points, out = tubule.rim(rng, 6.5, 12.0)
        canvas.nuclei(rng, "luminal", points, out + 0.4 * rng.standard_normal(len(out)))


def usual_hyperplasia(
    canvas: Canvas, rng: np.random.Generator, at: tuple[float, float], radius: float, strength: float
) -> None:
    """Usual ductal hyperplasia: a crowded, streaming mixture of cells with irregular slits near the edge."""
    outline = Outline.draw(rng, at, radius, wobble=0.13, aspect=1.5)
    epithelium(canvas, rng, outline, Lining(cytoplasm=(0.30, 0.42), mottle=0.07))
    points, out = outline.rim(rng, 2.5, 27)
    canvas.nuclei(rng, "myo", points, out + np.pi / 2)
    slits = spaced(rng, fill_points(rng, outline, 15, 0.4, 22), max(34, radius * 0.48), 9)
    slits = slits[outline.depth(slits[:, 0], slits[:, 1]) < 0.62 * radius]
    spaces = holes(
        canvas, rng, slits, rng.uniform(7, 12 + 5 * (1 - strength), len(slits)), wobble=0.24, aspect=4.5
    )
    points = fill_points(rng, outline, 13.2 - 1.2 * strength, 0.30, 6)
    points = points[outside(points, spaces, 2)]
    y, x = points.T
    flow = (
        rng.uniform(0, np.pi)
        + 1.1 * np.sin(y / radius * 2.4 + rng.uniform(0, 6))
        + 0.9 * np.cos(x / radius * 2.1)
    )
    kinds, share = _mix("hyperplastic", strength)
    canvas.mixed_nuclei(
        rng, (*kinds, "plump"), (*share, 0.22), points, flow + 0.35 * rng.standard_normal(len(y))
    )


def flat_atypia(
    canvas: Canvas, rng: np.random.Generator, at: tuple[float, float], radius: float, strength: float
) -> None:
    """Flat epithelial atypia: a wide space lined by tall, uniform cells; secretion, the odd calcification."""
    outline = Outline.draw(rng, at, radius, wobble=0.07, aspect=1.35)
    thickness = 18 + 13 * strength
    box = epithelium(canvas, rng, outline, Lining(cytoplasm=(0.34, 0.34), halo=0.25, collar=0.35))
    hollow(canvas, rng, box, thickness, scallop=3.2, secretion=rng.uniform(0.45, 0.9))
    points, out = outline.rim(rng, 2.0, 34)
    canvas.nuclei(rng, "myo", points, out + np.pi / 2)
    kinds, share = _mix("columnar", strength)
    for depth in (9.5, 20.0) if strength > 0.55 else (9.5,):
        points, out = outline.rim(rng, depth, 8.8, 0.15)
        canvas.mixed_nuclei(rng, kinds, share, points, out + 0.12 * rng.standard_normal(len(out)))
    if strength > 0.5 and rng.random() < 0.35:
        _calcification(canvas, rng, at, 0.22 * radius)


def atypical_hyperplasia(
    canvas: Canvas, rng: np.random.Generator, at: tuple[float, float], radius: float, strength: float
) -> None:
    """Atypical ductal hyperplasia: evenly placed, monotonous cells around rigid, round, punched-out holes."""
    outline = Outline.draw(rng, at, radius, wobble=0.04 + 0.08 * (1 - strength), aspect=1.25)
    epithelium(canvas, rng, outline, Lining(cytoplasm=(0.20, 0.27), mottle=0.025))
    points, out = outline.rim(rng, 2.5, 30)
    canvas.nuclei(rng, "myo", points, out + np.pi / 2)
    centres = spaced(rng, fill_points(rng, outline, 12, 0.3, 32), 58 + 22 * (1 - strength), 12)
    radii = rng.uniform(13, 19, len(centres))
    spaces = holes(
        canvas, rng, centres, radii, wobble=0.02 + 0.12 * (1 - strength), aspect=1.1 + 0.8 * (1 - strength)
    )
    kinds, share = _mix("monotonous", strength)
    points = fill_points(rng, outline, 17.0, 0.06 + 0.16 * (1 - strength), 7)
    points = points[outside(points, spaces, 15)]
    canvas.mixed_nuclei(rng, kinds, share, points, rng.uniform(0, np.pi, len(points)))
    for space in spaces:  # cells stand around each space as around a gland
        points, out = space.rim(rng, -8.5, 16.5, 0.05)
        canvas.mixed_nuclei(rng, kinds, share, points, out)


def in_situ(
    canvas: Canvas, rng: np.random.Generator, at: tuple[float, float], radius: float, strength: float
) -> None:
    """High-grade ductal carcinoma in situ: a distended duct of large atypical cells, its middle necrotic."""
    outline = Outline.draw(rng, at, radius, wobble=0.05, aspect=1.25)
    y0, x0, depth = epithelium(
        canvas, rng, outline, Lining(cytoplasm=(0.22, 0.46), mottle=0.06, collar=0.55, collar_px=12)
    )
    wall = 62 + 60 * (1 - strength)
    inner = depth - wall - 5 * grain(rng, depth.shape, coarse=True)
    ghost = 0.62 + 0.16 * grain(rng, depth.shape, coarse=True) + 0.12 * grain(rng, depth.shape)
    canvas.blend(y0, x0, soft(inner, 8), 0.10, np.clip(ghost, 0.15, None))
    kinds, share = _mix("highgrade", strength)
    points = fill_points(rng, outline, 25 - 7 * (1 - strength), 0.20, 11)
    points = points[outline.depth(points[:, 0], points[:, 1]) < wall + 2]
    canvas.mixed_nuclei(rng, kinds, share, points, rng.uniform(0, np.pi, len(points)))
    dust = fill_points(rng, outline, 15, 0.5, wall + 6)
    dust = dust[rng.random(len(dust)) < 0.7]
    canvas.nuclei(rng, "debris", dust, rng.uniform(0, np.pi, len(dust)))
    if strength > 0.5 and rng.random() < 0.4:
        _calcification(canvas, rng, at, 0.2 * radius)
    ring = rng.integers(0, int(12 + 30 * rng.random()))
    points, out = outline.at(rng.uniform(0, 2 * np.pi, ring), -np.abs(rng.normal(24, 10, ring)))
    canvas.nuclei(rng, "lymphocyte", points, out)


def invasive(
    canvas: Canvas, rng: np.random.Generator, at: tuple[float, float], radius: float, strength: float
) -> None:
    """Invasive carcinoma: ragged nests, cords and single cells in cellular, grey-blue desmoplastic stroma."""
    bed = Outline.draw(rng, at, radius, wobble=0.16, aspect=1.4)
    y0, x0, depth = bed.field(20)
    swirl = 0.24 + 0.09 * grain(rng, depth.shape, coarse=True) + 0.03 * grain(rng, depth.shape)
    canvas.blend(y0, x0, 0.75 * strength * soft(depth, 40), 0.13, np.clip(swirl, 0.04, None))
    stream = rng.uniform(0, np.pi)
    points = fill_points(rng, bed, 40 - 8 * strength, 0.4, 0)
    canvas.mixed_nuclei(
        rng,
        ("plump", "fibroblast", "lymphocyte"),
        (0.5, 0.35, 0.15),
        points,
        stream + 0.5 * rng.standard_normal(len(points)),
    )
    kinds, share = _mix("invasive", strength, "hyperplastic")
    nests = fill_points(rng, bed, 78 + 25 * (1 - strength), 0.25, 10)
    for y, x in nests:
        nest = Outline.draw(rng, (y, x), rng.uniform(14, 38), wobble=0.26, aspect=2.6)
        epithelium(
            canvas, rng, nest, Lining(cytoplasm=(0.26, 0.46), mottle=0.07, collar=0.30, collar_px=5, halo=0.5)
        )
        if rng.random() < 0.2 and nest.radius > 30:
            holes(canvas, rng, np.array([[y, x]]), np.array([8.0]), wobble=0.2, aspect=2.0)
        points = fill_points(rng, nest, 17.5, 0.28, 5)
        canvas.mixed_nuclei(rng, kinds, share, points, rng.uniform(0, np.pi, len(points)))
    singles = fill_points(rng, bed, 62, 0.5, 5)
    canvas.mixed_nuclei(rng, kinds, share, singles, stream + 0.6 * rng.standard_normal(len(singles)))


def _calcification(canvas: Canvas, rng: np.random.Generator, at: tuple[float, float], spread: float) -> None:
    for _ in range(rng.integers(1, 4)):
        stone = Outline.draw(
            rng, tuple(np.asarray(at) + spread * rng.standard_normal(2)), rng.uniform(6, 14), wobble=0.15
        )
        y0, x0, depth = stone.field(4)
        canvas.blend(y0, x0, soft(depth, 1.5), 1.15 + 0.25 * grain(rng, depth.shape, coarse=True), 0.35)


#: Leaf name → how one structure of it is drawn, and the range of its radius in px.
LESIONS: dict[str, tuple[Draw, tuple[float, float]]] = {
    "PB": (adenosis, (150, 190)),
    "UDH": (usual_hyperplasia, (75, 120)),
    "FEA": (flat_atypia, (62, 98)),
    "ADH": (atypical_hyperplasia, (78, 112)),
    "DCIS": (in_situ, (108, 150)),
    "IC": (invasive, (150, 195)),
}
