"""What each group of channels costs a metric, alone: removed by itself at some ratios, as it is and compensated.

Widths are those that a run of `prune` could choose: multiples of ``--align``, or of the target's blocks. The channels
are those of the least importance. Damage that compensation repairs is no damage: both are measured, so that it shows.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from onnxprune.calibration.gram_matrices import spilling
from onnxprune.errors import OptionError
from onnxprune.labels.analysis import matches, units_of
from onnxprune.labels.groups import Group
from onnxprune.model.onnx_model import Model
from onnxprune.progress import Progress
from onnxprune.search.drop import Drop, Measurement, drop
from onnxprune.search.metrics import Metric, alike
from onnxprune.search.planner import Planner
from onnxprune.search.smallest import metric_of
from onnxprune.search.trials import Keys, Table
from onnxprune.widths.metric_options import METRIC, RATIOS, STOPS, Limit, MetricSource, name_of
from onnxprune.widths.plan_contest import Way


@dataclass(frozen=True)
class SensitivityRequest:
    """What is measured: a ``metric`` at ``ratios``, of some groups at others.

    ``stop``: one of `STOPS`, and by how much (``threshold``).
    """

    metric: MetricSource = METRIC
    ratios: tuple[float, ...] = RATIOS
    ratios_for: tuple[tuple[str, tuple[float, ...]], ...] = ()
    stop: str | None = None
    threshold: float = 0.0

    def __post_init__(self) -> None:
        """Raise OptionError for ratios that are none, and a threshold that is never looked at."""
        lists = [("--ratios", self.ratios), *((f"--ratios-for {glob}", r) for glob, r in self.ratios_for)]
        for where, ratios in lists:
            if not ratios or not all(0 < r < 1 for r in ratios):
                raise OptionError("must be between 0 and 1", where=where, hint="0.1,0.3,0.5")
        if self.stop not in (None, *STOPS):
            raise OptionError(f"must be {' or '.join(STOPS)}, not {self.stop}", where="--early-stop")
        if self.threshold < 0 or (self.threshold and self.stop is None):
            raise OptionError("says when to stop, and is not negative", where="--threshold", hint="give --early-stop")


@dataclass(frozen=True)
class Value:
    """A metric, how much worse than the original's it is, and the standard error of that, where it is known."""

    metric: float
    drop: float
    error: float | None

    @property
    def within_noise(self) -> bool:
        """Whether it is not told apart from the original's by these samples."""
        return self.error is not None and abs(self.drop) <= self.error


@dataclass(frozen=True)
class Step:
    """A group at one ratio: its width then; the metric as it was cut, and compensated (None: nothing to learn from)."""

    ratio: float
    kept: int
    raw: Value
    solved: Value | None

    @property
    def best(self) -> Value:
        """What a run of `prune` would leave."""
        return self.solved or self.raw


@dataclass(frozen=True)
class GroupSensitivity:
    """All of one group."""

    name: str
    width: int
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Sensitivity:
    """What each group alone costs. ``ratios``: all that were asked for of any group, ascending."""

    model: str
    metric: str
    lower: bool
    original: float
    samples: int | None
    ratios: tuple[float, ...]
    groups: tuple[GroupSensitivity, ...] = field(repr=False)
    notes: tuple[str, ...]
    seconds: float


def measure(planner: Planner, asked: SensitivityRequest, progress: Progress) -> Sensitivity:
    """Measure every group of ``planner`` alone. Raises MetricError and OptionError."""
    start = time.perf_counter()
    with spilling() as spill:
        metric = metric_of(planner, asked.metric, "--metric", spill, drawn=True)
        progress("measure the original")
        original = metric.measure(planner.analysis.trace.model)
        run = _Run(planner, asked, metric, original, Table.of(planner.options), Keys(planner, metric))
        ratios = dict(run.ratios())
        groups, total, done = [], sum(map(len, ratios.values())), 0
        for group in planner.analysis.groups:
            steps = []
            for ratio in ratios[group.index]:
                steps.append(run.step(group, ratio))
                progress("sensitivity", done + len(steps), total)
                if run.ends(steps[-1].best):
                    break
            done += len(ratios[group.index])
            groups.append(GroupSensitivity(group.name, group.width, tuple(steps)))
    every = sorted({r for own in ratios.values() for r in own})
    notes = planner.lesson.notes if planner.lesson else ()
    spent = round(time.perf_counter() - start, 3)
    return Sensitivity(
        str(planner.analysis.inlined.model.path or ""),
        name_of(asked.metric),
        metric.lower,
        original.value,
        original.samples,
        tuple(every),
        tuple(groups),
        tuple(notes),
        spent,
    )


