"""What a slide, a case or a label is called is no formula of a spreadsheet, and comes back as it was."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_mil.correction import WholeSlide
from napari_mil.interop.cells import quoted, unquoted
from napari_mil.ledger import SlideRecord
from napari_mil.workflow import Table, write_columns
from napari_mil.workflow.readings import Disagreement, Report, write_report

EVIL = "=HYPERLINK(A1)"


@given(st.text())
def test_a_text_comes_back(text):
    field = quoted(text)
    assert unquoted(field) == text
    assert not field.startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.mark.parametrize("text", [EVIL, "+1", "-a", "@sum", "'tis"])
def test_a_table_of_answers_holds_no_formula_and_numbers_stay(tmp_path, text):
    path = tmp_path / "answers.csv"
    with Table(path, ("slide", "risk", f"p {text}", text)) as table:
        table.add({"slide": text, "risk": -0.25, f"p {text}": 1e-9, text: -3, "more": 1})
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    assert rows == [["slide", "risk", f"p {text}", f"'{text}"], [f"'{text}", "-0.25", "1e-09", "-3"]]


def test_a_table_of_tiles_keeps_its_numbers(tmp_path):
    path = tmp_path / "tiles.csv"
    write_columns(path, {EVIL: np.array([-1.5, 2]), "what": np.array(["-x", "y"])})
    rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    assert rows == [[f"'{EVIL}", "what"], ["-1.5", "'-x"], ["2.0", "y"]]


def test_a_report_of_two_people_holds_no_formula_and_json_says_it_as_it_is(tmp_path):
    report = Report(
        EVIL, "B", (), (), (Disagreement(SlideRecord("s", "a"), "+slide", WholeSlide(), None, "-a", "b"),)
    )
    rows = list(csv.DictReader(write_report(report, tmp_path / "r.csv").read_text().splitlines()))
    assert (rows[0]["slide"], rows[0][f"'{EVIL}"], rows[0]["B"]) == ("'+slide", "'-a", "b")
    assert json.loads(write_report(report, tmp_path / "r.json").read_text())[0][EVIL] == "-a"
