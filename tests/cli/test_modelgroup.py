"""`napari-mil models`: cards on the command line, and published checkpoints asked about."""

import csv
import dataclasses
import io
import json
import re
import sys

import pytest
import torch
from quickstudy import QUICK
from quickstudy import study as small_study
from typer.main import get_command

from napari_mil import encoders, methods
from napari_mil.cli import app, main
from napari_mil.labeltree import LabelTree
from napari_mil.methods import official
from napari_mil.steps import drain
from napari_mil.workflow import Project, current_card, train_model_steps

pytestmark = pytest.mark.slow

TREE = LabelTree.from_paths(["LUAD", "LUSC"])
VERBS = sorted(get_command(app).commands["models"].commands)
ASKED = "encoder (unknown), tile_px (256), mpp (0.5), act (gelu)"


class Terminal(io.StringIO):
    """Lines that somebody types."""

    def isatty(self):
        return True


@pytest.fixture
def run(capsys, monkeypatch):
    """Run `napari-mil WORDS` with the lines typed, if any: (exit status, standard output, standard error)."""

    def run(*words, typed=None):
        monkeypatch.setattr(sys, "argv", ["napari-mil", *map(str, words)])
        lines = io.StringIO() if typed is None else Terminal("".join(f"{line}\n" for line in typed))
        monkeypatch.setattr(sys, "stdin", lines)
        status = 0
        try:
            main()
        except SystemExit as done:
            status = done.code or 0
        out = capsys.readouterr()
        return status, out.out, out.err

    return run


@pytest.fixture
def published(tmp_path):
    """A checkpoint of AB-MIL, two classes, 12 numbers per tile."""
    torch.manual_seed(0)
    torch.save(official.dump(methods.create("abmil", in_features=12, tree=TREE)), tmp_path / "p.pth")
    return tmp_path / "p.pth"


@pytest.fixture
def study(tmp_path):
    """An empty project of two classes."""
    Project(tmp_path / "study", tree=TREE).close()
    return tmp_path / "study"


def cards(folder):
    """The cards of a project."""
    with Project(folder) as project:
        return project.cards


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_an_example(verb, run):
    status, out, _ = run("models", verb, "--help")
    assert status == 0
    assert f"napari-mil models {verb}" in out


def test_all_verbs_are_there():
    assert set(VERBS) == {"list", "show", "compare", "adopt", "rollback", "import"}


def test_nothing_is_assumed_of_what_is_given_as_options(study, published, run):
    about = (
        "--classes",
        "LUSC, LUAD",
        "--encoder",
        "uni-1",
        "--tile-px",
        224,
        "--mpp",
        "0.25",
        "-s",
        "act=relu",
    )
    status, out, err = run("models", "import", study, published, *about, "--name", "theirs")
    assert (status, err) == (0, "")
    assert "nothing was assumed" in out
    (card,) = cards(study)
    assert (card.name, card.encoder, card.tile_px, card.mpp) == ("theirs", "uni-1", 224, 0.25)
    assert (card.config["act"], card.assumed) == ("relu", ())
    turned = official.load(published, tree=TREE, classes=["LUSC", "LUAD"], act="relu")
    x = torch.ones(4, 12)
    with Project(study) as project:
        assert torch.equal(project.model("theirs")(x).logits[-1], turned(x).logits[-1])


def test_yes_assumes_the_rest_and_marks_it(study, published, run):
    status, out, _ = run("models", "import", study, published, "--yes")
    assert status == 0
    (card,) = cards(study)
    assert card.assumed == (
        "act = gelu",
        "the order of the classes",
        "tiles of 256 px at 0.5 µm/px",
        "which encoder made the features it reads",
    )
    assert all(f"assumed: {sentence}" in out for sentence in card.assumed)
    assert card.note == "imported from p.pth; not told by the file, at their defaults: dropout"
    shown = run("models", "show", study, "p")[1]
    assert "recipe: not told by the file; what a retraining goes by: epochs 20," in shown


