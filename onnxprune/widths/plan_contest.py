"""Choosing between plans: the best of a few ways to choose channels, judged on samples that nothing was fitted to.

No criterion is best for every network: where layers are wide and few it is reconstruction, elsewhere output. So several
plans of the same cost are made, each compensated as the final one will be, and the one whose outputs are nearest the
original's on held-out samples is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from onnxprune.errors import OptionError
from onnxprune.progress import Progress

T = TypeVar("T")


#: How widths follow from scores: the same share of every group; one ranking over the network, by score for each
#: channel; or for each unit of cost that is saved.
SCOPES = ("group", "global", "cost")


@dataclass(frozen=True)
class Way:
    """A way to choose channels: a criterion, and how widths follow from its scores (one of `SCOPES`)."""

    importance: str
    scope: str

    def __str__(self) -> str:
        return f"importance {self.importance}, scope {self.scope}"


#: What is tried where nothing is said.
AUTO = (Way("output", "cost"), Way("reconstruction", "cost"))


def ways(importance: str | None, scope: str | None, *, judged: bool, priced: bool) -> tuple[Way, ...]:
    """The ways to try: those of `AUTO` where plans can be ``judged`` and no criterion was named, else one.

    That one defaults to l2 with scope "group", or "cost" where a budget is ``priced``, in units of a target.
    """
    if judged and importance in (None, "auto"):
        return tuple(Way(way.importance, scope or way.scope) for way in AUTO)
    return (Way(importance or "l2", scope or ("cost" if priced else "group")),)


@dataclass(frozen=True)
class Tried:
    """A way that was tried, and its distance: noise over signal of the outputs on held-out samples."""

    way: str
    distance: float


@dataclass(frozen=True)
class Judged(Generic[T]):
    """The best of several plans, the ``way`` it was chosen in, all that were tried, and what could not be, and why."""

    best: T
    tried: tuple[Tried, ...] = ()
    missed: tuple[str, ...] = ()
    way: Way | None = None


def best(
    ways: Sequence[Way],
    plan: Callable[[Way], T],
    distance: Callable[[T], float],
    progress: Progress,
    missed: tuple[str, ...] = (),
) -> Judged[T]:
    """The plan at the least distance, the first of equals; ``missed``: what could not be tried before.

    One way is not tried at all. Raises OptionError where none can be planned: the budget cannot be met.
    """
    if len(ways) == 1:
        return Judged(plan(ways[0]), missed=missed, way=ways[0])
    plans: list[tuple[float, Way, T]] = []
    refused: list[tuple[Way, OptionError]] = []
    for number, way in enumerate(ways, 1):
        try:
            made = plan(way)
        except OptionError as reason:
            refused.append((way, reason))
        else:
            plans.append((distance(made), way, made))
        progress("compare plans", number, len(ways))
    if not plans:
        raise refused[0][1]
    _, taken, nearest = min(plans, key=lambda p: p[0])
    told = (f"'{way}' was not tried: {reason.what}" for way, reason in refused)
    return Judged(nearest, tuple(Tried(str(w), d) for d, w, _ in plans), (*missed, *told), taken)
