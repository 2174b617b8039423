"""An embedding that was interrupted goes on where it stopped, and ends as if it had not been."""

import numpy as np
import pytest
import torch
from slidefiles import picture, write_pyramid

from napari_mil.encoders import Encoder
from napari_mil.errors import ProjectError
from napari_mil.steps import Progress
from napari_mil.workflow import Project
from napari_mil.workflow.analyse import bag_steps


class Corner(Encoder):
    """Mean colour: quick, and it counts; may be interrupted before a batch."""

    name, id, width, tile_px, mpp = "corner", "corner-1", 3, 64, 0.5

    def __init__(self, stop_at: int = -1) -> None:
        self.tiles, self.stop_at = 0, stop_at

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        if self.tiles >= self.stop_at >= 0:
            raise KeyboardInterrupt
        self.tiles += len(tiles)
        return tiles.float().mean((1, 2))


pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setattr("napari_mil.workflow.analyse.KEEP_S", 1e9)
    path = write_pyramid(tmp_path / "s.tif", picture(1300, 1500), "zlib", levels=3)
    with Project(tmp_path / "p") as made:
        made.add(path)
        yield made


@pytest.fixture
def embed(project, monkeypatch):
    """Embed the slide with an encoder of the test's: the bag, and the tiles that were computed."""

    def act(machine, **about):
        monkeypatch.setattr("napari_mil.workflow.analyse.find_encoder", lambda _project, _name: machine)
        return project.bag("s", encoder="corner", **about), machine.tiles

    return act


def parts(project):
    return sorted((project.path / "parts").rglob("*.npz"))


def interrupted(embed, at=128):
    with pytest.raises(KeyboardInterrupt):
        embed(Corner(stop_at=at))


def test_an_interrupted_slide_is_gone_on_with(project, embed):
    interrupted(embed)
    assert len(parts(project)) == 1
    interrupted(embed, 64)  # and again
    assert len(parts(project)) == 2
    told: list[Progress] = []
    bag, tiles = embed(Corner(), progress=told.append)
    features = [p for p in told if p.stage == "features"]
    assert (features[0].done, features[-1].done) == (192, len(bag))
    assert tiles == len(bag) - 192
    assert not parts(project)
    project.store.save_bag(bag)
    for folder in (project.path / "bags").iterdir():
        for one in folder.iterdir():
            one.rename(project.path / "elsewhere")
    whole, tiles = embed(Corner())
    assert tiles == len(whole)
    np.testing.assert_array_equal(bag.features, whole.features)
    np.testing.assert_array_equal(bag.grid.cells, whole.grid.cells)


def test_what_was_done_is_kept_now_and_then(project, embed, monkeypatch):
    monkeypatch.setattr("napari_mil.workflow.analyse.KEEP_S", 0.0)
    interrupted(embed, 192)
    assert len(parts(project)) == 3  # a kill would have found as many


def test_a_slide_that_is_cancelled_after_its_last_tile_is_gone_on_with(project, embed, monkeypatch):
    monkeypatch.setattr("napari_mil.workflow.analyse.find_encoder", lambda _project, _name: Corner())
    steps = bag_steps(project, project.slide(project.slides[0]), encoder="corner")
    last = next(now for now in steps if now.stage == "features" and now.done == now.total)
    steps.close()
    assert len(parts(project)) == 1
    bag, tiles = embed(Corner())
    assert (len(bag), tiles) == (last.total, 0)
    assert not parts(project)


def test_a_damaged_part_is_computed_again(project, embed):
    interrupted(embed)
    parts(project)[0].write_bytes(b"PK\3\4 torn")
    bag, tiles = embed(Corner())
    assert tiles == len(bag)


def test_parts_of_another_lattice_are_no_help(project, embed):
    interrupted(embed)
    project.add(project.slides[0].path, mpp=0.45)
    bag, tiles = embed(Corner())
    assert tiles == len(bag)


def test_a_full_disk_does_not_hide_why_the_work_ended(project, embed, monkeypatch):
    def full(_self, _indices, _features):
        raise ProjectError("The disk is full.")

    monkeypatch.setattr("napari_mil.store.parts.Parts.add", full)
    interrupted(embed)
