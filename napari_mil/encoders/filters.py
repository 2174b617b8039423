"""Image operators on batches of planes (B, K, h, w), made of matrix products, shifts and sums only.

Every operator treats the borders by mirroring or by leaving pairs out, commutes with rotations by 90° and
with mirroring, and is continuous in its input: there are no hard thresholds, so that rounding never flips a
pixel.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

EPS = 1e-6


def ramp(values: Tensor, threshold: Tensor | float, width: float) -> Tensor:
    """How far `values` exceed `threshold`: 0 up to threshold − width/2, 1 from threshold + width/2 on."""
    return (values - (threshold - 0.5 * width)).mul_(1 / width).clamp_(0, 1)


def mean(planes: Tensor) -> Tensor:
    """(B, K) mean of each plane."""
    return planes.mean((-2, -1))


def weighted(planes: Tensor, weight: Tensor, floor: float = 1e-3) -> tuple[Tensor, Tensor]:
    """(mean, standard deviation), each (B, K), of planes under a weight (B, 1, h, w).

    Where the weight covers less than the share `floor` of the tile, both shrink towards 0.
    """
    share = weight.flatten(2).mT / (weight.shape[-2] * weight.shape[-1])
    total = share.sum(1) + floor
    flat = planes.flatten(2)
    first = torch.bmm(flat, share)[..., 0] / total
    second = torch.bmm(flat * flat, share)[..., 0] / total
    return first, ((second - first * first).clamp_(min=0) + EPS).sqrt()


@functools.lru_cache(maxsize=64)
def _blur_matrix(length: int, sigma: float, enlarge: int, device: torch.device) -> Tensor:
    """(length·enlarge, length) matrix that blurs a column, mirrored at the ends, and then enlarges it."""
    radius = math.ceil(3.5 * sigma)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    kernel /= kernel.sum()
    place = (torch.arange(length)[:, None] + offsets) % (2 * length)
    place = torch.where(place < length, place, 2 * length - 1 - place)
    matrix = torch.zeros(length, length, dtype=torch.float64)
    matrix.scatter_add_(1, place, kernel.expand(length, -1).contiguous())
    at = ((torch.arange(length * enlarge).double() + 0.5) / enlarge - 0.5).clamp(0, length - 1)
    upsample = (1 - (at[:, None] - torch.arange(length)).abs()).clamp(min=0)
    return (upsample @ matrix).float().to(device)


def blur(planes: Tensor, sigma: float, enlarge: int = 1) -> Tensor:
    """Gaussian blur of planes (B, K, h, w) by `sigma` pixels, then enlarged by a whole factor, linearly.

    As dense matrix products: faster than convolutions for these sizes, on CPU and GPU.
    """
    h, w = planes.shape[-2:]
    flat = planes.reshape(-1, h, w)
    rows = _blur_matrix(h, sigma, enlarge, planes.device).expand(len(flat), -1, -1)
    cols = _blur_matrix(w, sigma, enlarge, planes.device)
    return torch.bmm(rows, torch.matmul(flat, cols.T)).view(*planes.shape[:2], h * enlarge, w * enlarge)


def halve(planes: Tensor) -> Tensor:
    """Means of 2 × 2 blocks; an odd last row or column is left out."""
    h, w = planes.shape[-2] // 2 * 2, planes.shape[-1] // 2 * 2
    p = planes[..., :h, :w]
    rows = p[..., 0::2, :] + p[..., 1::2, :]
    return (rows[..., 0::2] + rows[..., 1::2]).mul_(0.25)


def haar(planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One level of the orthogonal Haar transform: (means of 2 × 2 blocks, |edge detail|, |diagonal detail|).

    The horizontal and vertical details are joined as √((LH² + HL²)/2), so that a turned tile has the same
    numbers.
    """
    h, w = planes.shape[-2] // 2 * 2, planes.shape[-1] // 2 * 2
    p = planes[..., :h, :w]
    top, bottom = p[..., 0::2, :], p[..., 1::2, :]
    add, sub = top + bottom, top - bottom
    low = (add[..., 0::2] + add[..., 1::2]).mul_(0.25)
    lh = (add[..., 0::2] - add[..., 1::2]).square_()
    hl = (sub[..., 0::2] + sub[..., 1::2]).square_()
    edge = lh.add_(hl).mul_(0.5 * 0.25**2).add_(1e-12).sqrt_()
    diagonal = (sub[..., 0::2] - sub[..., 1::2]).mul_(0.25).abs_()
    return low, edge, diagonal


def _slide_max(values: Tensor, size: int, dim: int) -> Tensor:
    """Maximum over windows of `size` along `dim`, valid part only, by doubling the window."""
    done = 1
    while done < size:
        step = min(done, size - done)
        n = values.shape[dim] - step
        values = torch.maximum(values.narrow(dim, 0, n), values.narrow(dim, step, n))
        done += step
    return values


def dilate(planes: Tensor, radius: int) -> Tensor:
    """Maximum over the square of side 2·radius + 1, mirrored at the border."""
    size = 2 * radius + 1
    padded = torch.nn.functional.pad(planes, (radius,) * 4, mode="replicate")
    return _slide_max(_slide_max(padded, size, -1), size, -2)


def erode(planes: Tensor, radius: int) -> Tensor:
    """Minimum over the square of side 2·radius + 1."""
    return -dilate(-planes, radius)


def opened(planes: Tensor, radius: int) -> Tensor:
    """What survives of bright parts that a square of side 2·radius + 1 fits into."""
    return dilate(erode(planes, radius), radius)


