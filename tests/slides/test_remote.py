"""Slides on servers: the same pixels, few requests, dropped connections, servers that go and come back."""

from __future__ import annotations

import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pydicom
import pytest
import tifffile
from dicomslides import write_dicom
from PIL import Image
from slidefiles import picture, write_pyramid, write_svs, write_zarr
from slideserver import Wire, serving
from slowsource import until
from vendorslides import write_mirax, write_ndpi

from napari_mil.errors import SlideError
from napari_mil.slides import copies, credentials, faults, open_slide, remote
from napari_mil.slides.address import Address
from napari_mil.slides.cache import TileCache, shared_cache
from napari_mil.slides.remote import BLOCK, RemoteFile, UnreachableError
from napari_mil.slides.workers import WAITING_THREADS

pytestmark = pytest.mark.slow

pytest.importorskip("aiohttp")
IMAGE = picture(1500, 1100)


@pytest.fixture
def server(tmp_path):
    (tmp_path / "www").mkdir()
    with serving(tmp_path / "www") as server:
        yield server


def connections(listening):
    """How many connections were made that nobody took."""
    listening.setblocking(False)
    found = 0
    with suppress(BlockingIOError):
        while True:
            listening.accept()[0].close()
            found += 1
    return found


def written(folder, kind, name="a"):
    if kind == "svs":
        return write_svs(folder / f"{name}.svs", IMAGE, "raw")
    if kind.startswith("dicom"):
        pytest.importorskip("wsidicom")
        return write_dicom(folder / name, IMAGE, kind[6:], levels=3, label=picture(90, 70, 1))
    if kind == "tif":
        return write_pyramid(folder / f"{name}.tif", IMAGE, "zlib", levels=3)
    return write_zarr(folder / f"{name}.ome.zarr", IMAGE, kind, levels=3)


@pytest.fixture
def small_cache():
    """The cache of all slides, with room for less than one of them."""
    before = shared_cache.capacity
    shared_cache.resize(2**20)
    yield shared_cache
    shared_cache.resize(before)


KINDS = ("svs", "tif", "0.4", "0.5", "dicom-jp2-rgb", "dicom-raw")


@pytest.mark.parametrize("kind", KINDS)
def test_a_slide_on_a_server_is_the_slide_on_disk(server, kind):
    path = written(server.folder, kind)
    with open_slide(path) as here, open_slide(f"{server.address}/{path.name}") as there:
        assert there.name == here.name == "a"
        assert there.mpp == here.mpp
        assert there.fingerprint == here.fingerprint
        assert there.pixel_hash == here.pixel_hash
        assert [level.shape for level in there.levels] == [level.shape for level in here.levels]
        for one, other in zip(here.levels, there.levels, strict=True):
            assert np.array_equal(one[:], other[:])


@pytest.mark.parametrize("kind", KINDS)
def test_an_address_may_have_a_query(server, kind):
    if kind.startswith("dicom"):
        pytest.skip("its files are found by listing a folder")
    path = written(server.folder, kind)
    with open_slide(path) as here, open_slide(f"{server.address}/{path.name}?key=a/b") as there:
        assert there.fingerprint == here.fingerprint
        assert np.array_equal(there.levels[0][:], here.levels[0][:])
    asked = [one for one in server.requests if "key=" in one]
    assert len(asked) == len(server.requests)


@pytest.mark.parametrize("kind", KINDS)
def test_connections_that_drop_are_tried_again(server, kind):
    path = written(server.folder, kind)
    with open_slide(f"{server.address}/{path.name}") as slide:
        slide.engine.cache.drop(slide.engine.token)
        slide.engine.source.close()  # forgets the blocks
        server.drop = 2
        assert np.array_equal(slide.levels[0].read(0, 0, 256, 256), IMAGE[:256, :256])
        assert server.drop < 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_that_goes_is_said_and_one_that_is_back_is_read(server, kind, monkeypatch):
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.01))
    path = written(server.folder, kind)
    with open_slide(f"{server.address}/{path.name}") as slide:
        slide.engine.cache.drop(slide.engine.token)
        slide.engine.source.close()  # forgets the blocks
        server.stop()
        with pytest.raises(
            SlideError, match=rf"^{path.name}: {server.address} does not answer \(.*; check the net"
        ):
            slide.levels[0].read(700, 700, 800, 800)
        server.start()
        assert np.array_equal(slide.levels[0].read(700, 700, 800, 800), IMAGE[700:800, 700:800])


