"""What `sensitivity` found as a page: a heat map of groups and ratios, and a curve for each group."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from onnxprune.report.html import charts
from onnxprune.report.html.template import rendered
from onnxprune.report.run_report import Check
from onnxprune.search.sensitivity import GroupSensitivity, Sensitivity, Step, by_ratio


@dataclass(frozen=True)
class _Told:
    """What the page is about: all of ``found``, and what every page has."""

    found: Sensitivity
    command: str
    failed: tuple[Check, ...] = ()

    def __getattr__(self, name: str) -> object:
        return getattr(self.found, name)


@dataclass(frozen=True)
class Cell:
    """A step, and how hot its place is: up to 70 percent."""

    step: Step
    heat: int


def sensitivity(found: Sensitivity, command: str, language: str) -> str:
    """The page's text in ``language``."""
    curves = charts.curves(
        [(g.name, [(s.ratio, max(s.best.drop, 0.0)) for s in g.steps]) for g in found.groups], found.ratios
    )
    return rendered(
        "sensitivity.html",
        language,
        (found.model, ""),
        ("found_changes", "changes", "layers"),
        title="title_sensitivity",
        find="find",
        failed_about="failed_gates",
        contents=["sens", *(["sens_curves"] if curves else [])],
        told=_Told(found, command),
        sizes=[],
        rows=list(_rows(found)),
        curves=curves,
        long=False,
        drawn={},
        made=[],
    )


def _rows(found: Sensitivity) -> Iterator[tuple[GroupSensitivity, list[Cell | None]]]:
    most = max((s.best.drop for g in found.groups for s in g.steps), default=0.0)
    for group in found.groups:
        steps = by_ratio(group)
        cells = [None if (s := steps.get(r)) is None else Cell(s, _heat(s.best.drop, most)) for r in found.ratios]
        yield group, cells


def _heat(drop: float, most: float) -> int:
    return round(70 * (max(drop, 0.0) / most) ** 0.5) if most > 0 else 0
