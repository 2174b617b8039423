"""A published checkpoint is taken in from the window: what its file does not say is asked."""

from __future__ import annotations

import os
import shlex
import sys

import pytest
import torch
from qtpy.QtWidgets import QApplication, QFileDialog, QLabel

from napari_mil import methods
from napari_mil.cli import main
from napari_mil.labeltree import LabelTree
from napari_mil.methods import official
from napari_mil.ui import compat
from napari_mil.ui.importmodel import NO_WORKBENCH, ask
from napari_mil.workflow import Project

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)
TREE = LabelTree.from_paths(["LUAD", "LUSC"])


@pytest.fixture
def published(tmp_path):
    """A checkpoint of AB-MIL, two classes, 12 numbers per tile."""
    torch.manual_seed(0)
    torch.save(official.dump(methods.create("abmil", in_features=12, tree=TREE)), tmp_path / "p.pth")
    return tmp_path / "p.pth"


@pytest.fixture
def bench(docked, tmp_path):
    """A workbench on an empty project of two classes."""
    Project(tmp_path / "study", tree=TREE).close()
    made = docked(tmp_path / "study", by="ann")
    made.told, made.heard = [], []
    made.desk.tell = lambda what: made.told.append(str(what))
    made.desk.said.connect(made.heard.append)
    return made


@pytest.fixture
def importing(bench):
    from napari_mil.ui.importmodel import ImportModel

    return bench.model.findChild(ImportModel)


def dialog_for(bench, importing, path):
    importing.read(path)
    assert bench.wait(60)
    return importing.dialog


def fill(dialog, **answers):
    for name, words in answers.items():
        field = dialog._fields[name]
        if hasattr(field, "setCurrentIndex"):
            field.setCurrentIndex(field.findData(words))
        else:
            field.setText(words)


def test_what_is_said_is_on_the_card_and_the_model_is_chosen(bench, importing, published):
    dialog = dialog_for(bench, importing, published)
    assert set(dialog._fields) == {"edges", "unit", "classes", "encoder", "tile_px", "mpp", "act"}
    fill(dialog, classes="LUSC, LUAD", encoder="builtin", tile_px="512", mpp="0.25", act="relu")
    dialog.name.setText("of the paper")
    dialog.take.click()
    assert bench.wait(60)
    assert bench.told == []
    card = bench.desk.state.card
    assert (card.name, card.method, card.tile_px, card.mpp) == ("of the paper", "abmil", 512, 0.25)
    assert (card.config["act"], card.encoder, card.assumed) == ("relu", "builtin-1", ())
    assert not importing.dialog.is_open
    assert bench.model.choice.currentText() == "of the paper"
    assert "assumed" not in bench.model.card.text()


def test_what_is_left_empty_is_assumed_and_marked_so(bench, importing, published):
    dialog = dialog_for(bench, importing, published)
    assert dialog._fields["tile_px"].placeholderText() == "assumed: 256"
    assert dialog._fields["act"].itemText(0) == "assumed: gelu"
    dialog.take.click()
    assert bench.wait(60)
    card = bench.desk.state.card
    assert card.name == "p"
    assert bench.heard[-1] == "p is imported. What was assumed stands on its card."
    assert {"the order of the classes", "which encoder made the features it reads"} <= set(card.assumed)
    for sentence in card.assumed:
        assert sentence in bench.model.card.text()


def test_an_answer_that_is_none_is_said_and_can_be_mended(bench, importing, published):
    dialog = dialog_for(bench, importing, published)
    fill(dialog, classes="LUSC")
    dialog.take.click()
    assert dialog.wrong.text() == "The checkpoint answers for 2 classes; 1 were named."
    assert dialog.take.isEnabled()
    fill(dialog, classes="LUSC,LUAD")
    assert dialog.wrong.isHidden()
    dialog.take.click()
    assert bench.wait(60)
    assert [card.name for card in bench.desk.state.project.cards] == ["p"]


def test_weights_that_do_not_fit_name_the_keys_and_make_nothing(bench, importing, published):
    weights = torch.load(published, weights_only=True)
    gone = next(key for key in weights if key.endswith("bias"))
    torch.save(
        {k: v for k, v in weights.items() if k != gone} | {"surplus.weight": torch.zeros(2)}, published
    )
    dialog = dialog_for(bench, importing, published)
    dialog.take.click()
    assert bench.wait(60)
    assert "unexpected surplus.weight" in dialog.wrong.text()
    assert f"missing {gone}" in dialog.wrong.text()
    assert dialog.is_open
    assert dialog.take.isEnabled()
    assert bench.desk.state.project.cards == ()
    dialog.reject()


