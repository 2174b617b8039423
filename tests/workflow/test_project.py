"""The project and its stories, on a small real study."""

import csv
import dataclasses
import json
import re
import subprocess
import sys
import threading

import numpy as np
import psutil
import pytest
import torch
from slidefiles import picture, write_pyramid

from napari_mil.correction import Cells, WholeSlide, tile_nodes
from napari_mil.errors import LabelError, ModelError, ProjectError, SlideError
from napari_mil.samples import read_truth
from napari_mil.slides.workers import DECODE_THREADS
from napari_mil.steps import ASIDE, Progress, drain
from napari_mil.workflow import (
    PartialAnswer,
    Project,
    adopt,
    analyse_steps,
    bag_steps,
    current_card,
    evaluate_steps,
    find_record,
    import_paths_steps,
    parse_mpp,
    retrain_here_steps,
    retrain_steps,
    slide_label,
    train_model_steps,
)
from napari_mil.workflow.exchange import read_manifest
from napari_mil.workflow.pool import OPEN_SLIDES

pytestmark = pytest.mark.slow
NAME = "case001a"


def test_import_follows_the_manifest(study):
    record = find_record(study, NAME)
    assert record.case == "case001"
    assert study.tree.node(record.label) in study.tree.leaves
    assert study.slide(NAME).mpp == (0.5, 0.5)
    with pytest.raises(ProjectError, match="its slides are case001a"):
        study.slide("nonsense")


