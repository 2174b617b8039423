"""Checkpoints whose features an encoder with weights makes: by name, by id, from a file, or from inside."""

import pytest
import torch
from encoders.test_resnet import closed_form
from quickstudy import add

from napari_mil import methods
from napari_mil.labeltree import LabelTree
from napari_mil.methods import official
from napari_mil.store.encoders import kept_encoders
from napari_mil.workflow import Project, add_encoder, questions

pytestmark = pytest.mark.slow

TREE = LabelTree.from_paths(["LUAD", "LUSC"])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights of ResNet-18."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(closed_form("resnet18"), path)
    return path


@pytest.fixture
def published(tmp_path):
    """A checkpoint that reads 512 numbers per tile."""
    torch.manual_seed(0)
    torch.save(official.dump(methods.create("abmil", in_features=512, tree=TREE)), tmp_path / "p.pth")
    return tmp_path / "p.pth"


@pytest.fixture
def micromil(tmp_path):
    """A checkpoint of MicroMIL that holds its encoder."""
    torch.manual_seed(0)
    net = official.dump(methods.create("micromil", {"clusters": 3}, in_features=512, tree=TREE))
    inside = {f"feature_extractor.{k}": v for k, v in closed_form("resnet18").items()}
    torch.save({"model": {**net, **inside}, "epoch": 3}, tmp_path / "micro.pth")
    return tmp_path / "micro.pth"


def the_card(folder):
    """The only card of a project."""
    with Project(folder) as project:
        (card,) = project.cards
    return card


@pytest.mark.parametrize("by", ["name", "id", "name of photographs"])
def test_an_encoder_that_the_project_keeps(by, weights, published, tmp_path, run):
    with Project(tmp_path / "study", tree=TREE) as project:
        made = add_encoder(project, "resnet18", weights)
    said = {"name": "resnet18", "id": made.id, "name of photographs": "resnet18+photograph"}[by]
    status, out, err = run("models", "import", tmp_path / "study", published, "--encoder", said, "--yes")
    assert (status, err) == (0, "")
    card = the_card(tmp_path / "study")
    suffix = "+photograph" if "photograph" in by else ""
    assert (card.encoder, card.tile_px, card.mpp) == (made.id + suffix, made.tile_px, made.mpp)
    assert "assumed: tiles of 256 px at 0.5 µm/px" in out


def test_a_name_without_weights_says_what_to_do_and_makes_nothing(published, tmp_path, run):
    for folder in ("new", "study"):
        status, out, err = run(
            "models", "import", tmp_path / folder, published, "--encoder", "resnet18", "--yes"
        )
        assert (status, out) == (2, "")
        assert "The encoder resnet18 needs weights" in err
        assert "--encoder-weights FILE" in err
        assert len(err.splitlines()) == 1
        assert not (tmp_path / "new").exists()
        Project(tmp_path / "study", tree=TREE).close()
    with Project(tmp_path / "study") as project:
        assert not project.cards


def test_an_id_needs_no_weights_yet(published, tmp_path, run):
    about = ("--encoder", "resnet50-trunc-0123456789ab", "--yes")
    assert run("models", "import", tmp_path / "new", published, *about)[0] == 0
    card = the_card(tmp_path / "new")
    assert (card.encoder, card.tile_px) == ("resnet50-trunc-0123456789ab", 256)


def test_weights_are_given_with_the_model(weights, published, tmp_path, run):
    words = ("models", "import", tmp_path / "new", published, "--yes", "--encoder-weights", weights)
    for more, said in (
        ((), "say by --encoder of which: resnet18, resnet50-trunc"),
        (("--encoder", "resnet18-0"), "not of resnet18-0"),
        (("--encoder", "resnet50-trunc"), "does not fit resnet50-trunc"),
        (("--encoder", "uni-1"), "no encoder 'uni'"),
    ):
        status, _, err = run(*words, *more)
        assert status == 2
        assert said in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "new").exists()
    assert run(*words, "--encoder", "resnet18", "--tile-px", 224, "--mpp", "0.25")[0] == 0
    card = the_card(tmp_path / "new")
    assert list(kept_encoders(tmp_path / "new")) == [card.encoder]
    assert (card.tile_px, card.mpp) == (224, 0.25)
    assert not any("tiles" in sentence for sentence in card.assumed)


