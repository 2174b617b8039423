"""Rows of a ledger that come one after another, cheaply: a long ledger has a hundred thousand of them."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from napari_mil.ledger.database import EVENTS

_COLUMNS = tuple(EVENTS.columns.keys())
#: Rows that are fetched in one go, so that the text of a long ledger is never in memory as a whole.
_PAGE = 500


def fetched(found: sa.Result[Any]) -> Iterator[Sequence[Any]]:
    """The rows of a statement as they come."""
    for page in found.partitions(_PAGE):
        yield from page


def named(rows: Iterable[Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Column → value for rows that hold the columns of events."""
    return (dict(zip(_COLUMNS, row, strict=True)) for row in rows)


@contextmanager
def collector_paused() -> Iterator[None]:
    """While many events are made, which stay and hold no cycles: the garbage collector would look through all
    of them again and again, a quarter of the time that a long ledger takes to open.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()
