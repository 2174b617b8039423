"""Colours as the scanner's profile means them: an option, since most scanners say nothing and models were
trained on what is stored.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms

from napari_mil.errors import reason
from napari_mil.slides.info import PROFILE
from napari_mil.slides.slide import RefusedError

if TYPE_CHECKING:
    from napari_mil.slides.info import Pixels, Source

COLOURS = "colours"
_CONVERTED = "converted to sRGB"


class SrgbSource:
    """A source whose tiles are converted to sRGB; its properties say from what."""

    def __init__(self, source: Source, profile: bytes) -> None:
        self._source = source
        try:
            given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            name = ImageCms.getProfileDescription(given).strip() or "an unnamed profile"
            # without a cache of its own a transform may be used by many threads at once
            self._transform = ImageCms.buildTransform(
                given, ImageCms.createProfile("sRGB"), "RGB", "RGB", flags=ImageCms.Flags.NOCACHE
            )
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError) as error:
            raise RefusedError(
                f"its colour profile cannot be used ({reason(error)}); open it with the colours as they are "
                "stored"
            ) from error
        says = {**source.info.properties, COLOURS: f"{_CONVERTED} from {name}"}
        self.info = replace(source.info, properties=says)

    def tile(self, level: int, row: int, col: int) -> Pixels:
        """(h, w, 3) uint8 in sRGB."""
        image = Image.fromarray(self._source.tile(level, row, col))
        converted = ImageCms.applyTransform(image, self._transform)
        return np.array(converted)

    def close(self) -> None:
        """Give the file back."""
        self._source.close()


def converted(properties: Mapping[str, str]) -> bool:
    """Whether a slide with these properties shows other colours than those that are stored."""
    return properties.get(COLOURS, "").startswith(_CONVERTED)


def to_srgb(source: Source) -> Source:
    """The source in sRGB; one without a profile as it is, with a word in its properties."""
    profile = source.info.icc_profile
    if profile is not None:
        return SrgbSource(source, profile)
    why = source.info.properties.get(PROFILE, "the file has no colour profile")
    says = {**source.info.properties, COLOURS: f"as stored: {why}"}
    source.info = replace(source.info, properties=says)
    return source
