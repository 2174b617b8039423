"""Everything that the window exports: what its command line writes, where it can be written, and why not."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import shlex
import shutil
import sys
import threading

import pytest
from anotheruser import as_one_who_may_not
from qtpy.QtWidgets import QApplication, QFileDialog
from quickstudy import QUICK, study

from napari_mil import encoders, methods
from napari_mil.card import ModelCard
from napari_mil.cli import main
from napari_mil.correction import Cells
from napari_mil.interop import geojson
from napari_mil.samples import SAMPLE_TREE
from napari_mil.steps import drain
from napari_mil.ui.exporting import KINDS
from napari_mil.workflow import analyse_steps, answering, train_model_steps
from napari_mil.workflow.models import weight_bytes

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)

MAPS, MAPS_TABLE, ANSWERS, TILES = 3, 4, 5, 6


def untrained(project, name, **config):
    """Keep an MHIM model that learned nothing."""
    machine = encoders.create("builtin")
    model = methods.create("mhim", {"hidden": 32, **config}, in_features=machine.width, tree=SAMPLE_TREE)
    about = {"encoder": machine.id, "in_features": machine.width, "tile_px": 256, "mpp": 0.5}
    config = dataclasses.asdict(model.config)
    project.store.save_model(
        ModelCard(id=name, name=name, method="mhim", config=config, tree=SAMPLE_TREE, **about),
        weight_bytes(model),
    )


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Three slides with features, of which m has answered for the first; labelled tiles; two MHIM models."""
    with study(tmp_path_factory.mktemp("exporting"), 3) as project:
        drain(train_model_steps(project, "mean", recipe=QUICK, name="m"))
        untrained(project, "hides")
        untrained(project, "no teacher", pure=True)
        first = project.slides[0]
        drain(analyse_steps(project, first, model="m"))
        grid = project.bag(first).grid
        project.correct(first.id, Cells(grid.cells[:2], grid.pitch_px), "Atypical/ADH")
        return project.path


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "study")


@pytest.fixture
def bench(docked, folder):
    made = docked(folder, by="ann")
    made.told, made.heard = [], []
    made.desk.tell = lambda what: made.told.append(str(what))
    made.desk.said.connect(made.heard.append)
    use(made, "m")
    return made


def use(bench, name):
    bench.model.choose(name)
    assert bench.wait(60)


def written(bench, kind, path):
    """Export to a path and wait; what the section says then."""
    bench.export.what.setCurrentIndex(kind)
    bench.export.write(path)
    assert bench.wait(120)
    return bench.export.done.text()


def rows(path):
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def run_copied(monkeypatch):
    monkeypatch.setattr(sys, "argv", shlex.split(QApplication.clipboard().text()))
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_what_the_window_writes_its_command_line_writes_too(bench, tmp_path, monkeypatch, capsys, kind):
    path = tmp_path / f"mine{KINDS[kind].suffixes[0]}"
    said = written(bench, kind, path)
    assert bench.told == []
    assert said.startswith(f"Written: {path} ({path.stat().st_size:,} bytes).")
    assert bench.heard[-1] == said  # the section is folded away
    bench.export.copy.click()
    (tmp_path / "line").mkdir()
    monkeypatch.chdir(tmp_path / "line")
    run_copied(monkeypatch)
    [other] = (tmp_path / "line").iterdir()
    assert other.name == KINDS[kind].name(bench.desk.state)
    assert other.read_bytes() == path.read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_maps_hold_every_map_of_the_answer_in_front(bench, tmp_path):
    answer = bench.desk.state.answer
    written(bench, MAPS, tmp_path / "maps.geojson.gz")
    written(bench, MAPS, tmp_path / "maps.geojson")
    tiles = json.loads((tmp_path / "maps.geojson").read_text())["features"]
    assert [list(t["properties"]["measurements"]) for t in tiles] == [[m.name for m in answer.maps]] * 12
    assert {t["properties"]["objectType"] for t in tiles} == {"tile"}
    attention = [t["properties"]["measurements"]["attention"] for t in tiles]
    assert attention == pytest.approx(answer.map("attention").values.tolist())
    assert (tmp_path / "maps.geojson.gz").read_bytes()[:2] == b"\x1f\x8b"
    written(bench, MAPS_TABLE, tmp_path / "maps.csv")
    assert [row["label"] for row in rows(tmp_path / "maps.csv")] == ["Atypical/ADH"] * 2 + [""] * 10


def test_a_slide_that_was_not_answered_yet_has_no_maps_and_says_so(bench, tmp_path):
    bench.slides.open("s1")
    assert bench.wait(60)
    for kind in (MAPS, MAPS_TABLE):
        bench.export.what.setCurrentIndex(kind)
        said = "m has not answered for this slide yet; run it first (2 Model)."
        assert bench.export.preview.text() == said
        assert bench.export.export_button.toolTip() == said
        assert not bench.export.export_button.isEnabled()
        assert bench.export.choose_target() is None
        assert bench.export.write(tmp_path / "x") is None
        bench.export.copy.click()
        assert bench.told == [said] * 3
        bench.told.clear()
    assert written(bench, TILES, tmp_path / "tiles.csv").startswith("Written: ")
    bench.model.run(region=False)
    assert bench.wait(60)
    assert written(bench, MAPS_TABLE, tmp_path / "maps.csv").startswith("Written: ")