def test_a_server_that_is_away_is_not_asked_for_every_tile_and_soon_again_however_long(server, monkeypatch):
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(faults, "RETRY_S", 0.2)
    monkeypatch.setattr(faults, "LONGEST_ABSENCE_S", 0.4)
    path = written(server.folder, "0.5")
    with open_slide(f"{server.address}/{path.name}") as slide:
        engine, got = slide.engine, []
        tiles = [(0, row, col) for row in range(6) for col in range(5)]

        def wanted():
            got.clear()
            engine.want("view", tiles, lambda where, found: got.append((where, found)))
            until(lambda: len(got) == len(tiles))
            return [found for _, found in got]

        engine.cache.drop(engine.token)
        server.stop()
        errors = wanted()
        first = engine.fault(0, 0, 0)
        assert isinstance(first, UnreachableError)
        assert sum(error is first for error in errors) >= len(tiles) - WAITING_THREADS  # not asked for
        for _ in range(4):
            until(lambda: engine.fault(0, 0, 0) is None)
            wanted()
            assert engine.fault(0, 5, 4) is first
            assert engine.pause_s(tiles) <= 0.4
        server.start()
        until(lambda: engine.fault(0, 0, 0) is None)
        assert all(isinstance(found, np.ndarray) for found in wanted())
        assert engine.pause_s(tiles) is None


@pytest.mark.parametrize("kind", ["svs", "0.5", "dicom-raw"])
def test_opening_from_a_server_that_is_gone(server, kind, monkeypatch):
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.01))
    path = written(server.folder, kind)
    server.stop()
    with pytest.raises(SlideError, match=rf"^{path.name} cannot be opened: {server.address} does not answer"):
        open_slide(f"{server.address}/{path.name}")


@pytest.mark.parametrize("kind", ["svs", "0.5", "dicom-raw"])
def test_a_server_that_takes_connections_and_stays_silent_is_asked_twice(server, kind, monkeypatch):
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.01))
    monkeypatch.setattr(remote, "READ_S", 0.4)
    monkeypatch.setattr(remote, "PATIENCE_S", 0.7)
    path = written(server.folder, kind)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(
            SlideError, match=rf"^{path.name} cannot be opened: {address} does not answer \(.+\); check"
        ):
            open_slide(f"{address}/{path.name}")
        if kind == "svs":  # of a Zarr several files are asked for at once
            assert connections(silent) <= 2
    with open_slide(f"{server.address}/{path.name}") as slide:
        slide.engine.cache.drop(slide.engine.token)
        slide.engine.source.close()  # forgets the blocks
        server.latency = 2.0
        with pytest.raises(
            SlideError, match=rf"^{path.name}: {server.address} does not answer \(.+\); check"
        ):
            slide.levels[0].read(700, 700, 800, 800)
        server.latency = 0.0
        assert np.array_equal(slide.levels[0].read(700, 700, 800, 800), IMAGE[700:800, 700:800])


def test_no_sentence_shows_a_password_or_a_key(server, monkeypatch):
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.01))
    path = written(server.folder, "svs")
    at = server.address.replace("://", "://ann:secret@")
    with open_slide(f"{at}/{path.name}?key=secret") as slide:
        assert np.array_equal(slide.levels[0].read(0, 0, 50, 50), IMAGE[:50, :50])
    said = []
    for address, refusal in ((f"{at}/none.svs?key=secret", 0), (f"{at}/{path.name}?key=secret", 503)):
        server.refusal = refusal
        with pytest.raises(SlideError) as error:
            open_slide(address)
        said.append(str(error.value))
    assert f"there is no file {server.address}/none.svs; check" in said[0]
    assert f"{server.address} does not answer (503 " in said[1]
    assert not any("secret" in one for one in said)