def test_a_terminal_is_asked(study, published, run):
    typed = ("", "LUSC", "LUSC, LUAD", "uni-1", "", "fast", "0.25", "swish", "relu")
    status, out, err = run("models", "import", study, published, typed=typed)
    assert status == 0
    assert "edges: where it answers with time, the times between its 2 intervals" in out
    assert "unit: " not in out
    assert "classes: its 2 classes, in its order; Enter assumes LUAD, LUSC" in out
    assert "The checkpoint answers for 2 classes; 1 were named." in err
    assert "'fast' is no plausible µm per pixel" in err
    assert "'swish' is none of gelu, relu" in err
    (card,) = cards(study)
    assert (card.encoder, card.mpp, card.config["act"]) == ("uni-1", 0.25, "relu")
    assert card.assumed == ("tiles of 256 px at 0.25 µm/px",)


def test_nobody_there_to_ask_is_an_error_that_says_how_to_say_it(study, published, run):
    status, out, err = run("models", "import", study, published, "--classes", "LUAD,LUSC")
    assert (status, out) == (2, "")
    assert re.search(rf"p.pth does not say {re.escape(ASKED)}: give them as options .* or --yes", err)
    assert not cards(study)


def test_a_new_project_takes_its_tree_from_the_classes(published, tmp_path, run):
    about = ("--classes", "normal, tumour", "--yes")
    assert run("models", "import", tmp_path / "new", published, *about)[0] == 0
    with Project(tmp_path / "new") as project:
        assert [project.tree.path(n) for n in project.tree.leaves] == ["normal", "tumour"]
        assert [card.name for card in project.cards] == ["p"]


def test_nothing_is_made_of_what_does_not_fit(study, published, tmp_path, run):
    (tmp_path / "no.pth").write_bytes(b"no checkpoint")
    for words, said in (
        ((tmp_path / "new", tmp_path / "no.pth", "--yes"), "no.pth"),
        ((tmp_path / "new", published, "--classes", "a,b,c", "--yes"), "2 classes; 3 were named"),
        ((study, published, "--classes", "a,b", "--yes"), "'a' is no label of the tree"),
        ((study, published, "-s", "aktivation=relu", "--yes"), "no option 'aktivation'"),
        ((study, published, "--method", "max", "--yes"), "those of abmil, not of max"),
        ((study, published, "--part", "teacher", "--yes"), "holds no teacher"),
        ((study, published, "--mpp", "1000", "--yes"), "plausible"),
    ):
        status, out, err = run("models", "import", *words)
        assert (status, out) == (2, ""), words
        assert said in err
        assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()
    assert not cards(study)


def test_hmil_asks_for_its_tree(tmp_path, run):
    tree = LabelTree.from_paths(["Benign/N", "Malignant/DCIS", "Malignant/IC"])
    torch.save(official.dump(methods.create("hmil", in_features=12, tree=tree)), tmp_path / "h.pth")
    status, _, err = run("models", "import", tmp_path / "new", tmp_path / "h.pth", "--yes")
    assert status == 2
    assert "give its tree (on the command line --classes Benign/N,Benign/UDH,… in its order)" in err
    assert not (tmp_path / "new").exists()
    paths = "Benign/N, Malignant/DCIS, Malignant/IC"
    assert run("models", "import", tmp_path / "new", tmp_path / "h.pth", "--classes", paths, "--yes")[0] == 0
    with Project(tmp_path / "new") as project:
        assert project.tree.levels == 2


@pytest.fixture
def survival(tmp_path):
    """A checkpoint of AB-MIL with four hazards, that reads what the built-in encoder makes."""
    torch.manual_seed(0)
    tree = LabelTree.from_paths("abcd")
    made = methods.create("abmil", in_features=encoders.create("builtin").width, tree=tree)
    torch.save(official.dump(made), tmp_path / "survival.pth")
    return tmp_path / "survival.pth"


BUILTIN = ("--encoder", "builtin", "--tile-px", 256, "--mpp", 0.5, "-s", "act=gelu")


