"""DICOM slides on servers: wsidicom understands them, and frames are fetched side by side.

wsidicom reads a file through one stream that one thread has at a time, so that over a network every frame
would wait for the one before. Here every thread has a place of its own in the stream.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from upath import UPath
from wsidicom import WsiDicom
from wsidicom.config import Settings, use_settings
from wsidicom.file.io import OffsetTableType, WsiDicomReader, WsiDicomReadIO
from wsidicom.file.wsidicom_file_source import WsiDicomFileSource

from napari_mil.errors import SlideError
from napari_mil.slides.address import Address
from napari_mil.slides.remote import FILE_BYTES, RemoteFile, Stream
from napari_mil.slides.slide import RefusedError

AT_ONCE = 8  # files whose heads and tables are fetched together


class _Places(Stream):
    """A file in which every thread has its own place; it remembers what the server refused."""

    def __init__(self, file: RemoteFile) -> None:
        self._place = threading.local()
        self.failed: SlideError | None = None
        super().__init__(file)

    @property
    def _at(self) -> int:
        return getattr(self._place, "at", 0)

    @_at.setter
    def _at(self, at: int) -> None:
        self._place.at = at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the file reaches."""
        try:
            return super().readinto(buffer)
        except SlideError as error:
            self.failed = error
            raise

    def close(self) -> None:
        """Forget the blocks; nothing is held open."""
        self._file.close()


class _Shared(WsiDicomReadIO):  # type: ignore[misc]
    """What wsidicom reads; nobody needs it alone."""

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nothing is waited for."""
        yield


def open_served(files: Sequence[RemoteFile], settings: Settings) -> tuple[WsiDicom, list[Address]]:
    """The slide of these files, and which of them it took.

    The tables of frames are read here, by one thread each; from then on wsidicom only reads.

    Raises
    ------
    SlideError
        the server does not answer any more
    RefusedError
        a large file has no table of its frames
    """
    places = [_Places(file) for file in files]
    try:
        known = {UPath(file.address.text): file for file in files}
        with use_settings(settings):
            source = _understood(places, list(known))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda reader: _find_frames(reader, known[reader.filepath]), source.readers))
        return WsiDicom(source, settings=settings), [known[path].address for path in source.files]
    except BaseException:
        for place in places:
            place.close()
        raise


def _understood(places: Sequence[_Places], paths: Sequence[UPath]) -> WsiDicomFileSource:
    """Wsidicom goes on without a file that it cannot read, which on a server says nothing of the file."""
    try:
        return WsiDicomFileSource(_Shared(*each) for each in zip(places, paths, strict=True))
    finally:
        for place in places:
            if place.failed is not None:
                raise place.failed


def _find_frames(reader: WsiDicomReader, file: RemoteFile) -> None:
    """Read the table of frames; a small file without one is fetched whole, and read through."""
    if reader.offset_table_type == OffsetTableType.EMPTY:
        if file.size > FILE_BYTES:
            raise RefusedError(
                f"{file.name} has no table of its frames, so that all of its {file.size / 1e6:,.1f} MB would "
                "have to come before the first is shown; copy the slide to this machine"
            )
        file.read(0, file.size)
    if not len(reader.frame_index):
        raise SlideError(f"{file.name} has no frames")