def test_an_odd_manifest_is_read_or_refused_in_one_sentence(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text("case,slide\nP1,a.svs\nP2\n")
    [row] = read_manifest(path)
    assert (row.slide, row.get("case")) == ("a.svs", "P1")
    before = csv.field_size_limit(1000)
    try:
        path.write_text(f"slide,case\na.svs,{'x' * 2000}\n")
        with pytest.raises(LabelError, match=r"manifest.csv cannot be read \(field larger than field limit"):
            read_manifest(path)
    finally:
        csv.field_size_limit(before)


def test_a_project_of_many_slides_holds_a_few_files_open(tmp_path):
    me = psutil.Process()
    paths = [write_pyramid(tmp_path / f"{n}.tif", picture(600, 600, n), levels=2) for n in range(24)]
    files, threads = me.num_fds(), threading.active_count()
    with Project(tmp_path / "study") as project:
        held = project.add(paths[0])
        for path in paths[1:]:
            assert project.add(path).thumbnail(300).shape == (300, 300, 3)
        for record in project.slides:
            assert project.slide(record).levels[0].read(0, 0, 600, 600).shape == (600, 600, 3)
        assert project.slide(project.slides[0]) is held
        assert not held.engine.closed
        assert me.num_fds() <= files + OPEN_SLIDES + 8  # the ledger's own, and the held one
        assert threading.active_count() <= threads + (OPEN_SLIDES + 1) * DECODE_THREADS
        last = project.slide(project.slides[-1])
    assert held.engine.closed
    assert last.engine.closed
    assert me.num_fds() <= files + 1


def test_a_bag_is_computed_once(study):
    first = study.bag(NAME)
    stages: list[Progress] = []
    again = study.bag(NAME, progress=stages.append)
    assert [p.note for p in stages] == ["from the project"]
    np.testing.assert_array_equal(first.features, again.features)


def test_analyse_shows_what_is_done_so_far_and_ends_whole(study, monkeypatch):
    monkeypatch.setattr("napari_mil.workflow.analyse.REFRESH_S", 0.0)
    slide = study.slide(NAME)
    kept = study.bag(slide)
    region = (0.0, 0.0, slide.shape_px[0] * 0.7, slide.shape_px[1] * 0.7)
    study.store.save_bag(dataclasses.replace(kept, encoder="elsewhere-1"))  # another encoder's bag is no help
    part = kept.crop(region)
    steps = bag_steps(study, slide, region=region, view=region)
    assert np.array_equal(drain(steps).grid.cells, part.grid.cells)
    seen: list[PartialAnswer] = []

    def watch(now: Progress) -> None:
        if isinstance(now.payload, PartialAnswer):
            seen.append(now.payload)

    answer = drain(analyse_steps(study, slide, model="mhim-1"), watch)
    assert seen[-1].grid.id == answer.grid_id == kept.grid.id
    assert answer.scope == "slide"
    again = study.analyse(slide, model="mhim-1")
    assert again.at == answer.at  # kept, not computed twice
    regional = study.analyse(slide, model="mhim-1", region=region)
    assert regional.scope == "region"
    assert len(regional.maps[0].values) == len(part)
    assert study.analyse(slide, model="mhim-1").at == answer.at


def test_an_answer_that_is_short_of_memory_is_the_same_and_says_so(study, monkeypatch):
    slide = study.slide(NAME)
    bag, whole = study.bag(slide), (0.0, 0.0, *map(float, slide.shape_px))
    plenty = drain(analyse_steps(study, slide, model="mhim-1", region=whole))
    layer = torch.nn.Linear.forward

    def greedy(self, x):
        if self.in_features == bag.width and len(x) > 20:
            raise torch.OutOfMemoryError("planted")
        return layer(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", greedy)
    monkeypatch.setattr("napari_mil.blocks.rows.LEAST_ROWS", 4)
    seen: list[Progress] = []
    short = drain(analyse_steps(study, slide, model="mhim-1", region=whole), seen.append)
    assert len(bag) > 20
    for mine, other in zip(short.probabilities, plenty.probabilities, strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)
    [note] = [now.note for now in seen if now.stage == ASIDE]
    assert re.fullmatch(rf"{slide.name}: memory is short, (20|1\d) tiles at a time\.", note)


def test_the_same_answer_from_python_and_after_reopening(study_folder):
    with Project(study_folder) as project:
        one = project.analyse(NAME, model="hmil-1")
    with Project(study_folder) as project:
        two = project.analyse(NAME, model="hmil-1")
    for a, b in zip(one.maps, two.maps, strict=True):
        assert a.name == b.name
        np.testing.assert_array_equal(a.values, b.values)


def test_corrections_are_said_undone_and_redone(study):
    bag = study.bag(NAME)
    place = Cells(bag.grid.cells[:3], bag.grid.pitch_px)
    study.correct(NAME, place, "ADH", tool="paint")
    later = study.correct(NAME, Cells(bag.grid.cells[:1], bag.grid.pitch_px), "IC", tool="paint")
    assert later.was == "Atypical/ADH"
    nodes = tile_nodes(study.ledger.corrections(bag.slide_id), bag.grid, study.tree)
    assert nodes[:4].tolist() == [study.tree.node("IC"), *[study.tree.node("ADH")] * 2, 0]
    assert study.undo(NAME)
    assert tile_nodes(study.ledger.corrections(bag.slide_id), bag.grid, study.tree)[0] == study.tree.node(
        "ADH"
    )
    assert study.redo(NAME)
    assert not study.redo(NAME)
    with pytest.raises(LabelError, match="Malignant/IC"):
        study.correct(NAME, WholeSlide(), "Sarcoma")


def test_what_a_person_says_of_a_slide_wins_over_the_manifest(study):
    record = find_record(study, NAME)
    study.correct(NAME, WholeSlide(), "Malignant")
    assert slide_label(study, record) == "Malignant"
    study.undo(NAME)
    assert slide_label(study, record) == record.label


@pytest.mark.parametrize("suffix", [".geojson", ".geojson.gz", ".csv"])
def test_exported_labels_give_the_same_state_elsewhere(study, cohort, tmp_path, suffix):
    slide = study.slide(NAME)
    bag = study.bag(slide)
    study.correct(slide, Cells(bag.grid.cells[2:9], bag.grid.pitch_px), "Malignant/DCIS", tool="paint")
    study.correct(slide, WholeSlide(), "Malignant/DCIS")
    path = study.export(tmp_path / f"labels{suffix}", slide=slide)
    drain(import_paths_steps(tmp_path / "other", [cohort / "slides" / f"{NAME}.tif"], by="b"))
    with Project(tmp_path / "other") as other:
        other.import_labels(path, NAME)
        mine, theirs = (p.ledger.corrections(slide.fingerprint) for p in (study, other))
        assert [c.id for c in mine] == [c.id for c in theirs]
        assert [c.label for c in mine] == [c.label for c in theirs]
        for p in (mine, theirs):
            assert tile_nodes(p, bag.grid, study.tree)[2:9].tolist() == [study.tree.node("DCIS")] * 7
        assert not other.import_labels(path, NAME)  # a second time changes nothing


def test_export_refuses_another_suffix_and_writes_nothing(study, tmp_path):
    with pytest.raises(LabelError, match=r"labels\.xlsx"):
        study.export(tmp_path / "labels.xlsx", slide=NAME)
    assert not list(tmp_path.glob("labels*"))


def test_training_writes_a_card_and_evaluation_reads_it(study):
    card = drain(train_model_steps(study, "abmil", recipe={"epochs": 2, "min_epochs": 1}, name="mine"))
    assert (card.name, card.method, card.parent) == ("mine", "abmil", None)
    parts = [set(card.slides[p]) for p in ("train", "validation", "test")]
    assert sum(len(p) for p in parts) == len(set.union(*parts)) == len(study.slides)
    assert card.ledger_head == study.ledger.head
    figures = drain(evaluate_steps(study, "mine", split="all"))
    assert 0 <= figures["coarse/auc"][0] <= 1
    with pytest.raises(ModelError, match="no option 'epoch'"):
        drain(train_model_steps(study, "abmil", recipe={"epoch": 2}))


def test_a_stopped_training_keeps_the_best_so_far(study):
    seen: list[Progress] = []
    long = {"epochs": 500, "min_epochs": 400}
    one_epoch_is_over = lambda: any(isinstance(p.payload, dict) for p in seen)  # noqa: E731
    steps = train_model_steps(study, "abmil", recipe=long, name="early", stop=one_epoch_is_over)
    card = drain(steps, seen.append)
    assert card.name == "early"
    assert study.model("early") is not None


def test_retraining_in_a_child_process_obeys_and_is_not_adopted(study, cohort):
    slide = study.slide(NAME)
    bag = study.bag(slide)
    cells, nodes = read_truth(cohort / "truth" / f"{NAME}.npz")
    truth = dict(zip(map(tuple, cells.tolist()), nodes.tolist(), strict=True))
    said = np.array([truth.get(tuple(c), 0) for c in bag.grid.cells.tolist()])
    node = next(n for n in said if n)
    adopt(study, "mhim-1")
    study.correct(slide, Cells(bag.grid.cells[said == node], bag.grid.pitch_px), study.tree.path(int(node)))
    done = drain(retrain_steps(study, "mhim-1", recipe={"epochs": 3, "min_epochs": 1}))
    assert done.card.parent == current_card(study).id
    assert done.obeyed[1] == int((said == node).sum())
    assert set(done.before) == set(done.after)
    assert done.card.id in {c.id for c in study.cards}
    assert current_card(study).name == "mhim-1"
    adopt(study, done.card.id)
    assert current_card(study).id == done.card.id
    adopt(study, "mhim-1")
    assert current_card(study).name == "mhim-1"


def test_the_same_head_and_seed_give_the_same_weights(study_folder, tmp_path):
    import shutil

    ids = []
    for copy in ("one", "two"):
        with Project(shutil.copytree(study_folder, tmp_path / copy)) as project:
            ids.append(drain(retrain_here_steps(project, "mhim-1", recipe={"epochs": 2}, seed=7)).card.id)
    assert ids[0] == ids[1]


def test_cancelling_a_retraining_ends_the_child(study):
    steps = retrain_steps(study, "mhim-1", recipe={"epochs": 500, "min_epochs": 400})
    for now in steps:
        if now.stage == "training" and isinstance(now.payload, dict):
            break
    steps.close()
    parent = next(c.id for c in study.cards if c.name == "mhim-1")
    assert [c.parent for c in study.cards if c.parent] == [parent]  # the best so far was kept


def test_a_changed_file_is_not_taken_for_the_slide(study_folder, cohort, tmp_path):
    copy = tmp_path / "changing.tif"
    copy.write_bytes((cohort / "slides" / f"{NAME}.tif").read_bytes())
    with Project(study_folder) as project:
        project.add(copy)
    copy.write_bytes((cohort / "slides" / "case002a.tif").read_bytes())
    with Project(study_folder) as project, pytest.raises(SlideError, match="its content changed"):
        project.slide("changing")


@pytest.mark.parametrize("text", ["0", "-1", "1000", "half", ""])
def test_implausible_mpp_is_refused(text):
    with pytest.raises(LabelError, match="plausible"):
        parse_mpp(text)


def test_export_never_loads_torch(study, tmp_path):
    study.correct(NAME, WholeSlide(), "Benign")
    code = f"""
import sys
from napari_mil.workflow import Project
with Project({str(study.path)!r}) as project:
    project.export({str(tmp_path / "labels.geojson")!r}, slide={NAME!r})
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert json.loads((tmp_path / "labels.geojson").read_text())["type"] == "FeatureCollection"


def test_adding_what_is_no_slide_leaves_the_project_as_it_was(study, tmp_path):
    (tmp_path / "no.svs").write_bytes(b"not a slide")
    before = study.slides
    with pytest.raises(SlideError):
        study.add(tmp_path / "no.svs")
    assert study.slides == before


def test_corrections_on_held_out_slides_are_kept_but_not_learned_from(study):
    card = next(c for c in study.cards if c.name == "mhim-1")
    held = card.slides["test"][0]
    bag = study.bag(held)
    study.correct(held, Cells(bag.grid.cells[:4], bag.grid.pitch_px), "Malignant/IC")
    done = drain(retrain_here_steps(study, "mhim-1", recipe={"epochs": 1, "min_epochs": 1}))
    assert (done.obeyed[1], done.set_aside) == (0, 4)
    assert held in done.card.slides["test"]
    assert "not learned from: 4" in done.in_words()