@pytest.mark.parametrize(("change", "words"), [("scope", "of this region only"), ("partial", "on its way")])
def test_only_a_whole_answer_of_the_whole_slide_gives_maps(bench, tmp_path, change, words):
    answer = bench.desk.state.answer
    other = (
        {"answer": dataclasses.replace(answer, scope="region")} if change == "scope" else {"partial": True}
    )
    bench.export.what.setCurrentIndex(MAPS)
    bench.desk.apply(**other)
    assert words in bench.export.preview.text()
    assert bench.export.write(tmp_path / "x.geojson") is None
    assert words in bench.told[-1]


def test_answers_are_asked_for_where_they_are_missing_and_shown(bench, tmp_path):
    bench.slides.open("s1")
    assert bench.wait(60)
    assert bench.desk.state.answer is None
    written(bench, ANSWERS, tmp_path / "answers.csv")
    found = rows(tmp_path / "answers.csv")
    assert [row["slide"] for row in found] == ["s0", "s1", "s2"]
    assert all(row["label"] and not row["error"] for row in found)
    assert bench.desk.state.answer.slide_id == bench.desk.state.record.id
    assert "not analysed" not in bench.slides.list.text()
    assert bench.export.done.text().startswith("Written: ")


def test_a_slide_that_fails_has_its_row_and_is_told(bench, folder, tmp_path):
    record = bench.desk.state.project.slides[2]
    shutil.rmtree(folder / "bags" / record.id)
    bench.desk.state.project.ledger.add_slide(dataclasses.replace(record, path=str(tmp_path / "gone.tif")))
    said = written(bench, ANSWERS, tmp_path / "answers.csv")
    assert said.endswith("1 slide could not be asked: the column error says why.")
    assert [bool(row["error"]) for row in rows(tmp_path / "answers.csv")] == [False, False, True]


def test_tiles_tell_what_the_teacher_hides_where_there_is_one(bench, tmp_path):
    bench.export.what.setCurrentIndex(TILES)
    assert "teacher" not in bench.export.preview.text()
    said = written(bench, TILES, tmp_path / "m.csv")
    assert said.endswith(" columns.")
    use(bench, "no teacher")
    said = written(bench, TILES, tmp_path / "none.csv")
    assert said.endswith(" The model has no teacher: no column says what would be hidden.")
    use(bench, "hides")
    assert "what its teacher would hide" in bench.export.preview.text()
    said = written(bench, TILES, tmp_path / "hides.csv")
    columns = list(rows(tmp_path / "hides.csv")[0])
    assert said.endswith(f"{len(columns)} columns.")
    theirs = {"teacher_score", "score_rank", "flags", "role"}
    assert theirs <= set(columns)
    assert not theirs & set(rows(tmp_path / "none.csv")[0])
    assert not theirs & set(rows(tmp_path / "m.csv")[0])


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_a_folder_that_may_not_be_written_is_one_sentence(bench, tmp_path, kind):
    if kind == ANSWERS:
        written(bench, ANSWERS, tmp_path / "first.csv")  # they are kept then
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    path = locked / f"x{KINDS[kind].suffixes[0]}"
    with as_one_who_may_not(tmp_path):
        said = written(bench, kind, path)
    assert bench.told == [f"{path} cannot be written: Permission denied; nothing was written, try again."]
    assert said == ""
    assert not list(locked.iterdir())


class Gate:
    """Holds a thread at a place until it is let go on."""

    def __init__(self):
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self):
        self.reached.set()
        assert self.open.wait(60)


@pytest.fixture
def gate(bench):
    """Open at the end, whatever happens: the window is closed then."""
    made = Gate()
    yield made
    made.open.set()


def test_a_table_that_is_cancelled_keeps_its_rows_and_says_so(bench, gate, tmp_path, monkeypatch, qtbot):
    real = answering._one

    def one(project, record, card, n, *rest, **more):
        if n == 1:
            gate()
        return (yield from real(project, record, card, n, *rest, **more))

    monkeypatch.setattr(answering, "_one", one)
    bench.export.what.setCurrentIndex(ANSWERS)
    path = tmp_path / "answers.csv"
    bench.export.write(path)
    qtbot.waitUntil(gate.reached.is_set, timeout=60_000)
    bench.desk.jobs.cancel()
    gate.open.set()
    assert bench.wait(60)
    said = f"Stopped; {path} holds the slides that were done. Export again to go on."
    assert bench.export.done.text() == said
    assert [row["slide"] for row in rows(path)] == ["s0"]
    assert bench.told == []


