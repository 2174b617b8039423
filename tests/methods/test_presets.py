"""Every number of every preset, and of the baselines' defaults, beside its paragraph of methods.md.

One row per number, one column per preset. What a row does not name is not of the papers.
"""

import pytest

from napari_mil import methods
from napari_mil.methods.hmil.config import COMPAT
from napari_mil.train import config_for, recipe_for
from napari_mil.train.rules import learning_rate

V2 = ("v2-command", "v2-paper-reading", "v2-survival")
V1 = ("v1-c16-attn", "v1-c16-selfattn", "v1-tcga-attn", "v1-tcga-selfattn")
#: number → (paragraph, its values in the order of V2 and V1; one value: of all)
MHIM = {
    "version": ("3", (2, 2, 2, 1, 1, 1, 1)),
    "compat": ("0.4", ("official",)),
    "encoder": ("3.13", ("attn", "attn", "attn", "attn", "selfattn", "attn", "selfattn")),
    "pure": ("3.2", (False,)),
    "hidden": ("3.2", (512,)),
    "attention_width": ("1.2", (128,)),
    "heads": ("3.2", (8,)),
    "act": ("3.13", ("gelu", "gelu", "gelu", "relu", "relu", "relu", "relu")),
    "da_act": ("3.13", ("relu",)),
    "dropout": ("3.13", (0.25,)),
    "consistency": ("3.13", (0.5, 0.5, 0.5, 0.1, 0.1, 0.5, 0.5)),
    "temperature": ("3.13", (0.1,)),
    "mask_ratio": (
        "3.13; version 2 was tuned over 0.01, 0.03, 0.05",
        (0.03, 0.03, 0.03, 0.01, 0.03, 0.02, 0.02),
    ),
    "hidden_ratio_random": ("3.13", (1, 1, 1, 0.5, 0.5, 1, 1)),
    "mask_schedule": ("3.13", ("none", "none", "none", "cosine", "cosine", "cosine", "cosine")),
    "random_mask_ratio": ("3.13", (0, 0, 0, 0.5, 0, 0.7, 0.6)),
    "low_mask_ratio": ("3.13", (0, 0, 0, 0, 0.8, 0.2, 0.2)),
    "fusion": ("3.12", ("vote",)),
    "ema": ("3.13", (0.9997, 0.9997, 0.9997, 0.9999, 0.9999, 0.9999, 0.9999)),
    "ema_schedule": ("3.13", ("none", "none", "none", "none", "cosine", "cosine", "none")),
    "init_student": ("3.8.2, P21", ("none", "none", "none", *["projection"] * 4)),
    "score_bias": ("3.3 (i)", (False,)),
    # the recipe
    "lr": ("3.13", (2e-4,)),
    "weight_decay": ("3.13", (1e-5,)),
    "batch_bags": ("3.8.3", (1,)),
    "epochs": ("3.13", (200,)),
    "schedule": ("3.8.5, 3.12", ("cosine", "cosine", "cosine", *["cosine-to-0"] * 4)),
    "patience": ("3.13", (20, 20, 15, 30, 30, 20, 20)),
    "min_epochs": ("3.13", (100, 100, 30, 130, 130, 70, 70)),
    "stopping": ("3.8.6", ("official",)),
    "select_by": ("3.8.7, 3.9, 3.12", ("official", "official", "official", *["auc"] * 4)),
    "class_weights": ("3.8", (False,)),
    "precision": ("3.8", ("fp32",)),
    "seed": ("3.8.1, 3.12", (2021,)),
}
#: what version 1 has no use for (§3.12)
MHIM_V2 = {
    "score": ("3.3", ("class", "class", "class")),
    "keep_ratio": ("3.5, 3.13", (0.8, 0.2, 0.8)),
    "recycle_tokens": ("3.13; tuned over 1, 5, 10", (5, 5, 5)),
    "query_momentum": ("3.13", (0.9999, 0.9999, 0.9999)),
}
HMIL = {
    "compat": ("4.4", ("official", "paper")),
    "hidden": ("4.2", (1024, 1024)),
    "dropout": ("4.7", (0, 0)),
    "presence_weight": ("ours", (0, 0)),
    "lr": ("4.5", (1e-4, 1e-4)),
    "weight_decay": ("4.5", (0, 0)),
    "batch_bags": ("4.5", (64, 64)),
    "epochs": ("4.5", (200, 200)),
    "patience": ("4.5: no early stop", (200, 200)),
    "schedule": ("4.5", ("plateau", "plateau")),
    "select_by": ("4.5", ("auc", "auc")),
    "seed": ("4.7: one is to be fixed", (0, 0)),
}
MICROMIL = {
    "compat": ("5.2, 5.3", ("official", "paper", "paper")),
    "clusters": ("5.6", (36, 16, 36)),
    "width": ("5.6; 0: that of the features", (0, 128, 128)),
    "layers": ("5.6", (2, 2, 2)),
    "hidden": ("5.6", (128, 128, 128)),
    "dropout": ("5.6", (0.5, 0.5, 0.5)),
    "tau": ("5.6", (1, 1, 1)),
    "dec_weight": ("5.3", (0, 0, 0)),
    "lr": ("5.4", (1e-4, 1e-3, 1e-3)),
    "weight_decay": ("5.4", (1e-6, 1e-6, 1e-6)),
    "batch_bags": ("5.4", (1, 1, 1)),
    "epochs": ("5.4", (50, 50, 50)),
    "patience": ("5.4", (5, 5, 5)),
    "min_epochs": ("5.4", (0, 0, 0)),
    "schedule": ("5.4", ("constant", "constant", "constant")),
    "select_by": ("5.4: of validation cases, which the code has none of", ("auc", "auc", "auc")),
    "seed": ("5.4", (0, 0, 0)),
}
TABLES = {
    "mhim": [(MHIM, (*V2, *V1)), (MHIM_V2, V2)],
    "hmil": [(HMIL, ("official", "paper"))],
    "micromil": [(MICROMIL, ("official", "BreakHis", "Seegene"))],
}
ROWS = [
    pytest.param(method, name, number, (values * len(names))[at], id=f"{method}-{name}-{number}-{where[:5]}")
    for method, tables in TABLES.items()
    for table, names in tables
    for number, (where, values) in table.items()
    for at, name in enumerate(names)
]
#: baseline → its options (§2.1 to 2.6; the weights of §2.3 and 2.6 are those of version 1)
BASELINES = {
    "mean": {"hidden": 512, "act": "gelu", "dropout": 0.25},
    "max": {"hidden": 512, "act": "gelu", "dropout": 0.25},
    "abmil": {"hidden": 512, "attention_width": 128, "act": "gelu", "dropout": 0.25},
    "gabmil": {"hidden": 512, "attention_width": 384, "act": "gelu", "dropout": 0.25},
    "dsmil": {"hidden": 512, "attention_width": 128, "act": "gelu", "dropout": 0.25}
    | {"bag_weight": 0.5, "instance_weight": 0.5},
    "transmil": {"hidden": 512, "heads": 8, "act": "gelu", "dropout": 0.25},
    "clam_sb": {"hidden": 512, "attention_width": 256, "act": "gelu", "dropout": 0.25}
    | {"bag_weight": 0.7, "instance_weight": 0.3, "instance_tiles": 8, "subtyping": False},
}
BASELINES["clam_mb"] = BASELINES["clam_sb"]


