"""Self-attention of docs/methods.md step by step, whole matrices and all: what ours must equal."""

import math

import torch
from torch.nn.functional import conv2d, pad


def attention(layer, x):
    """Tokens (n, D) after the layer, the first token's row (H, n − 1), the values (H, n − 1, d)."""
    att = layer.attn
    n, features = x.shape
    width, m, heads = features // 8, features // 2, att.heads
    start = -n % m
    filled = torch.cat([x.new_zeros(start, features), layer.norm(x)])
    q, k, v = (t.view(len(filled), heads, width).transpose(0, 1) for t in att.to_qkv(filled).chunk(3, 1))
    q = q * width**-0.5
    q_mean, k_mean = (t.reshape(heads, m, -1, width).mean(2) for t in (q, k))
    one, two, three = (torch.softmax(a @ b.mT, -1) for a, b in ((q, k_mean), (q_mean, k_mean), (q_mean, k)))
    unit = torch.eye(m, dtype=x.dtype)
    z = two.mT / (two.abs().sum(-1).max() * two.abs().sum(-2).max())
    for _ in range(6):
        a = two @ z
        z = z @ (13 * unit - a @ (15 * unit - a @ (7 * unit - a))) / 4
    out = (one @ z) @ (three @ v) + att.res_conv(v[None])[0]
    row = (one[:, start : start + 1] @ z @ three)[:, 0, start + 1 :]
    return x + att.to_out(out.transpose(0, 1).flatten(1))[start:], row, v[:, start + 1 :]


def position(block, x, least=7):
    """Tokens (n, D) after the three convolutions over their image."""
    n, features = x.shape
    side = math.ceil(math.sqrt(n))
    x = torch.cat([x, x[: side * side - n]])
    if side < least:
        x, side = torch.cat([x, x.new_zeros(least * least - len(x), features)]), least
    image = x.T.reshape(1, features, side, side)
    total = image
    for conv in (block.proj, block.proj1, block.proj2):
        reach = conv.weight.shape[-1] // 2
        total = total + conv2d(pad(image, (reach,) * 4), conv.weight, conv.bias, groups=features)
    return total.flatten(2)[0].T[:n]


def encode(token, tiles, layers, block, least=7):
    """All tokens (1 + n, D) after both layers, both rows (H, n)."""
    x, first, _ = attention(layers[0], torch.cat([token, tiles]))
    x = torch.cat([x[:1], position(block, x[1:], least)])
    x, second, _ = attention(layers[1], x)
    return x, (first, second)
