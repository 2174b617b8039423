"""Colours by the scanner's profile are a choice of the project: kept, recorded, never mixed with others."""

from __future__ import annotations

import numpy as np
import pytest

from napari_mil.bag import SRGB, encoder_of
from napari_mil.encode import features_id
from napari_mil.encoders import create
from napari_mil.errors import ModelError
from napari_mil.workflow import Project, converts, find_encoder, log_rows, project_info, set_colours
from napari_mil.workflow.project import as_of
from tests.slides.test_colour import IMAGE, profile, write


def test_the_choice_is_kept_recorded_told_and_what_is_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", profile())
    with Project(tmp_path / "study", by="ann") as project:
        slide = project.add(path)
        assert not converts(project)
        assert np.array_equal(slide.levels[0][:], IMAGE)
        set_colours(project, srgb=True)
        assert slide.engine.closed
        seen = project.slide(slide.fingerprint)
        assert seen.properties["colours"].startswith("converted to sRGB")
        assert not np.array_equal(seen.levels[0][:], IMAGE)
        before = len(list(project.ledger.events()))
        set_colours(project, srgb=True)  # it is so already
        assert len(list(project.ledger.events())) == before
    with Project(tmp_path / "study") as again:
        assert converts(again)
        [event] = again.ledger.events(kind="colours")
        assert (event.by, event.payload) == ("ann", {"srgb": True})
        assert project_info(again)["colours"] == "converted to sRGB"
        set_colours(again, srgb=False)
        told = [(r["event"], r["by"], r["text"]) for r in log_rows(again) if r["kind"] == "colours"]
        assert told == [(event.seq, "ann", "converted to sRGB"), (event.seq + 1, "", "as stored")]
        monkeypatch.setattr(again.ledger, "events", None)  # what is so now is not looked up
        assert not converts(again)
        monkeypatch.undo()
        assert [converts(as_of(again, str(e))) for e in (1, event.seq)] == [False, True]
        assert np.array_equal(again.slide(slide.fingerprint).levels[0][:], IMAGE)


def test_features_of_other_colours_are_others_and_their_model_is_refused(study):
    builtin = create("builtin")
    slide = study.slide(study.slides[0])
    assert features_id(builtin, slide) == builtin.id
    card = study.cards[0]
    bag = study.store.load_bag(slide.fingerprint, card.encoder, card.tile_px, card.mpp)
    assert bag is not None
    set_colours(study, srgb=True)
    assert features_id(builtin, study.slide(study.slides[0])) == builtin.id + SRGB
    assert encoder_of(builtin.id + SRGB) == builtin.id
    assert find_encoder(study, builtin.id + SRGB).id == builtin.id
    with pytest.raises(ModelError) as caught:
        study.analyse(study.slides[0].id, model=card.id)
    assert "trained on colours as they are stored" in str(caught.value)
    assert "napari-mil project colours" in str(caught.value)
