"""ResNets trained on ImageNet (He et al., CVPR 2016), from a file of weights that the user has.

`resnet18` is MicroMIL's backbone, `resnet50-trunc` (up to its third stage) that of CLAM, with whose features
MHIM was published. Names of the parts are torchvision's, so that its files load without torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import safetensors.torch
import torch
from torch import Tensor, nn

from napari_mil.encoders import weights
from napari_mil.encoders.encoder import Encoder, check_tiles
from napari_mil.weightfile import read_weights

#: of ImageNet's photographs, red, green, blue in [0, 1]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALLEST_PX = 32
#: batch normalisation counts its training batches; the number is of no use to an encoder
_COUNTER = "num_batches_tracked"


def _conv(inner: int, outer: int, side: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, side, stride, padding=side // 2, bias=False)


class Block(nn.Module):
    """x ↦ ReLU(shortcut(x) + convolutions(x)); subclasses say which convolutions."""

    expansion: ClassVar[int] = 1

    def __init__(self, inner: int, width: int, stride: int) -> None:
        super().__init__()
        outer = width * self.expansion
        self.relu = nn.ReLU()
        self.build(inner, width, stride)
        # torchvision's place in the order of modules; keys do not depend on it
        self.downsample = (
            nn.Sequential(_conv(inner, outer, 1, stride), nn.BatchNorm2d(outer))
            if stride != 1 or inner != outer
            else None
        )

    def build(self, inner: int, width: int, stride: int) -> None:
        """Two convolutions of 3 × 3."""
        self.conv1, self.bn1 = _conv(inner, width, 3, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3), nn.BatchNorm2d(width)

    def residual(self, x: Tensor) -> Tensor:
        """What is added to the shortcut."""
        made: Tensor = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return made

    def forward(self, x: Tensor) -> Tensor:
        """(B, inner, h, w) → (B, outer, h / stride, w / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        made: Tensor = self.relu(self.residual(x) + shortcut)
        return made


class Bottleneck(Block):
    """1 × 1, 3 × 3 with the stride, 1 × 1 to four times the width."""

    expansion: ClassVar[int] = 4

    def build(self, inner: int, width: int, stride: int) -> None:
        """Three convolutions."""
        outer = width * self.expansion
        self.conv1, self.bn1 = _conv(inner, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = _conv(width, outer, 1), nn.BatchNorm2d(outer)

    def residual(self, x: Tensor) -> Tensor:
        """What is added to the shortcut."""
        inside = self.relu(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
        made: Tensor = self.bn3(self.conv3(inside))
        return made


class ResNet(nn.Module):
    """Stem, stages of blocks, mean over the pixels: (B, 3, h, w) → (B, D).

    Always in evaluation mode: a frozen backbone in training mode would normalise by the batch, and change.
    """

    def __init__(self, block: type[Block], blocks: Sequence[int]) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.stages, inner = len(blocks), 64
        for stage, count in enumerate(blocks):
            width, parts = 64 << stage, []
            for i in range(count):
                parts.append(block(inner, width, 2 if stage and not i else 1))
                inner = width * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*parts))
        self.width = inner
        self.eval().requires_grad_(requires_grad=False)

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stays in evaluation mode."""
        return super().train(mode=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, D) of normalised pixels (B, 3, h, w)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(pixels))))
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        pooled: Tensor = x.mean((2, 3))
        return pooled

    def shapes(self) -> dict[str, torch.Size]:
        """{key: shape} of the weights that it needs."""
        return {k: v.shape for k, v in self.state_dict().items() if not k.endswith(_COUNTER)}


class ResNetEncoder(Encoder):
    """A ResNet up to one of its stages, averaged over the tile. Subclasses say which.

    Class attributes
    ----------------
    block, blocks : kind of block, and how many per stage
    without : keys of torchvision's file that this network leaves out
    """

    needs_weights: ClassVar[bool] = True
    block: ClassVar[type[Block]]
    blocks: ClassVar[tuple[int, ...]]
    without: ClassVar[tuple[str, ...]]
    tile_px = 256
    mpp = 0.5

    def __init__(self, state: Any, source: str = "the state dict") -> None:
        self.net = ResNet(self.block, self.blocks)
        without = (*self.without, "*" + _COUNTER)
        self._state = weights.fitted(state, self.net.shapes(), without, owner=self.name, source=source)
        self.net.load_state_dict(self._state, strict=False)  # fitted strictly; only the counters are left
        self.width = self.net.width
        self.id = f"{self.name}-{weights.content_id(self._state)}"

    @classmethod
    def from_weights(cls, path: Path) -> Self:
        """The encoder with the weights of a file in torchvision's names."""
        return cls(read_weights(path, "file of weights"), path.name)

    def weights(self) -> bytes:
        """The weights in use, as safetensors."""
        return bytes(safetensors.torch.save(self._state))

    @torch.inference_mode()
    def __call__(self, tiles: Tensor) -> Tensor:
        """(B, D) float32 for tiles (B, H, W, 3) uint8, on their device."""
        check_tiles(tiles, smallest_px=SMALLEST_PX, owner=self.id)
        if not len(tiles):
            return torch.empty(0, self.width, device=tiles.device)
        mean, std = (tiles.new_tensor(v, dtype=torch.float32)[:, None, None] for v in (MEAN, STD))
        pixels = (tiles.permute(0, 3, 1, 2).float() / 255 - mean) / std
        made: Tensor = self.net.to(tiles.device)(pixels)
        return made


class ResNet18(ResNetEncoder):
    """ResNet-18 without its classifier: 512 numbers."""

    name = "resnet18"
    block, blocks, without = Block, (2, 2, 2, 2), ("fc.*",)


class ResNet50Trunc(ResNetEncoder):
    """ResNet-50 up to its third stage: 1024 numbers."""

    name = "resnet50-trunc"
    block, blocks, without = Bottleneck, (3, 4, 6), ("fc.*", "layer4.*")
