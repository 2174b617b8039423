"""The built-in encoder: fixed measurements of stained tissue, no weights.

Every number is a formula of the tile's own pixels: optical density, the two stains of H&E (colour
deconvolution, Ruifrok and Johnston 2001), wavelet and Fourier energies, local binary patterns (Ojala 2002),
Minkowski functionals and openings of nuclei and of white space, nuclei as maxima over scale space (Lindeberg
1998), fibre direction by the structure tensor. Textures are taken relative to the tile's own staining
strength. Turning or mirroring a tile changes nothing. docs/encoders.md lists the groups and what the encoder
cannot do.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from napari_mil.encoders import filters as f
from napari_mil.encoders.builtin_scale import MEAN, SCALE, STD
from napari_mil.encoders.encoder import Encoder, check_tiles

Parts = dict[str, Tensor]
"""Named groups of measurements, each (B, k)."""

STAINS = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105))
"""Optical density (red, green, blue) of haematoxylin and eosin; Ruifrok and Johnston 2001."""

LEVELS = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.5)
BLOB_SIGMAS = (1.4, 2.1, 3.1, 4.7, 7.0)
"""µm; the differences of neighbours answer to discs of about 5, 7, 11 and 16 µm across."""
SMALLEST_PX = 96
CPU_CHUNK = 8
CLIP = 10.0
H, E, L, R = range(4)
"""Planes: haematoxylin, eosin, the mean optical density, and what neither stain explains."""


class BuiltinEncoder(Encoder):
    """342 measurements of a tile of 256 px at 0.5 µm/px, about zero mean and unit variance on H&E tissue."""

    name = "builtin"
    id = "builtin-1"
    tile_px = 256
    mpp = 0.5

    def __init__(self) -> None:
        self.width = len(MEAN)

    @torch.inference_mode()
    def __call__(self, tiles: Tensor) -> Tensor:
        """(B, D) float32 in [−10, 10] for tiles (B, H, W, 3) uint8, on their device."""
        check_tiles(tiles, smallest_px=SMALLEST_PX, owner=self.id)
        raw = measure(tiles)
        mean, std = (torch.tensor(v, dtype=torch.float32, device=tiles.device) for v in (MEAN, STD))
        return ((raw - mean) / std).clamp_(-CLIP, CLIP)


def measure(tiles: Tensor) -> Tensor:
    """(B, D) float32 measurements before scaling.

    On a CPU always in groups of the same size, the last one filled up: products of equal shapes round
    equally, so a tile has the same numbers to the last bit in every batch. Each group is done by one thread:
    dividing its many small operations among threads would make them wait for each other, badly so on a busy
    machine.
    """
    if tiles.device.type != "cpu":
        return torch.cat(list(parts(tiles).values()), dim=1)
    if not len(tiles):
        return torch.empty(0, len(MEAN))
    groups, threads = torch.split(tiles, CPU_CHUNK), torch.get_num_threads()
    if threads == 1:
        return torch.cat([_group(group) for group in groups])
    try:
        with ThreadPoolExecutor(threads, "napari-mil-encode", torch.set_num_threads, (1,)) as workers:
            return torch.cat(list(workers.map(_group, groups)))
    finally:
        torch.set_num_threads(threads)  # a part of this setting is shared with the workers


@torch.inference_mode()
def _group(tiles: Tensor) -> Tensor:
    """Measurements of at most CPU_CHUNK tiles."""
    missing = CPU_CHUNK - len(tiles)
    full = torch.cat([tiles, tiles[:1].expand(missing, -1, -1, -1)]) if missing else tiles
    return torch.cat(list(parts(full).values()), dim=1)[: len(tiles)]


def feature_names() -> tuple[str, ...]:
    """What each of the D numbers is: group and position in it."""
    return tuple(f"{group}[{i}]" for group, (mean, _) in SCALE.items() for i in range(len(mean)))


def parts(tiles: Tensor) -> Parts:
    """All groups for tiles (B, H, W, 3) uint8; sides are cut to multiples of 4."""
    height, width = (side // 4 * 4 for side in tiles.shape[1:3])
    half, edge, diagonal = stains(tiles[:, :height, :width])
    strength, tissue = _strength(half)
    found: Parts = {}
    for group in (
        _colour(half, tissue),
        _wavelets(half, edge, diagonal, strength),
        _frequencies(half, strength),
        _patterns(half, strength),
        _fibres(half, strength),
        _nuclei(half, edge, tissue),
        _white(half),
    ):
        found.update(group)
    return found


def stains(tiles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Planes (B, 4, H/2, W/2) of optical density, base 10, 0 = white paper; their two finest Haar details."""
    pure = torch.tensor(STAINS, dtype=torch.float64)
    rest = torch.linalg.cross(pure[0], pure[1])
    basis = torch.stack([v / v.norm() for v in (pure[0], pure[1], rest)])
    amounts = torch.linalg.inv(basis).T
    unmix = torch.stack([amounts[0], amounts[1], torch.full((3,), 1 / 3, dtype=torch.float64), amounts[2]])
    shades = tiles.permute(0, 3, 1, 2).contiguous().float().add_(1).log_()
    scaled = (unmix / -math.log(10)).float().to(tiles.device)
    mixed = torch.matmul(scaled, shades.flatten(2)).view(len(tiles), 4, *shades.shape[-2:])
    half, edge, diagonal = f.haar(mixed)
    white = (unmix.sum(1) * math.log10(256)).float().to(tiles.device)
    return half.add_(white[:, None, None]), edge, diagonal  # details do not see the constant


