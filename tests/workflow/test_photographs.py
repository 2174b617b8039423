"""A study of microscope photographs, from folders per patient to answers."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders.test_resnet import closed_form
from PIL import Image

from napari_mil.cli import main
from napari_mil.correction import Cells
from napari_mil.labeltree import LabelTree
from napari_mil.steps import drain
from napari_mil.workflow import (
    Project,
    add_encoder,
    analyse_steps,
    import_paths_steps,
    retrain_here_steps,
    train_model_steps,
)

pytestmark = pytest.mark.slow
DATA = os.environ.get("NAPARI_MIL_TEST_DATA")
PATIENTS = 12
TREE = LabelTree.from_paths(["pale", "dark"])


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """Patients with 1 to 5 photographs of several sizes; those called dark have one dark photograph."""
    folder, rng = tmp_path_factory.mktemp("patients"), np.random.default_rng(0)
    rows = []
    for n in range(PATIENTS):
        home = folder / f"patient {n:02}"
        home.mkdir()
        for i in range(1 + n // 2 % 5):
            stain = [120, 60, 150] if n % 2 and i == 0 else [230, 190, 215]
            size = (int(rng.integers(100, 270)), int(rng.integers(100, 270)))
            pixels = np.clip(np.array(stain) + rng.normal(0, 8, (*size, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(home / f"{i}.png")
        rows.append({"slide": home.name, "case": home.name, "label": "dark" if n % 2 else "pale"})
    with (folder / "manifest.csv").open("w", newline="") as stream:
        table = csv.DictWriter(stream, ["slide", "case", "label"])
        table.writeheader()
        table.writerows(rows)
    return folder


@pytest.fixture
def project(patients, tmp_path):
    (tmp_path / "tree.json").write_text(TREE.to_json())
    steps = import_paths_steps(
        tmp_path / "study", [patients], manifest=patients / "manifest.csv", tree=tmp_path / "tree.json"
    )
    rows = drain(steps)
    assert [row["photographs"] for row in rows[:10]] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    with Project(tmp_path / "study") as opened:
        yield opened


def test_a_study_of_photographs(project, patients):
    quick = {"epochs": 12, "min_epochs": 12, "patience": 12, "lr": 1e-3}
    config = {"clusters": 4, "hidden": 32}
    card = drain(train_model_steps(project, "micromil", config=config, recipe=quick))
    assert card.encoder == "builtin-1+photograph"
    assert card.mpp is None
    answers = {}
    for record in project.slides:
        answer = drain(analyse_steps(project, project.slide(record), model=card.id))
        bag = project.bag(record.name)
        assert len(answer.map("cluster").values) == len(bag) == len(list(Path(record.path).iterdir()))
        assert answer.map("representative").values.any()
        answers[record.name] = answer.best(project.tree)[0][0] == project.tree.node(record.label)
    assert sum(answers.values()) >= PATIENTS - 2
    again = project.analyse("patient 09", model=card.id)
    assert again.map("cluster").legend  # kept, and read again
    assert again.map("cluster").kind == "groups"


def test_a_photograph_can_be_corrected(project):
    quick = {"epochs": 2, "min_epochs": 1}
    config = {"clusters": 4, "hidden": 16}
    card = drain(train_model_steps(project, "micromil", config=config, recipe=quick))
    grid = project.bag("patient 07").grid
    project.correct("patient 07", Cells(grid.cells[:1], grid.pitch_px), "dark")
    done = drain(retrain_here_steps(project, card.id, recipe={"epochs": 2}))
    assert done.card.parent == card.id
    assert done.obeyed[1] + done.set_aside == 1


@pytest.mark.soak  # test_encoding.py keeps weights, the tests above make a study
def test_weights_are_given_once_for_a_study(project, tmp_path):
    torch.save(closed_form("resnet18"), tmp_path / "resnet18.pth")
    encoder = add_encoder(project, "resnet18", tmp_path / "resnet18.pth")
    (tmp_path / "resnet18.pth").unlink()
    quick = {"epochs": 1, "min_epochs": 1}
    card = drain(
        train_model_steps(project, "micromil", config={"clusters": 2}, recipe=quick, encoder="resnet18")
    )
    assert (card.encoder, card.in_features) == (f"{encoder.id}+photograph", 512)
    assert project.analyse("patient 03", model=card.id).map("attention").values.sum() == pytest.approx(1)


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["napari-mil", *map(str, words)])
    with pytest.raises(SystemExit) as done:
        main()
    return done.value.code or 0


def test_the_command_line_says_what_a_folder_lacks(tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").mkdir()
    assert run(monkeypatch, "import", tmp_path / "p", tmp_path / "empty") == 2
    assert "or folders of photographs" in capsys.readouterr().err
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_text("no picture")
    assert run(monkeypatch, "import", tmp_path / "p", tmp_path / "a") == 1
    assert "photographs: 1.png is no" in capsys.readouterr().out


@pytest.mark.skipif(DATA is None, reason="NAPARI_MIL_TEST_DATA is not set")
def test_real_photographs_through_the_command_line(tmp_path, monkeypatch, capsys):
    home = Path(DATA) / "microscopy"
    with (home / "breakhis_labels.csv").open(newline="") as stream:
        labels = {Path(row["file"]).parent.name: row for row in csv.DictReader(stream)}
    with (tmp_path / "manifest.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["slide", "case", "label"])
        table.writerows([name, row["patient_id"], row["label"]] for name, row in labels.items())
    (tmp_path / "tree.json").write_text(LabelTree.from_paths(["benign", "malignant"]).to_json())
    study, given = tmp_path / "study", ("--manifest", tmp_path / "manifest.csv")
    words = ("import", study, home / "breakhis_100x", *given, "--tree", tmp_path / "tree.json")
    assert run(monkeypatch, *words) == 0
    assert capsys.readouterr().out.count("photographs 6") == 8
    assert run(monkeypatch, "embed", study) == 0
    quick = ("-s", "clusters=8", "-r", "epochs=3", "-r", "min_epochs=1")
    assert run(monkeypatch, "train", study, "--method", "micromil", *quick, "--name", "m") == 0
    assert run(monkeypatch, "predict", study, "--model", "m", "--csv", tmp_path / "answers.csv") == 0
    with (tmp_path / "answers.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 8
    assert all(row["label"] in {"benign", "malignant"} for row in rows)
