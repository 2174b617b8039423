"""Files of weights: every damage is one sentence, and nothing of a file is run."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from napari_mil.errors import ModelError
from napari_mil.weightfile import read_weights

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3)}


@pytest.fixture(params=["zip", "legacy", "safetensors"])
def file(request, tmp_path):
    path = tmp_path / f"w.{request.param}"
    if request.param == "safetensors":
        safetensors.torch.save_file(WEIGHTS, path)
    else:
        torch.save(WEIGHTS, path, _use_new_zipfile_serialization=request.param == "zip")
    return path


def test_every_format_is_read(file):
    assert torch.equal(read_weights(file, "checkpoint")["a"], WEIGHTS["a"])


def test_a_file_cut_anywhere_is_one_sentence(file):
    whole = file.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 60)):
        file.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"no readable checkpoint|more than weights") as told:
            read_weights(file, "checkpoint")
        assert len(str(told.value).splitlines()) == 1


@pytest.mark.parametrize("content", [b"junk\n", b"hello", bytes(range(64)), b"<html>not found</html>"])
def test_a_file_of_another_kind_is_told_in_words(content, tmp_path):
    (tmp_path / "j.pth").write_bytes(content)
    with pytest.raises(ModelError, match=r"^j.pth is no readable checkpoint: [^\d/]+\.$"):
        read_weights(tmp_path / "j.pth", "checkpoint")


def test_code_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match="could run code of its maker; it is refused"):
        read_weights(tmp_path / "evil.pth", "checkpoint")
    assert not (tmp_path / "ran").exists()


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(ModelError, match="There is no file of weights"):
        read_weights(tmp_path / "w.pth", "file of weights")