def _strength(half: Tensor) -> tuple[Tensor, Tensor]:
    """((B, 1) mean optical density of the tissue in a tile, its soft mask (B, 1, h, w)).

    A tile without tissue has the strength 0.1, so that the noise of blank glass is not blown up.
    """
    tissue = f.ramp(half[:, L : L + 1], 0.12, 0.12)
    share = f.mean(tissue)
    strength = f.mean(half[:, L : L + 1] * tissue) / (share + 1e-3)
    return strength.clamp_(min=0.1), tissue


def _log(values: Tensor, floor: float) -> Tensor:
    return torch.log(values.clamp(min=0) + floor)


def _squeeze(densities: Tensor) -> Tensor:
    """Optical densities, which may be negative, with their long tails drawn in."""
    return torch.asinh(10 * densities)


def _colour(half: Tensor, tissue: Tensor) -> Parts:
    """Amount and spread of each stain, in the tile and in its tissue; how the stains go together."""
    mean, std = f.weighted(half, torch.ones_like(tissue))
    mean_in, std_in = f.weighted(half, tissue)
    z = f.halve((half - mean[..., None, None]) / (std[..., None, None] + 0.02))
    skew = f.mean(z * z * z).clamp_(-5, 5)
    pairs = torch.stack([f.mean(z[:, a] * z[:, b]) for a, b in ((H, E), (H, L), (H, R), (E, R))], dim=1)
    levels = torch.cat([f.mean(f.ramp(z[:, : L + 1], level, 0.5)) for level in LEVELS], dim=1).sqrt()
    hue = torch.stack([mean_in[:, k] / (mean_in[:, L] + 0.05) for k in (H, E, R)], dim=1)
    return {
        "stain mean": mean,
        "stain spread": _log(std, 0.01),
        "stain skew": skew,
        "stain mean in tissue": mean_in,
        "stain spread in tissue": _log(std_in, 0.01),
        "stain mix": hue,
        "stain correlation": pairs,
        "stain levels": levels,
        "tissue share": f.mean(tissue),
    }