def test_no_server_is_waited_for_longer_than_half_a_minute():
    tries = 1 + sum(remote.READ_S * i <= remote.PATIENCE_S for i in range(1, 1 + len(remote.PAUSES_S)))
    assert tries * remote.READ_S + sum(remote.PAUSES_S) < 30


def test_there_is_no_such_file(server):
    with pytest.raises(
        SlideError,
        match=rf"^b\.svs cannot be opened: there is no file {server.address}/b\.svs; check the address\.$",
    ):
        open_slide(f"{server.address}/b.svs")


def test_what_is_not_read_from_a_server_is_to_be_copied(server):
    (server.folder / "a.vms").write_text("[Virtual Microscope Specimen]")
    with pytest.raises(
        SlideError, match=r"DICOM, NDPI, MRXS, .* are read; copy other slides to this machine\.$"
    ):
        open_slide(f"{server.address}/a.vms")


def test_a_server_without_parts_is_refused_before_everything_comes(server):
    server.parts = False
    written(server.folder, "svs")
    with pytest.raises(
        SlideError, match="does not send parts of files, by which a slide is read; copy the slide"
    ):
        open_slide(f"{server.address}/a.svs")


def test_a_file_that_was_replaced_is_said(server):
    path = written(server.folder, "svs")
    with open_slide(f"{server.address}/a.svs") as slide:
        write_svs(path, picture(1500, 1100, 3), "raw")
        slide.engine.cache.drop(slide.engine.token)
        slide.engine.source.close()
        with pytest.raises(SlideError, match=r"a\.svs was replaced by another file; open the slide again\."):
            slide.levels[0].read(0, 0, 9, 9)


@pytest.mark.parametrize("kind", ["weak", "dated"])
def test_marks_that_are_weak_and_dates_tell_as_well(server, kind):
    setattr(server, kind, True)
    path = written(server.folder, "svs")
    with open_slide(f"{server.address}/a.svs") as slide:
        assert np.array_equal(slide.levels[0][:], IMAGE)
        write_svs(path, picture(1500, 1100, 3), "raw")
        os.utime(path, (1e9, 1e9))
        slide.engine.cache.drop(slide.engine.token)
        slide.engine.source.close()
        with pytest.raises(SlideError, match=r"a\.svs was replaced by another file; open the slide again\."):
            slide.levels[0].read(0, 0, 9, 9)


@pytest.mark.parametrize("kind", ["0.4", "0.5"])
def test_what_is_not_there_may_be_said_to_be_forbidden(server, kind):
    path = written(server.folder, kind)
    chunk = path / {"0.4": "0/0/5/0", "0.5": "0/c/0/5/0"}[kind]
    chunk.unlink()
    server.absent = 403
    with open_slide(path) as here, open_slide(f"{server.address}/{path.name}") as there:
        assert there.fingerprint == here.fingerprint
        assert np.array_equal(there.levels[0][:], here.levels[0][:])
        assert (there.levels[0][1280:1500, :256] == 255).all()
        there.engine.cache.drop(there.engine.token)
        server.refusal = 403  # all of it, as when a key has run out
        with pytest.raises(
            SlideError, match=r"127.* does not let you read a\.ome\.zarr; check your access\."
        ):
            there.levels[0].read(1280, 0, 1300, 20)
    with pytest.raises(SlideError, match=r"does not let you read a\.ome\.zarr; check your access"):
        open_slide(f"{server.address}/{path.name}")


def test_an_empty_file_is_said_to_be_empty(server):
    (server.folder / "a.svs").touch()
    with pytest.raises(SlideError, match=r"^a\.svs cannot be used as a slide: it is empty \(0 bytes\); copy"):
        open_slide(f"{server.address}/a.svs")


