"""The trials of a search as a picture: what is left, across, and what is lost, upwards, with the limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite

from onnxprune.search.smallest import SearchReport, Trial


@dataclass(frozen=True)
class Mark:
    """A trial: its place, the ends of its standard error, and what became of it."""

    x: float
    y: float
    low: float
    high: float
    kind: str  # "taken", "holds" or "fails"
    trial: Trial = field(repr=False)


@dataclass(frozen=True)
class Front:
    """Marks; the line through those that no other beats; the height of the limit; both scales."""

    width: float
    height: float
    marks: tuple[Mark, ...]
    line: str
    limit: float
    scale: tuple[tuple[float, float], ...]  # (y, value)
    across: tuple[tuple[float, float], ...]  # (x, value)


def front(search: SearchReport, width: float = 640, height: float = 220) -> Front | None:
    """None where no drop is a number, or there is but one trial."""
    trials = [(n, t) for n, t in enumerate(search.trials) if isfinite(t.drop)]
    if len(trials) < 2 or not isfinite(search.permitted):
        return None
    low = min(0.0, *(t.drop - (t.error or 0.0) for _, t in trials))
    high = max(search.permitted, *(t.drop + (t.error or 0.0) for _, t in trials))
    span = (high - low) or 1.0

    def y(value: float) -> float:
        return round(height - 4 - (height - 8) * (value - low) / span, 1)

    marks = tuple(
        Mark(
            round(width * t.cost, 1),
            y(t.drop),
            y(t.drop - (t.error or 0.0)),
            y(t.drop + (t.error or 0.0)),
            "taken" if n == search.taken else "holds" if t.holds else "fails",
            t,
        )
        for n, t in trials
    )
    scale = tuple((y(low + span * share), low + span * share) for share in (0.0, 0.5, 1.0))
    across = tuple((round(width * share, 1), share) for share in (0.0, 0.25, 0.5, 0.75, 1.0))
    return Front(width, height, marks, _line(marks), y(search.permitted), scale, across)


def _line(marks: Sequence[Mark]) -> str:
    """Through the marks that no other beats, from the smallest model on."""
    best: list[Mark] = []
    for mark in sorted(marks, key=lambda m: (m.x, -m.y)):
        if not best or mark.y > best[-1].y:  # lower down: less is lost
            best.append(mark)
    return "M" + "L".join(f"{m.x:g} {m.y:g}" for m in best)
