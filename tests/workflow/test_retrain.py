"""Going on from a model: at which event of the ledger, without leaks, and not worse without saying so."""

import dataclasses
import shutil

import numpy as np
import pytest
from quickstudy import QUICK, add, made_up, study
from slidefiles import picture, write_pyramid

from napari_mil.correction import WholeSlide
from napari_mil.errors import ModelError, ProjectError
from napari_mil.prediction import Prediction, TileMap
from napari_mil.steps import drain
from napari_mil.workflow import (
    adopt,
    cross_validate_steps,
    current_card,
    difference_steps,
    earlier_card,
    retrain_here_steps,
    roll_back,
    search_model_steps,
    train_model_steps,
)
from napari_mil.workflow.difference import difference_maps
from napari_mil.workflow.project import as_of

pytestmark = pytest.mark.slow

SHORT = {"epochs": 2, "min_epochs": 1}


@pytest.fixture
def project(tmp_path):
    with study(tmp_path, 8) as made:
        drain(train_model_steps(made, "mean", recipe=QUICK, name="parent"))
        yield made


def retrained(project, **about):
    return drain(retrain_here_steps(project, "parent", recipe=SHORT, **about))


def kept_as_worse(project):
    """A child that its training calls worse."""
    done = retrained(project)
    card = dataclasses.replace(
        done.card, id="mean-worse", name="spoilt", worse="fine/auc fell.", created="2099-01-01T00:00:00+00:00"
    )
    project.store.save_model(card, project.store.model_bytes(done.card.id))
    return card


def test_a_worse_model_must_be_asked_for_twice(project):
    card = kept_as_worse(project)
    assert current_card(project).name != "spoilt"  # not by being the newest either
    before = project.ledger.head
    with pytest.raises(ModelError, match=r"spoilt is not adopted: fine/auc fell.*--although-worse"):
        adopt(project, "spoilt")
    assert project.ledger.head == before
    parent = adopt(project, "parent")
    assert adopt(project, "spoilt", although_worse=True).id == card.id
    assert project.ledger.events(kind="adopt")[-1].payload["although_worse"] is True
    assert earlier_card(project).name == "parent"
    assert roll_back(project).name == "parent"
    assert earlier_card(project) is None
    adopt(project, "spoilt", although_worse=True)
    shutil.rmtree(project.path / "models" / parent.id)
    assert earlier_card(project) is None  # its files are gone: the window offers no way back, and opens


def test_what_was_said_after_a_named_event_does_not_count(project):
    slide = project.slides[0].id
    project.correct(slide, WholeSlide(), "Malignant/IC")
    then = project.ledger.head
    first = retrained(project, seed=1).card
    assert first.ledger_head == then
    for record in project.slides[1:5]:
        project.correct(record.id, WholeSlide(), "Benign/PB")
    later = retrained(project, seed=1).card
    assert later.id != first.id
    again = retrained(project, seed=1, head=then[:10])
    assert again.card.id == first.id  # the same weights to the bit
    assert retrained(project, seed=1, head=str(len(project.slides) + 1)).card.id == first.id
    with pytest.raises(ProjectError, match="'0' names no event of the ledger; give a number from 1 to"):
        retrained(project, head="0")
    with pytest.raises(ProjectError, match="at least 8 characters"):
        retrained(project, head=then[:5])


LEARN = {
    "train": lambda project, seed: train_model_steps(project, "mean", recipe={**QUICK, "seed": seed}),
    "search": lambda project, seed: search_model_steps(
        project, "mean", {"lr": [1e-3]}, recipe={**QUICK, "seed": seed}
    ),
    "retrain": lambda project, seed: retrain_here_steps(project, "parent", recipe=SHORT, seed=seed),
    "study": lambda project, seed: cross_validate_steps(
        project, "mean", folds=2, seeds=[seed], recipe=QUICK, name=f"study-{seed}", keep_models=True
    ),
}