def test_neighbouring_blocks_are_one_request_and_are_kept(server):
    data = np.random.default_rng(0).bytes(5 * BLOCK + 100)
    (server.folder / "a").write_bytes(data)
    cache = TileCache(4 * BLOCK)
    file = RemoteFile(Address(f"{server.address}/a"), cache=cache)
    assert file.read(100, 3 * BLOCK) == data[100 : 100 + 3 * BLOCK]
    assert file.requests == 1
    assert file.read(4 * BLOCK - 5, 10) == data[4 * BLOCK - 5 : 4 * BLOCK + 5]
    assert file.requests == 2  # block 3 was here
    assert file.read(5 * BLOCK + 90, 99) == data[-10:]
    assert file.read(len(data), 5) == b""
    assert 3 * BLOCK < cache.used <= 4 * BLOCK
    file.close()
    assert cache.used == 0


def test_a_file_that_is_read_through_leaves_the_tiles_of_others_alone(server, monkeypatch):
    monkeypatch.setattr(remote, "FILE_BYTES", 3 * BLOCK)
    (server.folder / "a").write_bytes(np.random.default_rng(0).bytes(9 * BLOCK))
    cache = TileCache(6 * BLOCK)
    cache.put((-7, 0, 0, 0), np.zeros(2 * BLOCK, np.uint8))
    file = RemoteFile(Address(f"{server.address}/a"), cache=cache)
    for at in range(9):
        assert len(file.read(at * BLOCK, BLOCK)) == BLOCK
    assert cache.get((-7, 0, 0, 0)) is not None
    assert cache.used == 5 * BLOCK
    before = file.requests
    file.read(6 * BLOCK, 3 * BLOCK)
    assert file.requests == before
    del file
    assert cache.used == 2 * BLOCK


def test_threads_that_want_the_same_block_wait_for_one_request(server):
    (server.folder / "a").write_bytes(bytes(range(256)) * 4096)
    file = RemoteFile(Address(f"{server.address}/a"))
    server.latency = 0.2
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: file.read(10, 5000), range(8)))) == 1
    assert file.requests == 1


def test_eighty_milliseconds_are_waited_for_together(server):
    path = written(server.folder, "tif")
    with open_slide(f"{server.address}/{path.name}") as slide:
        server.latency, before = 0.08, len(server.requests)
        started = time.perf_counter()
        assert np.array_equal(slide.levels[0].read(0, 0, 1000, 1000), IMAGE[:1000, :1000])
        took, asked = time.perf_counter() - started, len(server.requests) - before
    assert asked < 16  # tiles
    assert took < 16 * 0.08
    assert not [t for t in threading.enumerate() if t.name.startswith(f"slide-{slide.engine.token}-")]


def test_slides_on_servers_keep_to_the_bound_of_all_tiles(server, small_cache):
    path = written(server.folder, "svs")
    with open_slide(f"{server.address}/{path.name}") as slide:
        for _ in range(2):
            assert np.array_equal(slide.levels[0][:], IMAGE)
            assert 0 < small_cache.used <= small_cache.capacity < path.stat().st_size


@pytest.fixture(scope="module")
def s3():
    """A client of an S3 server with the bucket "slides", and the wire to it; s3fs keeps to the first one."""
    server_module = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    server = server_module.ThreadedMotoServer(port=0)
    server.start()
    wire = Wire(server.get_host_and_port()[1])
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**keys, "AWS_ENDPOINT_URL": wire.address}.items():
            patch.setenv(name, value)
        store = boto3.client("s3")
        store.create_bucket(Bucket="slides")
        yield store, wire
    wire.cut()
    server.stop()


