"""µm per pixel: what a file says counts, unless a person overrules it; what was given is kept and said."""

from quickstudy import tiny

from napari_mil.steps import drain
from napari_mil.workflow import Project, import_paths_steps


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