@pytest.mark.parametrize(("method", "preset", "number", "value"), ROWS)
def test_a_number_of_a_preset(method, preset, number, value):
    asked = config_for(method, preset=preset), recipe_for(method, preset=preset)
    here = asked[0][number] if number in asked[0] else getattr(asked[1], number)
    assert here == value


def test_every_preset_and_every_number_it_sets_is_in_the_table():
    for method in methods.names():
        presets = methods.presets(method)
        tables = TABLES.get(method, [])
        assert set(presets) == {name for _, names in tables for name in names}
        for name, preset in presets.items():
            listed = {number for table, names in tables if name in names for number in table}
            # a search for a model's stage 1 is as long as the training that it starts (§3.8)
            assert {*preset.config, *preset.recipe} - {"stage1_epochs"} <= listed, name


@pytest.mark.parametrize("method", BASELINES)
def test_a_baseline_has_the_published_options(method):
    assert config_for(method) == BASELINES[method]


@pytest.mark.parametrize("name", [*V2, *V1])
def test_where_the_rate_of_mhim_ends(name):
    recipe = recipe_for("mhim", preset=name)
    assert recipe.stage1_epochs == recipe.epochs == 200
    assert learning_rate(recipe, []) == 2e-4
    assert learning_rate(recipe, [1.0] * 100) == pytest.approx(1.0005e-4 if name in V2 else 1e-4)
    assert learning_rate(recipe, [1.0] * 200) == pytest.approx(1e-7 if name in V2 else 0.0, abs=1e-18)


def test_the_grid_of_mhim_is_the_published_one_and_the_shares_that_its_abstract_reads():
    grid = methods.get("mhim").grid
    assert grid["mask_ratio"] == (0.01, 0.03, 0.05)  # methods.md §3.13
    assert set(grid["keep_ratio"]) == {0.8, 0.9, 0.2, 0.1}  # §3.5
    assert grid["recycle_tokens"] == (1, 5, 10)


def test_what_the_numerics_of_hmil_stand_for():
    def row(option):
        return COMPAT["official"][option], COMPAT["paper"][option]

    assert row("alpha_schedule") == ("quadratic", "linear")  # methods.md §4.3, 4.4
    assert row("use_instance_alignment") == ("no", "yes")
    assert row("align_form") == ("double_softmax", "nll")
    assert row("tau") == ("cosine", "const")
    assert row("scl_views") == ("all_classes", "true_class")
