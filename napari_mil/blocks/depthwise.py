"""Depth-wise convolutions of tokens as they lie in memory: each token with all its channels, no transposing.

In float32 or wider also under autocast: with so few multiplications a number, bfloat16 takes longer.

Shape letters: n tokens, D channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d, pad
from torch.nn.grad import conv2d_weight

from napari_mil.device import wide


def along(x: Tensor, kernel: Tensor) -> Tensor:
    """(n, D) every channel of x (n, D) convolved along the tokens with its taps (D, taps), an odd number."""
    reach = kernel.shape[1] // 2
    with torch.autocast(x.device.type, enabled=False):
        column = _image(wide(x)[:, None])
        made = conv2d(column, wide(kernel)[:, None, :, None], padding=(reach, 0), groups=len(kernel))
    return made.squeeze(3).squeeze(0).T.to(x.dtype)


def over(image: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """(h, w, D) every channel of an image convolved with its taps (D, t, t), an odd t, plus its bias (D,)."""
    given = wide(image), wide(kernel), wide(bias)
    with torch.autocast(image.device.type, enabled=False):
        if image.device.type != "cpu" or not torch.is_grad_enabled():
            made = _over(*given)
        else:
            made = _Over.apply(*given)  # type: ignore[no-untyped-call]
    return made.to(image.dtype)


def _image(x: Tensor) -> Tensor:
    """(1, D, h, w) of (h, w, D), in steps that are taken for those of "channels last"."""
    return x[None].permute(0, 3, 1, 2)


def _over(image: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    made = conv2d(_image(image), kernel[:, None], bias, padding=kernel.shape[1] // 2, groups=len(kernel))
    return made[0].permute(1, 2, 0)


class _Over(torch.autograd.Function):
    """The gradient of the taps takes torch twenty times as long as the convolution; row by row of the taps,
    as convolutions along the pixels one after the other, it takes five times as long.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(image, kernel)
        return _over(image, kernel, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (image, kernel), (given,) = ctx.saved_tensors, gradients
        width, channels = image.shape[1:]
        taps = kernel.shape[1]
        reach, row = taps // 2, width + taps - 1
        pixels = pad(image, (0, 0, reach, reach, reach, reach)).flatten(0, 1)
        pixels = pad(pixels, (0, 0, 0, taps - 1))  # where the last row, moved, looks beyond the image
        asked = pad(given, (0, 0, 0, taps - 1)).flatten(0, 1)
        each = [
            conv2d_weight(  # type: ignore[no-untyped-call]
                _image(pixels[at : at + len(asked) + taps - 1, None]),
                (channels, 1, taps, 1),
                _image(asked[:, None]),
                groups=channels,
            )[:, 0, :, 0]
            for at in range(0, taps * row, row)
        ]
        back = _over(given, kernel.flip(1, 2), None)
        return back, torch.stack(each, 1), given.sum((0, 1))
