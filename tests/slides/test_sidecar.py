"""Sidecars: made whole or not at all, of this very file, within their bound, and for drawing alone."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from slidefiles import picture, write_pyramid, write_svs

from napari_mil.errors import SlideError
from napari_mil.slides import open_slide, sidecar, sidecarmake
from napari_mil.slides.boxes import reduced

IMAGE = picture(1501, 1907)
GB = 2**30


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    monkeypatch.setenv("NAPARI_MIL_SIDECAR_GB", "1")
    monkeypatch.setattr(sidecar, "_SMALLEST_PX", 10_000)


@pytest.fixture
def path(tmp_path):
    return write_pyramid(tmp_path / "a.tif", IMAGE, levels=2, tile=(128, 128), step=4)


@pytest.fixture
def slide(path):
    with open_slide(path) as made:
        yield made


def files(own_home):
    return sorted(f.name for f in (own_home / "sidecars").rglob("*") if f.is_file())


def test_a_level_in_between_is_kept_and_drawn_from(slide, own_home):
    assert sidecar.wanted(slide) == (2,)
    assert sidecar.find(slide) is None
    sidecarmake.make(slide, 2)
    assert files(own_home) == ["2.tif"]
    assert sidecar.missing(slide) == ()
    found = sidecar.find(slide)
    exact = reduced(IMAGE, (2, 2)).astype(int)
    tile = found.tile(2, 1, 2)
    assert abs(tile - exact[128:256, 256:384]).mean() < 4
    edge = found.tile(2, 5, 7)
    assert edge.shape == slide.engine.decode(2, 5, 7).shape
    assert abs(edge.astype(int) - exact[640:, 896:]).mean() < 4
    slide.engine.draw_with(found)
    assert np.array_equal(slide.drawn_levels[1][100:300, 100:300], exact[100:300, 100:300])


def test_slow_codecs_are_copied_and_read_exactly_all_the_same(tmp_path):
    with open_slide(write_svs(tmp_path / "b.svs", IMAGE, "jp2-rgb")) as slow:
        assert sidecar.wanted(slow) == (0,)
        sidecarmake.make(slow, 0)
        found = sidecar.find(slow)
        slow.engine.draw_with(found)
        exact = slow.levels[0][256:512, 256:512].astype(int)
        assert 0 < abs(found.tile(0, 1, 1) - exact).mean() < 4
        assert np.array_equal(slow.levels[0][256:512, 256:512], exact)


def test_another_file_of_the_same_name_and_ends_gets_another_sidecar(slide, path, own_home):
    sidecarmake.make(slide, 2)
    os.utime(path, (1_000_000, 1_000_000))
    assert sidecar.find(slide) is None
    assert files(own_home) == []
    assert sidecar.missing(slide) == (2,)


def test_a_damaged_sidecar_is_made_again(slide, own_home):
    sidecarmake.make(slide, 2)
    [file] = (own_home / "sidecars").rglob("*.tif")
    file.write_bytes(file.read_bytes()[:5000])
    assert sidecar.find(slide) is None
    assert sidecar.missing(slide) == (2,)


def test_converted_colours_have_a_sidecar_of_their_own(slide, monkeypatch):
    monkeypatch.setattr(sidecar, "converted", lambda _properties: True)
    assert sidecar.folder_of(slide).name.endswith("-srgb")


def start(path, *, tile_s=0.3):
    """A child that makes the sidecar of a slide, and takes so long for each of its tiles."""
    code = f"""
