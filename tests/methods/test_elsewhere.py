"""Every method on a device that is not the processor: it keeps to it, and says what it says here.

No GPU is needed: `elsewhere` pretends to be one, and refuses an operation on tensors of two devices as a GPU
does.
"""

import elsewhere
import numpy as np
import pytest
import torch
from planted import TREE, bag, cohort
from variants import VARIANTS

from napari_mil import methods
from napari_mil.card import Recipe
from napari_mil.correction import Target
from napari_mil.evaluate import split_by_case
from napari_mil.infer import answer
from napari_mil.labeltree import LabelTree
from napari_mil.mil import total
from napari_mil.options import build
from napari_mil.steps import drain
from napari_mil.train import train_steps

pytestmark = pytest.mark.skipif(not elsewhere.ABLE, reason="this PyTorch cannot pretend a device")
FLAT = LabelTree.from_paths(["none", "lesion"])
SMALL = {"hidden": 32, "attention_width": 16, "heads": 2, "clusters": 8}
CASES = [
    pytest.param(name, variant, id="-".join([name, *map(str, variant.values())]))
    for name in methods.names()
    for variant in VARIANTS.get(name, [{}])
]
PRECISIONS = [
    pytest.param(name, precision, id=f"{name}-{precision}")
    for name in methods.names()
    for precision in ("fp32", "bf16")[: 1 + methods.get(name).bf16]
]


@pytest.fixture(autouse=True)
def _device(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(torch, "Generator", elsewhere.Generator)
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # a module's own tensors are replaced, too
    with elsewhere.Device():
        yield
    torch.__future__.set_swap_module_params_on_conversion(before)


@pytest.fixture
def no_inference(monkeypatch):
    """Views of pretended tensors cannot be made in PyTorch's inference mode."""
    monkeypatch.setattr(torch, "inference_mode", torch.no_grad)


def config(name, variant):
    known = methods.get(name).Config.__dataclass_fields__
    return {k: v for k, v in SMALL.items() if k in known} | variant


def make(name, variant):
    return methods.create(name, config(name, variant), in_features=24, tree=TREE)


def there(x):
    return x.to("elsewhere")


def features(n=70):
    return torch.randn(n, 24), torch.stack([torch.arange(n) // 10, torch.arange(n) % 10], 1)


def test_tensors_of_two_devices_do_not_meet():
    x = torch.randn(3)
    assert there(x).device.type == "elsewhere"
    assert torch.equal((there(x) * 2).to("cpu"), x * 2)
    assert torch.equal(there(x)[torch.tensor([2, 0])].cpu(), x[[2, 0]])
    with pytest.raises(RuntimeError, match="two devices"):
        there(x) + x
    with pytest.raises(RuntimeError, match="two devices"):
        x[there(torch.tensor([0]))]


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_it_answers_there_as_here(name, variant):
    model, (x, cells) = make(name, variant).eval(), features()
    with torch.no_grad():
        here = model(x, cells)
        out = model.to("elsewhere")(there(x), there(cells))
    maps = [*here.maps.items(), *here.columns.items()]
    said = {**out.maps, **out.columns}
    pairs = [*zip(here.logits, out.logits, strict=True), (here.tile_logits, out.tile_logits)]
    pairs += [(here.attention, out.attention), *((values, said[name]) for name, values in maps)]
    for a, b in pairs:
        assert b.device.type == "elsewhere"
        assert torch.allclose(a, b.cpu(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), CASES)
@pytest.mark.parametrize("half", [False, True], ids=["float32", "bfloat16"])
def test_a_step_keeps_to_it(name, variant, half):
    model, (x, cells) = make(name, variant).train().to("elsewhere"), features()
    tiles = np.zeros(len(x), np.int32)
    tiles[3:9] = TREE.leaves[1]
    for target in (Target(TREE.leaves[1]), Target(TREE.leaves[1], tiles)):
        with torch.autocast("elsewhere", torch.bfloat16, enabled=half):
            loss = total(model.loss([(there(x), there(cells), target)], 0.5))
        loss.backward()
        model.after_step(0.5)
    learned = [p for p in model.parameters() if p.grad is not None]
    assert learned
    assert all(p.grad.device.type == "elsewhere" and bool(p.grad.isfinite().all()) for p in learned)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), CASES)
def test_it_explains_there_as_here(name, variant, no_inference):
    model, (one, _) = make(name, variant).eval(), bag(TREE.leaves[2], seed=3)
    here = model.explain(one)
    said = model.to("elsewhere").explain(one)
    assert said.keys() == here.keys()
    for key, values in here.items():
        assert np.allclose(said[key], values, atol=1e-5), key


@pytest.mark.slow
@pytest.mark.parametrize(("name", "precision"), PRECISIONS)
def test_it_is_trained_there(name, precision, no_inference):
    cases, _ = cohort(28, n=24)
    split = split_by_case({c.case: c.target.slide for c in cases}, test=0.25, validation=0.25)
    recipe = build(Recipe, {"epochs": 2, "min_epochs": 1, "stage1_epochs": 1, "precision": precision}, "")
    made = drain(
        train_steps(
            cases,
            split,
            method=name,
            config=config(name, {}),
            recipe=recipe,
            tree=TREE,
            device="elsewhere",
        )
    )
    assert {p.device.type for p in made.model.parameters()} == {"elsewhere"}
    assert all(np.isfinite(row["loss"]) for row in made.history)


def test_a_model_that_was_asked_there_can_still_learn():
    model, (x, _) = make("abmil", {}), features()
    answer(model, x.numpy(), device="elsewhere")
    total(model.train().loss([(there(x), None, Target(TREE.leaves[1]))], 0.0)).backward()
    assert not any(p.is_inference() for p in model.parameters())
