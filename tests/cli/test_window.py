"""demo and open where there is no screen, and projects that are not there."""

import os
import sys

import pytest
from quickstudy import study

from napari_mil.steps import Progress


@pytest.fixture
def no_screen(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)


def test_demo_goes_to_a_virtual_screen_or_says_how_to_get_one(no_screen, tmp_path, run, monkeypatch):
    became = []

    def become(program, line, environment):
        became.append((program, line, environment["NAPARI_MIL_VIRTUAL_SCREEN"]))
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", become)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert run("demo", "--output", tmp_path / "out", "--no-keep-open")[0] == 0
    [(program, line, virtual)] = became
    assert (program, line[0], virtual) == ("/usr/bin/xvfb-run", "/usr/bin/xvfb-run", "1")
    words = ["demo", "--output", str(tmp_path / "out"), "--no-keep-open"]
    assert line[-7:] == [sys.executable, "-m", "napari_mil.cli", *words]
    monkeypatch.setattr("shutil.which", lambda _name: None)
    status, _, err = run("demo", "--output", tmp_path / "out")
    assert (status, err.count("\n")) == (2, 1)
    assert "apt install xvfb" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "value"), [("DISPLAY", ":0"), ("QT_QPA_PLATFORM", "offscreen")])
def test_a_screen_is_used_and_the_demo_says_what_it_does(no_screen, tmp_path, run, monkeypatch, name, value):
    def sample(folder):
        for n in range(3):
            yield Progress("sample slides", n, 3)
        yield Progress("features", 0, 3)
        return folder

    def toured(_project, _output, echo, **_about):
        echo("toured")

    monkeypatch.setenv(name, value)
    monkeypatch.setattr("napari_mil.workflow.sample_project_steps", sample)
    monkeypatch.setitem(sys.modules, "napari_mil.ui.tour", type(sys)("tour"))
    sys.modules["napari_mil.ui.tour"].tour = toured
    status, out, _ = run("demo", "--output", tmp_path)
    assert status == 0
    told = out.splitlines()
    assert told[0].startswith("sample project: its slides are drawn")
    assert told[1:3] == ["sample slides …", "features …"]
    assert told[4] == "toured"


def test_open_says_that_there_is_no_screen(no_screen, run):
    status, _, err = run("open")
    assert (status, err.count("\n")) == (2, 1)
    assert "There is no screen here to open a window on" in err


def test_open_makes_no_project_by_mistake(no_screen, tmp_path, run, monkeypatch):
    typo = tmp_path / "typo"
    status, _, err = run("open", "--project", typo)
    assert status == 2
    assert f"There is no project {typo}; check the path, or add --new" in err
    assert not typo.exists()
    with study(tmp_path, 0) as project:
        known = project.path
    for words in (("--project", typo, "--new"), ("--project", known)):
        assert "There is no screen" in run("open", *words)[2]  # that was the only obstacle
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for answer in (True, False):
        monkeypatch.setattr("typer.confirm", lambda _question, said=answer: said)
        err = run("open", "--project", typo)[2]
        assert ("There is no screen" if answer else "There is no project") in err
