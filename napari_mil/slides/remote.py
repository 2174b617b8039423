"""Slides on servers: blocks of bytes, fetched together, kept, and asked for again when a connection drops."""

from __future__ import annotations

import importlib.util
import io
import re
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, BinaryIO, TypeVar

import numpy as np

from napari_mil.errors import SlideError, reason
from napari_mil.slides import credentials
from napari_mil.slides.address import Address
from napari_mil.slides.cache import Key, TileCache, shared_cache, tokens

BLOCK = 2**17
#: One file keeps no more blocks than these, so that reading it through leaves the tiles of others alone.
FILE_BYTES = 64 * 2**20
#: In the cache of tiles, blocks of a file are of this level.
_BLOCKS = -1
PAUSES_S = (0.1, 0.4)  # before the second and the third try
CONNECT_S, READ_S = 5.0, 10.0
#: Nothing is tried once more after so long: a server that takes connections and stays silent was asked twice.
PATIENCE_S = 15.0
#: What belongs behind every address in a folder.
_queries: dict[str, str] = {}
#: No compression on the way, of which a part would be a part of something else.
_AS_IT_IS = {"Accept-Encoding": "identity"}
_NEEDS = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs"}
_T = TypeVar("_T")


class RemoteFile:
    """Positioned reads from a file on a server, from any thread.

    Bytes come in blocks. Neighbouring blocks that are missing are one request, two threads never ask for the
    same block, and the blocks used last are kept, in the cache that holds the tiles. When the server is gone
    a read ends in a SlideError, and the next read asks it again.

    size, mark : of the file when it was opened; the mark (ETag, else its date) is another when it was
        replaced, None where the server has neither
    """

    def __init__(self, address: Address, *, cache: TileCache = shared_cache) -> None:
        self.address = address
        self._system, self._path = file_system(address)
        self.size, self.mark = self._length()
        self._cache, self._token = cache, next(tokens)
        self._kept: OrderedDict[int, None] = OrderedDict()
        weakref.finalize(self, cache.drop, self._token).atexit = False
        self._coming: dict[int, Future[bytes]] = {}
        self._lock = threading.Lock()
        self.requests = 0

    def _length(self) -> tuple[int, str | None]:
        """Size, and the mark by which the server tells this file from one that takes its place."""
        if self.address.text.startswith("s3"):
            info = trying(lambda: self._system.info(self._path, refresh=True), self.address)
            return int(info["size"]), info.get("ETag")
        from fsspec.asyn import sync

        found: tuple[int, str | None] = trying(lambda: sync(self._system.loop, self._asked), self.address)
        return found

    async def _asked(self) -> tuple[int, str | None]:
        """The same of a web server, whose answer shows as well whether it sends parts of files."""
        session = await self._system.set_session()
        async with session.get(self._path, headers={**_AS_IT_IS, "Range": "bytes=0-0"}) as answer:
            if answer.status == 416:  # there is no first byte
                return 0, _mark_in(answer.headers)
            answer.raise_for_status()
            size = answer.headers.get("Content-Range", "").rpartition("/")[2]
            if answer.status != 206 or not size.isdecimal():
                raise SlideError(
                    f"{self.address.server} does not send parts of files, by which a slide is read; copy the "
                    "slide to this machine."
                )
            return int(size), _mark_in(answer.headers)

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`, fewer at the end of the file."""
        stop = min(self.size, offset + count)
        if offset < 0 or stop <= offset:
            return b""
        first, last = offset // BLOCK, (stop - 1) // BLOCK
        data = b"".join(self._get(first, last))
        return data[offset - first * BLOCK : stop - first * BLOCK]

    def fetch(self, start: int, stop: int) -> bytes:
        """Bytes that are there, of which nothing is kept."""
        return trying(lambda: self._part(start, stop), self.address)

    def _key(self, at: int) -> Key:
        return (self._token, _BLOCKS, at, 0)

    def _get(self, first: int, last: int) -> list[bytes | memoryview]:
        """Blocks first to last: what is kept, what other threads fetch already, and the rest."""
        found: dict[int, bytes | memoryview | Future[bytes]] = {}
        mine: list[int] = []
        with self._lock:
            for at in range(first, last + 1):
                block = self._cache.get(self._key(at))
                if block is not None:
                    self._kept.move_to_end(at)
                    found[at] = block.data
                elif at in self._coming:
                    found[at] = self._coming[at]
                else:
                    found[at] = self._coming[at] = Future()
                    mine.append(at)
        for run in _runs(mine):
            self._fetch(run)
        return [one.result() if isinstance(one, Future) else one for one in found.values()]

    def _fetch(self, run: range) -> None:
        """One request for neighbouring blocks; whoever waits for them hears of the outcome."""
        try:
            start, stop = run.start * BLOCK, min(self.size, run.stop * BLOCK)
            data = self.fetch(start, stop)
        except BaseException as error:
            with self._lock:
                waiting = [self._coming.pop(at) for at in run]
            for one in waiting:
                one.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for i, at in enumerate(run):
            block = data[i * BLOCK : (i + 1) * BLOCK]
            with self._lock:
                self._keep(at, block)
                one = self._coming.pop(at)
            one.set_result(block)

    def _keep(self, at: int, block: bytes) -> None:
        self._cache.put(self._key(at), np.frombuffer(block, np.uint8))
        self._kept[at] = None
        self._kept.move_to_end(at)
        if len(self._kept) * BLOCK > FILE_BYTES:
            self._cache.forget(self._key(self._kept.popitem(last=False)[0]))

    def _part(self, start: int, stop: int) -> bytes:
        self.requests += 1
        from fsspec.asyn import sync

        if self.address.text.startswith("s3"):
            data: bytes = sync(self._system.loop, self._object, start, stop)
        else:
            data = sync(self._system.loop, self._range, start, stop)
        if len(data) != stop - start:
            raise ConnectionError(f"{len(data)} of {stop - start} bytes came")
        return data

    async def _range(self, start: int, stop: int) -> bytes:
        """A part of a file of a web server, if it is still the one that was opened. What is no strong mark is
        compared here: a server that is asked whether a weak one matches has to say no.
        """
        asked = {**_AS_IT_IS, "Range": f"bytes={start}-{stop - 1}"}
        if strong := self.mark is not None and self.mark.startswith('"'):
            asked["If-Match"] = self.mark
        session = await self._system.set_session()
        async with session.get(self._path, headers=asked) as answer:
            answer.raise_for_status()
            if self.mark and not strong and _mark_in(answer.headers) != self.mark:
                raise _replaced(self.address)
            return bytes(await answer.read())

    async def _object(self, start: int, stop: int) -> bytes:
        """A part of an object of S3, if it is still the one that was opened: s3fs has no word for that."""
        bucket, key, _ = self._system.split_path(self._path)
        about = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{stop - 1}"}
        same = {"IfMatch": self.mark} if self.mark else {}
        answer = await self._system._call_s3("get_object", **about, **same)  # noqa: SLF001
        try:
            return bytes(await answer["Body"].read())
        finally:
            answer["Body"].close()

    @property
    def name(self) -> str:
        """The file's name."""
        return self.address.name

    def stream(self) -> BinaryIO:
        """It as parsers want one: with a position."""
        return io.BufferedReader(Stream(self), BLOCK)

    def close(self) -> None:
        """Forget the blocks."""
        with self._lock:
            self._kept.clear()
            self._cache.drop(self._token)


class Stream(io.RawIOBase):
    """A RemoteFile as parsers want one: with a position."""

    def __init__(self, file: Any) -> None:
        self._file, self._at = file, 0

    @property
    def name(self) -> str:
        """The file's name."""
        return str(self._file.name)

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be sought."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._file.size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as the file reaches."""
        data = self._file.read(self._at, len(buffer))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def file_system(address: Address, *, asynchronous: bool = False) -> tuple[Any, str]:
    """Fsspec's file system of an address and the path in it; SlideError when a library is missing."""
    scheme = address.text.split(":")[0]
    if importlib.util.find_spec(_NEEDS[scheme]) is None:
        raise SlideError(
            f"{scheme}:// needs {_NEEDS[scheme]}, which comes with: pip install 'napari-mil[remote]'."
        )
    import fsspec

    options: dict[str, Any] = {"asynchronous": asynchronous}
    if scheme == "s3":
        patience = {"connect_timeout": CONNECT_S, "read_timeout": READ_S}
        options["config_kwargs"] = {**patience, "retries": {"max_attempts": 1}}  # `trying` tries again
        if credentials.anonymous():
            options["anon"] = True
    else:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S)
        options["client_kwargs"] = {"timeout": timeout}
    system, path = fsspec.core.url_to_fs(address.text, **options)
    return system, path


def folder_system(address: Address) -> tuple[Any, str]:
    """Fsspec's asynchronous file system for what is in a folder, whose address may have a query: that belongs
    behind the name of each file.
    """
    plain, *query = re.split(r"(?=[?])", address.text, maxsplit=1)
    if not query or plain.startswith("s3"):
        return file_system(address, asynchronous=True)
    system, path = file_system(Address(plain), asynchronous=True)
    _queries[path] = query[0]
    if "encode_url" not in vars(system):  # fsspec has one for all addresses
        encoded = system.encode_url
        system.encode_url = lambda url: encoded(url + _query_of(url))
    return system, path


def _query_of(url: str) -> str:
    return next((query for home, query in _queries.items() if url.startswith(f"{home}/")), "")


def listed(folder: Address) -> list[Address]:
    """The files directly in a folder, as far as its server tells; SlideError when it does not."""
    system, path = file_system(folder)
    s3 = folder.text.startswith("s3")
    anew = {"refresh": True} if s3 else {}
    found = trying(lambda: system.ls(path, detail=True, **anew), folder)
    names = (str(one["name"]) for one in found if one["type"] == "file")
    return [Address(f"s3://{name}" if s3 else name) for name in names if not name.endswith("/")]


class UnreachableError(SlideError):
    """A server does not answer: no reader needs to be asked, and it may be back later."""


def trying(act: Callable[[], _T], address: Address) -> _T:
    """What `act` returns; a dropped connection is tried again, as long as PATIENCE_S is not over, and
    SlideError is the end of it.

    Errors that are none of the network's pass.
    """
    began = time.monotonic()
    for pause in (*PAUSES_S, None):
        try:
            return act()
        except SlideError:
            raise
        except Exception as error:
            status = _status(error)
            if isinstance(error, FileNotFoundError) or status in {404, 410}:
                raise SlideError(f"there is no file {address.shown}; check the address.") from error
            if forbidden(error):
                raise SlideError(
                    f"{address.server} does not let you read {address.name}; check your access."
                ) from error
            if credentials.missing(error):
                raise SlideError(
                    f"{address.server} has to know who you are ({reason(error)}); log in, such as with aws "
                    "configure or aws sso login."
                ) from error
            if status == 412:
                raise _replaced(address) from error
            if not _of_the_network(error):
                raise
            if pause is None or time.monotonic() - began > PATIENCE_S:
                raise UnreachableError(
                    f"{address.server} does not answer ({_why(error)}); check the network, reading goes on "
                    "when it is back."
                ) from error
            time.sleep(pause)
    raise AssertionError


def forbidden(error: BaseException) -> bool:
    """Whether a server lets one not read something, or says so."""
    return isinstance(error, PermissionError) or _status(error) in {401, 403}


def _mark_in(headers: Mapping[str, str]) -> str | None:
    """What a web server's answer tells a file from another by: its ETag, else when it was written."""
    return headers.get("ETag") or headers.get("Last-Modified")


def _replaced(address: Address) -> SlideError:
    return SlideError(f"{address.shown} was replaced by another file; open the slide again.")


def _status(error: BaseException) -> int | None:
    """The status that a web server or S3 answered with, or None."""
    said = getattr(error.__cause__ or error, "response", None)
    if isinstance(said, dict):
        return int(said.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or None
    return getattr(error, "status", None)


def _why(error: Exception) -> str:
    """What an error says, of an answer its status: the rest would repeat the address, maybe with a key."""
    status, words = _status(error), getattr(error, "message", "")
    return reason(error) if status is None else f"{status} {words}".strip()


def _of_the_network(error: Exception) -> bool:
    made_by = type(error).__module__.partition(".")[0]
    return isinstance(error, (OSError, TimeoutError)) or made_by in {"aiohttp", "botocore", "fsspec"}


def _runs(blocks: list[int]) -> list[range]:
    """Neighbours together."""
    runs: list[range] = []
    for at in blocks:
        if runs and runs[-1].stop == at:
            runs[-1] = range(runs[-1].start, at + 1)
        else:
            runs.append(range(at, at + 1))
    return runs
