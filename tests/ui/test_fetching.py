"""Slides that have to be copied from their servers: in the job lane, then taken and opened."""

from __future__ import annotations

import os

import pytest
from slidefiles import picture
from slideserver import serving
from vendorslides import write_ndpi

from napari_mil.slides import copies
from napari_mil.slides.copies import COPIES
from napari_mil.ui import acts

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "BLOCK", 2**15)
    (tmp_path / "www").mkdir()
    for i in range(2):
        write_ndpi(tmp_path / "www" / f"n{i}.ndpi", picture(1024, 1360, i))
    with serving(tmp_path / "www") as made:
        yield made


def test_slides_are_copied_as_jobs_and_then_taken(quick_bench, server, monkeypatch):
    jobs = []
    quick_bench.desk.jobs.began.connect(lambda job: jobs.append(job.title))
    quick_bench.slides.add([f"{server.address}/n{i}.ndpi" for i in range(2)])
    assert quick_bench.wait(60)
    assert jobs == ["Copying n0.ndpi", "Copying n1.ndpi"]
    records = quick_bench.desk.state.project.slides
    assert [record.name for record in records] == ["s0", "s1", "n0", "n1"]
    assert quick_bench.desk.state.record.name in {"n0", "n1"}

    # its copy is gone: asked for again, it comes again
    acts.open_slide(quick_bench.desk, records[0])
    assert quick_bench.wait(60)
    quick_bench.desk.state.project.pool.close()
    COPIES.remove_all()
    jobs.clear()
    acts.open_slide(quick_bench.desk, records[2])
    assert quick_bench.wait(60)
    assert jobs == ["Copying n0.ndpi"]
    assert quick_bench.desk.state.record.name == "n0"

    # somebody who went to another slide meanwhile stays there
    acts.open_slide(quick_bench.desk, records[0])
    assert quick_bench.wait(60)
    quick_bench.desk.state.project.pool.close()
    COPIES.remove_all()
    acts.open_slide(quick_bench.desk, records[3])
    quick_bench.desk.jobs.began.connect(lambda _job: acts.open_slide(quick_bench.desk, records[1]))
    server.latency = 0.2
    assert quick_bench.wait(60)
    assert quick_bench.desk.state.record.name == "s1"


def test_a_copy_that_is_cancelled_leaves_the_project_as_it_was(quick_bench, server, own_home, qtbot):
    server.latency = 0.1
    quick_bench.slides.add([f"{server.address}/n0.ndpi"])
    qtbot.waitUntil(lambda: quick_bench.desk.jobs.busy, timeout=20_000)
    quick_bench.jobs.cancel.click()
    assert quick_bench.wait(60)
    assert [record.name for record in quick_bench.desk.state.project.slides] == ["s0", "s1"]
    assert not list(own_home.glob("copies/*"))


def test_a_server_that_is_gone_is_told_once(quick_bench, server, monkeypatch):
    monkeypatch.setattr("napari_mil.slides.remote.PAUSES_S", (0.01, 0.01))
    quick_bench.desk.jobs.began.connect(lambda _job: server.stop())
    quick_bench.slides.add([f"{server.address}/n0.ndpi"])
    assert quick_bench.wait(60)
    assert sum("does not answer" in told for told in quick_bench.told) == 1
