"""Sentences and short texts that several sections show. Pure."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from napari_mil.correction import Cells, Correction, Polygon, WholeSlide, tiles_of
from napari_mil.labeltree import Survival, level_names

if TYPE_CHECKING:
    from napari_mil.card import ModelCard
    from napari_mil.grid import TileGrid
    from napari_mil.ui.state import State


#: Why nothing can be done before a project is open.
PROJECT_FIRST = "Open a project first (1 Slides)."
NO_MODEL = "This project has no model yet: train one (5 Retrain), or import a published one."
NO_PARENT = "Retraining starts from a model; this project has none. Train a new one."
#: What stands in the place of an answer that must not be seen yet.
VEILED = "{} is hidden until you have given this slide a label (read blind first)."
READ_AGAIN = "{} is hidden until you end the second reading."


def answer_words(project: Any, answer: Any) -> str:
    """The model's finest answer with its probability, or its risk, in a few words."""
    if answer.risk is not None:
        return minus(f"risk {answer.risk:.2f}")
    node, p = answer.best(project.tree)[-1]
    return f"{project.tree.path(node)} {percent(p)}"


def risk_words(risk: float) -> str:
    """A risk, and how to read it."""
    return minus(f"<b>risk {risk:.2f}</b> (higher: the event is expected sooner)")


def percent(p: float) -> str:
    """A probability in percent; one that was only rounded to 0 or 100 is not called so."""
    return ">99%" if p >= 0.995 else "<1%" if p < 0.005 else f"{p:.0%}"


def hidden_words(state: State, what: str) -> str:
    """Why something must not be seen yet."""
    return (READ_AGAIN if state.second else VEILED).format(what)


def label_words(state: State) -> str:
    """What the slide in front is labelled; a label that others gave stays hidden while one reads blind."""
    if state.veiled:
        return hidden_words(state, "This slide's label")
    return f"This slide is labelled <b>{state.slide_label or 'nothing yet'}</b>."


def answer_remarks(state: State) -> list[str]:
    """What a reader of the answer must know."""
    remarks = []
    if state.partial:
        remarks.append("So far: more tiles are on their way.")
    elif state.answer is not None and state.answer.scope == "region":
        remarks.append("This region only: not the slide's answer.")
    if state.answer is not None and state.answer.hazards is not None:
        remarks.append("Survival and risk are not calibrated: read the risk as a ranking.")
    elif state.answer is not None and not state.answer.calibrated:
        remarks.append("The percentages are not calibrated: read them as a ranking.")
    if state.answer is None or state.project is None:
        return remarks
    tree = state.project.tree
    if (apart := state.answer.heads_apart(tree)) is not None:
        own, sums = map(tree.path, apart)
        remarks.append(f"The model contradicts itself: its coarse head says {own}, its fine answer {sums}.")
    return remarks


def card_words(card: ModelCard, cases: int | None = None) -> str:
    """A model's card in one look; `cases` its figures are of, None where nobody knows how many."""
    from napari_mil.workflow.figures import no_c_index, stands_on

    classes = ", ".join(card.tree.path(leaf).rsplit("/", 1)[-1] for leaf in card.tree.leaves)
    pixels = f"{card.tile_px} px at {card.mpp} µm" if card.mpp else f"{card.tile_px} px"
    trained = len(card.slides.get("train", ()))
    timed = isinstance(card.tree, Survival)
    said = f"time to the event: {classes}" if timed else classes
    lines = [f"<b>{card.method.upper()}</b> · {card.encoder} · tiles of {pixels}", said]
    if trained:
        lines.append(f"trained on {trained} slides{', a child of an earlier model' if card.parent else ''}")
    first = {"lesion AUC": "lesion/auc", "class AUC": f"{level_names(card.tree)[-1]}/auc"}
    first |= {"c-index": "survival/c_index"}
    told = {words: key for words, key in first.items() if key in card.metrics}
    on = {key: stands_on(key, card.metrics, cases) for key in told.values()}
    if told:
        said = (f"{words} {figure(card.metrics[key], on[key])}" for words, key in told.items())
        lines.append(f"held out: {', '.join(said)}")
    elif why := no_c_index(card):
        lines.append(f"held out: {why}")
    lines.append(calibration_words(card, cases))
    if card.assumed:
        lines.append(f"<b>assumed</b>, since its file does not say: {'; '.join(card.assumed)}")
    return "<br>".join(lines + ([card.note] if card.note else []))


def chosen_words(state: State) -> str:
    """The card of the chosen model in one look, or why there is none."""
    from napari_mil.workflow.figures import held_out_cases

    if state.project is None or state.card is None:
        return why_no_model(state)
    return card_words(state.card, held_out_cases(state.project, state.card)[0] or None)


