"""What a figure's reader is told of where it was computed."""

from types import SimpleNamespace

import pytest
import torch

from napari_mil import device


def test_the_surroundings_of_a_processor():
    told = device.surroundings(torch.device("cpu"))
    assert told["torch"] == torch.__version__
    assert told["device"].startswith("CPU")
    assert told["float32_products"] == torch.get_float32_matmul_precision()
    assert "float32_convolutions" not in told


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_on_a_gpu_convolutions_may_be_rounded_where_products_are_not(precision, monkeypatch):
    monkeypatch.setattr(device, "describe", lambda _device: "a GPU")
    set_so = SimpleNamespace(fp32_precision=precision)
    monkeypatch.setattr(torch.backends.cudnn, "conv", set_so, raising=False)
    told = device.surroundings(torch.device("cuda"))
    assert (told["device"], told["float32_convolutions"]) == ("a GPU", precision)
