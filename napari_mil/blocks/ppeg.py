"""The positional block of TransMIL: tokens laid out as an image in their order, and convolved (Shao 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from napari_mil.blocks.depthwise import over

#: channels that are convolved together where no gradient is kept
CHANNELS = 64


class PPEG(nn.Module):
    """Depth-wise convolutions with 7, 5 and 3 taps over tokens (n, D), row by row in a square image.

    The three and the token itself are one convolution with 7 taps, and are computed as such. The image is the
    order of the tokens; where the tiles lie on the slide does not enter.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.proj, self.proj1, self.proj2 = (
            nn.Conv2d(features, features, taps, padding=taps // 2, groups=features) for taps in (7, 5, 3)
        )

    def forward(self, tokens: Tensor, *, least: int = 7) -> Tensor:
        """(n, D) → (n, D). The last row is filled up with the first tokens, and an image less than `least`
        wide with zeros, in the order of the tokens.
        """
        n, side = len(tokens), side_of(len(tokens))
        image = torch.cat([tokens, tokens[: side**2 - n]])
        if side < least:
            image, side = pad(image, (0, 0, 0, least**2 - side**2)), least
        image = image.view(side, side, -1)
        kernel, bias = self._kernel()
        if torch.is_grad_enabled():
            image = over(image, kernel, bias)
        else:
            for some in (slice(at, at + CHANNELS) for at in range(0, len(kernel), CHANNELS)):
                image[..., some] = over(image[..., some], kernel[some], bias[some])
        return image.flatten(0, 1)[:n]

    def _kernel(self) -> tuple[Tensor, Tensor]:
        """The sum of the convolutions and of the identity: weights (D, 7, 7), bias (D,)."""
        kernel = self.proj.weight + pad(self.proj1.weight, (1,) * 4) + pad(self.proj2.weight, (2,) * 4)
        itself = pad(kernel.new_ones(1, 1, 1, 1), (3,) * 4)
        # added one by one: the gradients of a stacked sum share their memory, and would be counted thrice
        # where the losses of several bags are accumulated
        bias: Tensor = self.proj.bias + self.proj1.bias + self.proj2.bias  # type: ignore[operator]
        return (kernel + itself)[:, 0], bias


def side_of(n: int) -> int:
    """⌈√n⌉, the side of the smallest square image with room for n ≥ 1 tokens."""
    return math.isqrt(n - 1) + 1
