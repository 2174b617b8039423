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
    """(side, side) periodic noise of mean 0, deviation 1; amplitude (side, side // 2 + 1) per frequency."""
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
    """A seamless patch of stroma: amount of eosin and the fibres' angle in radians, both (side, side)."""

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
    bend = (
        wave * smooth_noise(rng, side, 105)
        + 0.2 * wave * smooth_noise(rng, side, 34)
        + 1.3 * smooth_noise(rng, side, 15)
    )
    at = np.stack([y + bend * np.cos(angle), x - bend * np.sin(angle)])
    streaks = ((46, 2.6), (120, 11), (95, 5), (170, 13))
    layers = [fibre_noise(rng, side, angle, length, width) for length, width in streaks]
    fine, bundles, slits, clefts = (ndimage.map_coordinates(f, at, order=1, mode="grid-wrap") for f in layers)
    loose = smooth_noise(rng, side, 150)
    body = 0.40 + 0.065 * fine + 0.085 * np.tanh(1.5 * bundles) + 0.02 * smooth_noise(rng, side, 3)
    gap = np.maximum(slits - 1.75, clefts + 0.25 * fine - 1.95) + 0.30 * np.tanh(loose)
    body = body * (1 - 0.93 / (1 + np.exp(-6 * gap)))
    gy, gx = np.gradient(bend)
    slope = np.arctan(gx * np.cos(angle) + gy * np.sin(angle))
    return Collagen(
        np.asarray(np.clip(body, 0.015, None), np.float32),
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
    tall = np.ascontiguousarray(_stretch(np.asarray(field, np.float32).T, factor).T)
    return _stretch(tall, factor)


#: Coarse pixels that are enlarged together.
_BLOCK = 8


@cache
def _weights(factor: int) -> Field:
    """(_BLOCK + 2, _BLOCK · factor): what each coarse pixel, one more on either side, gives to fine ones."""
    at = (np.arange(_BLOCK * factor) + 0.5) / factor + 0.5
    return np.asarray(np.clip(1 - np.abs(at - np.arange(_BLOCK + 2)[:, None]), 0, 1), np.float32)


def _stretch(field: Field, factor: int) -> Field:
    """(h, w) → (h, w·factor)."""
    h, w = field.shape
    padded = np.pad(field, ((0, 0), (1, 1 + -w % _BLOCK)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, _BLOCK + 2, axis=1)[:, ::_BLOCK]
    # row by row: products this small stay on one thread, whatever else the machine is doing
    fine: Field = np.matmul(np.ascontiguousarray(windows), _weights(factor))
    return fine.reshape(h, -1)[:, : w * factor]


def cloud(rng: np.random.Generator, shape: tuple[int, int], width: float) -> Field:
    """(h, w) smooth noise of mean 0 and deviation 1, not periodic, blobs about `width` pixels wide."""
    noise = ndimage.gaussian_filter(rng.standard_normal(shape).astype(np.float32), width / 2, mode="reflect")
    return np.asarray((noise - noise.mean()) / noise.std(), np.float32)