def upload(store, path):
    """The address of a slide in S3 that has been copied there."""
    home = path.parent
    for file in [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]:
        store.upload_file(str(file), "slides", f"{home.name}/{file.relative_to(home).as_posix()}")
    return f"s3://slides/{home.name}/{path.name}"


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")
def test_an_s3_server(s3, tmp_path):
    store, _ = s3
    for path in (written(tmp_path, kind, kind[:1]) for kind in ("svs", "0.5", "dicom-jp2-rgb")):
        with open_slide(path) as here, open_slide(upload(store, path)) as there:
            assert there.fingerprint == here.fingerprint
            assert np.array_equal(there.levels[0][:], IMAGE)
    address = f"s3://slides/{tmp_path.name}"
    with pytest.raises(SlideError, match=f"there is no file {address}/none"):
        open_slide(f"{address}/none.svs")
    with open_slide(f"{address}/s.svs") as there:
        other = write_svs(tmp_path / "b.svs", picture(1500, 1100, 3), "raw")
        upload(store, other.rename(tmp_path / "s.svs"))
        there.engine.cache.drop(there.engine.token)
        there.engine.source.close()
        with pytest.raises(SlideError, match=r"s\.svs was replaced by another file; open the slide again"):
            there.levels[0].read(0, 0, 9, 9)


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")
def test_slides_in_s3_that_openslide_alone_reads_are_copied_once(s3, tmp_path):
    store, wire = s3
    image = picture(1024, 1360)
    ndpi, mirax = write_ndpi(tmp_path / "n 1.ndpi", image), write_mirax(tmp_path / "m 1.mrxs", image)
    addresses = [upload(store, path) for path in (ndpi, mirax, mirax.with_suffix(""))]
    for path, address in zip((ndpi, mirax), addresses, strict=False):
        wire.drop = 1
        with open_slide(path) as here, open_slide(address) as there:
            assert there.fingerprint == here.fingerprint
            assert np.array_equal(there.levels[0][:], here.levels[0][:])
        assert wire.drop < 0
    with copies.unasked():
        open_slide(addresses[1]).close()
        upload(store, write_ndpi(ndpi, picture(1024, 1360, 3)))
        with pytest.raises(copies.LaterError):
            open_slide(addresses[0])
    with open_slide(ndpi) as here, open_slide(addresses[0]) as there:
        assert there.fingerprint == here.fingerprint


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")
def test_a_bucket_that_is_open_to_all_is_read_without_credentials(s3, tmp_path, monkeypatch):
    store, _ = s3
    path = write_svs(tmp_path / "open.svs", IMAGE, "raw")
    address = upload(store, path)
    store.put_object_acl(Bucket="slides", Key=f"{path.parent.name}/{path.name}", ACL="public-read")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    credentials._nobody.cache_clear()
    with open_slide(address) as slide:
        assert np.array_equal(slide.levels[0][:], IMAGE)
    credentials._nobody.cache_clear()


def test_credentials_that_lack_something_are_said():
    exceptions = pytest.importorskip("botocore.exceptions")
    error = exceptions.PartialCredentialsError(provider="env", cred_var="AWS_SECRET_ACCESS_KEY")

    def act():
        raise error

    with pytest.raises(
        SlideError, match=r"^s3://slides has to know who you are \(Partial cred.*\); log in, such"
    ):
        remote.trying(act, Address("s3://slides/a.svs"))


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")
@pytest.mark.parametrize("kind", ["svs", "0.5", "dicom-raw"])
def test_connections_to_s3_that_drop_are_tried_again(s3, tmp_path, kind):
    store, wire = s3
    with open_slide(upload(store, written(tmp_path, kind))) as slide:
        slide.engine.cache.drop(slide.engine.token)
        slide.engine.source.close()
        wire.drop = 2
        assert np.array_equal(slide.levels[0].read(0, 0, 256, 256), IMAGE[:256, :256])
        assert wire.drop < 0


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")
@pytest.mark.parametrize("kind", ["svs", "0.5", "dicom-raw"])
@pytest.mark.parametrize("refused", [False, True], ids=["drops", "refuses"])
def test_an_s3_server_that_goes_is_said_and_one_that_is_back_is_read(
    s3, tmp_path, kind, refused, monkeypatch
):
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.01))
    store, wire = s3
    path = written(tmp_path, kind)
    with open_slide(upload(store, path)) as slide:
        slide.engine.cache.drop(slide.engine.token)
        slide.engine.source.close()
        if refused:
            wire.cut()
        else:
            wire.drop = 10_000
        started = time.perf_counter()
        try:
            with pytest.raises(
                UnreachableError, match=rf"^{path.name}: s3://slides does not answer \(.*; check the net"
            ):
                slide.levels[0].read(700, 700, 800, 800)
            took = time.perf_counter() - started
        finally:
            wire.drop = 0
            if refused:
                wire.mend()
        assert took < 15 or not refused  # botocore by itself would go on for half a minute
        assert np.array_equal(slide.levels[0].read(700, 700, 800, 800), IMAGE[700:800, 700:800])


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")
def test_the_time_that_s3_takes_is_waited_for_together(s3, tmp_path):
    store, wire = s3
    with open_slide(upload(store, written(tmp_path, "tif"))) as slide:
        slide.engine.cache.drop(slide.engine.token)
        slide.engine.source.close()
        wire.latency = 0.2
        started = time.perf_counter()
        try:
            assert np.array_equal(slide.levels[0].read(0, 0, 1000, 1000), IMAGE[:1000, :1000])
        finally:
            took, wire.latency = time.perf_counter() - started, 0.0
    assert 0.2 < took < 16 * 0.2  # tiles


