"""import, embed, predict on the command line."""

import json
import os
import subprocess
import sys

import pytest
from quickstudy import QUICK, add, study, tiny
from slidefiles import picture, write_pyramid

from napari_mil.steps import drain
from napari_mil.workflow import train_model_steps


def test_slides_of_one_name_are_told_apart_and_an_unclear_one_is_refused(tmp_path, run):
    with study(tmp_path, 0) as project:
        for seed, name in enumerate(["a/1.tif", "b/1.tif", "b/2.tif"]):
            tiny(tmp_path / name, seed)
        folder = project.path
    status, out, _ = run("import", folder, tmp_path / "a", tmp_path / "b")
    assert status == 0
    assert [line.split(":")[0] for line in out.splitlines()] == ["a/1.tif", "b/1.tif", "2.tif"]
    status, _, err = run("labels", "show", folder, "--slide", "1")
    assert status == 2
    assert f"'1' may be any of {tmp_path / 'a' / '1.tif'}, {tmp_path / 'b' / '1.tif'}; give the path" in err
    assert run("labels", "show", folder, "--slide", "b/1")[0] == 0
    out = run("embed", folder)[1]
    assert [line.split(" ")[1] for line in out.splitlines()] == ["a/1:", "b/1:", "2:"]


def test_a_link_to_nothing_in_a_folder_fails_alone_and_is_told(tmp_path, run):
    for folder in ("a", "b"):
        tiny(tmp_path / folder / "1.tif", ord(folder))
    assert run("import", tmp_path / "study", tmp_path / "a")[0] == 0
    (tmp_path / "b" / "1.tif").rename(tmp_path / "b" / "2.tif")
    (tmp_path / "b" / "1.tif").symlink_to("gone.tif")
    status, out, err = run("import", tmp_path / "study", tmp_path / "b")
    told, taken = out.splitlines()
    assert status == 1
    assert told.startswith(
        "1.tif: FAILED, 1.tif cannot be read: it is a link to gone.tif, where there is nothing"
    )
    assert taken.startswith("2.tif: size")
    assert "1 of 2 files failed" in err


def test_embed_needs_no_file_where_features_are_kept(tmp_path, run):
    with study(tmp_path, 1) as project:
        add(project, 1, bag=False)
    for path in (tmp_path / "slides").iterdir():
        path.unlink()
    status, out, err = run("embed", project.path)
    assert status == 1
    assert out.startswith("[1/2] s0: tiles 12, features ")
    assert "[2/2] s1: FAILED, There is no file" in out
    assert "1 of 2 slides failed" in err


@pytest.mark.skipif(
    sys.platform in ("win32", "darwin"), reason="names there are Unicode without control characters"
)
def test_slides_of_any_name_are_taken_in_and_shown_on_one_line(tmp_path, run):
    names = [b"new\nline.tif", b"esc\x1b[31m.tif", b"Gr\xfc\xdfe.tif", "µ 日本.tif".encode()]
    for seed, name in enumerate(names):
        tiny(tmp_path / "s" / os.fsdecode(name), seed)
    shown = ["Gr\\udcfc\\udcdfe", "esc\\x1b[31m", "new\\nline", "µ 日本"]
    status, out, err = run("import", tmp_path / "p", tmp_path / "s")
    assert (status, err) == (0, "")
    assert sorted(line.split(".tif:")[0] for line in out.splitlines()) == shown
    out = run("labels", "show", tmp_path / "p")[1]
    assert sorted(line.split("  ")[0] for line in out.splitlines()) == shown
    rows = map(json.loads, run("labels", "show", tmp_path / "p", "--json")[1].splitlines())
    assert sorted(row["slide"] for row in rows) == shown
    for name in (*shown, *map(os.fsdecode, names)):  # as shown, or as the file is called
        assert run("labels", "set", tmp_path / "p", "IC", "--slide", name)[0] == 0
    assert run("export", tmp_path / "p", tmp_path / "all.csv")[0] == 0


def test_a_name_that_the_terminal_has_no_letters_for_ends_nothing(tmp_path):
    tiny(tmp_path / "µ日本.tif")
    line = [sys.executable, "-m", "napari_mil.cli", "import", tmp_path / "p", tmp_path / "µ日本.tif"]
    made = subprocess.run(
        line, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False
    )
    assert (made.returncode, made.stderr) == (0, b"")
    assert made.stdout.startswith(rb"\xb5\u65e5\u672c.tif: size 400 \xd7 300 px")


def test_a_name_like_markup_is_shown_as_it_is(tmp_path, run, monkeypatch):
    tiny(tmp_path / "a[" / "1.tif", 1)
    tiny(tmp_path / "b[" / "1.tif", 2)
    write_pyramid(tmp_path / "b[" / "[red]2.tif", picture(300, 400, 3), "zlib")
    (tmp_path / "[").mkdir()
    for seed, folder in enumerate("ab"):
        tiny(
            tmp_path / folder / "[" / "x]y.tif", seed
        )  # told apart as [/x]y: rich takes it for the end of a style
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert run("import", tmp_path / "p", tmp_path)[0] == 0


@pytest.mark.slow
def test_export_and_adoption_have_words_for_machines(tmp_path, run):
    with study(tmp_path, 4) as project:
        for name in ("a", "b"):
            recipe = {**QUICK, "seed": ord(name)}
            drain(train_model_steps(project, "mean", recipe=recipe, name=name))
    said = [
        run("models", "adopt", project.path, "a", "--json"),
        run("models", "adopt", project.path, "b", "--json"),
        run("models", "rollback", project.path, "--json"),
    ]
    assert [(status, json.loads(out)["name"], err) for status, out, err in said] == [
        (0, name, "") for name in "aba"
    ]
    status, out, _ = run("export", project.path, tmp_path / "all.csv", "--json")
    assert (status, json.loads(out)) == (0, {"result": {"file": str(tmp_path / "all.csv")}})
