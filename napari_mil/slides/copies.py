"""Slides on servers whose reader knows files on disk alone: copied once, whole, beside no slide but in a
folder of this user.

A copy is of these very files (their sizes and the server's marks of them), and is there whole or not at all:
it is written under another name, a folder of its own, which is renamed when everything is in it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path, PurePath
from urllib.parse import quote

from napari_mil.errors import SlideError, reason
from napari_mil.slides import mirax, shelf
from napari_mil.slides.address import Address
from napari_mil.slides.identity import EDGE
from napari_mil.slides.mirax import plain_name
from napari_mil.slides.remote import RemoteFile, UnreachableError
from napari_mil.steps import Progress, Steps, drain

COPIES = shelf.Shelf("copies", "NAPARI_MIL_COPIES_GB", 50)
STAGE = "MB from the server"
#: Bytes of one request, and requests on their way at once.
BLOCK, AT_ONCE = 2 * 2**20, 4
_LOOK = 64  # blocks are written before the disk is looked at again
_ABOUT = "about.json"
_Tell = Callable[[Progress], None]
_heard: ContextVar[_Tell | None] = ContextVar("heard", default=None)


class CopyError(SlideError):
    """A slide cannot be copied: no reader needs to be asked."""


class LaterError(CopyError):
    """All of a slide would have to be copied, which takes longer than whoever asks can wait."""


@contextlib.contextmanager
def heard(tell: _Tell) -> Iterator[None]:
    """Have `tell` called between the blocks of every copy that is made within it; what it raises ends it."""
    before = _heard.set(tell)
    try:
        yield
    finally:
        _heard.reset(before)


def unasked() -> contextlib.AbstractContextManager[None]:
    """No copy is made within it: where one is needed, that is a LaterError."""
    return heard(_too_long)


def _too_long(now: Progress) -> None:
    raise LaterError(
        f"{now.note} has to be copied from its server first, all {now.total or 0:,} MB of it; open it, "
        "which does so."
    )


def copied(address: Address) -> tuple[Path, Path]:
    """The slide on this disk, copied where that has not been done, and a file that keeps it there: delete
    that when the slide is closed.
    """
    for _ in range(3):  # another program may clean up in between
        path = drain(copying(address), _heard.get())
        with contextlib.suppress(OSError):
            return path, shelf.mark(_folder_of(path))
    raise CopyError(f"{address.name}: its copy was deleted; open the slide again.")


def copying(address: Address) -> Steps[Path]:
    """Copy a slide, if that has not been done; its path on this disk.

    Raises
    ------
    CopyError
        one sentence: no room for it, or the server has not all of it
    UnreachableError
        the server does not answer
    """
    try:
        files = _files_of(address)
        folder = _folder(address, files)
        if _whole(folder, files):
            os.utime(folder)  # the one used longest ago goes first
        else:
            yield from _fetch(address, files, folder)
        return folder / files[0][0]
    except (UnreachableError, CopyError):
        raise
    except SlideError as error:
        raise CopyError(f"{address.name} cannot be opened: {reason(error)}.") from error
    except OSError as error:
        raise CopyError(
            f"{address.name} cannot be copied to {COPIES.home} ({reason(error)}); mend this, or copy the "
            "slide to this machine yourself."
        ) from error


_Files = Sequence[tuple[PurePath, RemoteFile]]


def _files_of(address: Address) -> _Files:
    """The files of a slide and where they lie beside each other, the one that is opened first."""
    files = [(PurePath(plain_name(address.name)), RemoteFile(address))]
    if address.suffix.lower() == mirax.SUFFIX:
        try:
            files += _beside(address)
        except UnreachableError:
            raise
        except SlideError as error:
            raise SlideError(
                f"a MIRAX slide needs the folder {address.stem}/ beside it ({reason(error)})"
            ) from error
    return files


def _beside(address: Address) -> _Files:
    """A MIRAX slide's own folder, as far as its Slidedat.ini names what is in it."""
    plain, *query = re.split(r"(?=[?#])", address.text, maxsplit=1)
    home, as_it_is = plain[: -len(mirax.SUFFIX)], address.text.startswith("s3")

    def there(name: str) -> tuple[PurePath, RemoteFile]:
        text = f"{home}/{name if as_it_is else quote(name)}{''.join(query)}"
        return PurePath(plain_name(address.stem), name), RemoteFile(Address(text))

    first = there(mirax.SLIDEDAT)
    names = mirax.named_in(first[1].read(0, first[1].size))
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [first, *pool.map(there, names)]


