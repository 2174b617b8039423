"""Thousands of slides in the list: only what is seen is worked out, a stroke does not wait for the rest."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from qtpy.QtCore import QObject, Qt, Signal
from qtpy.QtWidgets import QApplication

from napari_mil.correction import Correction, WholeSlide
from napari_mil.ledger import SlideRecord
from napari_mil.samples import SAMPLE_TREE
from napari_mil.ui.slidelist import SlideList
from napari_mil.ui.state import State

N = 5000


class Lane:
    """The lane of questions: what was asked, answered when the test says so."""

    def __init__(self):
        self.asked = {}

    def ask(self, topic, work, then):
        self.asked[topic] = (work, then)

    def answer(self, topic):
        work, then = self.asked.pop(topic)
        then(work())


class Table(QObject):
    """A desk without a viewer."""

    changed = Signal(object, object)
    answered = Signal(str, object)

    def __init__(self):
        super().__init__()
        self.state, self.asks = State(), Lane()

    def apply(self, **changes):
        before, self.state = self.state, dataclasses.replace(self.state, **changes)
        self.changed.emit(before, self.state)


class Ledger:
    def __init__(self):
        self.said, self.read = [], []

    @property
    def last(self):
        return {c.slide_id: n for n, c in enumerate(self.said, 1)}

    def corrections(self, slide):
        self.read.append(slide)
        return tuple(c for c in self.said if c.slide_id == slide)


def study(n=N):
    records = tuple(
        SlideRecord(f"id{i}", f"/slides/s{i}.svs", f"s{i:04d}", f"case {i // 2}", "Benign/N", (0.5, 0.5))
        for i in range(n)
    )
    seen = []

    def picture(which):
        seen.append(which)
        return SimpleNamespace(thumbnail=lambda side: np.zeros((side, side, 3), np.uint8))

    store = SimpleNamespace(latest_answer=lambda _slide, _model: None)
    return SimpleNamespace(
        slides=records, ledger=Ledger(), store=store, slide=picture, seen=seen, tree=SAMPLE_TREE
    )


@pytest.fixture
def shown(qtbot, monkeypatch):
    monkeypatch.setattr("napari_mil.ui.slidelist.picture", lambda slide, side: slide.thumbnail(side))
    desk = Table()
    made = SlideList(desk)
    qtbot.addWidget(made)
    made.desk = desk
    made.resize(360, 220)
    made.show()
    return made


def test_only_rows_that_are_seen_are_worked_out(shown, qtbot):
    project = study()
    shown.desk.apply(project=project, card=SimpleNamespace(id="m"))
    assert shown.count == N
    qtbot.waitUntil(lambda: {"thumbnail", "kept answers"} <= set(shown.desk.asks.asked))
    for _ in range(30):
        for topic in list(shown.desk.asks.asked):
            shown.desk.asks.answer(topic)
        qtbot.wait(1)
    assert 2 <= len(set(project.seen)) < 20
    assert "model: not analysed" in shown.text(0)
    shown.view.scrollToBottom()
    qtbot.waitUntil(lambda: "thumbnail" in shown.desk.asks.asked)
    shown.desk.asks.answer("thumbnail")
    assert int(project.seen[-1][2:]) > N - 20
    picture = shown.found.index(int(project.seen[-1][2:]), 0).data(Qt.ItemDataRole.DecorationRole)
    assert not picture.isNull()


def test_a_correction_appears_and_costs_little(shown):
    project = study()
    shown.desk.apply(project=project, record=project.slides[10])
    project.ledger.said = [Correction(f"id{i}", WholeSlide(), "Malignant/IC", by="a") for i in range(0, N, 2)]
    worked_out = []
    words = shown.model._words
    shown.model._words = lambda record: (worked_out.append(record.id), words(record))[1]
    shown.desk.apply(heard=N)
    QApplication.processEvents()
    assert "Malignant/IC · 1 correction" in shown.text()
    assert len(worked_out) < 30
    project.ledger.read.clear()
    project.ledger.said.append(Correction("id10", WholeSlide(), "Benign/UDH", by="a"))
    shown.desk.apply(heard=N + 1)
    assert project.ledger.read == ["id10"]  # and no other slide
    assert "Benign/UDH · 2 corrections" in shown.text()


def test_what_is_not_kept_yet_is_shown_once(shown):
    project = study(20)
    shown.desk.apply(project=project, record=project.slides[3])
    said = Correction("id3", WholeSlide(), "Malignant/IC", by="a")
    shown.desk.apply(pending=(said,))
    assert "Malignant/IC · 1 correction" in shown.text()
    project.ledger.said = [said]
    shown.desk.apply(pending=(), heard=1)
    assert "Malignant/IC · 1 correction" in shown.text()
    shown.desk.apply(pending=(Correction("id3", WholeSlide(), "Benign/UDH", by="a"),))
    shown.desk.apply(pending=())  # it could not be kept
    assert "Malignant/IC · 1 correction" in shown.text()


def test_slides_are_found_by_name_case_and_label(shown, qtbot):
    project = study(40)
    project.ledger.said = [Correction("id7", WholeSlide(), "Malignant/IC", by="a")]
    shown.desk.apply(project=project, record=project.slides[3])
    for words, found in (("S0012", ["s0012"]), ("case 5", ["s0010", "s0011"]), ("ignant/ic", ["s0007"])):
        shown.sought.setText(words)
        assert [shown.text(i).split("\n")[0] for i in range(shown.count)] == found
    with qtbot.waitSignal(shown.chosen) as heard:
        shown.view.activated.emit(shown.found.index(0, 0))
    assert heard.args == ["id7"]
    shown.sought.clear()
    assert shown.count == 40
    assert shown.text().startswith("s0003")
    shown.desk.apply(blind=True)
    shown.sought.setText("Benign")
    assert shown.count == 0  # what is hidden cannot be found either


def test_another_project_takes_the_place_of_the_one_before(shown):
    shown.desk.apply(project=study(30), card=SimpleNamespace(id="m"))
    shown.text(0)
    shown.desk.apply(project=study(10))
    assert shown.count == 10
    shown.desk.apply(project=None)
    assert shown.count == 0
