"""What is done in the window as a command line: the line does the same."""

from __future__ import annotations

import os
import shlex
import shutil
import sys

import pytest
from qtpy.QtWidgets import QApplication, QPushButton
from quickstudy import QUICK, study

from napari_mil.cli import main
from napari_mil.steps import drain
from napari_mil.workflow import Project, train_model_steps

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)


@pytest.fixture
def bench(docked, tmp_path):
    with study(tmp_path, 4) as project:
        drain(train_model_steps(project, "mean", recipe=QUICK, name="m"))
        for record in project.slides:
            project.add(record.path, survival=(3.0 + int(record.name[1:]), True))
        folder = project.path
    made = docked(folder, by="ann")
    made.told = []
    made.desk.tell = lambda what: made.told.append(str(what))
    return made


def copier_of(section):
    return next(b for b in section.findChildren(QPushButton) if b.text() == "Copy as a command line")


def copied():
    return shlex.split(QApplication.clipboard().text())


def run(words, folder, other, monkeypatch):
    """Run a line on a copy of the project."""
    monkeypatch.setattr(sys, "argv", [str(other) if word == str(folder) else word for word in words])
    with pytest.raises(SystemExit) as done:
        main()
    assert not done.value.code


def test_a_retraining(bench):
    project = bench.desk.state.project
    copier_of(bench.retrain).click()
    assert copied() == ["napari-mil", "retrain", str(project.path), "--model", "m"]


def test_an_export(bench, tmp_path, monkeypatch):
    project = bench.desk.state.project
    bench.export.what.setCurrentIndex(0)
    copier_of(bench.export).click()
    name = bench.desk.state.record.name
    assert copied() == ["napari-mil", "export", str(project.path), f"{name}.geojson", "--slide", name]
    bench.export.what.setCurrentIndex(2)
    copier_of(bench.export).click()
    assert copied() == ["napari-mil", "export", str(project.path), "study.csv"]
    monkeypatch.chdir(tmp_path)
    run(copied(), project.path, project.path, monkeypatch)
    assert (tmp_path / "study.csv").exists()


def test_a_new_model_with_options_is_the_same_model(bench, tmp_path, monkeypatch, capsys):
    project = bench.desk.state.project
    bench.retrain.new_button.click()
    assert bench.wait(60)
    dialog = bench.retrain.dialog
    dialog.method.setCurrentIndex(dialog.method.findText("abmil"))
    dialog.name.setText("two words")
    dialog.survival.setChecked(True)
    dialog.bins.setValue(2)
    dialog.unit.setCurrentIndex(dialog.unit.findData("months"))
    for form, values in (
        (dialog.config, {"act": "relu"}),
        (dialog.recipe, {"epochs": 2, "min_epochs": 1, "lr": 0.001, "class_weights": True}),
    ):
        for name, value in values.items():
            form._widgets[name].value = value
    dialog._check()
    assert bench.wait(30)
    assert dialog.start.isEnabled(), dialog.wrong.text()
    other = shutil.copytree(project.path, tmp_path / "other")
    dialog.copy.click()
    words = copied()
    assert "--survival" in words
    dialog.accept()
    assert bench.wait(200)
    mine = next(card for card in project.cards if card.name == "two words")
    run(words, project.path, other, monkeypatch)
    with Project(other) as again:
        card = next(card for card in again.cards if card.name == "two words")
    assert (card.config, card.recipe, card.tree) == (mine.config, mine.recipe, mine.tree)
    assert card.id == mine.id


def test_without_a_project_it_says_what_comes_first(docked):
    bench = docked()
    told = []
    bench.desk.tell = lambda what: told.append(str(what))
    for section in (bench.retrain, bench.export):
        copier_of(section).click()
    assert told == ["Open a project first (1 Slides)."] * 2
