"""napari-mil mpp: say how large a pixel of a slide is, show it, forget it."""

import json

import pytest
from quickstudy import tiny

from napari_mil import Project, open_slide
from napari_mil.slides import copies
from napari_mil.steps import Progress


def test_it_is_said_shown_changed_and_forgotten(tmp_path, run):
    silent = tiny(tmp_path / "silent.tif", mpp=None)
    unknown = "silent.tif: nobody has said how many µm a pixel is wide\n"
    assert run("mpp", silent) == (0, unknown, "")
    assert run("mpp", silent, "0.25") == (0, "silent.tif: 0.25 µm per pixel, said by you\n", "")
    assert run("mpp", silent) == (0, "silent.tif: 0.25 µm per pixel, said by you\n", "")
    assert run("mpp", silent, "0,5")[1] == "silent.tif: 0.5 µm per pixel, said by you\n"
    said = json.loads(run("mpp", silent, "--json")[1])["result"]
    assert said == {"slide": "silent.tif", "mpp": [0.5, 0.5], "by": "you"}
    assert run("mpp", silent, "--forget") == (0, unknown, "")
    assert run("mpp", silent) == (0, unknown, "")


def test_what_cannot_be_meant_is_one_sentence(tmp_path, run):
    says = tiny(tmp_path / "says.tif")
    assert run("mpp", says)[1] == "says.tif: 0.5 µm per pixel, said by the file\n"
    for words in (("0.25",), ("--forget",)):
        status, _, err = run("mpp", says, *words)
        assert (status, err) == (
            2,
            "napari-mil: says.tif says itself that a pixel is 0.5 µm wide; that counts.\n",
        )
    assert "no plausible µm per pixel" in run("mpp", says, "80")[2]
    assert "either 0.25, to be kept, or --forget" in run("mpp", says, "0.25", "--forget")[2]


def test_what_a_project_keeps_is_said_shown_and_forgotten_there(tmp_path, run):
    silent, says = tiny(tmp_path / "silent.tif", mpp=None), tiny(tmp_path / "says.tif")
    study = tmp_path / "study"
    assert run("import", study, silent, says, "--mpp", "0.25")[0] == 0
    there = ("--project", study)
    assert run("mpp", "silent", *there)[1] == "silent: 0.25 µm per pixel, said by the project\n"
    assert run("mpp", "says", "0.3", *there)[1] == "says: 0.3 µm per pixel, said by the project\n"
    assert json.loads(run("mpp", "says", "--json", *there)[1])["result"]["by"] == "project"
    assert run("mpp", "says")[2].startswith("napari-mil: There is no file")
    assert run("mpp", "says", "--forget", *there)[1] == "says: 0.5 µm per pixel, said by the file\n"
    unknown = "silent: nobody has said how many µm a pixel is wide\n"
    assert run("mpp", "silent", "--forget", *there) == (0, unknown, "")
    assert run("mpp", "silent", *there) == (0, unknown, "")
    with Project(study) as project:
        assert {record.name: record.mpp for record in project.slides} == {"silent": None, "says": (0.5, 0.5)}
    assert "is no slide of study; its slides are" in run("mpp", "other", "--forget", *there)[2]


@pytest.mark.filterwarnings("default::napari_mil.errors.SaidWarning")
def test_what_is_damaged_is_one_line(tmp_path, run, own_home):
    silent = tiny(tmp_path / "silent.tif", mpp=None)
    run("mpp", silent, "0.25")
    (file,) = (own_home / "mpp").iterdir()
    file.write_text("{")
    status, out, err = run("mpp", silent)
    assert (status, out) == (0, "silent.tif: nobody has said how many µm a pixel is wide\n")
    assert err.startswith("napari-mil: The µm per pixel that you once said of this slide cannot be read")
    assert err.count("\n") == 1


@pytest.mark.parametrize("in_project", [False, True])
def test_a_slide_that_has_to_be_copied_first_tells_how_far_it_is(tmp_path, run, monkeypatch, in_project):
    slide, study, words = tiny(tmp_path / "says.tif"), tmp_path / "study", ("--json",)
    assert run("import", study, slide)[0] == 0
    plain = open_slide

    def copied(path, **about):
        copies._heard.get()(Progress(copies.STAGE, 1, 2, "says.tif"))
        return plain(path, **about)

    monkeypatch.setattr("napari_mil.slides.open_slide", copied)
    lines = run("mpp", *(("says", "--project", study) if in_project else (slide,)), *words)[1].splitlines()
    assert json.loads(lines[0]) == {"stage": copies.STAGE, "done": 1, "total": 2, "note": "says.tif"}
    assert json.loads(lines[1])["result"]["mpp"] == [0.5, 0.5]
