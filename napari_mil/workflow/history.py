"""What was said, by whom, when: in force, as a log, of one place, and where people contradict each other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from napari_mil.correction import Cells, Correction, Place, WholeSlide, from_record, place_from
from napari_mil.errors import ProjectError
from napari_mil.ledger import Event, SlideRecord, conflicts_of
from napari_mil.ledger.conflicts import meet
from napari_mil.review.words import percent
from napari_mil.workflow.naming import shown_names
from napari_mil.workflow.project import Project, find_record, slide_label


def label_rows(project: Project, *, slide: str | None = None) -> list[dict[str, Any]]:
    """The labels in force, of a slide or of all, with the numbers of the events that stated them."""
    names = shown_names(project.slides)
    return [{"slide": names[r.id], **row} for r in _records(project, slide) for row in _in_force(project, r)]


def _records(project: Project, slide: str | None) -> list[SlideRecord]:
    return [find_record(project, slide)] if slide else list(project.slides)


def _in_force(project: Project, record: SlideRecord) -> Iterator[dict[str, Any]]:
    _, _, said, locked = project.ledger.acts(record.id)
    whole = [(seq, c) for seq, c in said if isinstance(c.place, WholeSlide)][-1:]
    yield {
        "event": whole[0][0] if whole else None,
        "place": "whole slide",
        "label": slide_label(project, record) or "no label",
        "by": whole[0][1].by if whole else "",
        "locked": bool(whole and whole[0][0] in locked),
    }
    for seq, c in said:
        if not isinstance(c.place, WholeSlide):
            yield {
                "event": seq,
                "place": place_words(c.place),
                "label": c.label or "withdrawn",
                "by": c.by,
                "locked": seq in locked,
            }


def log_rows(project: Project, *, slide: str | None = None) -> list[dict[str, Any]]:
    """Every event in its order, of a slide or of the whole project: who, when, what."""
    names = shown_names(project.slides)
    wanted = {r.id for r in _records(project, slide)}
    rows = _log_of(project.ledger.events(), names)
    return [row for e, row in rows if slide is None or e.slide_id in wanted]


def _log_of(events: Iterable[Event], names: Mapping[str, str]) -> Iterator[tuple[Event, dict[str, Any]]]:
    """Events that need no others to be told, each with its row."""
    said: dict[str, list[str]] = {}
    by_number: dict[int, str] = {}
    numbers: dict[str, int] = {}
    for e in events:
        c = from_record(e.payload["correction"]) if e.kind == "correct" else None
        if c is not None:
            by_number[e.seq], numbers[c.id] = said_words(c), e.seq
            said.setdefault(act_of(e), []).append(by_number[e.seq])
        elif e.kind == "withdraw":
            said[act_of(e)] = [f"withdrawal of {by_number[seq]}" for seq in e.payload["events"]]
        about = {"event": e.seq, "at": str(e.at), "by": e.by, "kind": e.kind}
        yield (
            e,
            about
            | {"slide": names.get(e.slide_id, "")}
            | (_what(e, said, by_number) if c is None else _stated(c, numbers)),
        )


def _stated(c: Correction, numbers: dict[str, int]) -> dict[str, Any]:
    """What a correction stated; `numbers` : id of a correction → number of its event."""
    row = {"place": place_words(c.place), "label": c.label or "withdrawn", "was": c.was}
    return row | ({"text": f"in the place of event {numbers[c.replaces]}"} if c.replaces in numbers else {})


def _what(e: Event, said: dict[str, list[str]], by_number: dict[int, str]) -> dict[str, Any]:
    """What another event did, in words that tell without the others.

    said, by_number : acts and events in words
    """
    if e.kind in ("undo", "redo"):
        return {"act": "; ".join(said[act_of(e)])}
    if e.kind in ("withdraw", "lock", "unlock"):
        return {"what": "; ".join(f"{by_number[seq]} (event {seq})" for seq in e.payload["events"])}
    if e.kind == "reading":
        c = from_record(e.payload["correction"])
        return {"place": place_words(c.place), "label": c.label, "text": c.note}
    if e.kind == "skip":
        return {"place": place_words(place_from(e.payload["place"])), "text": e.payload.get("note", "")}
    if e.kind == "slide":
        return {"case": e.payload["case"], "label": e.payload["label"]}
    if e.kind == "adopt":
        return {"model": e.payload.get("name") or e.payload["model"]}
    if e.kind == "colours":
        return {"text": "converted to sRGB" if e.payload.get("srgb") else "as stored"}
    words = {"note": "text", "share": "to"}.get(e.kind)
    return {words: str(e.payload.get(words, ""))} if words else {}


def news_of_others(project: Project, after: int) -> list[str]:
    """What other people than the one who speaks have labelled after an event, a sentence each."""
    names = shown_names(project.slides)
    events = [e for e in project.ledger.events(kind="correct", after=after) if e.by != project.by]
    said = [(e.by or "Somebody", e.slide_id, from_record(e.payload["correction"])) for e in events]
    return [f"{who} on {names.get(slide, slide)}: {said_words(c)}." for who, slide, c in said]


def undo_row(project: Project, slide: str) -> dict[str, Any]:
    """Take back the latest act on a slide (of the person who speaks; of anybody where nobody is named) and
    tell what it was.
    """
    record = find_record(project, slide)
    event = project.ledger.undo(record.id, project.by)
    names = shown_names(project.slides)
    about: dict[str, Any] = {"slide": names[record.id]}
    if event is None:
        whose = f" of {project.by}" if project.by else ""
        return about | {"undo": f"there is nothing{whose} to undo on this slide"}
    here = project.ledger.events(slide_id=record.id)  # of a long ledger only what was said of this slide
    row = next(row for e, row in _log_of(here, names) if e.seq == event.seq)
    acts = [e for e in here if e.payload.get("act") == act_of(event)]
    return about | {"undo": row["act"], "by": acts[0].by, "at": str(acts[0].at)}


#: What became of a statement, by the kind of the event that names it, or takes an act back.
_FATES = {"withdraw": "withdrawn", "lock": "locked", "unlock": "unlocked", "undo": "undone", "redo": "redone"}
#: What became of a statement that another one replaces, and when that was undone and redone.
_CHANGES = {"correct": "changed", "undo": "change undone", "redo": "changed again"}
#: The kinds that state a label of a place.
_STATING = ("correct", "reading")


def place_history(project: Project, slide: str, place: Place | None = None) -> list[dict[str, Any]]:
    """Everything that was ever said of a place (None: of any place of the slide), the earliest first, what
    was taken back and second readings included.

    Each with its event, who and when, the tool, the label, what the place was called before, what the
    model had said and how surely, which maps were visible, the note, whether it counts still, and what
    became of it since: who withdrew, locked, undid or remarked on it, and when.
    """
    return SlideHistory(project, slide).of(place)


class SlideHistory:
    """The history of every place of a slide; what was read once is not read again."""

    def __init__(self, project: Project, slide: str) -> None:
        self._project, self._slide = project, find_record(project, slide).id
        self._read = 0
        self._said: dict[int, tuple[Event, Correction]] = {}
        self._fates: dict[int, list[dict[str, Any]]] = {}
        self._of_act: dict[str, list[int]] = {}
        self._changed: dict[str, list[int]] = {}
        self._withdrawals = set[str]()

    def of(self, place: Place | None, *, last: int | None = None) -> list[dict[str, Any]]:
        """As `place_history` has it; only so many of the latest statements where `last` is given."""
        self._bring_forward()
        acts = self._project.ledger.acts(self._slide)
        counts = {seq for seq, _ in acts.in_force}
        rows: list[dict[str, Any]] = []
        for seq, (event, said) in reversed(self._said.items()):
            if len(rows) == last:
                break
            if place is None or meet(said.place, place):
                about = {"in_force": seq in counts, "locked": seq in acts.locked}
                rows.append(_statement(event, said) | {"since": list(self._fates.get(seq, ()))} | about)
        return rows[::-1]

    def _bring_forward(self) -> None:
        for e in self._project.ledger.events(slide_id=self._slide, after=self._read):
            self._read = e.seq
            named = _named(e, self._of_act)
            if e.kind == "withdraw":
                self._withdrawals.add(act_of(e))
            if e.kind in _STATING:
                self._said[e.seq] = (e, from_record(e.payload["correction"]))
                self._note_change(e)
            elif fate := _fate(e, self._withdrawals):
                self._became(e, named, fate)
            if e.kind in ("undo", "redo"):
                self._became(e, self._changed.get(act_of(e), ()), _CHANGES[e.kind])

    def _note_change(self, e: Event) -> None:
        """Remember what an event replaces."""
        wanted = self._said[e.seq][1].replaces
        before = [seq for seq, (_, c) in self._said.items() if wanted and c.id == wanted]
        if before:
            self._changed.setdefault(act_of(e), []).extend(before)
            self._became(e, before, _CHANGES["correct"])

    def _became(self, e: Event, events: Iterable[int], fate: str) -> None:
        for seq in events:
            self._fates.setdefault(seq, []).append({"at": str(e.at), "by": e.by, "what": fate})


def _named(e: Event, of_act: dict[str, list[int]]) -> list[int]:
    """Numbers of the events that an event is about; `of_act` remembers those of each act."""
    named: list[int] = [e.seq] if e.kind in _STATING else list(e.payload.get("events", ()))
    if e.kind in ("undo", "redo"):
        return of_act.get(act_of(e), [])
    if "act" in e.payload:
        of_act.setdefault(act_of(e), []).extend(named)
    return named


def _fate(e: Event, withdrawals: Collection[str]) -> str:
    """What an event did with the statements that it is about, "" for nothing."""
    if e.kind in ("undo", "redo") and act_of(e) in withdrawals:
        return "withdrawal undone" if e.kind == "undo" else "withdrawn again"
    return f"note: {e.payload['text']}" if e.kind == "note" else _FATES.get(e.kind, "")


def _statement(e: Event, c: Correction) -> dict[str, Any]:
    about: dict[str, Any] = {"event": e.seq, "at": c.at and c.at.isoformat(), "by": c.by, "tool": c.tool}
    about |= {"place": place_words(c.place), "label": c.label or "withdrawn", "was": c.was}
    about |= {"model": c.model_id, "model_said": c.model_said, "model_confidence": c.model_confidence}
    return about | {"visible": list(c.visible), "note": c.note, "kind": e.kind}


def history_words(row: dict[str, Any]) -> str:
    """What was said, as a row of `place_history` has it: the place, the labels, what was known and seen, and
    what became of it.
    """
    model = f"; the model had said {row['model_said']}" if row["model_said"] else ""
    sure = f" {percent(row['model_confidence'])}" if row["model_confidence"] is not None else ""
    seen = f"; visible: {', '.join(row['visible'])}" if row["visible"] else ""
    was = f" (was {row['was']})" if row["was"] else ""
    note = f"; “{row['note']}”" if row["note"] else ""
    since = "".join(f"; {one['what']} by {one['by'] or 'somebody'}" for one in row["since"])
    told = row["kind"] == "reading" or any(one["what"] in _CHANGES.values() for one in row["since"][-1:])
    counts = "" if row["in_force"] or told else " (taken back)"
    return f"{row['place']} → {row['label']}{was}{model}{sure}{seen}{note}{since}{counts}"


def conflict_rows(project: Project, *, slide: str | None = None) -> list[dict[str, Any]]:
    """Places that two people labelled differently without having seen each other's words, unsettled."""
    names = shown_names(project.slides)
    rows = []
    for record in _records(project, slide):
        for found in conflicts_of(project.ledger.acts(record.id)):
            row: dict[str, Any] = {"slide": names[record.id], "place": place_words(found.later[1].place)}
            for which, (seq, c) in (("earlier", found.earlier), ("later", found.later)):
                row |= {f"{which}_event": seq, f"{which}_by": c.by, f"{which}_label": c.label or "withdrawn"}
            rows.append(row)
    return rows


def conflict_words(row: dict[str, Any]) -> str:
    """A conflict as a sentence."""
    return (
        f"{row['slide']}, {row['place']}: {row['later_by'] or 'somebody'} says {row['later_label']}, "
        f"{row['earlier_by'] or 'somebody'} said {row['earlier_label']}; neither had seen the other"
    )


def act_of(event: Event) -> str:
    """The act that an event belongs to, or takes back; ProjectError where it has none."""
    if "act" not in event.payload:
        raise ProjectError(f"Event {event.seq} of kind {event.kind!r} belongs to no act.")
    return str(event.payload["act"])


def said_words(said: Correction) -> str:
    """A correction in a few words."""
    return f"{place_words(said.place)} → {said.label or 'label withdrawn'}"


def place_words(place: Place) -> str:
    """A place in a few words."""
    if isinstance(place, WholeSlide):
        return "whole slide"
    if isinstance(place, Cells):
        n = len(place.cells)
        return f"{n} tile{'' if n == 1 else 's'}"
    holes = len(place.rings) - 1
    return "region" + (f" with {holes} hole{'' if holes == 1 else 's'}" if holes else "")