def test_weights_are_given_with_a_checkpoint_among_other_files(weights, published, tmp_path, run):
    words = ("import", tmp_path / "study", published, "--encoder", "resnet18")
    Project(tmp_path / "study", tree=TREE).close()
    status, out, _ = run(*words)
    assert status == 1
    assert "--encoder-weights FILE" in out
    assert run(*words, "--encoder-weights", weights)[0] == 0
    card = the_card(tmp_path / "study")
    assert list(kept_encoders(tmp_path / "study")) == [card.encoder]


def test_an_encoder_inside_is_kept_and_makes_the_features(micromil, tmp_path, run):
    status, _, err = run("models", "import", tmp_path / "study", micromil)
    assert status == 2
    assert "encoder (its own resnet18)" in err
    status, out, err = run("models", "import", tmp_path / "study", micromil, "--yes")
    assert (status, err) == (0, "")
    assert "which encoder made the features" not in out
    card = the_card(tmp_path / "study")
    assert list(kept_encoders(tmp_path / "study")) == [card.encoder]
    assert card.encoder.startswith("resnet18-")
    assert card.note == (
        f"imported from micro.pth with the encoder {card.encoder}; not told by the file, at their defaults: "
        "dropout, select, draws, seed, dec_weight"
    )
    assert {"compat = clean", "tau = 1.0"} <= {*card.assumed}
    with Project(tmp_path / "study") as project:
        add(project, 0, bag=False, label=None)
    status, out, err = run("predict", tmp_path / "study", "--model", "micro")
    assert (status, err) == (0, "")
    assert "model micro" in out


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        (
            {f"layer{n}.{k}.conv1.weight" for n, many in enumerate((3, 4, 6, 3), 1) for k in range(many)},
            "ResNet-34",
        ),
        ({f"layer{n}.0.conv1.weight" for n in range(1, 5)}, "a ResNet with 1, 1, 1, 1 blocks per stage"),
        ({"stem.0.weight", "trunk_output.block1.block1-0.proj.0.weight"}, "a RegNet"),
        ({"blocks.0.norm.weight", "patch_embed.weight"}, "2 tensors, the first of them blocks.0.norm.weight"),
    ],
)
def test_an_encoder_inside_that_cannot_be_used_here_is_named(inside, words, micromil, tmp_path, run):
    held = torch.load(micromil, weights_only=True)
    net = {k: v for k, v in held["model"].items() if not k.startswith("feature_extractor.")}
    stem = {"conv1.weight"} if "ResNet" in words else set()
    torch.save({**net, **{f"feature_extractor.{k}": torch.zeros(2) for k in inside | stem}}, micromil)
    asked = {question.name: question.words for question in questions(micromil, None)}
    assert f"{words} stands in the file, and cannot be used here" in asked["encoder"]
    assert run("models", "import", tmp_path / "study", micromil, "--yes")[0] == 0
    card = the_card(tmp_path / "study")
    assert card.encoder == "unknown"
    assert "which encoder made the features it reads" in card.assumed
    assert f"{words}, cannot be used here; not told by the file" in card.note
    assert not kept_encoders(tmp_path / "study")


def test_another_encoder_than_the_one_inside_leaves_it_aside(micromil, tmp_path, run):
    assert run("models", "import", tmp_path / "study", micromil, "--encoder", "uni-1", "--yes")[0] == 0
    assert the_card(tmp_path / "study").encoder == "uni-1"
    assert not kept_encoders(tmp_path / "study")
