"""µm per pixel: what a file says counts, unless a person overrules it; what was given is kept and said."""

from quickstudy import tiny

from napari_mil.slides import open_slide
from napari_mil.slides.mpp import forget_mpp, say_mpp
from napari_mil.steps import drain
from napari_mil.workflow import Project, import_paths_steps, slide_bag_steps
from napari_mil.workflow.analyse import kept_bag
from napari_mil.workflow.project import as_of


def imported(folder, *paths, mpp=None):
    rows = drain(import_paths_steps(folder, list(paths), mpp=mpp))
    assert all(row["ok"] for row in rows)
    with Project(folder) as project:
        return [row.get("note", "") for row in rows], [r.mpp for r in project.slides]


def test_on_import_it_counts_only_where_a_file_is_silent_or_implausible(tmp_path):
    says = tiny(tmp_path / "says.tif", 0)
    silent = tiny(tmp_path / "silent.tif", 1, mpp=None)
    wild = tiny(tmp_path / "wild.tif", 2, mpp=(80.0, 80.0))
    notes, mpp = imported(tmp_path / "p", says, silent, wild, mpp="0.25")
    assert mpp == [(0.5, 0.5), (0.25, 0.25), (0.25, 0.25)]
    assert notes == ["", *["µm per pixel 0.25 as given"] * 2]
    notes, mpp = imported(tmp_path / "p", says, silent)  # kept when it is not given again
    assert mpp == [(0.5, 0.5), (0.25, 0.25), (0.25, 0.25)]
    assert notes == ["", "µm per pixel 0.25 as given"]
    assert imported(tmp_path / "p", silent, mpp="0.3")[1][1] == (0.3, 0.3)  # and may be mended
    assert imported(tmp_path / "q", silent)[0] == ["says no µm per pixel: give --mpp"]


def test_in_python_it_overrules_the_file_and_that_is_kept_and_said(tmp_path):
    path = tiny(tmp_path / "says.tif")
    with Project(tmp_path / "p") as project:
        slide = project.add(path, mpp=0.25)
        assert (slide.mpp, slide.stated_mpp) == ((0.25, 0.25), (0.5, 0.5))
        assert project.add(path).mpp == (0.25, 0.25)
        assert project.add(path, mpp_if_unsaid=0.3).mpp == (0.25, 0.25)
    with Project(tmp_path / "p") as project:
        assert project.slide("says").mpp == (0.25, 0.25)
    notes, _ = imported(tmp_path / "p", path, mpp="0.3")
    assert notes == ["µm per pixel 0.25 as given; the file says 0.5"]


def say(path, mpp):
    with open_slide(path) as slide:
        say_mpp(slide.fingerprint, mpp)


def test_what_was_said_outside_is_taken_along_into_a_project_which_keeps_its_own(tmp_path):
    silent, other = tiny(tmp_path / "silent.tif", 0, mpp=None), tiny(tmp_path / "other.tif", 1, mpp=None)
    say(silent, 0.25)
    notes, mpp = imported(tmp_path / "p", silent, other)
    assert mpp == [(0.25, 0.25), None]
    assert notes == ["µm per pixel 0.25 as given", "says no µm per pixel: give --mpp"]
    say(silent, 0.3)
    with Project(tmp_path / "p") as project:
        assert project.slide("silent").mpp == (0.25, 0.25)
        assert project.add(silent).mpp == (0.25, 0.25)
    assert imported(tmp_path / "q", silent, mpp="0.4")[1] == [(0.4, 0.4)]  # said now, for this project


def test_what_was_said_since_holds_for_a_project_as_it_stood_before_too(tmp_path):
    silent = tiny(tmp_path / "silent.tif", mpp=None)
    assert imported(tmp_path / "p", silent)[1] == [None]
    say(silent, 0.5)
    with Project(tmp_path / "p") as project:
        head = project.ledger.head
        assert drain(slide_bag_steps(as_of(project, head), project.slides[0])).grid.slide_mpp == (0.5, 0.5)
        assert project.ledger.head == head


def test_a_slide_that_a_project_knows_in_pixels_takes_what_was_said_since(tmp_path):
    silent = tiny(tmp_path / "silent.tif", mpp=None)
    assert imported(tmp_path / "p", silent)[1] == [None]
    with Project(tmp_path / "p") as project:
        assert drain(slide_bag_steps(project, project.slides[0])).grid.slide_mpp is None
    say(silent, 0.5)
    with Project(tmp_path / "p") as project:
        bag = drain(slide_bag_steps(project, project.slides[0]))
        assert bag.grid.slide_mpp == (0.5, 0.5)
        assert project.slides[0].mpp == (0.5, 0.5)
        assert kept_bag(project, project.slides[0]).grid.id == bag.grid.id
    with open_slide(silent) as slide:
        forget_mpp(slide.fingerprint)
    with Project(tmp_path / "p") as project:
        assert project.slide("silent").mpp == (0.5, 0.5)  # the project's own by now
