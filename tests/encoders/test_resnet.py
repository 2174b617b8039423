"""ResNets from files of weights: numbers recomputed with plain functions, strict keys, ids by content."""

import numpy as np
import pytest
import safetensors.torch
import torch
from torch.nn import functional

from napari_mil import encoders
from napari_mil.encoders.resnet import ResNet18, ResNet50Trunc
from napari_mil.encoders.weights import content_id
from napari_mil.errors import BagError, ModelError

KINDS = {"resnet18": (ResNet18, 512), "resnet50-trunc": (ResNet50Trunc, 1024)}
BLOCKS = {"resnet18": (2, 2, 2, 2), "resnet50-trunc": (3, 4, 6)}


def conv_norm(prefix, norm, inner, outer, side):
    """Shapes of a convolution and the normalisation behind it, under torchvision's names."""
    shapes = {f"{prefix}.weight": (outer, inner, side, side)}
    parts = ("weight", "bias", "running_mean", "running_var")
    return shapes | {f"{norm}.{part}": (outer,) for part in parts} | {f"{norm}.num_batches_tracked": ()}


def published_shapes(name):
    """Keys and shapes of torchvision's file, written down from the paper's table, fc and layer4 included."""
    four, counts = ("18" not in name, (2, 2, 2, 2) if "18" in name else (3, 4, 6, 3))
    shapes, inner = conv_norm("conv1", "bn1", 3, 64, 7), 64
    for stage, count in enumerate(counts):
        width = 64 * 2**stage
        outer = width * (4 if four else 1)
        for i in range(count):
            at = f"layer{stage + 1}.{i}"
            sides = (1, 3, 1) if four else (3, 3)
            widths = (inner, width, width, outer) if four else (inner, width, width)
            for k, side in enumerate(sides):
                shapes |= conv_norm(f"{at}.conv{k + 1}", f"{at}.bn{k + 1}", widths[k], widths[k + 1], side)
            if i == 0 and (stage or four):
                shapes |= conv_norm(f"{at}.downsample.0", f"{at}.downsample.1", inner, outer, 1)
            inner = outer
    return shapes | {"fc.weight": (1000, inner), "fc.bias": (1000,)}


def closed_form(name):
    """Weights that need no file: sines, scaled so that the activations stay near one."""
    state = {}
    for j, (key, shape) in enumerate(published_shapes(name).items()):
        n = int(np.prod(shape))
        wave = np.sin(1.7 * np.arange(n) + 0.9 * j + 0.3 * np.arange(n) ** 0.5)
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
            continue
        if len(shape) == 4:
            wave = wave * np.sqrt(2 / np.prod(shape[1:]))
        elif key.endswith("running_var"):
            wave = 1 + 0.5 * wave
        else:
            wave = 0.1 * wave + (1.0 if key.endswith("weight") else 0.0)
        state[key] = torch.from_numpy(wave.astype(np.float32).reshape(shape))
    return state


