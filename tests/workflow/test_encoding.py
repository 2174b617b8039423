"""Encoders whose weights the project keeps."""

import pytest
import torch
from encoders.test_resnet import closed_form

from napari_mil.errors import ModelError, ProjectError
from napari_mil.store.encoders import kept_encoders
from napari_mil.workflow import Project, add_encoder, find_encoder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two files of weights for ResNet-18 that differ in one number."""
    folder, state = tmp_path_factory.mktemp("weights"), closed_form("resnet18")
    torch.save(state, folder / "a.pth")
    state["bn1.bias"][0] += 1
    torch.save(state, folder / "b.pth")
    return folder / "a.pth", folder / "b.pth"


def test_weights_are_given_once(tmp_path, files):
    with Project(tmp_path / "p") as project:
        assert find_encoder(project, "builtin").id == "builtin-1"
        assert find_encoder(project, "builtin-1").id == "builtin-1"
        with pytest.raises(ModelError, match="resnet18 needs weights"):
            find_encoder(project, "resnet18")
        given = add_encoder(project, "resnet18", files[0])
    with Project(tmp_path / "p") as project:
        assert find_encoder(project, "resnet18").id == given.id
        assert find_encoder(project, given.id) is find_encoder(project, given.id)
        with pytest.raises(ModelError, match=rf"weights of resnet18-0 are not in p, which keeps {given.id}"):
            find_encoder(project, "resnet18-0")
        other = add_encoder(project, "resnet18", files[1])
        with pytest.raises(ModelError, match=rf"several encoders resnet18; .*{given.id}"):
            find_encoder(project, "resnet18")
        assert find_encoder(project, other.id).id == other.id
        with pytest.raises(ModelError, match="no encoder 'unknown'"):
            find_encoder(project, "unknown")


def test_kept_weights_that_were_changed_are_refused(tmp_path, files):
    with Project(tmp_path / "p") as project:
        one, other = (add_encoder(project, "resnet18", file).id for file in files)
        kept = kept_encoders(project.path)
        kept[one].write_bytes(kept[other].read_bytes())
        with pytest.raises(ProjectError, match=f"kept as {one} are now {other}"):
            find_encoder(project, one)
