"""All slides of a project are asked: each succeeds or fails alone, and running again goes on."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from quickstudy import QUICK, made_up, study
from slidefiles import write_pyramid

from napari_mil import encode
from napari_mil.errors import ModelError
from napari_mil.steps import drain
from napari_mil.workflow import (
    PartialAnswer,
    SlideAnswer,
    analyse_steps,
    answer_slides_steps,
    train_model_steps,
)

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path):
    with study(tmp_path, 4) as made:
        drain(train_model_steps(made, "mean", recipe=QUICK, name="m"))
        yield made


def ids(project):
    return [record.id for record in project.slides]


def ask(project, **about):
    seen = []
    found = drain(answer_slides_steps(project, model="m", **about), seen.append)
    return found, [now.payload for now in seen if isinstance(now.payload, SlideAnswer)]


def test_every_slide_is_answered_once_and_again_only_when_asked(project):
    drain(analyse_steps(project, project.slide("s1"), model="m"))
    found, came = ask(project)
    assert (found.asked, found.kept, found.failed) == (3, 1, [])
    assert [one.name for one in came] == ["s0", "s2", "s3"]
    for one in came:
        kept = project.store.latest_answer(one.record.id, one.answer.prediction.model_id)
        np.testing.assert_array_equal(kept.probabilities[-1], one.answer.prediction.probabilities[-1])
        assert one.answer.prediction.grid_id == one.answer.grid.id
    found, came = ask(project)
    assert (found.asked, found.kept, came) == (0, 4, [])
    before = project.store.latest_answer(ids(project)[0], project.cards[0].id).at
    found, came = ask(project, again=True)
    assert (found.asked, found.kept) == (4, 0)
    assert project.store.latest_answer(ids(project)[0], project.cards[0].id).at > before


def test_those_without_an_answer_come_first_when_all_are_asked_again(project):
    for name in ("s0", "s2"):
        drain(analyse_steps(project, project.slide(name), model="m"))
    _, came = ask(project, again=True)
    assert [one.name for one in came] == ["s1", "s3", "s0", "s2"]


def test_a_slide_that_fails_stops_no_other_and_says_why(project):
    gone, kept = project.slides[1:3]
    project.pool.close()
    Path(gone.path).unlink()
    Path(kept.path).unlink()  # its features are kept, so its file is not needed
    shutil.rmtree(project.path / "bags" / gone.id)
    found, came = ask(project)
    assert (found.asked, [name for name, _ in found.failed]) == (3, ["s1"])
    assert "s1.tif" in found.failed[0][1]
    assert [bool(one.error) for one in came] == [False, True, False, False]


def test_running_again_goes_on_where_it_was_stopped(project):
    steps = answer_slides_steps(project, model="m")
    for now in steps:
        if isinstance(now.payload, SlideAnswer) and now.done == 2:
            break
    steps.close()
    found, came = ask(project)
    assert (found.asked, found.kept) == (2, 2)
    assert [one.name for one in came] == ["s2", "s3"]


def test_an_answer_for_other_tiles_is_none(project):
    """The features were computed anew on other tiles since, as when the µm per pixel are said."""
    ask(project)
    project.store.save_bag(made_up(ids(project)[2], 2, tiles=9))
    found, came = ask(project)
    assert (found.asked, found.kept) == (1, 3)
    assert [one.name for one in came] == ["s2"]


def test_an_unknown_model_is_said_before_any_slide(project):
    with pytest.raises(ModelError, match="is no model"):
        drain(answer_slides_steps(project, model="nobody"))


def test_progress_counts_slides_and_moves_within_them(project, monkeypatch):
    monkeypatch.setattr("napari_mil.workflow.analyse.REFRESH_S", 0.0)
    monkeypatch.setattr(encode, "encode_steps", partial(encode.encode_steps, batch=1))
    stained = np.random.default_rng(0).normal((190, 110, 170), 8, (4 * 256, 4 * 256, 3)).astype(np.uint8)
    for n in (4, 5):
        ringed = np.pad(np.roll(stained, n, axis=0), ((256,) * 2, (256,) * 2, (0, 0)), constant_values=240)
        project.add(write_pyramid(project.path.parent / f"s{n}.tif", ringed))
    seen, front = [], ids(project)[4]
    drain(answer_slides_steps(project, model="m", seen=lambda i: i == front), seen.append)
    slides = [now for now in seen if now.stage == "all slides"]
    assert {now.total for now in slides} == {6}
    where = [now.done + now.within for now in slides]
    assert where == sorted(where)
    assert any(0 < now.within < 1 for now in slides)
    assert any("features" in now.note and now.note.startswith("s5") for now in slides)
    early = [now for now in slides if isinstance(now.payload, PartialAnswer)]
    assert {now.payload.prediction.slide_id for now in early} == {front}  # nobody looks at the others


def test_a_slide_that_is_wanted_comes_next_and_the_others_keep_their_order(project):
    came = []

    def wanted():
        return ids(project)[3] if came else ""

    for now in answer_slides_steps(project, model="m", wanted=wanted):
        came += [now.payload.name] if isinstance(now.payload, SlideAnswer) else []
    assert came == ["s0", "s3", "s1", "s2"]