import sys, time
from napari_mil.slides import sidecar, sidecarmake
sidecar._SMALLEST_PX = 10_000
plain = sidecarmake._jpeg
sidecarmake._jpeg = lambda *words: (time.sleep({tile_s}), plain(*words))[1]
sys.exit(sidecarmake.main(sys.argv[1:]))
"""
    words = [sys.executable, "-c", code, str(path)]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def begun(own_home, child):
    while not list((own_home / "sidecars").rglob("*.part")):
        assert child.poll() is None
        time.sleep(0.002)


@pytest.mark.slow
def test_killed_in_the_middle_nothing_is_there_and_the_next_begins_anew(path, own_home):
    child = start(path)
    begun(own_home, child)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    with open_slide(path) as made:
        assert sidecar.find(made) is None
        assert len(files(own_home)) == 1  # what the killed one left
        again = start(path, tile_s=0)
        told, _ = again.communicate() if again.wait() else (again.stdout.read(), again.stdin.close())
        assert [json.loads(line) for line in told.splitlines()] == [{"level": 2}]
        assert files(own_home) == ["2.tif"]
        assert len(sidecar.find(made)) == 1
    again.stdout.close()


@pytest.mark.slow
def test_it_ends_with_the_window(path, own_home):
    child = start(path)
    begun(own_home, child)
    child.stdin.close()
    assert child.wait(20) == 2
    assert files(own_home) == []
    child.stdout.close()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(slide, own_home, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _p: SimpleNamespace(free=1 * GB))
    with pytest.raises(SlideError) as caught:
        sidecarmake.make(slide, 2)
    assert "no room" in str(caught.value)
    assert files(own_home) == []


def test_a_disk_that_fills_while_writing_is_one_sentence_too(path, own_home, monkeypatch, capsys):
    def full(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sidecarmake, "_jpeg", full)
    monkeypatch.setattr(sidecarmake, "_end_with_input", lambda: None)
    monkeypatch.setattr(sidecarmake, "_yield_to_others", lambda: None)
    assert sidecarmake.main([str(path)]) == 1
    said = json.loads(capsys.readouterr().out)["error"]
    assert "No space left" in said
    assert "\n" not in said
    assert files(own_home) == []


def test_the_ones_used_longest_ago_make_room(slide, own_home, monkeypatch):
    for i, name in enumerate(("old", "new")):
        folder = own_home / "sidecars" / name
        folder.mkdir(parents=True)
        (folder / "1.tif").write_bytes(bytes(600_000))
        os.utime(folder, (i, i + 1))
    monkeypatch.setenv("NAPARI_MIL_SIDECAR_GB", str(1_000_000 / GB))
    sidecarmake.make(slide, 2)
    assert sorted(f.name for f in (own_home / "sidecars").iterdir()) == sorted(["new", slide.fingerprint])
    assert sidecar.total_bytes() < 1_000_000


@pytest.mark.parametrize("stride", [1, 2**24])
def test_one_that_does_not_fit_alone_is_given_up(slide, own_home, monkeypatch, stride):
    monkeypatch.setattr(sidecar, "STRIDE", stride)
    monkeypatch.setenv("NAPARI_MIL_SIDECAR_GB", str(20_000 / GB))
    with pytest.raises(SlideError):
        sidecarmake.make(slide, 2)
    assert files(own_home) == []


def test_none_are_made_of_small_remote_or_unwanted_ones(slide, monkeypatch):
    monkeypatch.setattr(sidecar, "_SMALLEST_PX", 10**9)
    assert sidecar.wanted(slide) == ()
    monkeypatch.setattr(sidecar, "_SMALLEST_PX", 10)
    monkeypatch.setenv("NAPARI_MIL_SIDECAR_GB", "0")
    assert sidecar.wanted(slide) == ()
    monkeypatch.setenv("NAPARI_MIL_SIDECAR_GB", "much")
    with pytest.raises(SlideError, match="much"):
        sidecar.wanted(slide)


def test_one_command_deletes_them_all(slide, own_home):
    from typer.testing import CliRunner

    from napari_mil.cli import app

    sidecarmake.make(slide, 2)
    done = CliRunner().invoke(app, ["doctor", "--clean"])
    assert done.exit_code == 0
    assert "MB of sidecars deleted" in done.output
    assert not (own_home / "sidecars").exists()
    assert sidecar.remove_all() == 0
