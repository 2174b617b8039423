"""Encoders in checkpoints: a ResNet of torchvision's, alone or inside MicroMIL's file."""

import pytest
import torch
from published import LAYOUTS, mhim, resnet

from napari_mil.errors import ModelError
from napari_mil.methods import official

RESNET18 = resnet([2, 2, 2, 2], 1)
RESNET50 = resnet([3, 4, 6, 3], 4)


def numbers(weights):
    """How many weights there are, running statistics left out."""
    return sum(v.numel() for k, v in weights.items() if "running" not in k and "tracked" not in k)


def test_the_counts_are_those_of_the_published_networks():
    assert (len(RESNET18), numbers(RESNET18)) == (122, 11_689_512)
    assert (len(RESNET50), numbers(RESNET50)) == (320, 25_557_032)


def test_a_resnet18_is_taken_without_its_classifier():
    name, weights = official.encoder_weights(RESNET18)
    assert name == "resnet18"
    assert RESNET18.keys() - weights.keys() == {"fc.weight", "fc.bias"}
    without_classifier = {k: v for k, v in RESNET18.items() if not k.startswith("fc.")}
    assert official.encoder_weights(without_classifier)[1].keys() == weights.keys()


def test_a_resnet50_ends_after_its_third_stage():
    name, weights = official.encoder_weights(RESNET50)
    assert name == "resnet50-trunc"
    assert not any(k.startswith(("layer4.", "fc.")) for k in weights)
    assert numbers(weights) == 8_543_296
    assert weights["layer3.5.conv3.weight"].shape == (1024, 256, 1, 1)


def test_it_is_found_in_the_file_of_a_model(tmp_path):
    inside = {f"module.feature_extractor.{k}": v for k, v in RESNET18.items() if not k.startswith("fc.")}
    torch.save({"model": {**LAYOUTS["micromil"].weights, **inside}, "epoch": 3}, tmp_path / "micromil.pth")
    name, weights = official.encoder_weights(tmp_path / "micromil.pth")
    assert name == "resnet18"
    assert weights["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)


def test_old_files_lack_the_counters():
    old = {k: v for k, v in RESNET18.items() if not k.endswith("num_batches_tracked")}
    assert official.encoder_weights(old)[0] == "resnet18"


def test_what_is_no_encoder_here_is_refused():
    with pytest.raises(ModelError, match=r"holds no encoder: no keys of a ResNet \(conv1, layer1\)"):
        official.encoder_weights(mhim())
    with pytest.raises(
        ModelError, match=r"a ResNet with \[3, 4, 6, 3\] blocks per stage; resnet18 and resnet50"
    ):
        official.encoder_weights(resnet([3, 4, 6, 3], 1))
    wrong = RESNET18 | {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1), "extra.weight": torch.zeros(2)}
    del wrong["bn1.bias"]
    with pytest.raises(
        ModelError,
        match=r"resnet18 but do not fit: unexpected extra.weight; missing bn1.bias; layer1.0.conv1.weight is",
    ):
        official.encoder_weights(wrong)


def test_an_encoder_is_no_model():
    with pytest.raises(ModelError, match="These are the weights of an encoder, resnet50-trunc"):
        official.load(RESNET50)
