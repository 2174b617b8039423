"""Where a slide lies: a path of this machine, or an address of a server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from napari_mil.errors import SlideError
from napari_mil.options import expect

SCHEMES = ("http", "https", "s3")
_ADDRESS = re.compile(rf"({'|'.join(SCHEMES)}):/+(.+)", re.IGNORECASE)

_HERE = re.compile(r"file:/+(?:localhost/+)?(.+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Address:
    """An address with as much of pathlib's ways as slides need.

    >>> Address("https://host/a/b%20c.svs?key=1").name, Address("s3://bucket/x.zarr").suffix
    ('b c.svs', '.zarr')
    """

    text: str

    def __str__(self) -> str:
        return self.text

    @property
    def _path(self) -> PurePosixPath:
        return PurePosixPath(unquote(re.split(r"[?#]", self.text)[0]))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self._path.name

    @property
    def parts(self) -> tuple[str, ...]:
        """The address in parts, scheme and host among them."""
        return self._path.parts

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return self._path.stem

    @property
    def suffix(self) -> str:
        """The end of the name, from its last dot."""
        return self._path.suffix

    @property
    def parent(self) -> Address:
        """The address of the folder."""
        return Address(re.split(r"[?#]", self.text)[0].rstrip("/").rpartition("/")[0])

    @property
    def shown(self) -> str:
        """It as sentences name it: without a password, and without what follows `?`, which may be a key.

        >>> Address("https://ann:secret@host/a.svs?key=1").shown
        'https://host/a.svs'
        """
        return re.sub(r"(?<=://)[^/@]*@", "", re.split(r"[?#]", self.text)[0])

    @property
    def server(self) -> str:
        """Scheme and host, as sentences name it."""
        return "/".join(self.shown.split("/")[:3])

    def __truediv__(self, name: str) -> Address:
        head, *query = re.split(r"(?=[?])", self.text, maxsplit=1)
        return Address(f"{head.rstrip('/')}/{name}{''.join(query)}")

    def absolute(self) -> Address:
        """Itself."""
        return self

    def relative_to(self, home: Address) -> PurePosixPath:
        """The path below another address."""
        return self._path.relative_to(home._path)


SlidePath = Path | Address


def slide_path(text: str | Path | Address) -> SlidePath:
    """A path, or the address that a text is; pathlib's way of writing an address is understood as well, and
    how others write that of a file of this machine.

    >>> slide_path("https://host/a.svs"), slide_path(Path("https://host/a.svs"))
    (Address(text='https://host/a.svs'), Address(text='https://host/a.svs'))
    >>> slide_path("file:///data/a%20b.svs").as_posix()
    '/data/a b.svs'
    """
    if isinstance(text, Address):
        return text
    expect("The slide", text, (str, PathLike), "a path or an address", SlideError)
    plain = str(text).replace("\\", "/")
    if not plain:
        raise SlideError("The slide is '', an empty path; give a path or an address.")
    if here := _HERE.fullmatch(plain):
        name = unquote(here[1])
        return Path(name if re.match(r"[a-zA-Z]:/", name) else f"/{name}")
    found = _ADDRESS.fullmatch(plain)
    return Address(f"{found[1].lower()}://{found[2]}") if found else Path(text)
