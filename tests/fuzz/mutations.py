"""Damage to files, drawn from a seed: the same seed does the same damage everywhere."""

from __future__ import annotations

import csv
import io
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

#: what a broken program, or a malicious one, writes where a number or a text is expected
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2, 0.5, -0.0, 1e-320, 1e300, float("nan"), float("inf"), 2**31 - 1, 2**31, 2**63,
    10**30, "", " ", "a", "nan", "1e999", "-1", "../../x", "\0", "\ud800", "a\nb", "ä" * 300, "A" * 5000,
    "Benign/N", [], [[]], [0], [[[0]]], {}, {"a": 1}, [None], ["x", "y"],
)  # fmt: skip
_NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_HEAD = 2048  # where formats say what follows


def damaged(data: bytes, draw: Random, others: Sequence[bytes]) -> bytes:
    """`data` after one to three kinds of damage, never as it was; `others` lend headers and pieces."""
    made = data
    while made == data:
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            made = draw.choice(_KINDS)(made, draw, others)
    return made


def damage_folder(folder: Path, draw: Random, others: Sequence[bytes]) -> None:
    """Damage one file of a folder: mostly its content; now and then it is gone, or a folder."""
    file = draw.choice(sorted(f for f in folder.rglob("*") if f.is_file()))
    what = draw.random()
    if what > 0.1:
        file.write_bytes(damaged(file.read_bytes(), draw, others))
        return
    file.unlink()
    if what < 0.03:
        file.mkdir()


def _at(data: bytes, draw: Random) -> int:
    """A place, every other time one near the beginning."""
    return draw.randrange(max(1, min(len(data), draw.choice((_HEAD, len(data))))))


def _stretch(data: bytes, draw: Random) -> tuple[int, int]:
    start = _at(data, draw)
    return start, min(len(data), start + 2 ** draw.randrange(14))


def _cut(data: bytes, draw: Random, _others: Sequence[bytes]) -> bytes:
    return data[: _at(data, draw)]


def _flip(data: bytes, draw: Random, _others: Sequence[bytes]) -> bytes:
    made = bytearray(data or b"\0")
    for _ in range(2 ** draw.randrange(6)):
        made[_at(data, draw)] ^= 1 << draw.randrange(8)
    return bytes(made)


def _number(data: bytes, draw: Random, _others: Sequence[bytes]) -> bytes:
    """A number that formats mistrust, written over what stands there, in either byte order."""
    made = bytearray(data)
    for _ in range(draw.randrange(1, 4)):
        kind = draw.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
        size = struct.calcsize(kind)
        at = _at(data, draw)
        made[at : at + size] = struct.pack(kind, draw.choice(_NUMBERS) % 2 ** (8 * size))
    return bytes(made)


def _zeros(data: bytes, draw: Random, _others: Sequence[bytes]) -> bytes:
    start, stop = _stretch(data, draw)
    return data[:start] + bytes(stop - start) + data[stop:]


def _lost(data: bytes, draw: Random, _others: Sequence[bytes]) -> bytes:
    start, stop = _stretch(data, draw)
    return data[:start] + data[stop:]


def _twice(data: bytes, draw: Random, _others: Sequence[bytes]) -> bytes:
    start, stop = _stretch(data, draw)
    return data[:stop] + data[start:stop] + data[stop:]


def _head(data: bytes, draw: Random, others: Sequence[bytes]) -> bytes:
    """The beginning of another file before the rest of this one."""
    size = draw.choice((4, 8, 16, 64, 512))
    return draw.choice(others)[:size] + data[size:]


def _piece(data: bytes, draw: Random, others: Sequence[bytes]) -> bytes:
    """A piece of another file in the place of one of this."""
    other, (start, stop) = draw.choice(others), _stretch(data, draw)
    at = _at(other, draw)
    return data[:start] + other[at : at + stop - start] + data[stop:]


def _value(data: bytes, draw: Random, others: Sequence[bytes]) -> bytes:
    """Another value in a JSON text or a table, else damage to the bytes: what parses gets further in."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return _flip(data, draw, others)
    try:
        return json.dumps(_other(json.loads(text), draw)).encode()
    except (ValueError, RecursionError):
        return _cell(text, draw)


def _cell(text: str, draw: Random) -> bytes:
    try:
        rows = list(csv.reader(io.StringIO(text)))
    except csv.Error:
        return text.encode()
    if not any(rows):
        return text.encode()
    row = draw.choice([r for r in rows if r])
    at = draw.randrange(len(row))
    try:
        row[at] = json.dumps(_other(json.loads(row[at]), draw))
    except ValueError:
        row[at] = str(_any(draw))
    made = io.StringIO()
    csv.writer(made).writerows(rows)
    return made.getvalue().encode("utf-8", "surrogatepass")


def _other(value: Any, draw: Random) -> Any:
    """The same JSON with one value changed, lost or nested deeply, also inside texts that hold JSON."""
    inside = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    if isinstance(value, str) and value[:1] in {"{", "["}:
        try:
            return json.dumps(_other(json.loads(value), draw))
        except ValueError:
            pass
    if not inside or draw.random() < 0.05:
        return _any(draw)
    sizes = [len(str(value[key])) for key in inside] if draw.random() < 0.5 else None  # else branch by branch
    [key] = draw.choices(list(inside), sizes)
    if draw.random() < 0.1:
        del value[key]
    else:
        value[key] = _other(value[key], draw)
    return value


def _any(draw: Random) -> Any:
    if draw.random() > 0.02:
        return draw.choice(VALUES)
    deep: Any = 0
    for _ in range(900):
        deep = [deep]
    return deep


_KINDS: tuple[Callable[[bytes, Random, Sequence[bytes]], bytes], ...] = (
    _cut, _flip, _flip, _number, _number, _zeros, _lost, _twice, _head, _piece, _value, _value, _value,
)  # fmt: skip