@pytest.mark.parametrize("learn", LEARN)
def test_what_is_said_while_a_model_learns_is_not_learned_from_nor_on_its_card(project, learn):
    def learned(seed):
        known = {card.id for card in project.cards}
        steps, before = LEARN[learn](project, seed), project.ledger.head
        next(steps)
        for record in project.slides[seed - 1 :]:
            project.correct(record.id, WholeSlide(), "Benign/N")
        drain(steps)
        made = [card for card in project.cards if card.id not in known]
        assert made
        assert {card.ledger_head for card in made} == {before}
        return made, before

    (first, *_), head = learned(seed=1)
    if learn == "retrain":
        assert retrained(project, seed=1, head=head).card.id == first.id


def test_a_first_training_can_be_done_again_from_the_ledger_of_then(project):
    then = project.ledger.head
    for record in project.slides[:4]:
        project.correct(record.id, WholeSlide(), "Benign/UDH")
    earlier = as_of(project, then)
    card = drain(train_model_steps(earlier, "mean", recipe={**QUICK, "seed": 5}, name="again"))
    assert card.ledger_head == then
    assert drain(train_model_steps(project, "mean", recipe={**QUICK, "seed": 5})).id != card.id


def test_a_copy_of_a_held_out_slide_is_not_learned_from(project):
    held = next(r for r in project.slides if r.id in current_card(project).slides["validation"])
    n = int(held.case[1:])
    copied = project.path.parent / "slides" / "converted.tif"
    write_pyramid(copied, picture(300, 400, n), "lzw")  # the same pixels in another file
    slide = project.add(copied, case="another case", label="Malignant/IC")
    assert slide.fingerprint != held.id
    assert slide.pixel_hash == project.slide(held.id).pixel_hash
    for record in project.slides:
        bag = made_up(record.id, n)
        project.store.save_bag(dataclasses.replace(bag, pixel_hash=project.slide(record.id).pixel_hash))
    done = retrained(project)
    assert slide.fingerprint not in {s for part in done.card.slides.values() for s in part}
    [sentence] = done.left_out
    assert sentence == (
        f"case 'another case' shows the same picture as {held.case!r}, which is held out, so it is not "
        "learned from"
    )
    assert sentence in done.card.note
    assert sentence in done.in_words()
    for run in drain(cross_validate_steps(project, "mean", recipe=QUICK, folds=3, keep_models=True)).runs:
        assert len(run.answers) > 0
    for card in project.cards:
        learned = {project.slide(s).pixel_hash for s in card.slides["train"]}
        judged = {project.slide(s).pixel_hash for p in ("validation", "test") for s in card.slides[p]}
        assert not learned & judged


def test_features_carry_the_hash_of_the_picture(tmp_path):
    from napari_mil.workflow import bag_steps

    with study(tmp_path, 1, bag=False) as project:
        slide = project.slide(project.slides[0])
        made = drain(bag_steps(project, slide))
        assert made.pixel_hash == slide.pixel_hash
        assert drain(bag_steps(project, slide)).pixel_hash == slide.pixel_hash  # from the project


def test_the_difference_of_two_models_on_a_slide(project):
    child = retrained(project).card
    slide = project.slide(project.slides[1])
    bag, answer = drain(difference_steps(project, slide, "parent", child.id))
    assert answer.grid_id == bag.grid.id
    one, other = (project.analyse(slide, model=m) for m in ("parent", child.id))
    name = "probability/fine/IC"
    change = answer.map(f"difference/{name}")
    np.testing.assert_allclose(change.values, other.map(name).values - one.map(name).values, atol=1e-7)
    assert change.note == f"{child.name} less parent"
    differ = one.map("class/fine").values != other.map("class/fine").values
    assert (answer.map("difference/calls").values == differ).all()


def test_of_times_the_risks_are_compared():
    from napari_mil.labeltree import Survival

    task = Survival.from_times([1.0, 2.0, 3.0], [True] * 3, bins=2)

    def told(values):
        risk = TileMap("risk", "score", np.float32(values))
        return Prediction("s", "g", "m", "slide", (), (risk,), hazards=np.float32([0.1, 0.2]))

    [one] = difference_maps(told([-1, -2]), told([-1.5, -2]), task)
    assert one.name == "difference/risk"
    assert one.values.tolist() == [-0.5, 0]
    assert one.span == (-0.5, 0.5)


def test_more_slides_of_another_case_do_not_disturb_the_split(project):
    add(project, 20)
    done = retrained(project)
    assert done.left_out == ()
    assert project.slides[-1].id in done.card.slides["train"]
