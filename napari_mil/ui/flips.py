"""Which cases a retraining answers differently, beside their labels, and whether that is better. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

#: Rows that are shown; the others are counted.
ROWS = 12
VERDICTS = {"right": ("✓", "right now"), "wrong": ("✗", "wrong now"), "still": ("–", "wrong before and now")}


@dataclass(frozen=True, slots=True)
class Flip:
    """One case whose answer changed.

    Attributes
    ----------
    case : its name
    label : label text of the case, or None where it is not known
    before, after : label texts of the answers
    held_out : whether the case is one that the figures are of, which no training looked at
    """

    case: str
    label: str | None
    before: str
    after: str
    held_out: bool

    @property
    def verdict(self) -> str:
        """A key of VERDICTS; "" where the label is not known. A coarse label agrees with its leaves."""
        if self.label is None:
            return ""
        if _agrees(self.after, self.label):
            return "right"
        return "wrong" if _agrees(self.before, self.label) else "still"


def flips(project: Any, result: Any) -> list[Flip]:
    """The cases whose answer a retraining changed, those that were held out first.

    Held out are the cases that the figures are of: those of the test part, or of the validation part where
    there is no other.
    """
    from napari_mil.workflow.project import slide_label

    parts = result.card.slides
    held = set(parts.get("test") or parts.get("validation", ()))
    cases: dict[str, list[Any]] = {}
    for record in project.slides:
        cases.setdefault(record.case, []).append(record)
    made = []
    for case, before, after in result.flipped:
        records = cases.get(case, [])
        # as in training: of different labels of a case the one that stands last in the tree counts
        node = max((project.tree.node(slide_label(project, r)) for r in records), default=0)
        held_out = bool(held & {r.id for r in records})
        made.append(Flip(case, project.tree.path(node) or None, before, after, held_out))
    return sorted(made, key=lambda flip: not flip.held_out)


def flip_words(found: list[Flip]) -> str:
    """How many cases changed for the better and the worse, as rich text."""
    if not found:
        return "No case is answered differently."
    counts = Counter(flip.verdict for flip in found)
    parts = [f"{counts[key]:,} {words}" for key, (_, words) in VERDICTS.items() if counts[key]]
    parts += [f"{counts['']:,} without a label"] if counts[""] else []
    n = len(found)
    title = f"<b>{n:,} case{' is' if n == 1 else 's are'} answered differently</b>: {', '.join(parts)}."
    return title if len({flip.held_out for flip in found}) == 1 else f"{title} Those in bold were held out."


def flip_table(found: list[Flip]) -> str:
    """The cases that changed, as rich text; "" for none."""
    if not found:
        return ""
    more = f"<br>… and {len(found) - ROWS:,} more" if len(found) > ROWS else ""
    rows = "".join(map(_row, found[:ROWS]))
    return f'<table cellspacing="0" cellpadding="1">{HEAD}{rows}</table>{more}'


HEAD = (
    '<tr><td></td><td style="padding-right: 8px"><i>case</i></td>'
    '<td style="padding-right: 8px"><i>label</i></td><td><i>before → now</i></td></tr>'
)


def _row(flip: Flip) -> str:
    mark, _ = VERDICTS.get(flip.verdict, ("", ""))
    name = f"<b>{flip.case}</b>" if flip.held_out else flip.case
    cells = (mark, name, _short(flip.label or "none"), f"{_short(flip.before)} → {_short(flip.after)}")
    return "<tr>" + "".join(f'<td style="padding-right: 8px">{cell}</td>' for cell in cells) + "</tr>"


def _short(label: str) -> str:
    return label.rsplit("/", 1)[-1]


def _agrees(answer: str, label: str) -> bool:
    return answer == label or answer.startswith(f"{label}/")
