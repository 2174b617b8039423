"""What is drawn for many rows, to a few at a time: where the rows are, and only where something is drawn."""

import pytest
import torch
from torch import nn

from napari_mil.blocks import Dropout, Rows, rows
from napari_mil.blocks.draws import Draws, drawn_for


def two_gpus(monkeypatch, current=0):
    """Two GPUs' generators; what is asked without a device is asked of the current one."""
    held = {0: torch.tensor([10], dtype=torch.uint8), 1: torch.tensor([20], dtype=torch.uint8)}

    def at(device):
        return current if device is None else torch.device(device).index

    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device=None: held[at(device)].clone())
    monkeypatch.setattr(
        torch.cuda, "set_rng_state", lambda state, device=None: held.__setitem__(at(device), state.clone())
    )
    return held


def test_of_several_gpus_the_one_that_has_the_rows_draws(monkeypatch):
    held = two_gpus(monkeypatch)
    drawn = Draws(torch.device("cuda:1"), 0, 8)
    held[1] += 1
    with drawn.of(slice(0, 4)):
        assert (int(held[0]), int(held[1])) == (10, 20)
        held[1] += 5
    held[1] += 7
    with drawn.again(slice(4, 8)):
        assert int(held[1]) == 20
        held[1] += 5
    assert (int(held[0]), int(held[1])) == (10, 32)


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_the_cpu_draws_seeds_whatever_has_the_rows(device, monkeypatch):
    two_gpus(monkeypatch)
    drawn = Draws(torch.device(device), 0, 8)
    first = torch.rand(3)
    with drawn.of(slice(2, 4)):
        assert torch.equal(torch.rand(3), first)
        assert drawn_for(torch.ones(2, 5)) == ((8, 5), slice(2, 4))


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.act, self.drop = nn.Linear(6, 5), nn.GELU(), Dropout(0.4)
        self.whole = nn.Sequential(self.layer, self.act, self.drop)


@pytest.mark.parametrize("training", [False, True])
def test_where_nothing_is_drawn_no_state_is_copied(training, monkeypatch):
    monkeypatch.setattr(rows, "CPU_ROWS", 4)
    made = []
    monkeypatch.setattr(rows, "Draws", lambda *given: made.append(given) or Draws(*given))
    net, x = Network().train(training), torch.randn(11, 6)
    with torch.no_grad():
        Rows(x, None, net.layer, net.act, net.drop).all()
        rows.by_rows(net.whole, x)
    assert len(made) == (6 if training else 0)
