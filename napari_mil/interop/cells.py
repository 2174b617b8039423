"""Texts in the cells of tables: a spreadsheet takes some for formulas, and runs them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

#: What a text begins with that a spreadsheet would take for a formula; and what takes that from it.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")


def quoted(text: str) -> str:
    """A text with an apostrophe before it where a spreadsheet would take it for a formula, or where it begins
    with one; `unquoted` is the inverse.

    >>> quoted("=1+1"), quoted("a-b"), quoted("'tis")
    ("'=1+1", 'a-b', "''tis")
    """
    return f"'{text}" if text.startswith(_FORMULA) else text


def unquoted(field: str) -> str:
    """The text of a field."""
    return field.removeprefix("'")


def cells(values: Iterable[Any]) -> list[Any]:
    """Texts quoted, numbers as they are."""
    return [quoted(value) if isinstance(value, str) else value for value in values]


def row_of_cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same of a row by its columns, whose names are texts too."""
    return dict(zip(cells(row), cells(row.values()), strict=True))
