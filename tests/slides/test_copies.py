"""Slides on servers that OpenSlide alone reads: copied once, whole or not at all, within their bound."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
from slidefiles import picture
from slideserver import serving
from typer.testing import CliRunner
from vendorslides import write_bif, write_mirax, write_ndpi, write_philips, write_scn

from napari_mil.errors import SlideError
from napari_mil.slides import copies, open_slide, remote, shelf, sidecar
from napari_mil.slides.address import Address
from napari_mil.slides.copies import COPIES, CopyError, LaterError
from napari_mil.slides.remote import UnreachableError
from napari_mil.steps import drain

pytestmark = pytest.mark.slow

pytest.importorskip("aiohttp")
IMAGE = picture(1024, 1360)
GB = 2**30
WRITERS = {
    "a.tiff": write_philips,
    "a.scn": write_scn,
    "a.bif": write_bif,
    "a b.ndpi": write_ndpi,
    "ä b.mrxs": write_mirax,
}


@pytest.fixture
def server(tmp_path):
    (tmp_path / "www").mkdir()
    with serving(tmp_path / "www") as server:
        yield server


@pytest.fixture
def ndpi(server, monkeypatch):
    """A slide of some blocks, and its address."""
    monkeypatch.setattr(copies, "BLOCK", 2**15)
    path = write_ndpi(server.folder / "a.ndpi", IMAGE)
    assert path.stat().st_size > 8 * 2**15
    return path, f"{server.address}/a.ndpi"


def kept(own_home):
    return sorted((own_home / "copies").glob("*"))


@pytest.fixture
def bodies(monkeypatch):
    """The names of files that were copied."""
    names, blocks = [], copies._blocks

    def watched(file):
        names.append(file.name)
        return blocks(file)

    monkeypatch.setattr(copies, "_blocks", watched)
    return names


@pytest.mark.parametrize("name", WRITERS)
def test_a_slide_on_a_server_is_the_slide_on_disk(server, bodies, name, own_home):
    image = picture(2048, 2720) if name == "a.bif" else IMAGE  # of whole tiles
    path = WRITERS[name](server.folder / name, image)
    address = f"{server.address}/{name.replace(' ', '%20')}?key=1"
    with open_slide(path) as here, open_slide(address) as there:
        assert there.name == here.name == path.stem
        assert there.mpp == here.mpp
        assert there.fingerprint == here.fingerprint
        assert there.pixel_hash == here.pixel_hash
        for one, other in zip(here.levels, there.levels, strict=True):
            assert np.array_equal(one[:], other[:])
        last = there.levels[0].read(0, 0, 500, 500)
        assert str(there.path) == address
    assert len(bodies) == (4 if path.suffix == ".mrxs" else 1)
    bodies.clear()
    with open_slide(address) as again:
        assert np.array_equal(again.levels[0].read(0, 0, 500, 500), last)
    assert not bodies
    assert len(kept(own_home)) == 1


def test_connections_that_drop_are_tried_again(server, ndpi):
    path, address = ndpi
    dropped = []

    def drop(now):
        if now.done and not dropped:
            dropped.append(now)
            server.drop = 2

    with copies.heard(drop), open_slide(address) as there, open_slide(path) as here:
        assert np.array_equal(there.levels[0][:], here.levels[0][:])
    assert dropped
    assert server.drop < 0


def test_a_server_that_goes_in_the_midst_is_one_sentence_and_leaves_nothing(
    server, ndpi, own_home, monkeypatch
):
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.01))
    _, address = ndpi
    with (
        copies.heard(lambda now: now.done and server.stop()),
        pytest.raises(SlideError, match=rf"^a\.ndpi cannot be opened: {server.address} does not answer"),
    ):
        open_slide(address)
    assert kept(own_home) == []
    server.start()
    with open_slide(address) as there:
        assert there.shape_px == IMAGE.shape[:2]


class Cancelled(BaseException):
    pass


def test_who_hears_of_it_can_end_it_and_nothing_is_left(ndpi, own_home):
    path, address = ndpi
    told = []

    def cancel(now):
        told.append(now)
        if now.done:
            assert [one.suffix for one in kept(own_home)] == [".part"]
            raise Cancelled

    with pytest.raises(Cancelled), copies.heard(cancel):
        open_slide(address)
    assert kept(own_home) == []
    told.clear()
    with copies.heard(told.append), open_slide(address):
        pass
    assert {now.note for now in told} == {"a.ndpi"}
    assert told[0].done == 0
    assert told[-1].done == told[-1].total == -(-path.stat().st_size // 10**6)
    told.clear()
    with copies.heard(told.append), open_slide(address):
        pass
    assert told == []


def test_who_cancels_does_not_wait_for_a_server_that_is_silent(server, ndpi, own_home):
    _, address = ndpi
    steps = copies.copying(Address(address))
    while not next(steps).done:
        pass
    server.latency = 5.0
    next(steps)
    began = time.monotonic()
    steps.close()
    assert time.monotonic() - began < 2
    assert kept(own_home) == []
    server.latency = 0.0


def test_where_nobody_can_wait_nothing_is_copied_and_what_was_is_opened(bodies, ndpi, own_home):
    _, address = ndpi
    with (
        copies.unasked(),
        pytest.raises(LaterError, match=r"^a\.ndpi has to be copied from its server first, all 1 MB of it;"),
    ):
        open_slide(address)
    assert not bodies
    assert kept(own_home) == []
    drain(copies.copying(Address(address)))
    with copies.unasked(), open_slide(address) as there:
        assert there.shape_px == IMAGE.shape[:2]


def test_a_file_that_was_replaced_is_copied_anew_in_the_place_of_the_old_one(ndpi, own_home):
    path, address = ndpi
    with open_slide(address) as before:
        old = before.fingerprint
        write_ndpi(path, picture(1024, 1360, 3))
        with open_slide(address) as after, open_slide(path) as here:
            assert after.fingerprint == here.fingerprint != old
        assert len(kept(own_home)) == 2  # the one that is looked at stays
        before.levels[0].read(0, 0, 300, 300)
    write_ndpi(path, picture(1024, 1360, 4))
    with open_slide(address) as last, open_slide(path) as here:
        assert last.fingerprint == here.fingerprint
    assert len(kept(own_home)) == 1


def test_a_file_that_is_replaced_meanwhile_is_said(ndpi, own_home):
    path, address = ndpi
    with (
        copies.heard(lambda now: now.done and write_ndpi(path, picture(1024, 1360, 3))),
        pytest.raises(CopyError, match=r"^a\.ndpi cannot be opened: .* was replaced by another file; open"),
    ):
        open_slide(address)
    assert kept(own_home) == []


def test_of_a_server_without_marks_the_ends_of_a_file_tell(server, ndpi, own_home, monkeypatch):
    path, address = ndpi
    asked = remote.RemoteFile._length
    monkeypatch.setattr(remote.RemoteFile, "_length", lambda self: (asked(self)[0], None))
    with open_slide(address) as first:
        old = first.fingerprint
    [copy] = kept(own_home)
    with open_slide(address):
        assert kept(own_home) == [copy]
    data = bytearray(path.read_bytes())
    data[-200_000] ^= 1
    path.write_bytes(data)
    with open_slide(address) as other, open_slide(path) as here:
        assert other.fingerprint == here.fingerprint != old
    path.write_bytes(data)
    os.utime(path)
    COPIES.remove_all()

    def replace(now):
        if now.done and data[5000] != 7:
            data[5000] = 7
            path.write_bytes(data)

    monkeypatch.setattr(copies, "AT_ONCE", 1)
    with copies.heard(replace), pytest.raises(CopyError, match=r"^a\.ndpi was replaced by another file mean"):
        open_slide(address)


def test_a_full_disk_is_said_before_anything_comes(bodies, ndpi, own_home, monkeypatch):
    _, address = ndpi
    monkeypatch.setattr("shutil.disk_usage", lambda _p: SimpleNamespace(free=GB))
    with pytest.raises(
        CopyError,
        match=r"^a\.ndpi has 0\.\d GB, all of which have to be copied to .*copies first, and 1\.0 GB are "
        r"free there, of which 2\.0 are left alone; free some disk, or set \$NAPARI_MIL_HOME",
    ):
        open_slide(address)
    assert not bodies
    assert kept(own_home) == []


def test_a_disk_that_fills_meanwhile_is_the_same_sentence(ndpi, own_home, monkeypatch):
    _, address = ndpi

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(copies.os, "fsync", full)
    with pytest.raises(CopyError, match=r"^a\.ndpi has 0\.\d GB, all of which have to be copied to"):
        open_slide(address)
    assert kept(own_home) == []
    monkeypatch.undo()
    monkeypatch.setenv("NAPARI_MIL_HOME", str(own_home))
    monkeypatch.setattr(copies, "_LOOK", 1)
    free = iter([100 * GB, *[GB] * 20])
    monkeypatch.setattr("shutil.disk_usage", lambda _p: SimpleNamespace(free=next(free)))
    with pytest.raises(CopyError, match=r"^a\.ndpi has 0\.\d GB"):
        open_slide(address)
    assert kept(own_home) == []


def test_a_folder_that_cannot_be_written_is_said(ndpi, own_home):
    _, address = ndpi
    own_home.mkdir()
    (own_home / "copies").write_text("in the way")
    with pytest.raises(
        CopyError, match=r"^a\.ndpi cannot be copied to .*copies \(.*\); mend this, or copy the"
    ):
        open_slide(address)


def test_copies_keep_to_their_bound_and_those_in_use_stay(server, own_home, monkeypatch):
    paths = [write_ndpi(server.folder / f"{i}.ndpi", IMAGE) for i in range(4)]
    size = paths[0].stat().st_size
    monkeypatch.setenv("NAPARI_MIL_COPIES_GB", str(3.2 * size / GB))
    first = open_slide(f"{server.address}/0.ndpi")
    for i in (1, 2, 1, 3):
        open_slide(f"{server.address}/{i}.ndpi").close()
    names = sorted(file.name for folder in kept(own_home) for file in folder.glob("*.ndpi"))
    assert names == ["0.ndpi", "1.ndpi", "3.ndpi"]
    first.close()
    assert not list((own_home / "copies").rglob("*.open"))
    monkeypatch.setenv("NAPARI_MIL_COPIES_GB", str(size / 2 / GB))
    with pytest.raises(
        CopyError, match=r"copies of slides may take 0\.0 GB; set \$NAPARI_MIL_COPIES_GB high"
    ):
        open_slide(f"{server.address}/2.ndpi")


def test_what_a_process_that_is_gone_left_goes(ndpi, own_home):
    path, address = ndpi
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    part = own_home / "copies" / f"x.0.{child.pid}.part"
    part.mkdir(parents=True)
    (part / "a.ndpi").write_bytes(bytes(100))
    open_slide(address).close()
    [copy] = kept(own_home)
    (copy / f"0.{child.pid}.open").touch()
    assert not shelf.in_use(copy)
    (copy / f"0.{os.getpid()}.open").touch()
    assert shelf.in_use(copy)
    os.utime(copy / f"0.{os.getpid()}.open", (1e9, 1e9))  # of another one that had the same number
    assert not shelf.in_use(copy)
    other = copy / f"0.{child.pid}@elsewhere.open"
    other.touch()
    assert shelf.in_use(copy)  # of another machine, where nobody can look
    os.utime(other, (time.time() - 90_000,) * 2)
    assert not shelf.in_use(copy)
    (copy / path.name).write_bytes(b"damaged")
    with open_slide(address) as there:
        assert there.shape_px == IMAGE.shape[:2]
    assert not list((own_home / "copies").rglob("*.open"))


def test_one_command_deletes_all_but_those_in_use(ndpi, own_home):
    from napari_mil.cli import app

    _, address = ndpi
    with open_slide(address) as slide:
        done = CliRunner().invoke(app, ["doctor", "--clean"])
        assert "0 MB of copies from servers deleted; they are made again when they are needed. 0 MB are" in (
            done.output
        )
        slide.levels[0].read(0, 0, 300, 300)
    done = CliRunner().invoke(app, ["doctor", "--clean"])
    assert "in use" not in done.output
    assert kept(own_home) == []


def test_a_mirax_slide_without_its_folder_or_with_names_that_lead_elsewhere(server, own_home):
    path = write_mirax(server.folder / "m.mrxs", IMAGE)
    address = f"{server.address}/m.mrxs"
    words = path.with_suffix("") / "Slidedat.ini"
    good = words.read_text()
    for name in ("../../../x.dat", "..\\x.dat", "/etc/passwd"):
        words.write_text(good.replace("Data0000.dat", name))
        with pytest.raises(
            CopyError, match=r"^m\.mrxs cannot be opened: a MIRAX slide .* is no name of a fi"
        ):
            open_slide(address)
    words.write_text("[GENERAL]\nnothing")
    with pytest.raises(CopyError, match=r"its Slidedat\.ini makes no sense\)\.$"):
        open_slide(address)
    words.unlink()
    with pytest.raises(
        CopyError, match=r"needs the folder m/ beside it \(there is no file .*/m/Slidedat\.ini"
    ):
        open_slide(address)
    assert kept(own_home) == []


def test_what_others_lay_into_a_mirax_folder_makes_it_no_other_slide(tmp_path):
    path = write_mirax(tmp_path / "m.mrxs", IMAGE)
    with open_slide(path) as before:
        (path.with_suffix("") / "notes.txt").write_text("seen")
        with open_slide(path) as after:
            assert after.fingerprint == before.fingerprint


def test_a_slide_that_was_copied_has_sidecars_as_one_on_disk(server, own_home, monkeypatch):
    monkeypatch.setenv("NAPARI_MIL_SIDECAR_GB", "1")
    monkeypatch.setattr(sidecar, "_SMALLEST_PX", 10_000)
    path = write_philips(server.folder / "a.tiff", picture(4096, 4096), levels=1)
    with open_slide(f"{server.address}/a.tiff") as there, open_slide(path) as here:
        assert sidecar.wanted(there) == sidecar.wanted(here) != ()


def test_two_that_want_the_same_slide_both_have_it(ndpi, own_home):
    _, address = ndpi
    steps = copies.copying(Address(address))
    assert next(steps).done == 0
    next(steps)
    open_slide(address).close()
    assert Path(drain(steps)).is_file()
    assert len(kept(own_home)) == 1


def test_a_fluorescence_slide_is_refused_before_it_is_copied(server, bodies, monkeypatch):
    write_ndpi(server.folder / "a.ndpi", IMAGE)
    valueof = tifffile.TiffTags.valueof
    monkeypatch.setattr(
        tifffile.TiffTags,
        "valueof",
        lambda tags, code, **more: (
            "Created=2011\r\nName=DAPI 2 (387)\r\nExcitationName=x\r\n"
            if code == 65449
            else valueof(tags, code, **more)
        ),
    )
    with pytest.raises(SlideError, match=r"it is a fluorescence image \(filter DAPI 2 \(387\)\), while a br"):
        open_slide(f"{server.address}/a.ndpi")
    assert not bodies


def test_an_unreachable_server_is_said_for_a_copy_too(server, ndpi, monkeypatch):
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.01))
    server.stop()
    with pytest.raises(UnreachableError):
        drain(copies.copying(Address(ndpi[1])))