def minkowski(masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(area, perimeter, Euler number) of soft masks (B, K, h, w), each (B, K), per pixel of the tile.

    The Euler number is pixels − adjacent pairs + 2 × 2 squares (objects minus holes, neighbours by side);
    with soft masks each of the three is its mean over all thresholds inside the ramp, since minimum commutes
    with thresholds.
    """
    right = torch.minimum(masks[..., 1:], masks[..., :-1])
    down = torch.minimum(masks[..., 1:, :], masks[..., :-1, :])
    square = torch.minimum(right[..., 1:, :], right[..., :-1, :])
    pixels = masks.shape[-2] * masks.shape[-1]
    a, r, d, s = (t.sum((-2, -1)) / pixels for t in (masks, right, down, square))
    edges = (masks[..., 1:] - masks[..., :-1]).abs_().sum((-2, -1))
    edges = edges + (masks[..., 1:, :] - masks[..., :-1, :]).abs_().sum((-2, -1))
    return a, edges / pixels, a - r - d + s


@functools.lru_cache(maxsize=16)
def _rings(h: int, w: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """((h, 1) window, (1, w) window, (3·R, h·(w//2+1)) ring sums and second harmonics) for `spectrum`."""
    fy = torch.fft.fftfreq(h, dtype=torch.float64)[:, None]
    fx = torch.fft.rfftfreq(w, dtype=torch.float64)[None, :]
    radius = torch.hypot(fy, fx)
    angle = torch.atan2(fy.expand_as(radius), fx.expand_as(radius))
    share = torch.full_like(radius, 2.0)  # the half plane left out by rfft has the same power
    share[:, 0] = 1.0
    if w % 2 == 0:
        share[:, -1] = 1.0
    edges = torch.tensor(RING_EDGES, dtype=torch.float64)
    member = (radius >= edges[:-1, None, None]) & (radius < edges[1:, None, None])
    sums = member * share
    rows = torch.cat([sums, sums * torch.cos(2 * angle), sums * torch.sin(2 * angle)]).flatten(1)
    window = [torch.hann_window(n, periodic=False, dtype=torch.float64).float().to(device) for n in (h, w)]
    return window[0][:, None], window[1][None, :], rows.float().to(device)


RING_EDGES = (0.012, 0.022, 0.035, 0.053, 0.08, 0.12, 0.18, 0.27, 0.4, 0.71)
"""Cycles per pixel between which the rings of `spectrum` lie: factors of 1.5, the first from 1/80 px."""


def spectrum(planes: Tensor) -> tuple[Tensor, Tensor]:
    """(power, anisotropy), each (B, K, R): power per ring of spatial frequency; its directedness, 0 to 1."""
    h, w = planes.shape[-2:]
    wy, wx, rows = _rings(h, w, planes.device)
    centred = (planes - planes.mean((-2, -1), keepdim=True)) * wy * wx
    power = torch.fft.rfft2(centred, norm="ortho").abs().square_().flatten(-2)
    ring, cosine, sine = (power @ rows.T).chunk(3, dim=-1)
    return ring / (h * w), torch.hypot(cosine, sine) / (ring + 1e-4)


def quantiles(planes: Tensor, shares: tuple[float, ...]) -> Tensor:
    """(B, K, Q) quantiles of each plane, without interpolation."""
    ordered = planes.flatten(-2).sort(-1).values
    last = ordered.shape[-1] - 1
    return ordered[..., [round(q * last) for q in shares]]


def gradients(planes: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences (dy, dx), 0 at the border across it."""
    dy, dx = torch.zeros_like(planes), torch.zeros_like(planes)
    torch.sub(planes[..., 2:, :], planes[..., :-2, :], out=dy[..., 1:-1, :]).mul_(0.5)
    torch.sub(planes[..., 2:], planes[..., :-2], out=dx[..., 1:-1]).mul_(0.5)
    return dy, dx


def curvature(planes: Tensor) -> tuple[Tensor, Tensor]:
    """(−trace/2, half difference of eigenvalues) of the Hessian inside the border of one pixel."""
    centre = planes[..., 1:-1, 1:-1]
    yy = planes[..., 2:, 1:-1] - 2 * centre + planes[..., :-2, 1:-1]
    xx = planes[..., 1:-1, 2:] - 2 * centre + planes[..., 1:-1, :-2]
    xy = (planes[..., 2:, 2:] - planes[..., 2:, :-2] - planes[..., :-2, 2:] + planes[..., :-2, :-2]) * 0.25
    return (yy + xx) * -0.5, torch.sqrt(((yy - xx) * 0.5).square() + xy.square() + 1e-12)


def binary_patterns(plane: Tensor, margin: float) -> Tensor:
    """(B, 10) shares of the uniform binary patterns (Ojala et al. 2002) of a plane (B, 1, h, w).

    Bins 0 … 8: so many of the eight neighbours in one run are brighter than the centre; bin 9: more than one
    run. A neighbour counts as brighter when it is so by `margin`, softly over the same width.
    """
    h, w = plane.shape[-2:]
    centre = plane[..., 1:-1, 1:-1]
    around = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
    bits = torch.cat([plane[..., y : y + h - 2, x : x + w - 2] for y, x in around], dim=1)
    bits.sub_(centre + 0.5 * margin).mul_(1 / margin).clamp_(0, 1)
    count = bits.sum(1)
    runs = (bits - bits.roll(1, dims=1)).abs_().sum(1) * 0.5
    uniform = (2.0 - runs).clamp_(0, 1)
    above = torch.stack([(count - k).clamp_(0, 1).mul_(uniform).mean((-2, -1)) for k in range(-1, 9)], dim=1)
    return torch.cat([above[:, :-1] - above[:, 1:], 1 - above[:, :1]], dim=1)
