"""The user stories, composed once for window, command line and Python. Rooms that need torch are imported
when used.
"""

from __future__ import annotations

from napari_mil.workflow.analyse import PartialAnswer, analyse_steps, bag_steps, slide_bag_steps
from napari_mil.workflow.child import told_to_stop
from napari_mil.workflow.exchange import import_paths_steps
from napari_mil.workflow.labels import label_rows
from napari_mil.workflow.learn import (
    Retrained,
    evaluate_steps,
    retrain_here_steps,
    retrain_steps,
    train_model_steps,
)
from napari_mil.workflow.naming import shown_names
from napari_mil.workflow.project import (
    Project,
    adopt,
    current_card,
    find_card,
    find_record,
    parse_mpp,
    slide_label,
)
from napari_mil.workflow.sample import sample_project_steps
from napari_mil.workflow.tables import Table, answer_columns, answer_numbers

__all__ = [
    "PartialAnswer",
    "Project",
    "Retrained",
    "Table",
    "adopt",
    "analyse_steps",
    "answer_columns",
    "answer_numbers",
    "bag_steps",
    "current_card",
    "evaluate_steps",
    "find_card",
    "find_record",
    "import_paths_steps",
    "label_rows",
    "parse_mpp",
    "retrain_here_steps",
    "retrain_steps",
    "sample_project_steps",
    "shown_names",
    "slide_bag_steps",
    "slide_label",
    "told_to_stop",
    "train_model_steps",
]
