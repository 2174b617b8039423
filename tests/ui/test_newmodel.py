"""A new model is asked for in a dialog and trained beside the window."""

from __future__ import annotations

import os

import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication
from quickstudy import add, study

from napari_mil import methods
from napari_mil.steps import drain
from napari_mil.workflow import current_card, recordings, start_options, train_model_steps

pytestmark = pytest.mark.skipif(
    os.environ.get("QT_QPA_PLATFORM") == "offscreen", reason="needs a screen, real or virtual (xvfb-run)"
)
QUICK = {"epochs": 2, "min_epochs": 1}


@pytest.fixture
def bench_of(docked, tmp_path):
    """A workbench on so many tiny slides; what it tells is kept in `told`."""

    def make(slides, **about):
        with study(tmp_path, slides, **about) as project:
            folder = project.path
        made = docked(folder, by="ann")
        made.told = []
        made.desk.tell = lambda what: made.told.append(str(what))
        return made

    return make


def asked(bench):
    """The dialog, open and settled."""
    bench.retrain.new_button.click()
    assert bench.wait(60)
    settle(bench, bench.retrain.dialog)
    return bench.retrain.dialog


def choose(bench, dialog, method, preset=None):
    dialog.method.setCurrentIndex(dialog.method.findText(method))
    dialog.preset.setCurrentIndex(dialog.preset.findData(preset))
    settle(bench, dialog)


def settle(bench, dialog):
    dialog._check()
    assert bench.wait(30)


def set_options(form, **values):
    for name, value in values.items():
        form._widgets[name].value = value


def test_a_dialog_that_grows_stays_on_the_screen(bench_of):
    dialog = asked(bench_of(3))
    free = QApplication.primaryScreen().availableGeometry()
    dialog.move(free.left(), free.bottom() - dialog.height())
    dialog.options.unfold()
    assert dialog.height() > 400
    assert dialog.frameGeometry().bottom() <= free.bottom()
    assert dialog.frameGeometry().top() >= free.top()
    dialog.reject()


def test_every_method_has_its_sentence_its_presets_and_a_form_of_its_defaults(bench_of):
    bench = bench_of(3)
    dialog = asked(bench)
    assert [dialog.method.itemText(i) for i in range(dialog.method.count())] == list(methods.names())
    assert dialog.choice.name == "mhim"
    for name in methods.names():
        choose(bench, dialog, name)
        kind = methods.get(name)
        assert methods.about(name) in dialog.about.text()
        assert dialog.config.read() == kind.Config()
        presets = [None, *kind.presets]
        assert [dialog.preset.itemData(i) for i in range(dialog.preset.count())] == presets
        for preset in presets:
            dialog.preset.setCurrentIndex(dialog.preset.findData(preset))
            assert (dialog.config.read(), dialog.recipe.read()) == start_options(name, preset)
            about = dialog.value()
            assert (about["config"], about["recipe"], about["preset"]) == ({}, {}, preset)
            if preset is not None:
                assert dialog.note.text() == kind.presets[preset].note
        assert dialog.name.text() == f"{name}-1"
    for field in ("mask_ratio", "temperature"):
        choose(bench, dialog, "mhim")
        assert len(dialog.config._widgets[field].tooltip) > 10
    dialog.reject()


def test_a_training_through_the_window_ends_with_a_new_model_that_can_be_adopted(bench_of):
    bench = bench_of(6)
    project = bench.desk.state.project
    assert bench.desk.state.card is None
    assert not bench.retrain.start_button.isEnabled()
    dialog = asked(bench)
    choose(bench, dialog, "mean")
    assert dialog.known.text() == "6 of 6 cases have a label."
    set_options(dialog.config, hidden=32)
    set_options(dialog.recipe, **QUICK)
    settle(bench, dialog)
    assert dialog.start.isEnabled()
    QTest.keyClick(dialog.name, Qt.Key.Key_Return)  # Start is what Enter does
    assert not bench.retrain.new_button.isEnabled()
    assert bench.retrain.stop_button.isEnabled()
    assert bench.wait(120)
    assert bench.told == []
    [card] = project.cards
    assert (card.name, card.method, card.config["hidden"], card.recipe.epochs) == ("mean-1", "mean", 32, 2)
    assert bench.retrain.plot.points["loss"]
    decision = bench.retrain.decision
    assert decision.verdict.text().startswith("<b>mean-1 is trained.</b><br>")
    assert "balanced accuracy: " in decision.verdict.text()
    assert not decision.adopt_button.isHidden()
    assert decision.keep_button.isHidden()
    assert bench.retrain.new_button.isEnabled()
    decision.adopt_button.click()
    assert bench.wait(60)
    assert bench.desk.state.card.id == card.id
    assert current_card(project).id == card.id
    assert bench.model.choice.currentText() == "mean-1"