def _wavelets(half: Tensor, edge: Tensor, diagonal: Tensor, strength: Tensor) -> Parts:
    """Haar detail of H, E and L from 0.5 to 8 µm: strength relative to the staining, and how sparse it is."""
    low, details = half[:, : L + 1], [(edge[:, : L + 1], diagonal[:, : L + 1])]
    for _ in range(4):
        low, e, d = f.haar(low)
        details.append((e, d))
    size, cross, sparse = [], [], []
    for e, d in details:
        average, square = f.mean(e), f.mean(e * e)
        size.append(_log(average / strength, 0.005))
        cross.append(_log(f.mean(d), 0.002) - _log(average, 0.002))
        sparse.append(_log(square.sqrt() / (average + 1e-3), 0.1))
    return {
        "detail": torch.cat(size, 1),
        "detail diagonal": torch.cat(cross, 1),
        "detail sparse": torch.cat(sparse, 1),
    }


def _frequencies(half: Tensor, strength: Tensor) -> Parts:
    """Fourier power of H and E in nine rings (wavelengths 80 µm to 1.4 µm) and its directedness."""
    power, directed = f.spectrum(half[:, : E + 1])
    relative = power.sqrt() / strength[..., None]
    return {"frequency": _log(relative, 1e-3).flatten(1), "frequency directed": directed[..., :8].flatten(1)}


def _patterns(half: Tensor, strength: Tensor) -> Parts:
    """Local binary patterns of H at 1 and 2 µm per pixel and of E at 2 µm."""
    relative = half[:, : E + 1] / strength[..., None, None]
    coarse = f.halve(relative)
    planes = {"H 1 µm": relative[:, :1], "H 2 µm": coarse[:, :1], "E 2 µm": coarse[:, 1:]}
    return {f"pattern {name}": f.binary_patterns(p, 0.06).sqrt() for name, p in planes.items()}


def _fibres(half: Tensor, strength: Tensor) -> Parts:
    """Structure tensor of H and E: neighbourhoods of 4 and 16 µm, and the tile: how directed they are."""
    smooth = f.blur(f.halve(half[:, : E + 1]), 1.0) / strength[..., None, None]
    dy, dx = f.gradients(smooth)
    products = torch.cat([dy * dy, dx * dx, dy * dx], dim=1)
    numbers = []
    for around in (f.blur(products, 2.0), f.blur(products, 8.0)):
        coherent, energy = _coherence(around)
        average, spread = f.weighted(coherent, torch.ones_like(coherent[:, :1]))
        by_energy = f.mean(coherent * energy) / (f.mean(energy) + 1e-5)
        numbers += [average, spread, by_energy]
    whole, _ = _coherence(f.mean(products))
    return {"fibres": torch.cat([*numbers, whole], dim=1)}


def _coherence(products: Tensor) -> tuple[Tensor, Tensor]:
    """(coherence 0 … 1, energy) of H and E from the structure tensor (B, 3·2, …): yy, xx and yx of both."""
    yy, xx, yx = products.chunk(3, dim=1)
    energy = yy + xx
    return torch.sqrt((yy - xx).square() + 4 * yx.square() + 1e-12) / (energy + 2e-4), energy


def _nuclei(half: Tensor, edge: Tensor, tissue: Tensor) -> Parts:
    """Everything about nuclei: masks, sizes by opening, blobs, crowding and what lies inside them."""
    fine = half[:, H : H + 1]
    coarse = f.halve(fine)
    scales = [f.blur(fine, s) if s < 3 else f.blur(coarse, s / 2, enlarge=2) for s in BLOB_SIGMAS]
    blurred = torch.cat(scales, dim=1)
    smooth = blurred[:, :1]
    centre, spread = f.weighted(smooth, tissue)
    centre, spread = centre[..., None, None], spread[..., None, None].clamp(min=0.04)
    masks = _nuclear_masks(smooth, centre, spread)
    nuclei = masks[:, 1:2]
    return {
        **_shapes("nuclei", masks),
        **_sizes("nuclei", nuclei, (1, 2, 3, 4, 6)),
        **_gaps(nuclei),
        **_blobs(half, blurred, spread),
        **_crowding(nuclei),
        **_chromatin(half, edge, nuclei, tissue),
    }


