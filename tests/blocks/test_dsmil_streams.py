"""DSMIL's two streams: what attention, evidence and memory must be."""

import math

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from napari_mil.blocks import CriticalAttention

N, D, C = 40, 16, 5


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def seen_by(block, h, scores):
    """What a block makes of tiles with these logits; those behind a third of them come as tokens."""
    tiles, tokens = h.split([len(h) // 3, len(h) - len(h) // 3])
    told = {len(part): part for part in scores.split([len(tiles), len(tokens)])}
    return block(tiles, lambda x: told[len(x)], tokens)


def streams(n=N, classes=C):
    block = CriticalAttention(D, 4, classes)
    return block, seen_by(block, torch.randn(n, D), torch.randn(n, classes))


def test_attention_is_likeness_to_the_critical_tile():
    block, h, scores = CriticalAttention(D, 4, C), torch.randn(N, D), torch.randn(N, C)
    seen, q = seen_by(block, h, scores), block.q(h)
    for k in range(C):
        best = int(scores[:, k].argmax())
        expected = torch.softmax((q * q[best]).sum(1) / math.sqrt(4), 0)
        assert torch.allclose(seen.attention[:, k], expected, atol=1e-6)
    assert torch.allclose(seen.attention.sum(0), torch.ones(C), atol=1e-5)
    assert torch.equal(seen.instance_max, scores.max(0).values)


def test_every_class_reads_the_vectors_of_all():
    block, seen = streams()
    v = torch.cat(seen.values)
    assert len(seen.values) > 1
    assert (v >= 0).all()
    expected = torch.einsum("jkd,ik,id->j", block.fcc.weight, seen.attention, v) + block.fcc.bias
    assert torch.allclose(block.logits(seen), expected, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 7, N])
@pytest.mark.parametrize("classes", [1, 2, C])
def test_evidence_is_the_part_of_each_tile_in_the_logits(n, classes):
    block, seen = streams(n, classes)
    parts = block.evidence(seen)
    expected = torch.einsum("ik,jkd,id->ij", seen.attention, block.fcc.weight, torch.cat(seen.values))
    assert torch.allclose(parts, expected, atol=1e-6)
    assert torch.allclose(parts.sum(0) + block.fcc.bias, block.logits(seen), atol=1e-5)


def test_no_tensor_grows_with_the_square_of_the_classes():
    largest = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            largest.extend(t.numel() for t in tree_leaves(made) if isinstance(t, torch.Tensor))
            return made

    n, classes = 300, 13
    block, seen = streams(n, classes)
    with torch.no_grad(), Watch():
        seen_by(block, torch.randn(n, D), seen.scores)
        block.evidence(seen)
        block.logits(seen)
    assert largest
    assert max(largest) <= max(n * max(D, classes), classes * classes * D)


def test_the_choice_of_critical_tiles_gives_no_gradient():
    block, scores = CriticalAttention(D, 4, C), torch.randn(N, C, requires_grad=True)
    block.logits(seen_by(block, torch.randn(N, D), scores)).sum().backward()
    assert scores.grad is None
    assert np.isfinite(block.q[0].weight.grad.numpy()).all()
