"""Graph attention: the dense form is the sum over edges, those that stand twice included."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import leaky_relu

from napari_mil.blocks import GraphAttention, draw_gumbel


def by_edges(layer, h, edges):
    """The definition, edge by edge."""
    x, k = h @ layer.fc.weight.T, len(h)
    out = []
    for v in range(k):
        incoming = [u for u in range(k) for _ in range(int(edges[u, v]))]
        e = torch.stack([leaky_relu(layer.attn_l @ x[u] + layer.attn_r @ x[v], 0.2)[0, 0] for u in incoming])
        alpha = torch.softmax(e, 0)
        out.append(sum(a * x[u] for a, u in zip(alpha, incoming, strict=True)) + layer.bias)
    return torch.stack(out)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(0, 2**31 - 1))
def test_the_dense_form_is_the_sum_over_edges(k, seed):
    torch.manual_seed(seed)
    layer = GraphAttention(5, 4)
    torch.nn.init.normal_(layer.bias)
    edges = torch.randint(0, 3, (k, k)).float() + torch.eye(k)
    h = torch.randn(k, 5)
    new, attention = layer(h, edges)
    assert torch.allclose(new, by_edges(layer, h, edges), atol=1e-5)
    assert torch.allclose(attention.sum(0), torch.ones(k), atol=1e-6)
    assert (attention[edges == 0] == 0).all()


def test_gradients_are_finite_where_there_is_no_edge():
    layer, h = GraphAttention(3, 4), torch.randn(4, 3, requires_grad=True)
    layer(h, torch.eye(4))[0].sum().backward()
    assert h.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_keys_are_those_of_published_checkpoints():
    shapes = {k: tuple(v.shape) for k, v in GraphAttention(3, 4).state_dict().items()}
    assert shapes == {"fc.weight": (4, 3), "attn_l": (1, 1, 4), "attn_r": (1, 1, 4), "bias": (4,)}


def test_gumbel_noise_is_drawn_row_by_row():
    generator = torch.Generator().manual_seed(3)
    noise = draw_gumbel(4, 1001, torch.device("cpu"), generator)
    generator.manual_seed(3)
    rows = [-torch.empty(1001).exponential_(generator=generator).log() for _ in range(4)]
    assert torch.equal(noise, torch.stack(rows))
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.1)
    assert noise.isfinite().all()