def _nuclear_masks(smooth: Tensor, centre: Tensor, spread: Tensor) -> Tensor:
    """(B, 6, h, w): H above the tissue's mean by 0, 0.75 and 1.75 spreads; above three fixed densities."""
    z = (smooth - centre) / spread
    relative = [f.ramp(z, k, 0.5) for k in (0.0, 0.75, 1.75)]
    fixed = [f.ramp(smooth, t, 0.1) for t in (0.25, 0.45, 0.7)]
    return torch.cat([*relative, *fixed], dim=1)


def _shapes(name: str, masks: Tensor) -> Parts:
    """Minkowski functionals: how much, how ragged, how many; quotients like size and like roundness."""
    area, rim, euler = f.minkowski(masks)
    return {
        f"{name} area": area.sqrt(),
        f"{name} rim": rim.sqrt(),
        f"{name} number": torch.sign(euler) * (euler.abs() + 1e-5).sqrt(),
        f"{name} thickness": _log(area / (rim + 2e-3), 0.2),
        f"{name} compactness": torch.tanh(8 * area * euler / (rim.square() + 2e-4)),
    }


def _sizes(name: str, mask: Tensor, radii: tuple[int, ...]) -> Parts:
    """Share of a mask that survives openings by growing squares."""
    whole = f.mean(mask) + 2e-3
    left = torch.cat([f.mean(f.opened(mask, r)) / whole for r in radii], dim=1)
    steps = -torch.diff(left, dim=1, prepend=torch.ones_like(left[:, :1]))
    return {f"{name} opened": left, f"{name} size": steps.clamp_(min=0).sqrt()}


def _gaps(nuclei: Tensor) -> Parts:
    """Share of the space between nuclei that wider and wider squares fit into."""
    coarse = f.halve(nuclei)
    between = 1 - coarse
    whole = f.mean(between) + 2e-3
    left = [f.mean(f.opened(between, r)) / whole for r in (2, 4, 6, 9)]
    return {"gaps opened": torch.cat(left, dim=1)}


def _blobs(half: Tensor, blurred: Tensor, spread: Tensor) -> Parts:
    """Nuclei as maxima of the largest difference of Gaussians: number, size, shape, darkness and spacing."""
    scales = blurred[:, :-1] - blurred[:, 1:]
    answer = scales.amax(1, keepdim=True)
    power = scales.clamp(min=0).square()
    steps = torch.arange(scales.shape[1], device=half.device, dtype=torch.float32)[:, None, None]
    size = (power * steps).sum(1, keepdim=True) / (power.sum(1, keepdim=True) + 1e-6)
    top = (answer >= f.dilate(answer, 2)).float()
    peak = top * f.ramp(answer, 0.05, 0.04)
    clear = top * f.ramp(answer / spread, 0.5, 0.3)
    bowl, stretch = f.curvature(blurred[:, 2:3])
    stretch = torch.nn.functional.pad(
        (stretch / (bowl.abs() + 0.004)).clamp_(max=2), (1,) * 4, mode="replicate"
    )
    inside = [blurred[:, :1], blurred[:, 3:4], half[:, E : E + 1], half[:, R:]]
    traits = torch.cat([size, answer, stretch, *inside], dim=1)
    mean, std = f.weighted(traits, peak, floor=1e-4)
    centred = traits[:, :3] - mean[:, :3, None, None]
    skew = f.mean(centred * centred * centred * peak) / (f.mean(peak) + 1e-4) / (std[:, :3] ** 3 + 1e-3)
    per_size = torch.cat([f.mean(peak * (1 - (size - k).abs()).clamp_(min=0)) for k in range(4)], dim=1)
    number = torch.cat([f.mean(peak), f.mean(clear)], dim=1)
    return {
        "blob number": (number * 1000).sqrt(),
        "blob number by size": (per_size * 1000).sqrt(),
        "blob size and shape": mean[:, [0, 2]],
        "blob stains": _squeeze(torch.cat([mean[:, 1:2], mean[:, 3:]], dim=1)),
        "blob spread": _log(std, 0.01),
        "blob skew": skew.clamp_(-3, 3),
        **_spacing(peak),
    }


