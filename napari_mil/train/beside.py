"""A teacher that is judged beside its student, as published (methods.md §3.8): it may be the better one."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from napari_mil.blocks import JudgesTeacher
from napari_mil.card import Recipe
from napari_mil.evaluate import Figure, TrainingCase, evaluate, selection
from napari_mil.mil import MILModel
from napari_mil.train.rules import epoch_score

if TYPE_CHECKING:
    import torch

    from napari_mil.train.cohort import Cohort

#: the best teacher beside a model's weights, under the published key names
BEST_TEACHER = "best_teacher.safetensors"
#: what is not told of the teacher: figures of tiles, which are many, and calibration, which is the student's
_LEFT_OUT = ("tile/", "froc", "calls/", "groups/")


class Beside:
    """Judges the teacher of a model in every epoch and keeps the weights of its best one.

    Attributes
    ----------
    model : the model with the teacher answering, or None where nobody is judged
    best : its best epoch {epoch, score, weights}, or {}
    """

    def __init__(self, model: MILModel) -> None:
        self.model: MILModel | None = model.taught() if isinstance(model, JudgesTeacher) else None
        self.best: dict[str, Any] = {}

    def judge(self, cohort: Cohort, recipe: Recipe, epoch: int) -> dict[str, float]:
        """Its figures on the validation cases, named "teacher/validation/…"."""
        held = cohort.split.validation
        if self.model is None or not held:
            return {}
        said = [cohort.ask(self.model, case) for case in held]
        found = selection([cohort.target(case) for case in held], said, cohort.tree)
        score = epoch_score(recipe, found, cohort.tree)
        if score is not None and score > self.best.get("score", -math.inf):
            weights = {k: v.detach().cpu().clone() for k, v in self.model.state_dict().items()}
            self.best = {"epoch": epoch, "score": score, "weights": weights}
        return {f"teacher/validation/{name}": value for name, value in found.items()}


def best_teacher(model: MILModel, best: Mapping[str, Any]) -> MILModel:
    """The model of a run with the teacher answering that was the best of all epochs; its weights are its
    own.
    """
    taught: MILModel = Beside(copy.deepcopy(model)).model  # type: ignore[assignment]
    taught.load_state_dict(best["weights"])
    return taught.eval()


def teacher_figures(
    model: MILModel, best: Mapping[str, Any], held: Sequence[TrainingCase], device: torch.device
) -> dict[str, Figure]:
    """Figures of the best teacher on cases held out, named "teacher/…"."""
    found = evaluate(best_teacher(model, best), held, device=device)
    kept = {k: v for k, v in found.items() if not (k.startswith(_LEFT_OUT) or k.endswith("ece"))}
    return {f"teacher/{name}": figure for name, figure in kept.items()}
