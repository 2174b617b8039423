"""The tables of a TIFF that say where its tiles lie, without a Python number for each.

A slide of 30 gigapixels has half a million tiles, and tifffile makes tuples of their offsets and sizes when
it reads a page. So tifffile gets to see a file in which long tables have one entry, and the tables are taken
from the file as arrays.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_mil.slides.remote import Stream

OFFSETS, COUNTS = (324, 273), (325, 279)
_SUB_IFDS = 330
#: Shorter tables are left to tifffile.
LONG = 512
_MOST_PAGES, _MOST_TAGS = 500, 4096
_TYPES = {3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}


@dataclass(frozen=True, slots=True)
class _Table:
    """A tag's values: numpy's type of one, how many, where."""

    dtype: str
    count: int
    offset: int

    @property
    def size(self) -> int:
        """Bytes of one value."""
        return np.dtype(self.dtype).itemsize


class Tables:
    """Every long table of offsets and byte counts in a file (anything with `read` and `size`)."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._found: dict[int, dict[int, _Table]] = {}
        self.patches: dict[int, bytes] = {}
        try:
            self._walk()
        except (struct.error, ValueError):  # what is damaged is said by tifffile
            self._found, self.patches = {}, {}

    def of(self, page: Any, codes: tuple[int, int], plain: Any) -> NDArray[np.int64]:
        """(tiles,) int64 of a tifffile page: from the table with one of the codes, else `plain`."""
        tables = self._found.get(int(page.offset), {})
        table = next((tables[code] for code in codes if code in tables), None)
        if table is None:
            return np.asarray(plain, np.int64)
        data = self._file.read(table.offset, table.count * table.size)
        return np.frombuffer(data[: len(data) // table.size * table.size], table.dtype).astype(np.int64)

    def _walk(self) -> None:
        head = self._file.read(0, 16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None:
            return
        big = struct.unpack_from(order + "H", head, 2)[0] == 43
        first = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0]
        ahead = [first]
        while ahead and len(self._found) < _MOST_PAGES:
            at = ahead.pop()
            if at and at not in self._found:
                ahead += self._page(at, order, big=big)

    def _page(self, at: int, order: str, *, big: bool) -> Iterator[int]:
        """Note the long tables of the page at an offset; the offsets of further pages."""
        many, entry, word = (8, 20, "Q") if big else (2, 12, "I")
        count = struct.unpack(order + ("Q" if big else "H"), self._file.read(at, many))[0]
        if count > _MOST_TAGS:
            raise ValueError
        data = self._file.read(at + many, count * entry + struct.calcsize(word))
        tables = self._found.setdefault(at, {})
        for i in range(count):
            code, kind, n, value = struct.unpack_from(f"{order}HH{word}{word}", data, i * entry)
            dtype = _TYPES.get(kind)
            if dtype is None:
                continue
            table = _Table(order + dtype, n, value)
            if value + table.size * n > self._file.size:
                continue  # tifffile says so
            if code in OFFSETS + COUNTS and n > LONG:
                tables[code] = table
                self.patches[at + many + i * entry] = self._one(data, i * entry, order + word, table)
            elif code == _SUB_IFDS and n == 1:
                yield value
            elif code == _SUB_IFDS and n < _MOST_PAGES:
                yield from np.frombuffer(self._file.read(value, n * table.size), table.dtype).tolist()
        yield struct.unpack_from(order + word, data, count * entry)[0]

    def _one(self, data: bytes, at: int, word: str, table: _Table) -> bytes:
        """The entry of a tag whose table has but its first value."""
        first: bytes = self._file.read(table.offset, table.size)
        return data[at : at + 4] + struct.pack(word, 1) + first.ljust(struct.calcsize(word), b"\0")

    def stream(self) -> Stream:
        """The file as tifffile should see it."""
        return Stream(_Patched(self._file, self.patches))


class _Patched:
    """A file some of whose bytes are others."""

    def __init__(self, file: Any, patches: dict[int, bytes]) -> None:
        self._file, self.size, self._patches = file, file.size, patches

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`, fewer at the end of the file."""
        found: bytes = self._file.read(offset, count)
        touched = [
            at for at in self._patches if offset < at + len(self._patches[at]) and at < offset + len(found)
        ]
        if not touched:
            return found
        made = bytearray(found)
        for at in touched:
            patch = self._patches[at][max(0, offset - at) : offset + len(found) - at]
            made[max(0, at - offset) : max(0, at - offset) + len(patch)] = patch
        return bytes(made)
