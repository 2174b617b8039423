"""Nyström attention: the same numbers as the formula, in pieces, in half precision, in linear memory."""

import pytest
import torch
from naive_attention import attention
from torch.utils._python_dispatch import TorchDispatchMode

from napari_mil.blocks import NystromAttention, NystromLayer, nystrom, softmax

SIZES = [1, 2, 7, 31, 32, 33, 255, 256, 257, 3000]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def layer(features=64, heads=8, sharpness=1.0, dtype=torch.float64):
    made = NystromLayer(features, heads).eval().to(dtype)
    made.attn.to_qkv.weight.data *= sharpness
    made.norm.bias.data.uniform_(-1, 1)  # so that the zero rows in front are not those of the norm
    return made


def both_ways(made, x, *some):
    """What was attended and its tokens, with gradients kept and without."""
    found = made(x, row=True)
    yield found, found.tokens(*some)
    with torch.no_grad():
        found = made(x.clone(), row=True)
        yield found, found.tokens(*some)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(("heads", "sharpness"), [(8, 1.0), (2, 6.0)])
def test_it_is_the_formula(n, heads, sharpness):
    made, x = layer(heads=heads, sharpness=sharpness), torch.randn(n, 64, dtype=torch.float64)
    tokens, row, values = attention(made, x)
    for found, after in both_ways(made, x):
        assert torch.allclose(after, tokens, atol=1e-9)
        assert torch.allclose(found.row, row, atol=1e-9)
        assert torch.allclose(found.values, values, atol=1e-9)
        assert found.row.shape == (heads, n - 1)
        assert not found.row.requires_grad


@pytest.mark.parametrize("n", [1, 255, 256, 257])
def test_it_is_the_formula_at_the_published_width(n):
    made, x = layer(512, dtype=torch.float32), torch.randn(n, 512)
    tokens, row, _ = attention(made, x)
    for found, after in both_ways(made, x):
        assert torch.allclose(after, tokens, atol=1e-5)
        assert torch.allclose(found.row, row, atol=1e-5)


def test_any_width_of_eight_and_more_will_do():
    for features in (8, 9, 15, 20):
        made, x = layer(features), torch.randn(30, features, dtype=torch.float64)
        for _, after in both_ways(made, x):
            assert torch.allclose(after, attention(made, x)[0], atol=1e-9)


@pytest.mark.parametrize("n", [7, 99, 100, 101, 257])
def test_pieces_are_the_whole(n, monkeypatch):
    made, x = layer(dtype=torch.float32), torch.randn(n, 64)
    with torch.no_grad():
        whole = made(x.clone(), row=True)
        tokens = whole.tokens()
        monkeypatch.setattr(nystrom, "TOKENS", 20)
        monkeypatch.setattr(softmax, "QUERIES", 5)
        monkeypatch.setattr(softmax, "NUMBERS", 5)
        pieces = made(x.clone(), row=True)
        assert torch.allclose(tokens, pieces.tokens(), atol=1e-6)
    assert torch.allclose(whole.row, pieces.row, atol=1e-6)


def test_the_row_is_left_out_unless_asked_for():
    made, x = layer(), torch.randn(40, 64, dtype=torch.float64)
    kept, asked = made(x), made(x, row=True)
    assert kept.row.shape == (8, 0)
    assert torch.equal(kept.tokens(), asked.tokens())
    with torch.no_grad():
        assert made(x.clone()).row.shape == (8, 0)


@pytest.mark.parametrize("n", [12, 20, 100])
@pytest.mark.parametrize("some", [(0, 1), (1, None), (10, 12)])
def test_some_tokens_are_those_of_all(n, some):
    made, x = layer(), torch.randn(n, 64, dtype=torch.float64)
    expected = attention(made, x)[0][slice(*some)]
    for _, tokens in both_ways(made, x, *some):
        assert torch.allclose(tokens, expected, atol=1e-9)


def test_one_token_needs_no_values_of_all():
    made, x = layer(), torch.randn(300, 64, dtype=torch.float64)
    found = made(x)
    expected = attention(made, x)[0]
    assert torch.allclose(found.tokens(0, 1), expected[:1], atol=1e-9)
    assert not {"v", "read"} & set(vars(found))
    assert torch.allclose(found.tokens(1), expected[1:], atol=1e-9)


def test_what_is_asked_of_one_token_after_the_other_is_the_whole():
    made, x = layer(), torch.randn(100, 64, dtype=torch.float64)
    with torch.no_grad():
        found = made(x.clone())
        tokens = torch.cat([found.tokens(0, 1), found.tokens(1)])
    assert torch.allclose(tokens, attention(made, x)[0], atol=1e-9)


@pytest.mark.parametrize("some", [(0, None), (0, 1), (1, None)])
def test_gradients_are_those_of_the_formula(some):
    made, x = layer(), torch.randn(100, 64, dtype=torch.float64, requires_grad=True)
    towards = torch.randn(100, 64, dtype=torch.float64)[slice(*some)]
    given = [x, *made.parameters()]
    ours = torch.autograd.grad((made(x).tokens(*some) * towards).sum(), given)
    naive = torch.autograd.grad((attention(made, x)[0][slice(*some)] * towards).sum(), given)
    for a, b in zip(ours, naive, strict=True):
        assert torch.allclose(a, b, atol=1e-8)


def test_rows_of_attention_need_not_sum_to_one():
    made, x = layer(sharpness=6.0), torch.randn(300, 64, dtype=torch.float64)
    row = made(x, row=True).row
    assert (row < 0).any()
    assert (row.sum(1) - 1).abs().max() > 1e-3


