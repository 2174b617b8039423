"""ResNet encoders in checkpoints, under torchvision's key names (He et al., CVPR 2016)."""

from __future__ import annotations

from collections.abc import Sequence

from napari_mil.errors import ModelError
from napari_mil.methods.official.files import Source, Weights, unpack
from napari_mil.methods.official.fitting import misfit

#: name of the encoder → blocks per stage, width of a block's output over its inner width, stages it uses
ENCODERS = {"resnet18": ((2, 2, 2, 2), 1, 4), "resnet50-trunc": ((3, 4, 6, 3), 4, 3)}
_INSIDE = "feature_extractor."
#: (blocks per stage, growth) of ResNets that are no encoders here → what they are called
_OTHERS: dict[tuple[tuple[int, ...], int], str] = {
    ((3, 4, 6, 3), 1): "a ResNet-34",
    ((3, 4, 23, 3), 4): "a ResNet-101",
    ((3, 8, 36, 3), 4): "a ResNet-152",
}
_COUNTER = "num_batches_tracked"  # of no use outside training; old files lack it


def encoder_weights(source: Source) -> tuple[str, Weights]:
    """The encoder in a checkpoint: a ResNet of torchvision's, alone or inside MicroMIL's file.

    Returns
    -------
    name : "resnet18" (512 numbers per tile), or "resnet50-trunc" (1024, after the third stage)
    weights : its state dict, without classifier and without stages that the encoder leaves out

    Raises
    ------
    ModelError
        A file that is missing, damaged or holds code; no ResNet, one that is no encoder here, or one whose
        keys or shapes do not fit, all of them named.
    """
    weights = _inner(unpack(source).weights)
    if not _is_resnet(weights):
        raise ModelError(
            "The checkpoint holds no encoder: no keys of a ResNet (conv1, layer1), by themselves or under "
            f"{_INSIDE[:-1]}."
        )
    name = _name(weights)
    if name is None:
        depth = [_blocks(weights, stage) for stage in range(1, 5)]
        raise ModelError(
            f"The encoder in this checkpoint is a ResNet with {depth} blocks per stage; "
            f"{' and '.join(ENCODERS)} can be used here."
        )
    blocks, growth, stages = ENCODERS[name]
    left_out = ("fc.", *(f"layer{stage}." for stage in range(stages + 1, 5)))
    kept = {k: v for k, v in weights.items() if not k.startswith(left_out)}
    expected = _shapes(blocks[:stages], growth)
    given = {k: tuple(v.shape) for k, v in kept.items() if not k.endswith(_COUNTER)}
    if trouble := misfit(expected, given):
        raise ModelError(f"The keys look like those of {name} but do not fit: {trouble}.")
    return name, kept


def encoder_of(weights: Weights) -> str | None:
    """Name of the encoder among the weights, or None."""
    inner = _inner(weights)
    return _name(inner) if _is_resnet(inner) else None


def foreign_encoder(weights: Weights) -> str | None:
    """What a sentence calls an encoder that stands inside a checkpoint and cannot be used here, or None."""
    inner = {k: v for k, v in _inner(weights).items() if _INSIDE + k in weights}
    if not inner or encoder_of(weights) is not None:
        return None
    if _is_resnet(inner):
        blocks = tuple(_blocks(inner, stage) for stage in range(1, 5))
        many = f"a ResNet with {', '.join(map(str, blocks))} blocks per stage"
        return _OTHERS.get((blocks, _growth(inner)), many)
    if "stem.0.weight" in inner and any(key.startswith("trunk_output.") for key in inner):
        return "a RegNet"
    return f"{len(inner)} tensors, the first of them {min(inner)}"


def _inner(weights: Weights) -> Weights:
    inside = {k.removeprefix(_INSIDE): v for k, v in weights.items() if k.startswith(_INSIDE)}
    return inside or weights


def _is_resnet(weights: Weights) -> bool:
    return "conv1.weight" in weights and "layer1.0.conv1.weight" in weights


def _blocks(weights: Weights, stage: int) -> int:
    return len({key.split(".")[1] for key in weights if key.startswith(f"layer{stage}.")})


def _name(weights: Weights) -> str | None:
    """The encoder of these blocks; stages that it leaves out may be missing."""
    growth = _growth(weights)
    for name, (blocks, its_growth, stages) in ENCODERS.items():
        found = tuple(_blocks(weights, stage + 1) for stage in range(stages))
        if (found, growth) == (blocks[:stages], its_growth):
            return name
    return None


def _growth(weights: Weights) -> int:
    return 4 if "layer1.0.conv3.weight" in weights else 1


def _shapes(blocks: Sequence[int], growth: int) -> dict[str, tuple[int, ...]]:
    """Key → shape of the stem and the given stages."""
    shapes = {"conv1.weight": (64, 3, 7, 7), **_norm("bn1", 64)}
    width_in = 64
    for stage, many in enumerate(blocks):
        inner = 64 << stage
        for block in range(many):
            stem, out = f"layer{stage + 1}.{block}", inner * growth
            if growth == 1:
                sides = [(inner, width_in, 3), (inner, inner, 3)]
            else:
                sides = [(inner, width_in, 1), (inner, inner, 3), (out, inner, 1)]
            for n, (wide, before, side) in enumerate(sides, 1):
                shapes |= {
                    f"{stem}.conv{n}.weight": (wide, before, side, side),
                    **_norm(f"{stem}.bn{n}", wide),
                }
            if width_in != out:
                shapes |= {
                    f"{stem}.downsample.0.weight": (out, width_in, 1, 1),
                    **_norm(f"{stem}.downsample.1", out),
                }
            width_in = out
    return shapes


def _norm(stem: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{stem}.{name}": (width,) for name in ("weight", "bias", "running_mean", "running_var")}