@dataclass(frozen=True)
class _Run:
    planner: Planner
    asked: SensitivityRequest
    metric: Metric
    original: Measurement
    table: Table
    keys: Keys

    def ratios(self) -> Iterator[tuple[int, tuple[float, ...]]]:
        """(index, ratios) of each group, ascending; the last glob that names one of its channels decides."""
        analysis = self.planner.analysis
        own: dict[int, tuple[float, ...]] = {g.index: self.asked.ratios for g in analysis.groups}
        for glob, ratios in self.asked.ratios_for:
            units = units_of(analysis.trace, matches(analysis.trace, glob, "--ratios-for"))
            own.update((g.index, ratios) for g in analysis.groups if np.isin(g.units, units).any())
        for index, ratios in own.items():
            yield index, tuple(sorted(set(ratios)))

    def step(self, group: Group, ratio: float) -> Step:
        """``group`` without ``ratio`` of its channels, everything else as it is: measured, or out of the table."""

        def row() -> dict[str, Any]:
            start = time.perf_counter()
            told = {"sha256": self.keys.sha256, "metric": self.metric.name, "group": group.name}
            step = asdict(self._measured(group, ratio))
            return {**told, **step, "seconds": round(time.perf_counter() - start, 3)}

        key = self.keys.of(group=group.name, ratio=ratio, lower=self.metric.lower)
        found = self.table.row(key, row)
        solved = found["solved"]
        return Step(found["ratio"], found["kept"], Value(**found["raw"]), None if solved is None else Value(**solved))

    def _measured(self, group: Group, ratio: float) -> Step:
        planner = self.planner
        request = planner.options.request
        way = Way(planner.importances[0], "group")
        alone = replace(request, ratio=0.0, ratio_for=((group.name, ratio),), budget=None, lossless=False, ways=(way,))
        judged = planner.chosen(alone)
        choice = judged.best
        _, whole = planner.cut(choice, lossless=False)
        raw = self._value(whole)
        solved = None
        if planner.lesson is not None and planner.options.compensate:
            solved = self._value(planner.recovery(planner.lesson).tried(whole, choice.dead))
        kept = group.width - int(np.isin(group.units, choice.dead).sum())
        return Step(ratio, kept, raw, solved)

    def ends(self, value: Value) -> bool:
        """Whether larger ratios are left out."""
        change = value.metric - self.original.value
        moved = {"dropped": -change, "raised": change}.get(self.asked.stop or "")
        return moved is not None and moved > self.asked.threshold

    def _value(self, model: Model) -> Value:
        found = alike(self.metric.measure(model), self.original, f"--metric {self.metric.name}")
        limit = Limit(max_drop=0.0, min_metric=None, relative=False, lower=self.metric.lower, confidence=1.0)
        lost: Drop = drop(limit, self.original, found)
        return Value(found.value, lost.amount, lost.error)


def by_ratio(group: GroupSensitivity) -> Mapping[float, Step]:
    """The steps of a group."""
    return {s.ratio: s for s in group.steps}


def csv(found: Sensitivity) -> str:
    """``layername,0.1,0.2,...`` and a line for each group: the metric, compensated; empty where it was not measured."""
    lines = [",".join(["layername", *(f"{r:g}" for r in found.ratios)])]
    for group in found.groups:
        steps = by_ratio(group)
        name = f'"{group.name}"' if "," in group.name else group.name
        lines.append(",".join([name, *(f"{steps[r].best.metric:.6g}" if r in steps else "" for r in found.ratios)]))
    return "\n".join(lines) + "\n"
