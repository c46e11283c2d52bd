"""What each group of channels costs a metric, alone: removed by itself at some ratios, as it is and compensated.

Widths are those that a run of `prune` could choose: multiples of ``--align``, or of the target's blocks. The channels
are those of the least importance. Damage that compensation repairs is no damage: both are measured, so that it shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import numpy as np

from onnxprune.errors import OptionError
from onnxprune.file_system.arrays_on_disk import Spill, spilling
from onnxprune.labels.analysis import matches, units_of
from onnxprune.labels.groups import Group
from onnxprune.model.onnx_model import Model
from onnxprune.planning.planner import Planner
from onnxprune.search.drop import Measurement, drop
from onnxprune.search.metrics import Metric, alike
from onnxprune.search.smallest import metric_of
from onnxprune.search.trials import Keys, Row, Table
from onnxprune.search.workers import Workers
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
    """A group at one ratio: its width then; the metric as it was cut, and compensated (None: no samples for it)."""

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


def measure(planner: Planner, asked: SensitivityRequest, workers: Workers) -> Sensitivity:
    """Measure every group of ``planner`` alone. Raises MetricError and OptionError."""
    start = time.perf_counter()
    with spilling() as spill:
        planner.progress("measure the original")
        run = _run_of(asked, planner, spill)
        ratios = run.ratios()
        steps = _steps(run, ratios, workers)
    groups = [
        GroupSensitivity(g.name, g.width, tuple(steps[g.index, r] for r in ratios[g.index] if (g.index, r) in steps))
        for g in planner.analysis.groups
    ]
    every = sorted({r for own in ratios.values() for r in own})
    notes = planner.observed.notes if planner.observed else ()
    spent = round(time.perf_counter() - start, 3)
    return Sensitivity(
        str(planner.analysis.inlined.model.path or ""),
        name_of(asked.metric),
        run.metric.lower,
        run.original.value,
        run.original.samples,
        tuple(every),
        tuple(groups),
        tuple(notes),
        spent,
    )


def _steps(run: _Run, ratios: Mapping[int, tuple[float, ...]], workers: Workers) -> dict[tuple[int, float], Step]:
    """By group and ratio, a wave of trials after the other: all at once, or, where groups may end, ratio by ratio."""
    table, keys = Table.of(run.planner.options), Keys(run.planner, run.metric)
    total, longest = sum(map(len, ratios.values())), max(map(len, ratios.values()), default=0)
    found: dict[tuple[int, float], Step] = {}
    ended: set[int] = set()
    making = partial(_maker, run.asked)
    slices = [slice(n, n + 1) for n in range(longest)] if run.asked.stop else [slice(None)]
    for some in slices:
        wave = [(index, ratio) for index, own in ratios.items() if index not in ended for ratio in own[some]]
        before = len(found)
        trials = {run.key(keys, trial): trial for trial in wave}
        rows = table.rows(
            trials,
            lambda left: workers.rows(making, run.planner, run.row, left),
            {"sha256": keys.sha256, "metric": run.metric.name},
            lambda done, before=before: run.planner.progress("sensitivity", before + done, total),  # type: ignore[misc]
        )
        found.update((trial, _step(row)) for trial, row in zip(trials.values(), rows, strict=True))
        ended |= {index for index, ratio in wave if run.ends(found[index, ratio].best)}
    return found


def _step(row: Row) -> Step:
    solved = row["solved"]
    return Step(row["ratio"], row["kept"], Value(**row["raw"]), None if solved is None else Value(**solved))


def _maker(asked: SensitivityRequest, planner: Planner, spill: Spill) -> Callable[[tuple[int, float]], Row]:
    """What makes rows in a worker."""
    return _run_of(asked, planner, spill).row


def _run_of(asked: SensitivityRequest, planner: Planner, spill: Spill) -> _Run:
    """A run, its original measured."""
    metric = metric_of(planner, asked.metric, "--metric", spill, drawn=True)
    return _Run(planner, asked, metric, metric.measure(planner.analysis.runnable))


@dataclass(frozen=True)
class _Run:
    """What measures groups of ``planner``, one at a time, against the ``original``'s metric."""

    planner: Planner
    asked: SensitivityRequest
    metric: Metric
    original: Measurement

    def ratios(self) -> dict[int, tuple[float, ...]]:
        """By index of each group, its ratios, ascending; the last glob that names one of its channels decides."""
        analysis = self.planner.analysis
        own: dict[int, tuple[float, ...]] = {g.index: self.asked.ratios for g in analysis.groups}
        for glob, ratios in self.asked.ratios_for:
            units = units_of(analysis.trace, matches(analysis.trace, glob, "--ratios-for"))
            own.update((g.index, ratios) for g in analysis.groups if np.isin(g.units, units).any())
        return {index: tuple(sorted(set(ratios))) for index, ratios in own.items()}

    def key(self, keys: Keys, trial: tuple[int, float]) -> str:
        """What a trial is known by in a table."""
        index, ratio = trial
        return keys.of(group=self.planner.analysis.groups.groups[index].name, ratio=ratio, lower=self.metric.lower)

    def row(self, trial: tuple[int, float]) -> Row:
        """A group without a share of its channels, everything else as it is."""
        start = time.perf_counter()
        group = self.planner.analysis.groups.groups[trial[0]]
        step = asdict(self._measured(group, trial[1]))
        return {"group": group.name, **step, "seconds": round(time.perf_counter() - start, 3)}

    def _measured(self, group: Group, ratio: float) -> Step:
        planner = self.planner
        request = planner.options.request
        way = Way(planner.importances[0], "group")
        alone = replace(request, ratio=0.0, ratio_for=((group.name, ratio),), budget=None, lossless=False, ways=(way,))
        choice = planner.chosen(alone).best
        _, whole = planner.cut(choice, lossless=False)
        raw = self._value(whole)
        solved = None
        if planner.observed is not None and planner.options.compensate:
            solved = self._value(planner.recovery(planner.observed).tried(whole, choice.dead))
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
        lost = drop(limit, self.original, found)
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
