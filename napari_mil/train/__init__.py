"""Train any method on bags: one engine, which knows no method by name.

A run is a generator. Everything it needs to go on after a crash stands in one checkpoint file that is
replaced atomically; on a CPU a resumed run ends in the same bits as one that was never interrupted. The
best weights so far are always at hand, so that cancelling loses nothing.
"""

from __future__ import annotations

from napari_mil.evaluate import Split, TrainingCase
from napari_mil.train import recording
from napari_mil.train.log import Log
from napari_mil.train.recipes import config_for, recipe_for, retrain_recipe
from napari_mil.train.run import Trained, Training, best_so_far, train_steps
from napari_mil.train.search import Found, Tried, combinations, published_grid, search_steps
from napari_mil.train.study import Part, Run, Study, parts_of, study_steps

__all__ = [
    "Found",
    "Log",
    "Part",
    "Run",
    "Split",
    "Study",
    "Trained",
    "Training",
    "TrainingCase",
    "Tried",
    "best_so_far",
    "combinations",
    "config_for",
    "parts_of",
    "published_grid",
    "recipe_for",
    "recording",
    "retrain_recipe",
    "search_steps",
    "study_steps",
    "train_steps",
]