def photographs(folder):
    """A folder of photographs, with names that an address has to quote, and other files."""
    folder.mkdir()
    for i, name in enumerate(("p 10.png", "p 2.png", "näher.png")):
        Image.fromarray(picture(700 + 9 * i, 900, i)).save(folder / name)
    tifffile.imwrite(folder / "q.tif", picture(300, 400, 7), photometric="rgb")
    (folder / "notes.txt").write_text("no photograph")
    (folder / ".hidden.png").write_text("nothing")
    (folder / "deeper").mkdir()
    return folder


def equal(here, there):
    assert there.name == here.name
    assert there.fingerprint == here.fingerprint
    assert there.pixel_hash == here.pixel_hash
    assert there.montage == here.montage
    assert [level.shape for level in there.levels] == [level.shape for level in here.levels]
    assert np.array_equal(there.levels[0][:], here.levels[0][:])


def test_photographs_on_a_server_are_those_on_disk(server):
    folder = photographs(server.folder / "patient 1")
    with open_slide(folder) as here, open_slide(f"{server.address}/patient%201") as there:
        assert len(there.montage.photographs) == 4
        equal(here, there)
    with (
        open_slide(folder / "p 2.png") as here,
        open_slide(f"{server.address}/patient%201/p%202.png") as there,
    ):
        equal(here, there)


@pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow")
def test_photographs_in_s3_are_those_on_disk(s3, tmp_path):
    store, _ = s3
    folder = photographs(tmp_path / "patient.1")
    address = upload(store, folder)
    with open_slide(folder) as here, open_slide(f"{address}/") as there:
        equal(here, there)
    with open_slide(folder / "p 2.png") as here, open_slide(f"{address}/p 2.png") as there:
        equal(here, there)


def test_photographs_are_read_again_when_their_server_is_back_and_not_when_they_were_replaced(
    server, monkeypatch
):
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.01))
    folder = photographs(server.folder / "p1")
    with open_slide(f"{server.address}/p1/") as slide:
        y, x, bottom, right = slide.montage.photographs[1].box_px
        expected = slide.levels[0].read(y, x, bottom, right)
        slide.engine.source.close()  # forgets the blocks
        slide.engine.cache.drop(slide.engine.token)
        server.stop()
        with pytest.raises(UnreachableError, match=rf"^p1: {server.address} does not answer"):
            slide.levels[0].read(y, x, bottom, right)
        server.start()
        server.drop = 2
        assert np.array_equal(slide.levels[0].read(y, x, bottom, right), expected)
        slide.engine.source.close()  # forgets the blocks
        slide.engine.cache.drop(slide.engine.token)
        Image.fromarray(picture(709, 900, 8)).save(folder / "p 2.png")
        with pytest.raises(
            SlideError, match=r"p%202\.png was replaced by another file; open the slide again"
        ):
            slide.levels[0].read(y, x, bottom, right)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        (
            "none.png",
            r"^none\.png cannot be opened: there is no file http://.*/none\.png; check the address\.$",
        ),
        ("p1/notes.txt", "photographs: not a photograph"),
        ("p1/deeper/", "photographs: a folder without photographs"),
        ("p1", "^p1 cannot be opened: there is no file"),
    ],
)
def test_what_is_no_photograph_on_a_server_is_said(server, where, says):
    photographs(server.folder / "p1")
    server.lists = where != "p1"
    with pytest.raises(SlideError, match=says) as caught:
        open_slide(f"{server.address}/{where}")
    if "there is no file" not in says:
        assert str(caught.value).endswith("copy other slides to this machine.")


