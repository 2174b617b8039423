"""Seamless textures and smooth fields from which the synthetic tissue is woven."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Field = NDArray[np.float32]

#: Side of the seamless textures, pixels.
SIDE = 1024


def seamless(rng: np.random.Generator, side: int, spectrum: NDArray[np.floating]) -> Field:
    """(side, side) periodic Gaussian noise of mean 0 and deviation 1 with the given (side, side // 2 + 1) amplitude."""
    white = rng.standard_normal((side, side)).astype(np.float32)
    noise = fft.irfft2(fft.rfft2(white) * spectrum.astype(np.float32), s=(side, side))
    noise -= noise.mean()
    noise /= noise.std()
    return np.asarray(noise, np.float32)


def _frequencies(side: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    return fft.fftfreq(side)[:, None], fft.rfftfreq(side)[None, :]


def smooth_noise(rng: np.random.Generator, side: int, width: float) -> Field:
    """Periodic noise whose blobs are about `width` pixels wide."""
    ky, kx = _frequencies(side)
    return seamless(rng, side, np.exp(-2 * (np.pi * width / 2) ** 2 * (ky**2 + kx**2)))


def fibre_noise(rng: np.random.Generator, side: int, angle: float, length: float, width: float) -> Field:
    """Periodic noise of streaks `length` × `width` pixels that run at `angle` (radians, x to y)."""
    ky, kx = _frequencies(side)
    along, across = kx * np.cos(angle) + ky * np.sin(angle), ky * np.cos(angle) - kx * np.sin(angle)
    return seamless(rng, side, np.exp(-20 * ((along * length / 2) ** 2 + (across * width / 2) ** 2)))


@dataclass(frozen=True, slots=True)
class Collagen:
    """A seamless patch of fibrous stroma: amount of eosin (side, side), and the fibres' angle (side, side) radians."""

    eosin: Field
    angle: Field


@dataclass(frozen=True, slots=True)
class Textures:
    """Everything seamless that slides share."""

    collagen: tuple[Collagen, ...]
    grain: Field
    mottle: Field


def _collagen(rng: np.random.Generator, angle: float, wave: float) -> Collagen:
    side = SIDE
    y, x = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    bend = wave * smooth_noise(rng, side, 110) + 0.22 * wave * smooth_noise(rng, side, 30)
    at = np.stack([y + bend * np.cos(angle), x - bend * np.sin(angle)])
    layers = [fibre_noise(rng, side, angle, le, wi) for le, wi in ((110, 5), (190, 17), (230, 12))]
    fine, bundles, clefts = (ndimage.map_coordinates(f, at, order=1, mode="grid-wrap") for f in layers)
    body = 0.40 + 0.07 * fine + 0.10 * np.tanh(bundles) + 0.02 * smooth_noise(rng, side, 3)
    open_ = 1 / (1 + np.exp(-7 * (clefts + 0.35 * fine - 1.75)))
    gy, gx = np.gradient(bend)
    slope = np.arctan(gx * np.cos(angle) + gy * np.sin(angle))
    return Collagen(
        np.asarray(np.clip(body * (1 - 0.93 * open_), 0.015, None), np.float32),
        np.asarray(angle - slope, np.float32),
    )


@cache
def textures() -> Textures:
    """The shared textures; made once per process (about a second), the same on every call."""
    rng = np.random.default_rng(20_231)
    collagen = tuple(_collagen(rng, a, w) for a, w in ((0.35, 15), (1.25, 24), (2.0, 12), (2.75, 20)))
    return Textures(collagen, smooth_noise(rng, SIDE, 2.4), smooth_noise(rng, SIDE, 11))


def enlarge(field: NDArray[np.floating], factor: int) -> Field:
    """(h, w) → (h·factor, w·factor), bilinear, pixel centres aligned and borders held."""
    return _stretch(_stretch(np.asarray(field, np.float32), factor).T, factor).T


def _stretch(field: Field, factor: int) -> Field:
    padded = np.concatenate([field[:1], field, field[-1:]])
    phase = ((np.arange(factor) + 0.5) / factor - 0.5).astype(np.float32)
    lower = (phase < 0).astype(int)  # each output pixel lies between two coarse ones
    weight = np.where(phase < 0, phase + 1, phase)[None, :, None]
    n = len(field)
    first = np.stack([padded[1 - d : 1 - d + n] for d in lower], axis=1)
    second = np.stack([padded[2 - d : 2 - d + n] for d in lower], axis=1)
    return np.asarray(first + (second - first) * weight, np.float32).reshape(n * factor, -1)


def cloud(rng: np.random.Generator, shape: tuple[int, int], width: float) -> Field:
    """(h, w) smooth noise of mean 0 and deviation 1, not periodic, blobs about `width` pixels wide."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), width / 2, mode="reflect")
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)