def test_a_model_of_survival_is_taken_in_and_asked(survival, tmp_path, run):
    with small_study(tmp_path, 2) as project:
        folder = project.path
    about = ("--edges", "0,12,24,36,60", "--unit", "months", *BUILTIN)
    status, out, err = run("models", "import", folder, survival, *about)
    assert (status, err) == (0, "")
    assert "nothing was assumed" in out
    (card,) = cards(folder)
    names = ("0–12 months", "12–24 months", "24–36 months", "after 36 months")
    assert (card.tree.names[1:], card.tree.edges) == (names, (0.0, 12.0, 24.0, 36.0, 60.0))
    assert run("predict", folder, "--model", "survival", "--csv", tmp_path / "said.csv")[0] == 0
    with (tmp_path / "said.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    theirs = official.load(survival)
    with Project(folder) as project:
        for row, record in zip(rows, project.slides, strict=True):
            x = torch.from_numpy(project.bag(record.name).features.astype("float32"))
            curve = torch.cumprod(1 - torch.sigmoid(theirs(x).logits[-1]), 0).tolist()
            assert [float(row[f"S {name}"]) for name in names] == pytest.approx(curve, abs=1e-4)
            assert float(row["risk"]) == pytest.approx(-sum(curve), abs=1e-4)
        assert project.tree.levels == 2  # its labels are still those of its own tree


def test_what_is_not_said_of_time_is_assumed_and_marked(study, survival, run):
    assert run("models", "import", study, survival, "--edges", "12, 24, 30", "--yes", *BUILTIN)[0] == 0
    (card,) = cards(study)
    assert card.tree.edges == (0.0, 12.0, 24.0, 30.0, 36.0)
    assert card.assumed == ("its last interval of time ends at 36", "the unit of its times")
    assert "assumed: its last interval of time ends at 36" in run("models", "show", study, "survival")[1]
    run("models", "import", study, survival, "--edges", "12,24,30", "--unit", "years", "--yes", *BUILTIN)
    one, other = cards(study)
    assert one.id != other.id
    assert other.assumed == ("its last interval of time ends at 36 years",)


def test_a_terminal_is_asked_about_time(survival, tmp_path, run):
    typed = ("12,24", "36,24,12", "12,24,36", "moons", "months", "builtin", "", "", "gelu")
    status, out, err = run("models", "import", tmp_path / "new", survival, typed=typed)
    assert status == 0
    assert "the times between its 4 intervals, such as 12,24,36; Enter assumes that it does not" in out
    assert "2 times do not bound 4 intervals of time; 3 between them are expected, or 5" in err
    assert "36, 24, 12 are no bounds of intervals of time" in err
    assert "'moons' is none of days, weeks, months, years" in err
    assert "classes: " not in out
    (card,) = cards(tmp_path / "new")
    assert card.assumed == ("its last interval of time ends at 48 months",)
    with Project(tmp_path / "new") as project, Project(tmp_path / "usual") as usual:
        assert project.tree == usual.tree


def test_nobody_there_to_ask_about_the_unit(study, survival, run):
    status, out, err = run("models", "import", study, survival, "--edges", "12,24,36", *BUILTIN)
    assert (status, out) == (2, "")
    assert "survival.pth does not say unit (no unit): give them as options" in err
    assert not cards(study)


def test_nothing_is_made_of_times_that_do_not_fit(study, survival, tmp_path, run):
    tree = LabelTree.from_paths(["Benign/N", "Malignant/DCIS", "Malignant/IC"])
    torch.save(official.dump(methods.create("hmil", in_features=12, tree=tree)), tmp_path / "h.pth")
    for words, said in (
        (("--edges", "12,36,24"), "12, 36, 24 are no bounds of intervals of time; numbers above 0"),
        (("--edges", "0,12,12,24,36"), "0, 12, 12, 24, 36 are no bounds"),
        (("--edges", "0,12,24"), "numbers above 0"),
        (("--edges=-1,12,24,36,48",), "numbers from 0 on"),
        (("--edges", "12,24,nan"), "12, 24, nan are no bounds"),
        (("--edges", "12,24"), "2 times do not bound 4 intervals of time; 3 between them are expected, or 5"),
        (("--edges", "soon,later,never"), "'soon,later,never' are no times; numbers with commas"),
        (("--edges", "12,24,36", "--unit", "moons"), "'moons' is no unit of time; one of days, weeks"),
        (("--edges", "12,24,36", "--classes", "a,b,c,d"), "give classes or edges, not both"),
        (("--unit", "months"), "give the times between the intervals too"),
    ):
        status, out, err = run("models", "import", tmp_path / "new", survival, *words, "--yes")
        assert (status, out) == (2, ""), words
        assert said in err
        assert len(err.strip().splitlines()) == 1
        assert not (tmp_path / "new").exists()
    status, _, err = run("models", "import", study, tmp_path / "h.pth", "--edges", "12,24", "--yes")
    assert status == 2
    assert "hmil answers with classes on two levels, not with time" in err
    assert not cards(study)


def test_list_show_and_compare(study, published, run):
    run("models", "import", study, published, "--yes", "--name", "one")
    run(
        "models",
        "import",
        study,
        published,
        "--yes",
        "--name",
        "two",
        "-s",
        "act=relu",
        "--encoder",
        "builtin",
    )
    rows = [json.loads(line) for line in run("models", "list", study, "--json")[1].splitlines()]
    assert [(row["answers"], row["adopted"]) for row in rows] == [(False, False), (True, False)]
    run("models", "adopt", study, "one")
    status, out, _ = run("models", "list", study)
    assert status == 0
    assert [line[:5] for line in out.splitlines()] == ["* one", "  two"]
    rows = [json.loads(line) for line in run("models", "list", study, "--json")[1].splitlines()]
    assert [(row["name"], row["adopted"]) for row in rows] == [("one", True), ("two", False)]
    assert [row["answers"] for row in rows] == [True, False]
    out = run("models", "show", study, "two")[1]
    assert "reads: 12 numbers of builtin-1, tiles of 256 px at 0.5 µm/px" in out
    assert "assumed: the order of the classes" in out
    assert json.loads(run("models", "show", study, "two", "--json")[1])["config"]["act"] == "relu"
    lines = run("models", "compare", study, "one", "two")[1].splitlines()
    assert "act: gelu | relu" in lines
    assert "encoder: unknown | builtin-1" in lines
    assert not any(line.startswith(("method", "hidden")) for line in lines)
    assert json.loads(run("models", "compare", study, "one", "two", "--json")[1].splitlines()[0])["what"]


def test_rollback_goes_back_step_by_step(study, published, run):
    for name in ("a", "b", "c"):
        run("models", "import", study, published, "--yes", "--name", name)
        run("models", "adopt", study, name)
        run("models", "adopt", study, name)  # once more is no step
    for name in ("b", "a"):
        assert run("models", "rollback", study) == (0, f"{name} answers again.\n", "")
    status, _, err = run("models", "rollback", study)
    assert status == 2
    assert "No other model of study was adopted before this one" in err
    run("models", "adopt", study, "c")
    assert run("models", "rollback", study)[1] == "a answers again.\n"
    with Project(study) as project:
        assert current_card(project).name == "a"
        assert project.ledger.verify().ok


def test_a_model_that_became_worse_is_adopted_when_asked_twice(tmp_path, run):
    with small_study(tmp_path, 4) as project:
        card = drain(train_model_steps(project, "mean", recipe=QUICK, name="good"))
        spoilt = dataclasses.replace(card, id="mean-spoilt", name="spoilt", worse="fine/auc fell.")
        project.store.save_model(spoilt, project.store.model_bytes(card.id))
        folder = project.path
    status, _, said = run("models", "adopt", folder, "spoilt")
    assert status == 2
    assert "spoilt is not adopted: fine/auc fell. To adopt it all the same" in said
    status, out, _ = run("models", "adopt", folder, "spoilt", "--although-worse")
    assert (status, out) == (0, "spoilt answers from now on.\n")
    assert "worse than its parent: fine/auc fell." in run("models", "show", folder, "spoilt")[1]