def test_maps_that_are_cancelled_leave_the_file_that_was_there(bench, gate, tmp_path, monkeypatch, qtbot):
    real = geojson._tiles

    def tiles(*about):
        for n, line in enumerate(real(*about)):
            if n == 3:
                gate()
            yield line

    monkeypatch.setattr(geojson, "_tiles", tiles)
    monkeypatch.setattr(geojson, "AT_ONCE", 2)
    path = tmp_path / "maps.geojson"
    path.write_text("before")
    bench.export.what.setCurrentIndex(MAPS)
    bench.export.write(path)
    qtbot.waitUntil(gate.reached.is_set, timeout=60_000)
    qtbot.waitUntil(lambda: bench.files.title.text() == "maps.geojson: writing", timeout=60_000)
    assert not bench.files.isHidden()
    bench.files.cancel.click()  # below, where it is seen whatever is folded away
    gate.open.set()
    assert bench.wait(60)
    assert bench.export.done.text() == f"Stopped; {path} was not written."
    assert bench.files.isHidden()
    assert path.read_text() == "before"
    assert not list(tmp_path.glob(".maps*"))


def test_maps_do_not_wait_for_a_model_and_a_table_of_answers_does(bench, gate, tmp_path, monkeypatch, qtbot):
    real = answering._one

    def one(*about, **more):
        gate()
        return (yield from real(*about, **more))

    monkeypatch.setattr(answering, "_one", one)
    bench.model.all.run()
    qtbot.waitUntil(gate.reached.is_set, timeout=60_000)
    bench.export.what.setCurrentIndex(MAPS)
    with qtbot.waitSignal(bench.export.write(tmp_path / "maps.geojson").finished, timeout=60_000):
        pass
    assert bench.desk.jobs.busy
    bench.export.what.setCurrentIndex(ANSWERS)
    bench.export.write(tmp_path / "answers.csv")
    assert bench.export.done.text() == "Written when the work that runs now is over."
    bench.export.write(tmp_path / "never.csv").cancel()
    gate.open.set()
    assert bench.wait(60)
    assert bench.export.done.text() == f"Stopped; {tmp_path / 'never.csv'} was not written."
    assert not (tmp_path / "never.csv").exists()
    assert len(rows(tmp_path / "answers.csv")) == 3


def test_another_project_ends_what_is_written_of_the_one_before(bench, gate, tmp_path, monkeypatch, qtbot):
    real = answering._one

    def one(*about, **more):
        gate()
        return (yield from real(*about, **more))

    monkeypatch.setattr(answering, "_one", one)
    bench.export.what.setCurrentIndex(ANSWERS)
    job = bench.export.write(tmp_path / "answers.csv")
    qtbot.waitUntil(gate.reached.is_set, timeout=60_000)
    with study(tmp_path / "other", 1) as other:
        pass
    opened = []
    bench.open_project(other.path, by="ann", then=lambda: opened.append(True))
    bench.desk.changed.connect(lambda before, after: before.project is after.project or gate.open.set())
    assert bench.wait(120)
    assert opened
    assert job.result is None
    assert bench.export.done.text() == ""
    assert bench.told == []


def test_the_dialog_decides_nothing_that_was_not_seen(bench, tmp_path):
    bench.export.what.setCurrentIndex(MAPS)
    dialog = bench.export.choose_target()
    assert dialog.acceptMode() == QFileDialog.AcceptMode.AcceptSave
    assert dialog.defaultSuffix() == "geojson"
    assert dialog.nameFilters() == ["GeoJSON (*.geojson *.geojson.gz)"]
    assert [name.rsplit("/", 1)[-1] for name in dialog.selectedFiles()] == ["s0-m-maps.geojson"]
    use(bench, "hides")  # what was chosen stays what is written
    dialog.fileSelected.emit(str(tmp_path / "v1.csv"))
    dialog.reject()
    assert bench.wait(60)
    whole = tmp_path / "v1.csv.geojson"
    assert json.loads(whole.read_text())["type"] == "FeatureCollection"
    assert str(whole) in bench.export.done.text()
    assert not (tmp_path / "v1.csv").exists()
    use(bench, "m")
    whole.write_text("before")
    assert bench.export.write(tmp_path / "v1.csv") is None
    assert bench.told == [f"{whole} is there already; choose it by its whole name to write over it."]
    assert whole.read_text() == "before"
    written(bench, MAPS, whole)
    assert whole.read_text() != "before"


def test_without_a_project_every_kind_says_what_comes_first(docked):
    bench = docked()
    told = []
    bench.desk.tell = lambda what: told.append(str(what))
    for kind in range(len(KINDS)):
        bench.export.what.setCurrentIndex(kind)
        assert bench.export.preview.text() == "Open a project first (1 Slides)."
        assert not bench.export.export_button.isEnabled()
        bench.desk.keys["Ctrl+Shift+E"].activated.emit()
    assert told == ["Open a project first (1 Slides)."] * len(KINDS)


def test_a_project_without_models_has_labels_alone(quick_bench, tmp_path):
    bench = quick_bench
    for kind in (MAPS, MAPS_TABLE, ANSWERS, TILES):
        bench.export.what.setCurrentIndex(kind)
        assert "This project has no model yet" in bench.export.preview.text()
        assert bench.export.write(tmp_path / "x.csv") is None
    assert written(bench, 2, tmp_path / "labels.csv").startswith("Written: ")
