"""Models move between projects as they are; a damaged one is named and hinders nobody."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from quickstudy import QUICK, add, study

from napari_mil.card import ModelCard
from napari_mil.errors import ModelError
from napari_mil.labeltree import LabelTree
from napari_mil.steps import drain
from napari_mil.workflow import Project, adopt, current_card, find_card, import_paths_steps, train_model_steps

SAMPLE = Path(str(files("napari_mil"))) / "sample_models" / "mhim-sample"


def taken(folder, path, **about):
    return drain(import_paths_steps(folder, [path], **about))[0]


@pytest.mark.parametrize("part", ["", "card.json", "weights.safetensors"])
def test_a_packaged_model_goes_into_a_new_project(tmp_path, part):
    row = taken(tmp_path / "p", SAMPLE / part)
    assert (row["ok"], row["model"], row["method"]) == (True, "mhim-sample", "mhim")
    with Project(tmp_path / "p") as project:
        [card] = project.cards
        assert card.to_json() == ModelCard.from_json((SAMPLE / "card.json").read_text()).to_json()
        project.model("mhim-sample")
    assert taken(tmp_path / "p", SAMPLE)["ok"]  # again is nothing new


def test_a_model_of_another_project_answers_the_same_here(tmp_path):
    with study(tmp_path, 3) as project:
        card = drain(train_model_steps(project, "mean", recipe=QUICK, name="m"))
        said = project.analyse("s0", model="m")
    folder = project.path / "models" / card.id
    row = taken(tmp_path / "two" / "study", folder)
    assert row == {"slide": card.id, "ok": True, "model": "m", "method": "mean", "id": card.id}
    with Project(tmp_path / "two" / "study") as other:
        add(other, 0)
        np.testing.assert_array_equal(
            other.analyse("s0", model="m").probabilities[-1], said.probabilities[-1]
        )


def test_a_new_project_has_the_labels_of_its_model_and_another_refuses_it(tmp_path):
    tree = LabelTree.from_paths(["LUAD", "LUSC"])
    with Project(tmp_path / "lung", tree=tree) as project:
        for n in range(3):
            add(project, n, label=tree.path(1 + n % 2))
        card = drain(train_model_steps(project, "mean", recipe=QUICK))
    folder = project.path / "models" / card.id
    assert taken(tmp_path / "new", folder)["ok"]
    with Project(tmp_path / "new") as new:
        assert new.tree == tree
    with study(tmp_path, 0) as breast:
        row = taken(breast.path, folder)
    assert not row["ok"]
    assert "mean-1 answers with LUAD, LUSC, the labels of study are Benign/N," in row["error"]


def spoil_weights(folder):
    path = folder / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def spoil_card(folder):
    (folder / "card.json").write_text("{")


def other_width(folder):
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, "in_features": 7}))


@pytest.mark.parametrize(
    ("harm", "said"),
    [(spoil_weights, "do not fit its card"), (spoil_card, "card"), (other_width, "do not fit its card")],
)
def test_what_is_damaged_is_not_taken(tmp_path, harm, said):
    with study(tmp_path, 0) as project:
        folder = Path(shutil.copytree(SAMPLE, tmp_path / "model"))
    harm(folder)
    row = taken(project.path, folder)
    assert not row["ok"]
    assert said in row["error"]
    assert not list((project.path / "models").glob("*"))


def test_a_damaged_card_hinders_no_other_model_and_nobody_takes_its_place(tmp_path):
    with study(tmp_path, 3) as project:
        for name in ("one", "two"):
            drain(train_model_steps(project, "mean", recipe={**QUICK, "seed": len(project.cards)}, name=name))
        adopt(project, "one")
        (project.path / "models" / find_card(project, "one").id / "card.json").write_text("{}")
        assert [card.name for card in project.cards] == ["two"]
        assert project.analyse("s0", model="two").probabilities
        assert current_card(project) is None
        with pytest.raises(ModelError, match=r"its models are two \(and 1 that cannot be read\)"):
            find_card(project, "one")


def test_the_command_line_names_a_damaged_model(tmp_path, monkeypatch, capsys):
    from napari_mil.cli.running import opened

    with study(tmp_path, 0) as project:
        folder = Path(shutil.copytree(SAMPLE, project.path / "models" / "m-1"))
    (folder / "card.json").write_text("{}")
    with opened(project.path):
        pass
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "models/m-1 cannot be read" in said
