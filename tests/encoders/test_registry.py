import pytest

from napari_mil import encoders
from napari_mil.errors import ModelError


def test_the_folder_is_the_registry():
    assert encoders.names() == ("builtin", "resnet18", "resnet50-trunc")
    encoder = encoders.create()
    assert isinstance(encoder, encoders.Encoder)
    assert (encoder.name, encoder.id, encoder.tile_px, encoder.mpp) == ("builtin", "builtin-1", 256, 0.5)


def test_an_unknown_encoder_is_an_error_naming_the_known_ones():
    with pytest.raises(ModelError, match=r"'resnet'.*builtin"):
        encoders.create("resnet")
