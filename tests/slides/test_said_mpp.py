"""µm per pixel that a person said of a slide that does not say them: kept under its fingerprint."""

from __future__ import annotations

import shutil

import pytest
from quickstudy import tiny

from napari_mil.errors import SaidWarning, SlideError
from napari_mil.slides import open_slide
from napari_mil.slides.mpp import forget_mpp, said_mpp, say_mpp


def mpp_of(path):
    with open_slide(path) as slide:
        return slide.mpp, slide.mpp_was_said


def test_what_was_said_of_a_slide_is_there_when_it_is_opened_anew_and_no_other_gets_it(tmp_path):
    silent, other = tiny(tmp_path / "silent.tif", 0, mpp=None), tiny(tmp_path / "other.tif", 1, mpp=None)
    assert mpp_of(silent) == (None, False)
    with open_slide(silent) as slide:
        assert say_mpp(slide.fingerprint, 0.25) == (0.25, 0.25)
    assert mpp_of(silent) == ((0.25, 0.25), True)
    assert mpp_of(other) == (None, False)
    with open_slide(silent, mpp=(0.4, 0.5)) as slide:
        assert slide.mpp == (0.4, 0.5)  # said now
        assert say_mpp(slide.fingerprint, slide.mpp) == (0.4, 0.5)
    moved = tmp_path / "moved" / "silent.tif"
    moved.parent.mkdir()
    shutil.move(silent, moved)
    assert mpp_of(moved) == ((0.4, 0.5), True)
    with open_slide(moved) as slide:
        assert forget_mpp(slide.fingerprint)
        assert not forget_mpp(slide.fingerprint)
    assert mpp_of(moved) == (None, False)


def test_a_file_that_says_it_itself_never_takes_it(tmp_path):
    says = tiny(tmp_path / "says.tif")
    with open_slide(says) as slide:
        say_mpp(slide.fingerprint, 0.25)
    assert mpp_of(says) == ((0.5, 0.5), False)
    with open_slide(says, mpp=0.25) as slide:
        assert slide.mpp_was_said


@pytest.mark.parametrize(
    "damage", [b"", b"[0.25", b"[0.25]", b'{"mpp": 1}', b"[0.25, NaN]", b"[80, 80]", b"\xff"]
)
def test_what_is_damaged_is_one_sentence_and_counts_as_not_said(tmp_path, own_home, damage):
    silent = tiny(tmp_path / "silent.tif", mpp=None)
    with open_slide(silent) as slide:
        say_mpp(slide.fingerprint, 0.25)
        (file,) = (own_home / "mpp").iterdir()
        file.write_bytes(damage)
    with pytest.warns(SaidWarning, match=r"cannot be read \(.*\); say them again\.$") as told:
        assert mpp_of(silent) == (None, False)
    assert len(told) == 1
    with open_slide(silent, mpp=0.3) as slide:
        say_mpp(slide.fingerprint, 0.3)
    assert mpp_of(silent) == ((0.3, 0.3), True)


def test_what_cannot_be_kept_is_said_and_nothing_is_left_half_written(own_home, monkeypatch):
    say_mpp("abc", 0.25)
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(SlideError, match=r"0\.5 µm per pixel cannot be kept \(.*No space left"):
            say_mpp("abc", 0.5)
    assert said_mpp("abc") == (0.25, 0.25)
    assert [file.name for file in (own_home / "mpp").iterdir()] == ["abc.json"]
    shutil.rmtree(own_home)
    own_home.write_text("a file in the place of the folder")
    with pytest.raises(SlideError, match="cannot be kept"):
        say_mpp("abc", 0.5)
    with pytest.raises(SlideError, match="not plausible"):
        say_mpp("abc", 80.0)