def calibration_words(card: ModelCard, cases: int | None = None) -> str:
    """Whether the percentages were calibrated, and how far they are off on so many held-out cases."""
    from napari_mil.workflow.figures import stands_on

    if isinstance(card.tree, Survival):
        return "not calibrated: read the risk as a ranking"
    finest = level_names(card.tree)[-1]
    errors = [card.metrics.get(f"{finest}/{key}") for key in ("ece_before", "ece")]
    on = stands_on(f"{finest}/ece", card.metrics, cases)
    shown = " → ".join(figure(value, on) for value in errors if value is not None)
    off = f", calibration error {shown}" if shown else ""
    if not card.calibrated:
        return f"not calibrated: read percentages as a ranking{off}"
    return f"calibrated, temperature {card.temperature:.2f}{off}"


def figure(value: Any, cases: int | None = None) -> str:
    """A figure with its interval, such as 0.91 [0.85, 0.96]; without it where the cases are too few."""
    from napari_mil.workflow.figures import too_few

    mean, low, high = (value, value, value) if (bare := isinstance(value, int | float)) else value
    return f"{mean:.2f}" + ("" if bare or too_few(cases) else f" [{low:.2f}, {high:.2f}]")


def change(value: Any, cases: int | None = None) -> str:
    """By how much a figure changed, such as +0.02 [−0.01, +0.05]; "" where that is not known."""
    from napari_mil.workflow.figures import too_few

    if value is None:
        return ""
    mean, low, high = value
    return minus(f"{mean:+.2f}" + ("" if too_few(cases) else f" [{low:+.2f}, {high:+.2f}]"))


def why_no_model(state: State) -> str:
    """Why there is no model to ask, "" where there is one."""
    return PROJECT_FIRST if state.project is None else "" if state.card else NO_MODEL


def why_no_parent(state: State) -> str:
    """Why there is no model to go on from, "" where there is one."""
    return PROJECT_FIRST if state.project is None else "" if state.card else NO_PARENT


def estimate_words(tiles: int, tiles_per_s: float, *, kept: bool) -> str:
    """What a run on a whole slide takes, before it begins."""
    if kept:
        return f"{tiles:,} tiles; their features are kept in the project, so this is quick."
    return f"{tiles:,} tiles; {device_words()}, about {span_words(tiles / tiles_per_s)} for the whole slide."


def device_words() -> str:
    """Where the work is done, in words; torch is asked only when it is loaded."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"on the GPU ({torch.cuda.get_device_name()})"
    return f"no GPU, on CPU ({os.cpu_count()} cores)"


def span_words(seconds: float) -> str:
    """A span of time as one says it."""
    return f"{max(seconds, 1):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def history_entry(row: Mapping[str, Any]) -> str:
    """A row of `workflow.place_history` as two lines: when, who and how; what, and what became of it."""
    from napari_mil.workflow import history_words

    at = row["at"] and datetime.fromisoformat(row["at"]).astimezone()
    when = f"{at:%d %b %Y %H:%M}" if at else "at an unknown time"
    who = ", ".join(part for part in (row["by"] or "somebody", row["tool"]) if part)
    return f"{when} · {who}\n{history_words(row)}"


def since_words(name: str, corrections: Any) -> str:
    """How much was said since the model was trained, by label."""
    if not corrections:
        return f"Nothing was corrected since {name} was trained."
    labels = [f"{label}: {words}" for label, words in amounts_by_label(corrections).items()]
    return f"Said since {name} was trained:<br>" + "<br>".join(labels)


def amounts_by_label(corrections: Iterable[Correction]) -> dict[str, str]:
    """How much was said of each label, as `amount_words` has it, in the order in which the labels came up."""
    by_label: dict[str, list[Correction]] = {}
    for c in corrections:
        by_label.setdefault(c.label or "label taken away", []).append(c)
    return {label: amount_words(said) for label, said in by_label.items()}


def amount_words(corrections: Sequence[Correction]) -> str:
    """How many tiles, regions and slides corrections speak of: "5 tiles, 1 slide"."""
    tiles, regions, slides = 0, 0, set[str]()
    for c in corrections:
        if isinstance(c.place, Cells):
            tiles += len(c.place.cells)
        elif isinstance(c.place, Polygon):
            regions += 1
        else:
            slides.add(c.slide_id)  # said twice of a slide is one slide
    counts = {"tile": tiles, "region": regions, "slide": len(slides)}
    return ", ".join(f"{n:,} {what}{'' if n == 1 else 's'}" for what, n in counts.items() if n)


def read_words(file: str, read: Sequence[Correction], lattice: TileGrid | None) -> str:
    """How much was read from a label file, and how many tiles of the slide in front it became."""
    if not read:
        return f"Nothing new was read from {file}: what it says is known already."
    areas = [c.place for c in read if c.label is not None and not is_whole(c)]
    on = [tiles_of(place, lattice) for place in areas if lattice is not None]
    n = len(set().union(*(here.tolist() for here in on)))
    became = f", which label {n:,} tile{'' if n == 1 else 's'}" if on else ""
    return f"{amount_words(read)} read from {file}{became}; what was known already is not doubled."


def minus(figure: str) -> str:
    """A figure with the sign that is as wide as a plus, not a hyphen."""
    return figure.replace("-", "−")


def is_whole(correction: Correction) -> bool:
    """Whether a correction speaks of the whole slide."""
    return isinstance(correction.place, WholeSlide)