def test_a_second_model_is_offered_beside_the_first_and_the_same_weights_are_one_model(bench_of):
    bench = bench_of(5)
    project = bench.desk.state.project
    card = drain(train_model_steps(project, "mean", recipe=QUICK))
    bench.model.choose(card.name)
    bench.desk.apply(changed_models=bench.desk.state.changed_models + 1)
    dialog = asked(bench)
    choose(bench, dialog, "mean")
    assert dialog.name.text() == "mean-2"
    set_options(dialog.recipe, **QUICK)
    settle(bench, dialog)
    dialog.accept()
    assert bench.wait(120)
    assert project.cards == (card,) or [c.id for c in project.cards] == [card.id]
    assert "so no second model mean-2 was made" in bench.retrain.decision.verdict.text()
    bench.retrain.train(method="max", name="max-1", recipe=QUICK)
    assert bench.wait(120)
    decision = bench.retrain.decision
    assert not decision.keep_button.isHidden()
    assert not decision.difference_button.isHidden()
    decision.keep_button.click()
    assert bench.desk.state.card.id == card.id
    assert "max-1 is kept in the list of models" in decision.note.text()


def test_a_cancelled_training_leaves_no_model_and_says_so(bench_of):
    bench = bench_of(5)
    job = bench.retrain.train(method="mean", name="mean-1", recipe=QUICK)
    bench.retrain.stop()
    assert bench.wait(90)
    assert job.result is None
    assert bench.desk.state.project.cards == ()
    words = "The training was stopped; it had not come far enough to keep anything."
    assert bench.retrain.note.text() == words
    assert bench.retrain.new_button.isEnabled()
    assert not bench.retrain.stop_button.isEnabled()


def test_what_a_training_sets_aside_is_said(bench_of, tmp_path):
    with study(tmp_path, 5) as project:
        add(project, 5, bag=False)
    (tmp_path / "slides" / "s5.tif").unlink()
    bench = bench_of(5)
    bench.retrain.train(method="mean", name="mean-1", recipe=QUICK)
    assert bench.wait(120)
    assert "s5 is set aside: There is no file" in bench.retrain.note.text()
    assert bench.desk.state.project.cards


def test_a_training_that_fails_is_one_sentence(bench_of):
    bench = bench_of(5)
    bench.retrain.train(method="mean", name="mean-1", preset="nothing")
    assert bench.wait(90)
    assert bench.told == ["mean has no preset 'nothing'; its presets are none."]
    assert bench.desk.state.project.cards == ()
    assert bench.retrain.new_button.isEnabled()


@pytest.mark.parametrize(("slides", "label", "said"), [(4, None, "0 cases"), (1, "Benign/N", "1 case")])
def test_a_project_without_labels_says_the_sentence_of_the_command(bench_of, slides, label, said):
    dialog = asked(bench_of(slides, label=label))
    assert dialog.wrong.text().startswith(f"{said} with a label ")
    assert dialog.wrong.text().endswith("too few to train on; label slides of at least 3 cases.")
    assert not dialog.start.isEnabled()
    dialog.accept()
    assert dialog.isVisible()
    dialog.reject()