def by_functions(name, state, tiles):
    """The network with nothing but torch.nn.functional."""

    def conv(x, key, norm, stride=1):
        weight = state[f"{key}.weight"]
        x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        parts = (state[f"{norm}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, *parts, training=False, eps=1e-5)

    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((tiles.double() / 255 - mean) / std).float().permute(0, 3, 1, 2)
    x = functional.max_pool2d(functional.relu(conv(x, "conv1", "bn1", 2)), 3, 2, 1)
    convolutions, strided = (2, 1) if name == "resnet18" else (3, 2)
    for stage, count in enumerate(BLOCKS[name]):
        for i in range(count):
            at, stride, y = f"layer{stage + 1}.{i}", 2 if stage and i == 0 else 1, x
            for k in range(1, convolutions + 1):
                y = conv(y, f"{at}.conv{k}", f"{at}.bn{k}", stride if k == strided else 1)
                y = functional.relu(y) if k < convolutions else y
            if f"{at}.downsample.0.weight" in state:
                x = conv(x, f"{at}.downsample.0", f"{at}.downsample.1", stride)
            x = functional.relu(x + y)
    return functional.adaptive_avg_pool2d(x, 1).flatten(1)


@pytest.fixture(scope="module", params=KINDS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def state(name):
    return closed_form(name)


@pytest.fixture(scope="module")
def encoder(name, state):
    return KINDS[name][0](state)


def some_tiles(n=3, height=64, width=64, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), np.uint8))


@pytest.mark.parametrize("size", [(64, 64), (97, 40)])
def test_numbers_are_those_of_plain_functions(name, state, encoder, size):
    tiles = some_tiles(2, *size)
    made = encoder(tiles)
    assert made.shape == (2, encoder.width) == (2, KINDS[name][1])
    assert made.dtype == torch.float32
    expected = by_functions(name, state, tiles)
    assert 0.01 < expected.abs().mean() < 100
    assert torch.allclose(made, expected, rtol=1e-4, atol=1e-4)


def test_it_is_deterministic_and_every_tile_is_alone(encoder):
    tiles = some_tiles(4)
    made = encoder(tiles)
    assert torch.equal(made, encoder(tiles))
    assert torch.allclose(made[2:3], encoder(tiles[2:3]), rtol=1e-4, atol=1e-4)
    assert encoder(tiles[:0]).shape == (0, encoder.width)


def test_batch_normalisation_never_learns(encoder):
    before = {k: v.clone() for k, v in encoder.net.state_dict().items()}
    plain = encoder(some_tiles())
    encoder.net.train()
    assert not encoder.net.training
    assert torch.equal(encoder(some_tiles()), plain)
    assert all(torch.equal(before[k], v) for k, v in encoder.net.state_dict().items())
    assert not any(p.requires_grad for p in encoder.net.parameters())


@pytest.mark.slow
def test_the_id_is_the_content(name, state, encoder, tmp_path):
    assert encoder.id == f"{name}-{content_id(encoder._state)}"
    torch.save(state, tmp_path / "a.pth")
    torch.save({"state_dict": {f"module.{k}": v.double() for k, v in state.items()}}, tmp_path / "b.pth")
    safetensors.torch.save_file({k: v for k, v in state.items() if "fc" not in k}, tmp_path / "c.safetensors")
    (tmp_path / "d.safetensors").write_bytes(encoder.weights())
    for file in sorted(tmp_path.iterdir()):
        again = encoders.create(name, weights=file)
        assert again.id == encoder.id, file.name
        assert encoders.name_of(again.id) == name
    other = dict(state)
    other["conv1.weight"] = other["conv1.weight"].clone()
    other["conv1.weight"][0, 0, 0, 0] += 1
    assert KINDS[name][0](other).id != encoder.id


def test_keys_are_checked_strictly(name, state):
    kind = KINDS[name][0]
    wrong = {k: v for k, v in state.items() if k != "layer1.0.conv1.weight"}
    wrong["bn1.bias"] = torch.zeros(63)
    wrong["head.weight"] = torch.zeros(2)
    with pytest.raises(ModelError) as error:
        kind(wrong, "mine.pth")
    said = str(error.value)
    assert said.startswith(f"mine.pth does not fit {name}: layer1.0.conv1.weight is missing; ")
    assert "head.weight is unknown" in said
    assert "bn1.bias is (63,) where (64,) is needed" in said
    with pytest.raises(ModelError, match=r"and \d+ more"):
        kind({})
    with pytest.raises(ModelError, match="holds no state dict"):
        kind([1, 2])


def test_the_other_network_is_refused():
    with pytest.raises(ModelError, match="does not fit resnet18"):
        ResNet18(closed_form("resnet50-trunc"))


def test_missing_and_needless_files_are_said(tmp_path, name):
    with pytest.raises(ModelError, match=rf"{name} needs weights, .* --encoder-weights FILE"):
        encoders.create(name)
    with pytest.raises(ModelError, match="no file of weights"):
        encoders.create(name, weights=tmp_path / "gone.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ModelError, match=r"text\.pth .*(no readable|more than weights)"):
        encoders.create(name, weights=tmp_path / "text.pth")
    with pytest.raises(ModelError, match=r"builtin has no weights; leave text\.pth out"):
        encoders.create("builtin", weights=tmp_path / "text.pth")


class Harm:
    def __reduce__(self):
        return (print, ("harm",))


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({"a": Harm()}, tmp_path / "harm.pth")
    with pytest.raises(ModelError, match="could run code"):
        encoders.create("resnet18", weights=tmp_path / "harm.pth")
    assert "harm" not in capsys.readouterr().out


def test_what_is_no_tile_is_refused(encoder):
    with pytest.raises(BagError, match="at least 32 px"):
        encoder(some_tiles(1, 31, 40))
