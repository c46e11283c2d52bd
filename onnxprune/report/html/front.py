"""Trials as a picture: what is left, across, and what is lost, upwards, with the limit where there is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

from onnxprune.search.smallest import SearchReport

#: Of a picture, in pixels of the page.
_SIZE = (640.0, 220.0)


@dataclass(frozen=True)
class Dot:
    """A trial: what it leaves and loses, the standard error of that, and what became of it."""

    cost: float
    drop: float
    error: float | None
    kind: str  # "taken", "holds" or "fails"


@dataclass(frozen=True)
class Mark:
    """The place of a trial, and the ends of its standard error."""

    x: float
    y: float
    low: float
    high: float
    dot: Dot


@dataclass(frozen=True)
class Front:
    """Marks; the line through those that no other beats; the height of the limit; both scales."""

    width: float
    height: float
    marks: tuple[Mark, ...]
    line: str
    limit: float | None
    scale: tuple[tuple[float, float], ...]  # (y, value)
    across: tuple[tuple[float, float], ...]  # (x, value)


def dots(search: SearchReport) -> Iterator[Dot]:
    """The trials of a search."""
    for number, t in enumerate(search.trials):
        yield Dot(t.cost, t.drop, t.error, "taken" if number == search.taken else "holds" if t.holds else "fails")


def front(every: Sequence[Dot], permitted: float | None = None) -> Front | None:
    """None where no drop is a number, or there is but one trial; ``permitted``: the limit."""
    width, height = _SIZE
    found = [d for d in every if isfinite(d.drop)]
    if len(found) < 2 or not isfinite(permitted or 0.0):
        return None
    low = min(0.0, *(d.drop - (d.error or 0.0) for d in found))
    high = max(permitted or 0.0, *(d.drop + (d.error or 0.0) for d in found))
    span = (high - low) or 1.0

    def y(value: float) -> float:
        return round(height - 4 - (height - 8) * (value - low) / span, 1)

    marks = tuple(
        Mark(round(width * d.cost, 1), y(d.drop), y(d.drop - (d.error or 0.0)), y(d.drop + (d.error or 0.0)), d)
        for d in found
    )
    scale = tuple((y(low + span * share), low + span * share) for share in (0.0, 0.5, 1.0))
    across = tuple((round(width * share, 1), share) for share in (0.0, 0.25, 0.5, 0.75, 1.0))
    limit = None if permitted is None else y(permitted)
    return Front(width, height, marks, _line(marks), limit, scale, across)


def _line(marks: Sequence[Mark]) -> str:
    """Through the marks that no other beats, from the smallest model on."""
    best: list[Mark] = []
    for mark in sorted(marks, key=lambda m: (m.x, -m.y)):
        if not best or mark.y > best[-1].y:  # lower down: less is lost
            best.append(mark)
    return "M" + "L".join(f"{m.x:g} {m.y:g}" for m in best)
