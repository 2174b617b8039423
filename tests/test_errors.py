"""Errors are sentences that can be shown, whatever a damaged file put into them."""

from __future__ import annotations

import pytest

from napari_mil.errors import LabelError, MILError, SlideError, reason


def test_an_error_says_what_it_was_given():
    assert (
        str(SlideError("There is no file a.svs; check the path."))
        == "There is no file a.svs; check the path."
    )
    assert str(MILError()) == ""


@pytest.mark.parametrize(
    ("given", "shown"),
    [("a\0b", r"a\x00b"), ("a\nb", r"a\nb"), ("\ud800", r"\ud800"), ("Kärtchen µm", "Kärtchen µm")],
)
def test_an_error_is_printable(given, shown):
    assert str(LabelError(f"{given} is no label.")) == f"{shown} is no label."


def test_an_error_is_short():
    said = str(LabelError(f"{'x' * 10**6} is no label."))
    assert len(said) < 2000
    assert " … " in said
    assert said.endswith("xx is no label.")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("not a ZIP archive. This is an internal error."), "not a ZIP archive"),
        (ValueError("first\nsecond"), "first"),
        (ValueError("Every leaf of a tree."), "Every leaf of a tree"),
        (ValueError(), "ValueError"),
        (OSError(2, "No such file or directory", "a.svs"), "No such file or directory"),
        (SlideError("it is dark"), "it is dark"),
    ],
)
def test_a_reason_fits_into_a_sentence(error, says):
    assert reason(error) == says
