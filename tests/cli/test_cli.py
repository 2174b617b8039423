"""The command line: every command has help with an example; bad input is one sentence and loses nothing."""

import io
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from slidefiles import picture, write_svs
from typer.main import get_command

import napari_mil
from napari_mil.cli import app, main
from napari_mil.cli.running import show
from napari_mil.device import describe
from napari_mil.slides import copies
from napari_mil.steps import Progress
from napari_mil.workflow import Project, find_record
from napari_mil.workflow.doctor import OPTIONAL

COMMANDS = sorted(get_command(app).commands)


def run(capsys, monkeypatch, *words):
    """Run `napari-mil WORDS` in this process: (exit status, standard output, standard error)."""
    monkeypatch.setattr(sys, "argv", ["napari-mil", *map(str, words)])
    status = 0
    try:
        main()
    except SystemExit as done:
        status = done.code or 0
    out = capsys.readouterr()
    return status, out.out, out.err


def test_the_commands_that_were_promised_are_there():
    promised = "demo open import embed train predict evaluate labels export doctor retrain models"
    assert set(promised.split()) <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_an_example(command, capsys, monkeypatch):
    status, out, _ = run(capsys, monkeypatch, command, "--help")
    assert status == 0
    assert "Example:" in out
    assert f"napari-mil {command}" in out


@pytest.mark.slow
def test_doctor_names_readers_gpu_and_methods(capsys, monkeypatch):
    status, out, _ = run(capsys, monkeypatch, "doctor")
    assert status == 0
    assert "methods: " in out
    assert "mhim" in out
    assert "GPU" in out
    assert "OME-Zarr reader: OME-Zarr 0.4 and 0.5, from disk and from servers" in out
    assert "Sakura, from disk, and copied from servers" in out
    assert "copies of slides from servers: 0 MB of at most 50 GB in " in out


def test_the_doctor_asks_for_nothing_that_the_program_does_not_use():
    source = "\n".join(path.read_text() for path in Path(napari_mil.__file__).parent.rglob("*.py"))
    bindings = {"PyQt5", "s3fs", "psycopg"}  # found by qtpy, fsspec and SQLAlchemy
    assert [m for m in OPTIONAL if m not in bindings and not re.search(rf"(import|from) {m}\b", source)] == []


def test_an_import_tells_of_each_file_as_it_comes_and_counts_what_failed(tmp_path, capsys, monkeypatch):
    slides = tmp_path / "slides"
    slides.mkdir()
    for seed, name in enumerate(("a.svs", "c.svs")):
        write_svs(slides / name, picture(300, 400, seed), "jpeg-ycbcr")
    (slides / "b.svs").write_bytes(b"no slide")
    seen: list[int] = []
    added = Project.add

    def add(self, path, **about):
        seen.append(capsys.readouterr().out.count("\n"))
        return added(self, path, **about)

    monkeypatch.setattr(Project, "add", add)
    status, out, err = run(capsys, monkeypatch, "import", tmp_path / "study", slides)
    assert status == 1
    assert seen == [0, 1, 1]  # what came before was said before the next was looked at
    assert "c.svs: size" in out
    assert "1 of 3 files failed, as said above" in err
    status, out, _ = run(capsys, monkeypatch, "import", tmp_path / "study", slides, "--json")
    assert [json.loads(line)["ok"] for line in out.splitlines()] == [True]  # `add` had read the others
    assert status == 1


def test_slides_that_are_copied_on_the_way_are_heard_of(capsys):
    def steps():
        yield Progress("work", 0, 1)
        copies._heard.get()(Progress(copies.STAGE, 3, 9, "a.ndpi"))
        return 7

    assert show(steps(), as_json=True, slide="a") == 7
    assert [json.loads(line)["stage"] for line in capsys.readouterr().out.splitlines()] == [
        "work",
        copies.STAGE,
    ]


