"""`napari-mil explain`: a table of a slide's tiles, of every method of the registry."""

import csv
import dataclasses

import numpy as np
import pytest
from quickstudy import add

from napari_mil import encoders, methods
from napari_mil.card import ModelCard
from napari_mil.labeltree import LabelTree, Survival
from napari_mil.workflow import Project, adopt
from napari_mil.workflow.models import weight_bytes

pytestmark = pytest.mark.slow

TREE = LabelTree.from_paths(["Benign/N", "Benign/UDH", "Malignant/DCIS", "Malignant/IC"], normal=["Benign/N"])
TIME = Survival.from_times([1, 2, 3, 4, 5, 6], [True] * 6, bins=3, unit="months")
SMALL = {"hidden": 32, "clusters": 4, "draws": 5}
LEAVES = [f"fine/{name}" for name in ("N", "UDH", "DCIS", "IC")]


def keep(project, method, *, tree=TREE, name="", **more):
    """Store a model that learned nothing; its card."""
    known = {f.name for f in dataclasses.fields(methods.get(method).Config)}
    config = {k: v for k, v in {**SMALL, **more}.items() if k in known}
    machine = encoders.create("builtin")
    model = methods.create(method, config, in_features=machine.width, tree=tree)
    about = {"encoder": machine.id, "in_features": machine.width, "tile_px": 256, "mpp": 0.5, "tree": tree}
    config, name = dataclasses.asdict(model.config), name or method
    card = ModelCard(id=name, name=name, method=method, config=config, **about)
    project.store.save_model(card, weight_bytes(model))
    return card


@pytest.fixture
def project(tmp_path):
    """A project of one slide, whose features it keeps."""
    with Project(tmp_path / "study", tree=TREE) as project:
        add(project, 0)
        yield project


def table(path):
    """{column: numbers} of a CSV file."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("method", methods.names())
def test_every_column_of_every_method_is_in_the_table(method, project, tmp_path, run):
    keep(project, method)
    status, out, err = run("explain", project.path, "s0", "--csv", tmp_path / "t.csv", "--seed", 3)
    assert (status, err) == (0, "")
    found, bag = table(tmp_path / "t.csv"), project.bag("s0")
    assert out == f"Wrote 12 tiles of s0 in {len(found)} columns to {tmp_path / 't.csv'}.\n"
    assert list(found)[:7] == ["index", "row", "col", "y0_px", "x0_px", "pitch_y_px", "pitch_x_px"]
    assert np.array_equal(np.stack([found["y0_px"], found["x0_px"]], 1), bag.grid.cells * 256)
    said = project.model(method).explain(bag, seed=3)
    assert len(found) == 4 + sum(1 if values.ndim == 1 else values.shape[1] for values in said.values())
    for name, values in said.items():
        if values.ndim == 1:
            assert np.array_equal(found[name].astype(values.dtype), values), name
        else:
            parts = [one for column, one in found.items() if column.startswith(f"{name}/")]
            same = [any(np.array_equal(one.astype(values.dtype), v) for one in parts) for v in values.T]
            assert all(same), name
    for k, leaf in enumerate(LEAVES):
        its = found[f"tile_probability/{leaf}"].astype(np.float32)
        assert np.array_equal(its, said["tile_probability"][:, k])


def test_numbers_of_clusters_are_not_called_by_classes(project, tmp_path, run):
    keep(project, "micromil")  # as many clusters as classes
    assert run("explain", project.path, "s0", "--csv", tmp_path / "t.csv")[0] == 0
    found = table(tmp_path / "t.csv")
    z = np.stack([found[f"z/cluster {k}"] for k in range(4)], 1)
    assert z.argmax(1).tolist() == found["cluster"].tolist()
    assert not any(name.startswith(("z/fine", "score/fine")) for name in found)


def test_where_the_task_is_time_a_tile_has_hazards(project, tmp_path, run):
    keep(project, "abmil", tree=TIME)
    assert run("explain", project.path, "s0", "--csv", tmp_path / "t.csv")[0] == 0
    found = table(tmp_path / "t.csv")
    risks = project.analyse("s0", model="abmil").map("risk").values
    hazards = np.stack([found[f"tile_probability/time/{name}"] for name in TIME.names[1:]], 1)
    assert risks == pytest.approx(-np.cumprod(1 - hazards, 1).sum(1), abs=1e-5)


def test_modes_and_seeds(project, tmp_path, run):
    keep(project, "micromil", clusters=8)

    def asked(*words):
        assert run("explain", project.path, "s0", "--csv", tmp_path / "t.csv", *words)[0] == 0
        return table(tmp_path / "t.csv")["selected"].tolist()

    assert asked() == asked("--mode", "argmax")
    drawn = [asked("--mode", "mc", "--seed", seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1]
    assert drawn[1] != drawn[2]


def test_the_adopted_model_answers_unless_another_is_named(project, tmp_path, run):
    for name in ("one", "two"):
        keep(project, "mean", name=name)
    adopt(project, "one")

    def asked(*words):
        assert run("explain", project.path, "s0", "--csv", tmp_path / "t.csv", *words)[0] == 0
        return (tmp_path / "t.csv").read_text()

    assert asked() == asked("--model", "one") != asked("--model", "two")


def test_what_cannot_be_done_is_one_sentence(project, tmp_path, run):
    place = ("--csv", tmp_path / "t.csv")
    status, out, err = run("explain", project.path, "s0", *place)
    assert (status, out) == (2, "")
    assert "study has no model that could be asked; train or import one first." in err
    keep(project, "mean")
    for words, said in (
        (("s0", "--csv", tmp_path / "no" / "t.csv"), f"there is no folder {tmp_path / 'no'}"),
        (("s9", *place), "s9"),
        (("s0", *place, "--model", "x"), "'x' is no model of study"),
        (("s0", *place, "--mode", "mc"), "mean has no mode 'mc'; choose one of: clean, official."),
    ):
        status, out, err = run("explain", project.path, *words)
        assert (status, out) == (2, "")
        assert said in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "t.csv").exists()


def test_what_is_hidden_follows_the_schedule_to_the_progress_asked_for(project, tmp_path, run):
    keep(project, "mhim", mask_ratio=0.5, mask_schedule="cosine")
    keep(project, "abmil")
    words = ("explain", project.path, "s0", "--csv", tmp_path / "t.csv")
    hidden = []
    for asked in ((), ("--progress", 0), ("--progress", 0.5), ("--progress", 1)):
        assert run(*words, "--model", "mhim", *asked)[0] == 0
        hidden.append(int((table(tmp_path / "t.csv")["role"] == 1).sum()))
    assert hidden == [6, 6, 3, 0]
    for model, asked, said in (
        ("abmil", 0.5, "abmil hides no tiles, so there is no progress of a training to explain"),
        ("mhim", 1.5, "progress is 1.5; it is the share of a training and must lie in [0, 1]"),
    ):
        status, _, err = run(*words, "--model", model, "--progress", asked)
        assert status != 0
        assert said in err