def test_a_name_that_is_taken_and_options_that_contradict_each_other_are_told_at_once(bench_of):
    bench = bench_of(4)
    drain(train_model_steps(bench.desk.state.project, "mean", recipe=QUICK))
    dialog = asked(bench)
    assert dialog.start.isEnabled()
    dialog.name.setText("mean-1")
    assert not dialog.start.isEnabled()  # until it is checked
    settle(bench, dialog)
    assert dialog.wrong.text().startswith("There is a model called mean-1 already")
    dialog.name.setText("other")
    choose(bench, dialog, "abmil")
    choose(bench, dialog, "mhim")
    assert dialog.name.text() == "other"  # what a person typed stays
    set_options(dialog.config, compat="official", mask_ratio=0.0)
    settle(bench, dialog)
    assert "mask_ratio" in dialog.wrong.text()
    set_options(dialog.config, mask_ratio=0.02)
    settle(bench, dialog)
    assert (dialog.wrong.text(), dialog.start.isEnabled()) == ("", True)
    assert dialog.value()["config"] == {"compat": "official", "mask_ratio": 0.02}
    dialog.reject()


def test_follow_up_times_are_offered_where_they_are_known_and_the_method_has_one_level(bench_of):
    bench = bench_of(4)
    dialog = asked(bench)
    assert dialog.survival.isHidden()
    assert dialog.bins_row.isHidden()
    dialog.reject()
    for n in range(4):
        add(bench.desk.state.project, n, survival=(float(n + 1), True))
    dialog = asked(bench)
    choose(bench, dialog, "abmil")
    assert not dialog.survival.isHidden()
    dialog.survival.setChecked(True)
    dialog.bins.setValue(2)
    settle(bench, dialog)
    assert dialog.known.text() == "4 of 4 cases have a follow-up time."
    assert not dialog.bins_row.isHidden()
    assert (dialog.value()["survival"], dialog.value()["bins"], dialog.value()["unit"]) == (True, 2, "")
    dialog.unit.setCurrentText("months")
    assert dialog.value()["unit"] == "months"
    choose(bench, dialog, "hmil")
    assert dialog.survival.isHidden()
    assert dialog.value()["survival"] is False
    assert dialog.known.text() == "4 of 4 cases have a label."
    dialog.reject()


def test_too_few_events_are_told_in_the_form(bench_of):
    bench = bench_of(0)
    for n in range(5):
        add(bench.desk.state.project, n, survival=(float(n + 1), n < 2))
    dialog = asked(bench)
    choose(bench, dialog, "abmil")
    dialog.survival.setChecked(True)
    settle(bench, dialog)
    assert "not give 4 intervals of time; give more cases with an observed event" in dialog.wrong.text()
    assert not dialog.start.isEnabled()
    dialog.survival.setChecked(False)
    settle(bench, dialog)
    assert dialog.start.isEnabled()
    dialog.reject()


def test_cases_to_record_are_named_where_a_method_hides_tiles(bench_of):
    bench = bench_of(5)
    dialog = asked(bench)
    field = dialog.recipe.container["record"]
    assert field.native.placeholderText() == "such as c0, c1"
    set_options(dialog.recipe, record="c0, nobody")
    settle(bench, dialog)
    assert "nobody" in dialog.wrong.text()
    choose(bench, dialog, "mean")
    assert "record" not in dialog.recipe.names
    choose(bench, dialog, "mhim")
    set_options(dialog.recipe, record="c0, s1", stage1_epochs=1, **QUICK)
    set_options(dialog.config, hidden=32)
    settle(bench, dialog)
    assert dialog.value()["recipe"]["record"] == ("c0", "s1")
    dialog.accept()
    assert bench.wait(120)
    project = bench.desk.state.project
    [card] = project.cards
    assert set(recordings(project, card.id)) == {record.id for record in project.slides[:2]}


def test_the_dialog_scrolls_and_keeps_its_buttons_on_a_small_screen(bench_of):
    dialog = asked(bench_of(3))
    dialog.options.unfold()
    dialog.resize(360, 300)
    assert dialog.height() <= 320
    assert dialog.start.visibleRegion().boundingRect().height() == dialog.start.height()
    first = dialog.config.container[0].native
    assert first.focusPolicy() == Qt.FocusPolicy.StrongFocus
    dialog.reject()
