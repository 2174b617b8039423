"""Zarr on servers: what is not there may be said to be forbidden."""

from __future__ import annotations

from typing import Any

from zarr.storage import FsspecStore

from napari_mil.slides.remote import forbidden

_DOCUMENTS = ("zarr.json", ".zgroup", ".zattrs", ".zarray", ".zmetadata")


class ServedStore(FsspecStore):  # type: ignore[misc]
    """A Zarr folder on a server. One that lets nobody list it says of a file that is not there that it may
    not be read; so such a file counts as missing, as long as one that was read before still can be.

    refused : the first such error
    """

    refused: Exception | None = None
    _known: str | None = None

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        """The bytes of a file, None where there is none."""
        document = key.rpartition("/")[2] in _DOCUMENTS
        try:
            found = await super().get(key, prototype, byte_range)
        except Exception as error:
            if not forbidden(error):
                raise
            self.refused = self.refused or error
            if not document and (self._known is None or not await self._still(prototype)):
                raise
            return None
        if document and found is not None:
            self._known = key
        return found

    async def _still(self, prototype: Any) -> bool:
        """Whether the server lets one read what it did before."""
        assert self._known is not None  # noqa: S101 - asked before
        try:
            return await super().get(self._known, prototype) is not None
        except Exception as error:
            if forbidden(error):
                return False
            raise
