"""µm per pixel: what can be one, and what a person said of slides whose files do not say it.

What was said is kept for this user, one small file per slide under its fingerprint, so that it is asked once,
wherever the slide lies, and however it is opened. What a project keeps, or a file
says, comes before it.
"""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from pathlib import Path

import numpy as np

from napari_mil.errors import SaidWarning, SlideError, reason
from napari_mil.slides.home import data_folder, keep

MPP_RANGE = (0.05, 20.0)
_FOLDER = "mpp"


def plausible(mpp: tuple[float, float] | None) -> tuple[float, float] | None:
    """`mpp` when both numbers lie in 0.05–20 µm, else None."""
    low, high = MPP_RANGE
    return mpp if mpp is not None and all(low <= m <= high for m in mpp) else None


def given_mpp(mpp: float | tuple[float, float]) -> tuple[float, float]:
    """(y, x) µm per pixel as a person gave it; SlideError when implausible."""
    try:
        y, x = np.broadcast_to(np.asarray(mpp, np.float64), 2).tolist()
    except (TypeError, ValueError) as error:
        raise SlideError(
            f"A pixel size of {mpp!r} is no number of µm; give µm per pixel, one number or (y, x)."
        ) from error
    pair = (y, x)
    if plausible(pair) is None:
        raise SlideError(
            f"A pixel size of {pair[0]:g} × {pair[1]:g} µm is not plausible; give µm per pixel between "
            f"{MPP_RANGE[0]:g} and {MPP_RANGE[1]:g}, such as 0.25 for a 40× scan."
        )
    return pair


def anything_said() -> bool:
    """Whether this user said the µm per pixel of any slide."""
    return data_folder(_FOLDER).exists()


def said_mpp(fingerprint: str) -> tuple[float, float] | None:
    """(y, x) µm per pixel that this user said of a slide, or None; what cannot be read is warned of once and
    counts as not said.
    """
    file = _file(fingerprint)
    try:
        y, x = map(float, json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        y = x = 0.0
    found = plausible((y, x))
    if found is None:
        warnings.warn(
            f"The µm per pixel that you once said of this slide cannot be read ({file}); say them again.",
            SaidWarning,
            stacklevel=2,
        )
    return found


def say_mpp(fingerprint: str, mpp: float | tuple[float, float]) -> tuple[float, float]:
    """Keep (y, x) µm per pixel of a slide, in the place of what was said before.

    SlideError when it is implausible, or cannot be kept.
    """
    pair = given_mpp(mpp)
    try:
        keep(_file(fingerprint), json.dumps(pair), firmly=True)
    except OSError as error:
        raise SlideError(
            f"{pair[0]:g} µm per pixel cannot be kept ({reason(error)}); it counts until the slide is closed."
        ) from error
    return pair


def forget_mpp(fingerprint: str) -> bool:
    """Forget what was said of a slide; whether anything had been said."""
    file = _file(fingerprint)
    there = file.is_file()
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        file.unlink()
    return there


def _file(fingerprint: str) -> Path:
    return data_folder(_FOLDER) / f"{re.sub(r'[^0-9A-Za-z]', '', fingerprint)[:64]}.json"
