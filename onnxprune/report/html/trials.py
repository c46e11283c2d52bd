"""Tables of trials as a page: of each model, metric and cost what is lost by what is left, and what no other beats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

from onnxprune.report.html.front import Dot, Front, front
from onnxprune.report.html.template import rendered
from onnxprune.report.run_report import Check
from onnxprune.search.drop import told
from onnxprune.search.trials import LIKE, Row
from onnxprune.search.trials import front as best_of


@dataclass(frozen=True)
class _Told:
    """What every page has."""

    command: str
    failed: tuple[Check, ...] = ()


@dataclass(frozen=True)
class Sweep:
    """Trials that can be compared, the largest model first, each with whether no other beats it."""

    model: str
    metric: str
    minimised: str
    samples: int | None
    original: float
    rows: tuple[tuple[Row, bool], ...] = field(repr=False)
    front: Front | None = field(repr=False)


def trials(rows: Sequence[Row], name: str, command: str, language: str) -> str:
    """The page's text in ``language``; ``name``: of the tables."""
    sweeps, steps = list(_sweeps(rows)), [r for r in rows if "group" in r]
    return rendered(
        "trials.html",
        language,
        (name, ""),
        ("found_changes", "changes", "layers"),
        title="trials",
        find="find",
        failed_about="failed_gates",
        contents=[*(["trials"] if sweeps else []), *(["sens"] if steps else [])],
        told=_Told(command),
        sizes=[],
        sweeps=sweeps,
        steps=steps,
        count=len(rows),
        lost=partial(told, sign="\u00b1"),
        long=False,
        drawn={},
        made=[],
    )


def _sweeps(rows: Sequence[Row]) -> Iterator[Sweep]:
    every = sorted((r for r in rows if r.get("cost") is not None), key=lambda r: -r["cost"])
    best = best_of(every)
    for key in dict.fromkeys(tuple(r.get(k) for k in LIKE) for r in every):
        own = [r for r in every if tuple(r.get(k) for k in LIKE) == key]
        drawn = front([Dot(r["cost"], r["drop"], r["error"], "holds" if r["holds"] else "fails") for r in own])
        first = own[0]
        told_of = (first.get("model", ""), first["metric"], first["minimised"], first["samples"], first["original"])
        yield Sweep(*told_of, tuple((r, r["key"] in best) for r in own), drawn)