def test_a_bar_counts_what_there_is_and_leaves_room_for_its_note(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    def steps():
        for n in range(4):
            yield Progress("features", n, 3, "on CPU, 1 thread")
            time.sleep(0.15)  # longer than a frame

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("COLUMNS", "80")
    show(steps())
    drawn = sys.stderr.getvalue()
    assert "0/3" in drawn
    assert "0/100" not in drawn
    assert "on CPU, 1 thread" in drawn
    assert describe(torch.device("cpu")).rpartition(" ")[2] == (
        "thread" if torch.get_num_threads() == 1 else "threads"
    )


def test_what_is_not_there_is_said_of_an_empty_project(tmp_path, capsys, monkeypatch):
    with Project(tmp_path / "study"):
        pass
    status, out, err = run(capsys, monkeypatch, "models", "list", tmp_path / "study")
    assert (status, out) == (0, "")
    assert "has no models yet; napari-mil train makes one" in err
    err = run(capsys, monkeypatch, "models", "show", tmp_path / "study", "m")[2]
    assert "'m' is no model of study; it has no models yet; train or import it first." in err
    err = run(capsys, monkeypatch, "export", tmp_path / "study", tmp_path / "a.csv", "--slide", "s")[2]
    assert "it has no slides yet" in err


@pytest.mark.slow
def test_an_overnight_run(cohort, tmp_path, capsys, monkeypatch):
    project = tmp_path / "study"
    slides = tmp_path / "slides"
    slides.mkdir()
    for path in sorted((cohort / "slides").iterdir())[:6]:
        shutil.copy(path, slides)
    (slides / "broken.svs").write_bytes(b"II*\0broken")
    manifest = cohort / "manifest.csv"
    status, out, _ = run(capsys, monkeypatch, "import", project, slides, "--manifest", manifest)
    assert status == 1
    assert out.count("FAILED") == 1
    assert "broken.svs: FAILED" in out
    assert run(capsys, monkeypatch, "embed", project)[0] == 0
    quick = ("-r", "epochs=3", "-r", "min_epochs=1", "-r", "stage1_epochs=1")
    status, out, err = run(capsys, monkeypatch, "train", project, "--method", "mhim", *quick, "--name", "m")
    assert status == 0, err
    assert out.startswith("m (mhim")
    table = tmp_path / "answers.csv"
    status, out, _ = run(capsys, monkeypatch, "predict", project, "--model", "m", "--csv", table)
    assert status == 0
    assert len(table.read_text().splitlines()) == 7
    first = min(slides.glob("case*"))
    with Project(project) as opened:
        known = find_record(opened, first.stem).id
    shutil.rmtree(project / "bags" / known)
    first.unlink()  # of one slide neither the file nor its features are left
    status, out, err = run(capsys, monkeypatch, "predict", project, "--model", "m", "--json")
    assert status == 1
    rows = [json.loads(line) for line in out.splitlines()]
    assert sum(not r["ok"] for r in rows if "ok" in r) == 1
    assert "1 of 6 slides failed" in err
    status, out, _ = run(
        capsys, monkeypatch, "evaluate", project, "--model", "m", "--split", "train", "--json"
    )
    assert status in (0, 2)
    status, out, _ = run(capsys, monkeypatch, "labels", "verify", project)
    assert status == 0
    assert run(capsys, monkeypatch, "models", "adopt", project, "m")[0] == 0
    status, out, _ = run(capsys, monkeypatch, "models", "list", project)
    assert out.startswith("* m")
    status, out, _ = run(capsys, monkeypatch, "models", "show", project, "m")
    assert "calibrated" in out
    assert json.loads(run(capsys, monkeypatch, "models", "show", project, "m", "--json")[1])["name"] == "m"


class Evil:
    def __reduce__(self):
        return (print, ("code ran",))


def bad_inputs(cohort, study, tmp):
    """(name, words, what the sentence must say)."""
    slide = next(iter(sorted((cohort / "slides").iterdir())))
    (tmp / "empty").mkdir()
    (tmp / "zero.svs").write_bytes(b"")
    (tmp / "text.tif").write_text("hello")
    torch.save({"a": Evil()}, tmp / "evil.pt")
    (tmp / "bad.csv").write_text("a,b\n1,2\n")
    (tmp / "labels.geojson").write_text("{not json")
    (tmp / "other").mkdir()
    (tmp / "other" / "project.json").write_text("{")
    newer = tmp / "newer"
    newer.mkdir()
    (newer / "project.json").write_text(json.dumps({"format": "napari-mil project", "version": 999}))
    return {
        "missing file": (("import", tmp / "p", tmp / "nothing.svs"), "does not exist"),
        "empty folder": (("import", tmp / "p", tmp / "empty"), "no slides"),
        "missing slide in the window": (("open", tmp / "nothing.svs"), "no file"),
        "no project": (("embed", tmp / "empty"), "is no napari-mil project"),
        "damaged project": (("embed", tmp / "other"), "project.json"),
        "newer project": (("embed", newer), "999"),
        "unknown slide": (("embed", study, "nonsense"), "nonsense"),
        "unknown model": (("predict", study, "--model", "nonsense"), "its models are"),
        "unknown method": (("train", study, "--method", "nonsense"), "nonsense"),
        "unknown option": (("train", study, "-s", "nonsense=1"), "nonsense"),
        "option out of bounds": (("train", study, "-r", "epochs=0"), "epochs"),
        "no setting": (("train", study, "-r", "epochs"), "KEY=VALUE"),
        "bad manifest": (("import", tmp / "p", slide, "--manifest", tmp / "bad.csv"), "it needs `slide`"),
        "bad mpp": (("import", tmp / "p", slide, "--mpp", "1000"), "plausible"),
        "bad suffix": (("export", study, tmp / "x.xlsx"), ".geojson"),
        "geojson of no slide": (("export", study, tmp / "x.geojson"), "one slide"),
        "unwritable": (("export", study, tmp / "no" / "where" / "x.csv"), "where"),
    }


CASES = (
    *("missing file", "empty folder", "missing slide in the window", "no project", "damaged project"),
    *("newer project", "unknown slide", "unknown model", "unknown method", "unknown option"),
    *("option out of bounds", "no setting", "bad manifest", "bad mpp", "bad suffix", "geojson of no slide"),
    "unwritable",
)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence_and_loses_nothing(
    case, cohort, study_folder, tmp_path, capsys, monkeypatch
):
    cases = bad_inputs(cohort, study_folder, tmp_path)
    assert set(cases) == set(CASES)
    words, said = cases[case]
    before = {p: p.read_bytes() for p in study_folder.rglob("card.json")}
    run(capsys, monkeypatch, "labels", "verify", study_folder)
    status, out, err = run(capsys, monkeypatch, *words)
    assert status == 2
    assert said in err
    lines = [line for line in err.strip().splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert lines[0].startswith("napari-mil: ")
    assert "Traceback" not in out + err
    assert not (tmp_path / "p" / "ledger.sqlite").exists()
    assert before == {p: p.read_bytes() for p in study_folder.rglob("card.json")}
    assert run(capsys, monkeypatch, "labels", "verify", study_folder)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero.svs", "text.tif"])
def test_what_is_no_image_fails_alone(name, cohort, study_folder, tmp_path, capsys, monkeypatch):
    bad_inputs(cohort, study_folder, tmp_path)
    status, out, _ = run(capsys, monkeypatch, "import", study_folder, tmp_path / name)
    assert status == 1
    assert f"{name}: FAILED" in out


def test_python_dash_m_is_the_same_program():
    done = subprocess.run(
        [sys.executable, "-m", "napari_mil.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("napari-mil ")


@pytest.mark.slow
def test_a_checkpoint_that_holds_code_is_refused_and_does_not_run(
    study_folder, tmp_path, capsys, monkeypatch
):
    torch.save({"a": Evil()}, tmp_path / "evil.pt")
    status, out, _ = run(capsys, monkeypatch, "import", study_folder, tmp_path / "evil.pt")
    assert status == 1
    assert "evil.pt: FAILED" in out
    assert "code ran" not in out


@pytest.mark.slow
def test_a_published_checkpoint_becomes_a_model_whose_assumptions_are_said(
    study_folder, tmp_path, capsys, monkeypatch
):
    from napari_mil import methods
    from napari_mil.methods import official
    from napari_mil.samples import SAMPLE_TREE

    model = methods.create("abmil", in_features=1024, tree=SAMPLE_TREE)
    torch.save(official.dump(model), tmp_path / "published.pth")
    status, out, _ = run(capsys, monkeypatch, "import", study_folder, tmp_path / "published.pth")
    assert status == 0
    assert "method abmil, assumed" in out
    status, out, err = run(capsys, monkeypatch, "predict", study_folder, "case001a", "--model", "published")
    assert status in (1, 2)
    assert "'unknown'" in out + err


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_project_stays_whole(study_folder, cohort, capsys, monkeypatch):
    """A file-size limit stands in for the disk: the operating system refuses the write in the same place."""
    slide = cohort / "slides" / "case002a.tif"
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
sys.argv = ["napari-mil", "embed", {str(study_folder)!r}, "case001a"]
from napari_mil.cli import main
main()
"""
    shutil.rmtree(study_folder / "bags")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr
    assert "FAILED" in done.stdout or "napari-mil: " in done.stderr
    status, _, err = run(capsys, monkeypatch, "embed", study_folder, "case001a")
    assert status == 0, err
    assert slide.exists()
