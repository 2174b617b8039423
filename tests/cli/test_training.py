"""train with presets, folds, seeds, grids and recordings."""

import json
import sys

import pytest
import torch
from quickstudy import study

from napari_mil.blocks import rows
from napari_mil.cli.studies import grid_of, numbers
from napari_mil.errors import MILError
from tests.cli.test_cli import run

QUICK = ("-r", "epochs=2", "-r", "min_epochs=1", "-r", "stage1_epochs=1")


def test_seeds_are_different_whole_numbers():
    assert numbers("0,1,7") == (0, 1, 7)
    for text in ("", "a", "1,1", "-1", "1.5"):
        with pytest.raises(MILError, match="are no seeds"):
            numbers(text)


def test_a_grid_is_the_published_one_with_what_is_said():
    assert grid_of("mhim", ["published"])["mask_ratio"] == (0.01, 0.03, 0.05)
    mixed = grid_of("mhim", ["published", "mask_ratio=[0.1]", "heads=2"])
    assert (mixed["mask_ratio"], mixed["heads"], mixed["recycle_tokens"]) == ([0.1], [2], (1, 5, 10))
    assert set(grid_of("abmil", ["lr=[1e-3, 1e-4]"])) == {"lr"}


@pytest.mark.slow
def test_a_study_prints_its_table_and_a_search_its_choice(study_folder, capsys, monkeypatch):
    words = ("train", study_folder, "--method", "abmil", *QUICK, "--folds", "2", "--seeds", "0,1")
    status, out, err = run(capsys, monkeypatch, *words)
    assert status == 0, err
    assert out.startswith("abmil: 4 runs, 2 seeds × 2 folds")
    assert "pooled" in out
    status, out, _ = run(capsys, monkeypatch, *words, "--json")  # every run is there already
    records = [json.loads(line) for line in out.splitlines()]
    assert records[-1]["result"]["runs"] == 4
    assert {r["stage"] for r in records[:-1]} <= {"cases", "features", "runs", "tissue"}
    assert "fine/auc" in records[-1]["result"]["table"]
    grid = ("--grid", "lr=[1e-7,1e-3]", "--name", "best")
    status, out, err = run(capsys, monkeypatch, "train", study_folder, "--method", "abmil", *QUICK, *grid)
    assert status == 0, err
    assert "chosen of 2 combinations by validation cases: lr" in out


@pytest.mark.slow
def test_a_training_that_is_short_of_memory_goes_on_and_says_so(tmp_path, capsys, monkeypatch):
    with study(tmp_path, 5) as project:
        folder = project.path
    plain = torch.nn.Linear.forward

    def forward(layer, x):
        if layer.training and len(x) > 3 and layer.out_features == 512:
            raise torch.OutOfMemoryError("planted")
        return plain(layer, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", forward)
    monkeypatch.setattr(rows, "LEAST_ROWS", 2)
    status, _, err = run(capsys, monkeypatch, "train", folder, "--method", "mean", *QUICK, "--name", "m")
    assert status == 0
    assert "training, epoch 1: memory is short, 3 tiles at a time." in err
    log = (folder / "runs" / "m" / "history.csv").read_text(encoding="utf-8")
    assert log.splitlines()[0].endswith(",tiles_at_a_time")


@pytest.mark.slow
def test_a_recorded_model_shows_its_recording(study_folder, capsys, monkeypatch):
    words = ("--method", "mhim", *QUICK, "--record", "case001a", "--preset", "v2-command", "--name", "told")
    status, _, err = run(capsys, monkeypatch, "train", study_folder, *words)
    assert status == 0, err
    status, out, _ = run(capsys, monkeypatch, "models", "show", study_folder, "told")
    assert "recorded: case001a, 2 epochs" in out
    assert "preset v2-command" in out


@pytest.mark.slow
def test_the_same_weights_again_are_no_second_model(study_folder, capsys, monkeypatch):
    words = ("train", study_folder, "--method", "abmil", *QUICK, "--name")
    status, first, err = run(capsys, monkeypatch, *words, "one")
    assert status == 0, err
    assert first.startswith("one (abmil")
    status, second, err = run(capsys, monkeypatch, *words, "two")
    assert status == 0, err
    assert second.splitlines()[0] == first.splitlines()[0]
    assert "the weights of one to the bit, so no second model two was made" in second
    assert run(capsys, monkeypatch, "models", "list", study_folder)[1].count("abmil-") == 1
    _, third, _ = run(capsys, monkeypatch, *words, "one", "-r", "seed=4")
    had = first.split("(")[1].split(")")[0].split(", ")[1]
    assert third.splitlines()[-1] == (
        f"The name one means this model from now on; {had} had it before and is found by its id."
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--seeds", "0,1"), "belong to --folds"),
        (("--preset", "v9"), "its presets are v2-command"),
        (("--grid", "nonsense=[1]"), "no option 'nonsense'"),
        (("--method", "abmil", "--grid", "published"), "no published grid"),
        (("--record", "lost"), "'lost' is no slide"),
        (("--method", "abmil", "--record", "case001a"), "hides no tiles"),
        (("-r", "precision=bf16", "--method", "hmil"), "does not keep its figures in bfloat16"),
        (("--folds", "1"), "A study of 1 fold tests nothing"),
        (("--folds", "2", "--seeds", "0,1", "-r", "seed=3"), "Seeds were given twice"),
        (("-s", "lr=0.01"), "lr is an option of the training, not of mhim: -r lr=0.01"),
        (("-r", "mask_ratio=0.1"), "mask_ratio is an option of mhim, not of the training: -s mask_ratio=0.1"),
    ],
)
def test_what_cannot_be_trained_is_one_sentence(words, said, study_folder, capsys, monkeypatch):
    status, _, err = run(capsys, monkeypatch, "train", study_folder, *words)
    assert status == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.slow
def test_tensorboard_without_its_package_is_one_sentence(study_folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    words = ("train", study_folder, "--method", "abmil", *QUICK, "--tensorboard")
    status, _, err = run(capsys, monkeypatch, *words)
    assert status == 2
    assert "pip install napari-mil[tensorboard]" in err
