"""What cannot be meant is refused with one sentence, and nothing is kept of it."""

import pytest
from quickstudy import add, study, tiny

from napari_mil.correction import WholeSlide
from napari_mil.errors import LabelError, ProjectError, TissueError
from napari_mil.steps import drain
from napari_mil.workflow import Project, bag_steps


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"split": "Train"}, "'Train' is no part of a split; choose one of train, validation, test"),
        (
            {"survival": (-1, True)},
            "is no follow-up; give a time from 0 on, and whether",
        ),
        ({"survival": (float("nan"), True)}, "is no follow-up"),
        ({"survival": ("x", True)}, "is no follow-up"),
        ({"survival": (1.0, 2)}, "is no follow-up"),
        ({"survival": (1.0,)}, "is no follow-up"),
    ],
)
def test_what_is_said_of_a_slide_has_to_be_possible(tmp_path, about, said):
    with study(tmp_path, 0) as project:
        with pytest.raises(LabelError, match=said):
            project.add(tiny(tmp_path / "a.tif"), **about)
        assert project.slides == ()
        project.add(tiny(tmp_path / "a.tif"), split="test", survival=(0, 0), case=17)
        (record,) = project.slides
        assert (record.split, record.time, record.event, record.case) == ("test", 0.0, False, "17")


def test_a_place_has_to_be_one(tmp_path):
    with study(tmp_path, 1) as project:
        with pytest.raises(LabelError, match=r"'here' is no place; give WholeSlide\(\), Polygon"):
            project.correct("s0", "here", "IC")
        assert project.ledger.corrections() == ()
        assert project.correct("s0", WholeSlide(), "IC").label == "Malignant/IC"
        with pytest.raises(ProjectError, match="'3' is no slide of study; its slides are s0"):
            project.slide(3)


@pytest.mark.parametrize("kept", [True, False])
def test_a_region_has_to_be_one_and_one_without_tissue_is_not_said_to_be_the_slide(tmp_path, kept):
    with study(tmp_path, 0) as project:
        add(project, 0, bag=kept)
        slide = project.slide("s0")
        for wrong in ((1, 2, 3), "all", (9, 9, 0, 0), (0, 0, float("nan"), 9)):
            with pytest.raises(TissueError, match=r"is no region; give y0, x0, y1, x1 in level-0 pixels"):
                drain(bag_steps(project, slide, region=wrong))
        with pytest.raises(TissueError, match="There is no tissue in this region"):
            drain(bag_steps(project, slide, region=(1e6, 1e6, 2e6, 2e6)))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", r"'', an empty path; give its folder, '\.' for"),
        (None, "None; it must be the path of its folder"),
    ],
)
def test_a_project_needs_a_folder_and_an_empty_path_is_not_the_current_one(tmp_path, monkeypatch, path, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ProjectError, match=f"The project is {said}"):
        Project(path)
    assert not any(tmp_path.iterdir())
