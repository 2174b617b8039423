"""What an OME-XML document says of an image: µm per pixel and objective."""

from __future__ import annotations

import re
from itertools import pairwise

UM = {"": 1.0, "µm": 1.0, "um": 1.0, "μm": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "nm": 1e-3, "in": 25400.0}
_OBJECTIVE = re.compile(r"<(?:\w+:)?Objective\b[^>]*>")
_IMAGE, _END = re.compile(r"<(?:\w+:)?Image\b"), re.compile(r"</(?:\w+:)?Image>")
_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b[^>]*>")
_COLOURS = ["-16776961", "16711935", "65535"]  # of red, green and blue, signed RGBA
_SETTINGS = re.compile(r'<(?:\w+:)?ObjectiveSettings\b[^>]*\bID="([^"]+)"')


def number(text: str | None) -> float | None:
    """A number with a point or a comma, or None.

    >>> number("0,25"), number("none"), number(None)
    (0.25, None, None)
    """
    try:
        return float((text or "").replace(",", "."))
    except ValueError:
        return None


def image_of(document: str, name: str, shape_px: tuple[int, int]) -> str:
    """What a document says of the image of this size, of several of the one of this name, else of the first;
    the whole document where no image is of this size.

    >>> image_of('<Image Name="a"><Pixels SizeY="2" SizeX="3"/></Image>'
    ...     '<Image Name="b"><Pixels SizeY="4" SizeX="5"/></Image>', "b", (4, 5))
    '<Image Name="b"><Pixels SizeY="4" SizeX="5"/></Image>'
    """
    wanted = tuple(map(str, shape_px))
    found = [
        one
        for one in _images(document)
        if tuple(_attribute(_pixels(one), f"Size{axis}") for axis in "YX") == wanted
    ]
    named = (one for one in found if _attribute(one.split(">", 1)[0], "Name") == name)
    return next(named, found[0] if found else document)


def mpp(document: str) -> tuple[float, float] | None:
    """µm per pixel (y, x) of the first image, or None where it does not say both."""
    pixels = _pixels(document)
    sizes = []
    for axis in "YX":
        size = _attribute(pixels, f"PhysicalSize{axis}")
        factor = UM.get(_attribute(pixels, f"PhysicalSize{axis}Unit") or "")
        found = number(size)
        if not found or factor is None:
            return None
        sizes.append(found * factor)
    return (sizes[0], sizes[1])


def objective(document: str, image: str = "") -> float | None:
    """Magnification of the objective that was used, for what a document says of an image where that is given,
    or of the only one there is.

    >>> objective('<Objective ID="a" NominalMagnification="20"/><Objective ID="b" NominalMagnification="40"/>'
    ...     '<ObjectiveSettings ID="b"/>')
    40.0
    """
    objectives = _OBJECTIVE.findall(document)
    found = {_attribute(one, "ID"): _attribute(one, "NominalMagnification") for one in objectives}
    used = _SETTINGS.search(image or document)
    if used is not None and used[1] in found:
        return number(found[used[1]])
    return number(next(iter(found.values()))) if len(found) == 1 else None


def is_rgb(document: str, name: str) -> bool:
    """Whether the three channels of the image of this name, else of the first, are red, green and blue: by
    their names, or, where they have none, by their colours, since stains are shown in these too.
    """
    images = _images(document)
    meant = (one for one in images if _attribute(one.split(">", 1)[0], "Name") == name)
    channels = re.findall(r"<(?:\w+:)?Channel\b[^>]*>", next(meant, images[0] if images else ""))
    names = [(_attribute(one, "Name") or "").lower() for one in channels]
    if any(names):
        return names in (["red", "green", "blue"], ["r", "g", "b"])
    return [_attribute(one, "Color") for one in channels] == _COLOURS


def _images(document: str) -> list[str]:
    """The elements of images, each up to its end or the next one: a damaged document has no ends."""
    starts = (found.start() for found in _IMAGE.finditer(document))
    parts = [document[start:stop] for start, stop in pairwise([*starts, len(document)])]
    ends = (_END.search(part) for part in parts)
    return [part if end is None else part[: end.end()] for part, end in zip(parts, ends, strict=True)]


def _pixels(document: str) -> str:
    """The first element of an image's size."""
    found = _PIXELS.search(document)
    return found[0] if found else ""


def _attribute(element: str, name: str) -> str | None:
    found = re.search(rf'\b{name}="([^"]*)"', element)
    return found[1] if found else None
