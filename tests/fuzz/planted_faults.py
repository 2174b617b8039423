"""Targets with every fault that fuzzing has to find; the file `fault` is damaged and not looked at."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
from fuzzing import Target, Try

from napari_mil.errors import LabelError


def make(folder: Path, _beside: Path) -> None:
    (folder / "fault").write_bytes(bytes(range(256)))


def said(sentence: str) -> Target:
    def use(_path: Path, attempt: Try) -> None:
        attempt(_refuse, sentence)

    return Target(make, use)


def _refuse(sentence: str) -> None:
    raise LabelError(sentence)


def sometimes(act, **bounds) -> Target:
    """The fault shows with damaged files only, so that the first seed is not the finding."""

    def use(path: Path, _attempt: Try) -> None:
        if path.read_bytes() != bytes(range(256)):
            act()

    return Target(make, use, **bounds)


def _defect() -> None:
    raise KeyError("planted")


def _busy() -> None:
    until = time.process_time() + 0.5
    while time.process_time() < until:
        pass


TARGETS = {
    "sound": sometimes(lambda: _refuse("This is no label.")),
    "defect": sometimes(_defect),
    "hang": sometimes(lambda: time.sleep(60)),
    "crash": sometimes(os.abort),
    "memory": sometimes(lambda: np.ones(2**40, np.uint8)),
    "slow": sometimes(_busy, most_s=0.3),
    "large": sometimes(lambda: np.ones(2**27, np.uint8).sum(), most_bytes=2**26),
    "whole refused": said("This is no label."),
    "no sentence": said("no label"),
}