def test_the_photographs_of_a_folder_are_looked_at_together(server):
    folder = server.folder / "many"
    folder.mkdir()
    for i in range(24):
        Image.fromarray(picture(90, 120, i)).save(folder / f"{i}.png")
    server.latency = 0.08
    started = time.perf_counter()
    with open_slide(f"{server.address}/many") as slide:
        server.latency = 0.0
        assert len(slide.montage.photographs) == 24
    assert time.perf_counter() - started < 24 * 2 * 0.08


def test_frames_of_dicom_slides_are_fetched_side_by_side(server, monkeypatch):
    path = written(server.folder, "dicom-raw")
    with open_slide(f"{server.address}/{path.name}/") as slide:
        slide.engine.cache.drop(slide.engine.token)
        slide.engine.source.close()  # forgets the blocks
        inside, most, part = [], [0], RemoteFile._part

        def watched(file, start, stop):
            inside.append(start)
            most[0] = max(most[0], len(inside))
            try:
                return part(file, start, stop)
            finally:
                inside.remove(start)

        monkeypatch.setattr(RemoteFile, "_part", watched)
        server.latency = 0.08
        assert np.array_equal(slide.levels[0].read(0, 0, 1500, 1100), IMAGE)
    assert most[0] >= 2  # two processors decode, and as many wait at least


def test_a_dicom_file_on_a_server_opens_its_slide_with_its_label(server):
    path = written(server.folder, "dicom-jp2-rgb")
    write_dicom(path, IMAGE[:300, :300], "raw", name="other")
    with open_slide(path / "level-1.dcm") as here, open_slide(f"{server.address}/a/level-1.dcm") as there:
        assert there.shape_px == IMAGE.shape[:2]
        assert there.fingerprint == here.fingerprint
        assert np.array_equal(there.associated["label"], here.associated["label"])
    with pytest.raises(SlideError, match=r"holds 2 DICOM slides; open a file .* level-0\.dcm, other-0\.dcm"):
        open_slide(f"{server.address}/a/")
    server.lists = False
    with pytest.raises(
        SlideError, match=r"the other files of the slide cannot be looked for \(.*\); they are found where a"
    ):
        open_slide(f"{server.address}/a/level-1.dcm")


def test_a_dicom_file_without_a_table_of_its_frames(server, monkeypatch):
    path = written(server.folder, "dicom-jp2-rgb")
    for file in path.glob("*.dcm"):
        made = pydicom.dcmread(file)
        frames = list(pydicom.encaps.generate_frames(made.PixelData, number_of_frames=made.NumberOfFrames))
        made.PixelData = pydicom.encaps.encapsulate(frames, has_bot=False)
        made.save_as(file)
    with open_slide(f"{server.address}/a/") as slide:
        assert np.array_equal(slide.levels[0][:], IMAGE)
    pytest.importorskip("napari_mil.slides.dicomserved")
    monkeypatch.setattr("napari_mil.slides.dicomserved.FILE_BYTES", 1000)
    with pytest.raises(
        SlideError, match=r"has no table of its frames, so that all of its \d+\.[1-9] MB .* copy the slide"
    ):
        open_slide(f"{server.address}/a/")


def test_a_server_that_goes_while_a_dicom_slide_is_opened_is_said(server, monkeypatch):
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.01))
    path = written(server.folder, "dicom-raw")
    served = pytest.importorskip("napari_mil.slides.dicomserved")
    read = served.WsiDicomReader

    def gone(stream):
        for place in places:
            place._file.close()  # forgets the blocks
        server.stop()
        return read(stream)

    places, made = [], served._Places.__init__

    def remembered(self, file):
        places.append(self)
        made(self, file)

    monkeypatch.setattr(served._Places, "__init__", remembered)
    monkeypatch.setattr("wsidicom.file.wsidicom_file_source.WsiDicomReader", gone)
    with pytest.raises(SlideError, match=rf"^{path.name} cannot be opened: {server.address} does not answer"):
        open_slide(f"{server.address}/a/")