def _spacing(peak: Tensor) -> Parts:
    """Neighbours of a nucleus within about 8, 16 and 32 µm: mean, spread, and their excess over chance."""
    coarse = f.halve(f.halve(peak)) * 16
    near = torch.cat([f.blur(coarse, sigma) for sigma in (1.5, 3.0, 6.0)], dim=1)
    own = torch.tensor([1 / (4 * math.pi * s * s) for s in (1.5, 3.0, 6.0)], device=peak.device)
    mean, std = f.weighted(near, coarse, floor=2e-3)
    average = f.mean(coarse) + 2e-3
    excess = _log(mean / average, 0.1)
    return {
        "neighbours": (mean - own).clamp(min=0).sqrt(),
        "neighbours spread": std / (mean + 0.02),
        "neighbours excess": excess,
    }


def _crowding(nuclei: Tensor) -> Parts:
    """How unevenly nuclear matter is spread at 8 and 20 µm: spread, extremes, and the nests it forms."""
    coarse = f.halve(f.halve(nuclei))
    smooth = torch.cat([f.blur(coarse, sigma) for sigma in (2.0, 5.0)], dim=1)
    mean, std = f.weighted(smooth, torch.ones_like(coarse))
    nests = torch.cat([f.ramp(smooth[:, 1:], t, 0.08) for t in (0.15, 0.25, 0.4)], dim=1)
    return {
        "crowding spread": std / (mean + 0.03),
        "crowding quantiles": f.quantiles(smooth, (0.02, 0.25, 0.5, 0.75, 0.98)).flatten(1),
        **_shapes("nests", nests),
    }


def _chromatin(half: Tensor, edge: Tensor, nuclei: Tensor, tissue: Tensor) -> Parts:
    """Stains and fine detail inside nuclei, around them, and in the rest of the tissue."""
    near = (f.dilate(nuclei, 3) - nuclei).clamp_(min=0)
    body = (tissue - f.dilate(nuclei, 1)).clamp_(min=0)
    planes = torch.cat([half[:, : E + 1], half[:, R:], edge[:, : E + 1]], dim=1)
    inside, spread = f.weighted(planes, nuclei)
    around, _ = f.weighted(planes, near)
    outside, spread_out = f.weighted(planes, body)
    return {
        "in nuclei": _squeeze(inside),
        "in nuclei spread": _log(spread, 0.005),
        "around nuclei": _squeeze(around),
        "between nuclei": _squeeze(outside),
        "between nuclei spread": _log(spread_out, 0.005),
        "nuclei to tissue": f.mean(nuclei) / (f.mean(tissue) + 0.02),
    }


def _white(half: Tensor) -> Parts:
    """Lumens, fat and cracks: shapes and sizes of white space, and what lines it."""
    white = f.ramp(half[:, L : L + 1], 0.10, -0.06)
    pale = f.ramp(half[:, L : L + 1], 0.17, -0.06)
    coarse = f.halve(white)
    large = f.opened(coarse, 3)
    sizes = _sizes("white", coarse, (1, 2, 4, 8, 14))
    planes = f.halve(half[:, : E + 1])
    found: Parts = {**_shapes("white", torch.cat([white, pale], dim=1)), **sizes}
    found.update(_shapes("lumen", torch.cat([large, f.opened(coarse, 6)], dim=1)))
    inner, lining = large, []
    for radius in (3, 3, 6, 6):
        outer = f.dilate(inner, radius)
        ring = (outer - inner).clamp_(min=0)
        average, _ = f.weighted(planes, ring)
        lining.append(average)
        inner = outer
    return {**found, "lining": torch.cat(lining, dim=1)}
