"""Where a project's ledger lives: in its folder, or in a database that a team shares; backups."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from napari_mil.errors import ProjectError
from napari_mil.ledger import Event, Ledger, Report, copy, verify
from napari_mil.ledger.copying import put
from napari_mil.ledger.database import bring_up_to_date, engine_of, schema_version, url_of
from napari_mil.ledger.postgres import PASSWORD
from napari_mil.store.disk import ledger_of, sync_file, write_marker
from napari_mil.workflow.colours import converts
from napari_mil.workflow.project import Project


def share(folder: Path, address: str, *, by: str = "") -> None:
    """Move a project's ledger into a PostgreSQL database, whole and with the same head; the folder says from
    then on where it is, and the old ledger can only be read. Running it again finishes what was interrupted.

    address : postgresql://[USER@]SERVER[:PORT]/DATABASE; never with a password, which comes from PGPASSWORD
        or ~/.pgpass

    Raises
    ------
    ProjectError : no such database, one that holds another ledger, a damaged ledger, a password given
    """
    url = url_of(address)
    if url.get_backend_name() != "postgresql":
        raise ProjectError(f"{address!r} is no PostgreSQL database; write postgresql://SERVER/DATABASE.")
    if url.password is not None or "password" in url.query:
        raise ProjectError(f"Leave the password out of the address: {PASSWORD}.")
    source = _there(folder)
    if str(source) == address:
        raise ProjectError(f"The ledger of {folder} lives at {address} already; nothing was changed.")
    _move(folder, source, address, address, by)
    write_marker(folder, ledger=address)


def unshare(folder: Path, *, by: str = "") -> None:
    """Bring a shared ledger back into the project's folder, whole and with the same head; the one in the
    database can only be read from then on.
    """
    source = _there(folder)
    if isinstance(source, Path):
        raise ProjectError(f"The ledger of {folder} is in its folder already; nothing was changed.")
    target = folder / "ledger.sqlite"
    _move(folder, source, target, f"the folder {folder.absolute()}", by)
    write_marker(folder)


def _there(folder: Path) -> Path | str:
    """Where the ledger of a project is; ProjectError where there is none."""
    place = ledger_of(folder)
    if isinstance(place, Path) and not place.exists():
        raise ProjectError(f"There is no ledger {place}; give the folder of a project, or restore it.")
    return place


def _move(folder: Path, source: Path | str, target: Path | str, words: str, by: str) -> None:
    """Copy a ledger and close it; that it moved is one of its events, so that both have the same head."""
    with Ledger(source) as ledger:
        if not ledger.moved_to:
            copy(source, target)  # whether that can be is said before it is an event
            ledger.append("share", None, {"project": folder.name, "to": words}, by)
        elif ledger.moved_to != words:
            raise ProjectError(
                f"The ledger {ledger.place} was moved to {ledger.moved_to} already; share that one."
            )
    copy(source, target, moved_to=words)


def verify_ledger(folder: Path) -> Report:
    """Recompute a ledger's chain, also of one that is too damaged to be opened; nothing is written."""
    return verify(_there(folder))


def backup(folder: Path, file: Path) -> dict[str, Any]:
    """Write a verified copy of the whole ledger, wherever it lives, as an SQLite file; it stands there whole
    or not at all. ProjectError when the ledger is damaged.
    """
    if file.exists():
        raise ProjectError(f"{file} exists already; give a name of its own, backups are never overwritten.")
    place = file.with_name(f".{file.name}.unfinished")
    place.unlink(missing_ok=True)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        report = copy(_there(folder), place)
        _finish(place)
        place.rename(file)
    finally:
        place.unlink(missing_ok=True)
    return {"backup": str(file), "events": report.events, "head": report.head}


def _finish(file: Path) -> None:
    """Make one file of an SQLite ledger: what it keeps beside itself goes into it."""
    engine = engine_of(file)
    with engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")  # what our connections begin by themselves
        connection.exec_driver_sql("PRAGMA journal_mode=DELETE")
    engine.dispose()
    sync_file(file)


def restore(folder: Path, file: Path) -> dict[str, Any]:
    """Put a backup in the place of a damaged or missing ledger.

    What is sound in the damaged one and goes on from the backup is kept too, so the longer of both chains
    counts. The damaged file stays beside the new one under another name. The ledger is in the folder
    afterwards; one that was shared is shared again with a new database.

    Raises
    ------
    ProjectError : the backup is damaged, is of another project, or the ledger is whole
    """
    if not file.exists():
        raise ProjectError(f"There is no backup {file}; check the path.")
    kept, place = verify(file), ledger_of(folder)
    if not kept.ok:
        raise ProjectError(kept.problem)
    there = isinstance(place, str) or place.exists()
    found = verify(place) if there else None
    if found is not None and found.ok:
        raise ProjectError(
            f"The ledger of {folder} is whole ({found.events} events), nothing was restored; undo and "
            "withdraw take back what was said."
        )
    sound = () if found is None else found.sound
    shared = min(len(sound), len(kept.sound))
    if shared and sound[shared - 1].hash != kept.sound[shared - 1].hash:
        raise ProjectError(f"{file} is no backup of this project's ledger; nothing was changed.")
    best = max(kept.sound, sound, key=len)
    _replace(folder, best)
    about = {"events": len(best), "from_backup": len(kept.sound), "head": best[-1].hash if best else ""}
    return about | {"was_shared": place if isinstance(place, str) else ""}


def _replace(folder: Path, events: tuple[Event, ...]) -> None:
    """Make the ledger in a folder anew; the old file stays beside it."""
    target = folder / "ledger.sqlite"
    place = folder / ".ledger.sqlite.unfinished"
    place.unlink(missing_ok=True)
    engine = engine_of(place)
    try:
        bring_up_to_date(engine)
        put(events, engine)
    finally:
        engine.dispose()
    _finish(place)
    aside = next(n for i in range(1, 1000) if not (n := folder / f"ledger.damaged-{i}.sqlite").exists())
    for suffix in ("", "-wal", "-shm"):
        old = folder / f"ledger.sqlite{suffix}"
        if old.exists():
            old.rename(f"{aside}{suffix}")
    place.rename(target)
    write_marker(folder)


def project_info(project: Project) -> dict[str, Any]:
    """What a project holds, and where its ledger is."""
    ledger = project.ledger
    engine = engine_of(ledger_of(project.path))
    try:
        version = schema_version(engine)
    finally:
        engine.dispose()
    people = Counter(c.by or "nobody named" for c in ledger.corrections())
    return {
        "project": str(project.path),
        "ledger": ledger.place,
        "shared": isinstance(ledger_of(project.path), str),
        "schema": version,
        "colours": "converted to sRGB" if converts(project) else "as stored",
        "events": ledger.seq,
        "head": ledger.head,
        "slides": len(project.slides),
        "corrections": dict(sorted(people.items())),
        "models": len(project.cards),
    }