def test_a_file_that_is_no_checkpoint_is_one_sentence(bench, importing, tmp_path):
    (tmp_path / "letter.pth").write_text("dear all")
    importing.read(tmp_path / "letter.pth")
    assert bench.wait(60)
    assert importing.dialog is None
    [sentence] = bench.told
    assert "letter.pth" in sentence


def test_times_are_asked_in_the_place_of_classes(bench, importing, published):
    dialog = dialog_for(bench, importing, published)
    assert dialog._rows["unit"].isHidden()
    fill(dialog, edges="24")
    assert dialog._rows["classes"].isHidden()
    fill(dialog, unit="months")
    dialog.take.click()
    assert bench.wait(60)
    assert bench.desk.state.card.tree.unit == "months"


def test_the_teachers_weights_can_answer(bench, importing, tmp_path):
    torch.manual_seed(0)
    model = methods.create("mhim", in_features=12, tree=TREE)
    both = {"model": official.dump(model), "teacher": official.dump(model, part="teacher")}
    torch.save(both, tmp_path / "mhim.pth")
    dialog = dialog_for(bench, importing, tmp_path / "mhim.pth")
    assert not dialog.parts.isHidden()
    dialog.part.setCurrentText("teacher")
    assert dialog.value()["part"] == "teacher"
    dialog.take.click()
    assert bench.wait(60)
    assert bench.desk.state.card.method == "mhim"


def test_a_layout_of_two_methods_asks_which_and_its_options_follow(bench, importing, tmp_path):
    torch.save(official.dump(methods.create("mean", in_features=12, tree=TREE)), tmp_path / "pool.pth")
    dialog = dialog_for(bench, importing, tmp_path / "pool.pth")
    fill(dialog, tile_px="512", method="max")
    dialog._fields["method"].activated.emit(0)
    assert bench.wait(60)
    assert dialog._fields["tile_px"].text() == "512"
    dialog.take.click()
    assert bench.wait(60)
    assert bench.desk.state.card.method == "max"


def test_an_encoder_with_weights_of_its_own_asks_for_their_file(bench, importing, published):
    dialog = dialog_for(bench, importing, published)
    assert dialog.file.isHidden()
    needs = next(name for name, file in dialog._encoders.items() if file)
    fill(dialog, encoder=needs)
    assert not dialog.file.isHidden()
    dialog.take.click()  # without it, it is refused
    assert bench.wait(60)
    assert needs in dialog.wrong.text()
    assert bench.desk.state.project.cards == ()
    dialog.reject()


def test_the_same_as_a_command_line(bench, importing, published, tmp_path, monkeypatch, capsys):
    dialog = dialog_for(bench, importing, published)
    fill(dialog, classes="LUSC, LUAD", encoder="builtin", mpp="none", act="relu")
    labels = [label.text() for label in dialog.findChildren(QLabel)]
    assert "µm per pixel of its tiles, or none" in labels
    dialog.copy.click()
    words = shlex.split(QApplication.clipboard().text())
    dialog.take.click()
    assert bench.wait(60)
    mine = bench.desk.state.card
    other = tmp_path / "other"
    Project(other, tree=TREE).close()
    monkeypatch.setattr(sys, "argv", [str(other) if w == str(tmp_path / "study") else w for w in words])
    with pytest.raises(SystemExit):
        main()
    with Project(other) as project:
        [card] = project.cards
    assert (card.id, card.assumed) == (mine.id, mine.assumed)


def test_the_menu_does_the_same(bench, importing, published, viewer, monkeypatch):
    monkeypatch.setattr(QFileDialog, "getOpenFileName", lambda *_a: (str(published), ""))
    ask(viewer)
    assert bench.wait(60)
    assert importing.dialog.isVisible()
    importing.dialog.reject()


def test_without_a_workbench_the_menu_says_where_it_is(viewer, monkeypatch):
    told = []
    monkeypatch.setattr(compat, "tell", told.append)
    ask(viewer)
    assert told == [NO_WORKBENCH]