@pytest.mark.parametrize("n", [5, 300])
def test_half_precision_is_near(n):
    made, x = layer(dtype=torch.float32), torch.randn(n, 64)
    expected = made(x, row=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = made(x, row=True)
        found.tokens().sum().backward()
        halves = list(both_ways(made, x))
        first = made(x).tokens(0, 1)
        first.sum().backward()
        with torch.no_grad():
            alone = made(x.clone()).tokens(0, 1)
    assert made.attn.to_qkv.weight.grad.isfinite().all()
    assert torch.allclose(first.float(), expected.tokens(0, 1), atol=0.05)
    assert torch.equal(first, alone)
    for half, tokens in halves:
        assert torch.allclose(tokens.float(), expected.tokens(), atol=0.05)
        assert torch.allclose(half.row.float(), expected.row, atol=0.05)
    whole = layer(dtype=torch.bfloat16)
    for _, tokens in both_ways(whole, x.bfloat16()):
        assert tokens.dtype == torch.bfloat16
        assert tokens.isfinite().all()


def test_the_pseudo_inverse_stays_in_single_precision():
    matrix = torch.softmax(torch.randn(2, 16, 16), -1)
    with torch.autocast("cpu", torch.bfloat16):
        found = nystrom.pseudo_inverse(matrix)
        assert torch.equal(found, nystrom.pseudo_inverse(matrix.clone()))
    assert found.dtype == torch.float32
    assert torch.equal(found, nystrom.pseudo_inverse(matrix))
    assert nystrom.pseudo_inverse(matrix.bfloat16()).dtype == torch.float32


class Largest(TorchDispatchMode):
    """Watches the size of every tensor that an operation makes."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for made in out if isinstance(out, tuple | list) else (out,):
            if isinstance(made, torch.Tensor):
                self.numbers = max(self.numbers, made.untyped_storage().nbytes() // made.element_size())
        return out


@pytest.mark.parametrize("learning", [True, False])
def test_memory_is_linear_in_the_tokens(learning, monkeypatch):
    monkeypatch.setattr(softmax, "NUMBERS", 2**15)
    made = layer(dtype=torch.float32)
    largest = {}
    for n in (2048, 4096):
        with torch.set_grad_enabled(learning), Largest() as watch:
            found = made(torch.randn(n, 64), row=True)
            if learning:
                found.tokens().sum().backward()
        largest[n] = watch.numbers
    assert largest[4096] <= 2 * largest[2048]
    # no map of all heads with all landmarks, which is 256 numbers per token here
    assert largest[4096] <= 64 * 4096


def test_keys_are_those_of_the_published_code():
    keys = {k: tuple(v.shape) for k, v in NystromAttention(512).state_dict().items()}
    assert keys == {
        "to_qkv.weight": (1536, 512),
        "to_out.0.weight": (512, 512),
        "to_out.0.bias": (512,),
        "res_conv.weight": (8, 1, 33, 1),
    }
    assert NystromAttention(512, heads=2).to_qkv.weight.shape == (3 * 2 * 64, 512)


@pytest.mark.parametrize("same", [0, 1, 2, 11])
def test_equal_rows_and_columns_are_inverted_as_one(same):
    q, k = torch.randn(2, 3, 12, 5, dtype=torch.float64)
    q[:, :same], k[:, :same] = 0, 0
    matrix = torch.softmax(q @ k.mT, -1).requires_grad_()
    whole, few = nystrom.pseudo_inverse(matrix), nystrom.pseudo_inverse(matrix, same=same)
    assert torch.allclose(whole, few, atol=1e-9)
    assert torch.allclose(matrix @ whole @ matrix, matrix, atol=0.05)


def softmaxed(heads=3, m=40, width=5, sharpness=1.0, dtype=torch.float64):
    q, k = sharpness * torch.randn(2, heads, m, width, dtype=dtype)
    return torch.softmax(q @ k.mT, -1)


@pytest.mark.parametrize("sharpness", [0.0, 0.01, 1.0, 4.0])
@pytest.mark.parametrize(("dtype", "share"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_learning_inverts_by_eigenvalues_what_is_iterated_otherwise(sharpness, dtype, share):
    """Held against the iteration in double precision, which in single precision is no nearer to it."""
    matrix = softmaxed(sharpness=sharpness)
    towards = torch.randn_like(matrix)

    def inverse(invert, dtype):
        given = matrix.to(dtype).requires_grad_()
        scale = given.sum(-2).max() if sharpness else given.new_ones(())
        found = invert(given / scale)
        return found.detach(), *torch.autograd.grad((found * towards.to(dtype)).sum(), given)

    one = matrix.new_ones(())
    expected = inverse(lambda given: nystrom._iterated(given, one), torch.float64)
    found = inverse(nystrom._ByEigenvalues.apply, dtype)
    for a, b in zip(found, expected, strict=True):
        assert (a - b).abs().max() <= share * b.abs().max()


def test_the_gradient_by_eigenvalues_is_that_of_differences():
    matrix = (softmaxed(heads=1, m=6) / 2).requires_grad_()
    assert torch.autograd.gradcheck(nystrom._ByEigenvalues.apply, (matrix,))


def test_what_is_not_finite_is_inverted_to_what_is_not():
    matrix = softmaxed()
    matrix[1, 2, 3] = float("nan")
    assert nystrom.pseudo_inverse(matrix.requires_grad_()).isnan().any()
