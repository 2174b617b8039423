"""A model's card as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from napari_mil.card import ModelCard
from napari_mil.labeltree import Survival
from napari_mil.workflow.figures import held_out_lines, survival_lines


def card_lines(project: Any, card: ModelCard) -> list[str]:
    """Everything a card says, for a person."""
    tiles = f"{card.tile_px} px" + (f" at {card.mpp} µm/px" if card.mpp else "")
    parts = ", ".join(f"{len(slides)} {part}" for part, slides in card.slides.items()) or "not told"
    answers = "intervals of time" if isinstance(card.tree, Survival) else "classes"
    recipe = dataclasses.asdict(card.recipe) | {"record": _recorded(project, card)}
    lines = [
        f"{card.name} ({card.method}, {card.id})",
        f"  reads: {card.in_features} numbers of {card.encoder}, tiles of {tiles}",
        f"  {answers}: {', '.join(card.tree.path(leaf) for leaf in card.tree.leaves)}",
        f"  parent: {card.parent or 'none'}; made {card.created}",
        f"  slides: {parts}",
        f"  method: {_pairs(card.config)}",
        f"  {_learned(card)}: {_pairs(recipe)}",
    ]
    if card.made_with:
        lines.append(f"  made with: {_pairs(card.made_with)}")
    lines += [f"  worse than its parent: {card.worse}"] if card.worse else []
    lines += [f"  assumed: {words}" for words in card.assumed]
    told = f"calibrated, temperature {card.temperature:.3f}" if card.calibrated else "not calibrated"
    lines += [f"  {told}", *held_out_lines(project, card), *reliability_lines(card.reliability)]
    return lines + survival_lines(card)


def reliability_lines(table: Mapping[str, Any]) -> list[str]:
    """The reliability diagram as rows; empty bins are left out."""
    lines: list[str] = []
    for key, words in (("before", "before calibration"), ("said", "as answered")):
        if key not in table:
            continue
        lines.append(f"  reliability {words}, {table.get('part', 'held-out')} cases:")
        bins, edges = table[key], table["edges"]
        for k, n in enumerate(bins["count"]):
            if n:
                answers = f"{n} answer{'' if n == 1 else 's'}"
                lines.append(
                    f"    confidence {edges[k]:.1f} to {edges[k + 1]:.1f}: {answers}, "
                    f"mean {bins['confidence'][k]:.3f}, right {bins['right'][k]:.3f}"
                )
    return lines


def recording_lines(project: Any, card: ModelCard) -> list[str]:
    """One line per slide whose hidden tiles were recorded while the model was trained."""
    from napari_mil.workflow import has_recording, recordings

    if not has_recording(project, card):
        return []
    names = {record.id: record.name for record in project.slides}
    lines = []
    for slide, one in recordings(project, card.id).items():
        how = "asked after every epoch" if one.simulated else "as learned from"
        hidden = one.hidden.sum(1)
        span = f"{hidden[0]}" if hidden.min() == hidden.max() else f"{hidden[0]} to {hidden[-1]}"
        stayed = f", {one.stayed[1:].mean():.0%} of them also in the epoch before" if len(hidden) > 1 else ""
        lines.append(
            f"  recorded: {names.get(slide, slide)}, {len(one.epochs)} epochs, {how}; "
            f"{span} of {one.roles.shape[1]} tiles hidden{stayed}"
        )
    return lines


def _learned(card: ModelCard) -> str:
    """What its recipe is: how it was trained; of one whose file does not tell, how it would be retrained."""
    trained = bool(card.made_with or card.slides)
    return "recipe" if trained else "recipe: not told by the file; what a retraining goes by"


def _recorded(project: Any, card: ModelCard) -> str:
    """The slides and cases that a training was asked to record, by name."""
    names = {record.id: record.name for record in project.slides}
    return " and ".join(names.get(one, one) for one in card.recipe.record) or "nothing"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())