def _folder(address: Address, files: _Files) -> Path:
    """Where a copy of these very files lies; what begins with the same letters is of the same address."""
    address_hash, files_hash = (
        hashlib.sha256(words.encode()).hexdigest()[:20] for words in (address.text, _about(files))
    )
    return COPIES.home / f"{address_hash}-{files_hash}"


def _folder_of(path: Path) -> Path:
    return next(one for one in path.parents if one.parent == COPIES.home)


def _about(files: _Files) -> str:
    return json.dumps([(name.as_posix(), file.size, file.mark) for name, file in files])


def _whole(folder: Path, files: _Files) -> bool:
    """Whether a copy is there and still of these files."""
    try:
        if (folder / _ABOUT).read_text("utf-8") != _about(files):
            return False
        if any((folder / name).stat().st_size != file.size for name, file in files):
            return False
    except OSError:
        return False
    return all(file.mark or _same_ends(folder / name, file) for name, file in files)


def _same_ends(here: Path, there: RemoteFile) -> bool:
    """Whether a file begins and ends as the one on a server that has no mark for it: what tells slides apart
    elsewhere.
    """
    with here.open("rb") as stream:
        for at in (0, max(0, there.size - EDGE)):
            stream.seek(at)
            if stream.read(EDGE) != there.read(at, EDGE):
                return False
    return True


def _fetch(address: Address, files: _Files, folder: Path) -> Steps[None]:
    size = sum(file.size for _, file in files)
    made, done, total = COPIES.unfinished(folder), 0, _mb(size)
    yield Progress(STAGE, 0, total, address.name)
    COPIES.clean()
    try:
        _look(address, size, size, made)
        made.mkdir(parents=True)
        for name, file in files:
            (made / name).parent.mkdir(exist_ok=True)
            with (made / name).open("wb") as stream, contextlib.closing(_blocks(file)) as blocks:
                for n, block in enumerate(blocks, 1):
                    stream.write(block)
                    done += len(block)
                    if n % _LOOK == 0:
                        _look(address, size, size - done, made)
                    yield Progress(STAGE, _mb(done), total, address.name)
                stream.flush()
                os.fsync(stream.fileno())
        if any(
            not file.mark and not _same_ends(made / name, RemoteFile(file.address)) for name, file in files
        ):
            raise CopyError(f"{address.name} was replaced by another file meanwhile; open it again.")
        (made / _ABOUT).write_text(_about(files), "utf-8")
        _put(made, folder)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise CopyError(_no_room(address, size)) from error
        raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _put(made: Path, folder: Path) -> None:
    """Give a copy its name; one that is damaged, or of files that are no longer there, goes."""
    for other in folder.parent.glob(f"{folder.name.partition('-')[0]}-*"):
        if other != made and not shelf.in_use(other):
            shutil.rmtree(other, ignore_errors=True)
    try:
        made.rename(folder)
    except OSError:
        if not (folder / _ABOUT).is_file():  # else another program was faster
            raise


def _blocks(file: RemoteFile) -> Generator[bytes]:
    """A file in its order, a few blocks on their way at once."""
    coming: deque[Future[bytes]] = deque()
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for start in range(0, file.size, BLOCK):
            coming.append(pool.submit(file.fetch, start, min(file.size, start + BLOCK)))
            if len(coming) == AT_ONCE:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
    finally:  # who cancels does not wait for a server that is silent
        pool.shutdown(wait=False, cancel_futures=True)


def _look(address: Address, size: int, more: int, made: Path) -> None:
    """CopyError where there is no room for a slide."""
    if size > COPIES.bound_bytes():
        raise CopyError(
            f"{address.name} has {_gb(size)} GB, all of which have to be copied first, and copies of slides "
            f"may take {_gb(COPIES.bound_bytes())} GB; set ${COPIES.variable} higher, or copy the slide to "
            "this machine yourself."
        )
    try:
        COPIES.make_room(made, _no_room(address, size), more=more)
    except shelf.FullError as error:
        raise CopyError(str(error)) from error


def _no_room(address: Address, size: int) -> str:
    return (
        f"{address.name} has {_gb(size)} GB, all of which have to be copied to {COPIES.home} first, and "
        f"{_gb(shelf.free_bytes(COPIES.home))} GB are free there, of which {_gb(shelf.SPARE_BYTES)} are left "
        "alone; free some disk, or set $NAPARI_MIL_HOME to a folder with more."
    )


def _mb(size: int) -> int:
    return -(-size // 10**6)


def _gb(size: int) -> str:
    return f"{size / 2**30:,.1f}"
