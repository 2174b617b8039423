"""The registry: the folder and entry points."""

import sys
import types
from importlib.metadata import EntryPoint

import pytest

from napari_mil import methods
from napari_mil.errors import ModelError
from napari_mil.labeltree import LabelTree
from napari_mil.methods.abmil import ABMIL, ABMILConfig

FLAT = LabelTree.from_paths(["a", "b"])


def test_the_folder_is_the_registry():
    assert {"mean", "max", "abmil", "gabmil", "mhim", "hmil"} <= set(methods.names())


def test_an_unknown_method_is_an_error_that_names_the_known_ones():
    with pytest.raises(ModelError, match=r"no method 'transmill'; there are .*mhim"):
        methods.create("transmill", in_features=4, tree=FLAT)


def test_options_are_checked():
    with pytest.raises(ModelError, match=r"no option 'mask_ration' \(perhaps 'mask_ratio' is meant\)"):
        methods.create("mhim", {"mask_ration": 0.1}, in_features=4, tree=FLAT)
    with pytest.raises(ModelError, match=r"mhim: mask_ratio is 2; it must lie in \[0.0, 0.95\]"):
        methods.create("mhim", {"mask_ratio": 2}, in_features=4, tree=FLAT)
    with pytest.raises(ModelError, match="abmil: act is 'swish'; it must be one of 'gelu', 'relu'"):
        methods.create("abmil", ABMILConfig(act="swish"), in_features=4, tree=FLAT)


class Foreign(ABMIL):
    """A method that another package brings."""

    name = "foreign"


@pytest.fixture
def entry_points(monkeypatch):
    module = types.ModuleType("another_package")
    module.Foreign, module.number = Foreign, 3
    monkeypatch.setitem(sys.modules, "another_package", module)
    points = [
        EntryPoint("foreign", "another_package:Foreign", methods.GROUP),
        EntryPoint("broken", "no_such_package:Method", methods.GROUP),
        EntryPoint("number", "another_package:number", methods.GROUP),
        EntryPoint("mhim", "another_package:Foreign", methods.GROUP),
    ]
    monkeypatch.setattr(methods, "entry_points", lambda group: points if group == methods.GROUP else [])
    methods._foreign.cache_clear()
    yield
    methods._foreign.cache_clear()


@pytest.mark.usefixtures("entry_points")
def test_other_packages_bring_methods():
    assert methods.names()[-3:] == ("foreign", "broken", "number")
    model = methods.create("foreign", {"hidden": 8}, in_features=4, tree=FLAT)
    assert isinstance(model, Foreign)


@pytest.mark.usefixtures("entry_points")
def test_a_broken_method_harms_only_itself():
    with pytest.raises(ModelError, match="'broken' of another package does not load: No module named"):
        methods.get("broken")
    with pytest.raises(ModelError, match="'number' of another package is no MILModel"):
        methods.get("number")
    assert methods.get("mhim") is not Foreign  # our own name wins
