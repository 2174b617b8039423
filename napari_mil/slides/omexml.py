"""What an OME-XML document says of an image: µm per pixel and objective."""

from __future__ import annotations

import re

UM = {"": 1.0, "µm": 1.0, "um": 1.0, "μm": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6, "nm": 1e-3, "in": 25400.0}
_OBJECTIVE = re.compile(r"<(?:\w+:)?Objective\b[^>]*>")
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


def mpp(document: str) -> tuple[float, float] | None:
    """µm per pixel (y, x) of the first image, or None where it does not say both."""
    pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", document)
    sizes = []
    for axis in "YX":
        size = _attribute(pixels[0] if pixels else "", f"PhysicalSize{axis}")
        factor = UM.get(_attribute(pixels[0] if pixels else "", f"PhysicalSize{axis}Unit") or "")
        found = number(size)
        if not found or factor is None:
            return None
        sizes.append(found * factor)
    return (sizes[0], sizes[1])


def objective(document: str) -> float | None:
    """Magnification of the objective that was used, or of the only one there is.

    >>> objective('<Objective ID="a" NominalMagnification="20"/><Objective ID="b" NominalMagnification="40"/>'
    ...     '<ObjectiveSettings ID="b"/>')
    40.0
    """
    objectives = _OBJECTIVE.findall(document)
    found = {_attribute(one, "ID"): _attribute(one, "NominalMagnification") for one in objectives}
    used = _SETTINGS.search(document)
    if used is not None and used[1] in found:
        return number(found[used[1]])
    return number(next(iter(found.values()))) if len(found) == 1 else None


def is_rgb(document: str, name: str) -> bool:
    """Whether the three channels of the image of this name, else of the first, are red, green and blue: by
    their names, or, where they have none, by their colours, since stains are shown in these too.
    """
    images = re.findall(r"<(?:\w+:)?Image\b.*?</(?:\w+:)?Image>", document, re.DOTALL)
    meant = (one for one in images if _attribute(one.split(">", 1)[0], "Name") == name)
    channels = re.findall(r"<(?:\w+:)?Channel\b[^>]*>", next(meant, images[0] if images else ""))
    names = [(_attribute(one, "Name") or "").lower() for one in channels]
    if any(names):
        return names in (["red", "green", "blue"], ["r", "g", "b"])
    return [_attribute(one, "Color") for one in channels] == _COLOURS


def _attribute(element: str, name: str) -> str | None:
    found = re.search(rf'\b{name}="([^"]*)"', element)
    return found[1] if found else None
