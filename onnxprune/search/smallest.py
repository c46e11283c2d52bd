"""The smallest model that a metric accepts: plans at a few budgets are measured, and a curve says where to look."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from onnxprune.calibration import samples
from onnxprune.calibration.data_options import Data
from onnxprune.calibration.gram_matrices import Spill, spilling
from onnxprune.cost.chips import Milliseconds
from onnxprune.cost.macs_and_bytes import COSTS, CostModel
from onnxprune.cost.sizes import cost_of
from onnxprune.errors import KeptError, MetricError, OptionError
from onnxprune.options import Options
from onnxprune.plugins import is_code
from onnxprune.progress import Progress
from onnxprune.search.curve import Point, find, taken
from onnxprune.search.drop import drop, told, within
from onnxprune.search.metrics import Metric, alike, user_metric
from onnxprune.search.planner import Made, Planner
from onnxprune.search.ready import ReadyMetric, ready
from onnxprune.search.trials import Keys, Table
from onnxprune.widths.budget import Budget
from onnxprune.widths.metric_options import Limit, MetricSource
from onnxprune.widths.request import Request


@dataclass(frozen=True)
class Trial:
    """One pruned model that was measured. ``cost``: the share left of what is made small; ``macs``, ``params``: too.

    ``noise``: of the outputs over the signal, on held-out samples; ``drop`` and ``error`` in what ``--drop`` counts in.
    """

    asked: float
    cost: float
    macs: float
    params: float
    metric: float
    drop: float
    error: float | None
    holds: bool
    noise: float | None
    seconds: float


@dataclass(frozen=True)
class Tested:
    """A metric that steered nothing: the original's, the pruned model's, and the drop."""

    metric: str
    original: float
    pruned: float
    drop: float
    error: float | None
    samples: int | None


@dataclass(frozen=True)
class SearchReport:
    """How far a metric let go. ``limit``: what it had to keep, and ``permitted``, the same as a drop.

    ``samples``: that the metric is of, where that is known; ``taken``: the position of the answer in ``trials``.
    """

    metric: str
    limit: str
    permitted: float
    confidence: float
    minimised: str
    original: float
    samples: int | None
    trials: tuple[Trial, ...] = field(repr=False)
    taken: int
    test: Tested | None = None

    @property
    def best(self) -> Trial:
        """The trial that is the answer."""
        return self.trials[self.taken]


@dataclass(frozen=True)
class Found:
    """The answer, and how it was found."""

    made: Made
    report: SearchReport


def smallest(planner: Planner, progress: Progress) -> Found:
    """The smallest model that the metric of the planner's options accepts.

    Raises MetricError; KeptError where none that is smaller holds.
    """
    options, limit = planner.options, planner.options.limit
    assert options.metric is not None
    assert limit is not None
    with spilling() as spill:
        metric = metric_of(planner, options.metric, "--metric", spill)
        limit = replace(limit, lower=limit.lower or metric.lower)
        search = _Search(planner, metric, limit, _cost(options), progress)
        found = search.run()
        if options.test_metric is None:
            return found
        test = metric_of(planner, options.test_metric, "--test-metric", spill)
        before, after = (test.measure(m) for m in (planner.analysis.trace.model, found.made.model))
        lost = drop(limit, before, alike(after, before, f"--test-metric {test.name}"))
        told = Tested(test.name, before.value, after.value, lost.amount, lost.error, before.samples)
        return replace(found, report=replace(found.report, test=told))


def metric_of(planner: Planner, source: MetricSource, option: str, spill: Spill, *, drawn: bool = False) -> Metric:
    """A user's function, or one that is ready, with its samples; ``drawn``: also of what nobody gave.

    Raises OptionError, MetricError and DataError.
    """
    options = planner.options
    if not isinstance(source, str) or is_code(source):
        return user_metric(source, option, lower=options.metric_lower_is_better)
    name, kind, path = ready(source, option)
    trace, lesson = planner.analysis.trace, planner.lesson
    if kind.perfect and options.min_metric is None:
        raise MetricError(
            "is infinite of the original, so it cannot drop", where=f"{option} {name}", hint="--min-metric"
        )
    if path:
        reading = options.reading or Data(None)
        data = samples.load(replace(reading, source=path), trace.model, trace.shapes.inputs)
        if kind.labelled and not data.labelled:
            raise MetricError("has no array 'labels'", where=path, hint=f"{name} needs the class of each sample")
    elif lesson is None or (lesson.data.drawn and not drawn):
        raise MetricError("needs samples of yours", where=f"{option} {name}", hint=f"--data, or {name}@PATH")
    else:
        data = lesson.data.split()[1]
    return ReadyMetric(source, kind, data, trace.shapes.shape, trace.model, spill, option)


def _cost(options: Options) -> CostModel:
    """What is made small. Raises OptionError where there is no target for its cycles."""
    target = options.request.target
    name = options.minimise or ("cycles" if target else "macs")
    return Budget.of(name, 0.5, target).cost


@dataclass
class _Search:
    """One search. ``trials`` are in the order in which they were measured."""

    planner: Planner
    metric: Metric
    limit: Limit
    cost: CostModel
    progress: Progress
    trials: list[Trial] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    def run(self) -> Found:
        """Measure the original, then plans until enough is known. Raises KeptError where none holds."""
        options = self.planner.options
        self.progress("measure the original")
        self.original = self.metric.measure(self.planner.analysis.trace.model)
        nothing = drop(self.limit, self.original, self.original)
        if nothing.permitted < 0:
            what = f"the original's metric is {self.original.value:.6g}, which is not as good as asked for"
            raise KeptError(what, where=f"--metric {self.metric.name}", hint="a smaller --min-metric")
        self.permitted = nothing.permitted
        self.table = Table.of(options)
        self.keys = Keys(self.planner, self.metric)
        self.made: dict[int, Made] = {}
        points = find(self._measured, self.permitted, self.limit.confidence, options.evaluations)
        answer = taken(points, self.permitted)
        if answer is None:
            raise self._missed()
        place = self.points.index(answer)
        report = SearchReport(
            metric=self.metric.name,
            limit=str(self.limit),
            permitted=self.permitted,
            confidence=self.limit.confidence,
            minimised=self.cost.name,
            original=self.original.value,
            samples=self.original.samples,
            trials=tuple(self.trials),
            taken=place,
        )
        again = self.made.get(place)  # a row of the table says what came of a plan, and not the plan
        return Found(again or self.planner.made(self._request(self.trials[place].asked)), report)

    def _measured(self, shares: Sequence[float]) -> list[Point | None]:
        return [self._trial(share) for share in shares]

    def _trial(self, share: float) -> Point | None:
        """Plan, make and measure a model with ``share`` of the cost; None where so little cannot be left."""
        self.progress("search", len(self.trials), self.planner.options.evaluations)
        limit = self.limit
        key = self.keys.of(
            asked=share,
            cost=self.cost.name,
            floor=limit.min_metric is not None,
            relative=limit.relative,
            lower=limit.lower,
        )
        row = self.table.row(key, lambda: self._row(share))
        if row["cost"] is None:
            return None
        told = {n: row[n] for n in ("asked", "cost", "macs", "params", "drop", "error", "noise", "seconds")}
        holds = within(row["drop"], row["error"], self.permitted, limit.confidence)
        if not math.isfinite(row["drop"]):
            holds = bool(row["holds"])
        self.trials.append(Trial(**told, metric=row["value"], holds=holds))
        left, noise = row["cost"], row["noise"]
        point = Point(left, 1 - left if noise is None else noise, row["drop"], row["error"] or 0.0, holds)
        self.points.append(point)
        return point

    def _row(self, share: float) -> dict[str, Any]:
        """What comes of a plan, as the table has it; no ``cost`` where there is none."""
        start = time.perf_counter()
        planner, metric = self.planner, self.metric.name
        row: dict[str, Any] = {
            "model": str(planner.analysis.inlined.model.path or ""),
            "sha256": self.keys.sha256,
            "metric": metric,
            "minimised": self.cost.name,
            "asked": share,
        }
        try:
            made = planner.made(self._request(share))
        except OptionError as reason:
            if reason.where != "--budget":
                raise
            return {**row, "cost": None}
        found = alike(self.metric.measure(made.model), self.original, f"--metric {metric}")
        lost = drop(self.limit, self.original, found)
        choice = made.judged.best
        self.made[len(self.points)] = made
        return {
            **row,
            "cost": planner.left(self.cost, choice),
            "macs": planner.left(COSTS["macs"], choice),
            "params": planner.left(COSTS["params"], choice),
            "value": found.value,
            "original": self.original.value,
            "samples": found.samples,
            "drop": lost.amount,
            "error": lost.error,
            "holds": lost.holds,
            "noise": made.noise,
            "seconds": round(time.perf_counter() - start, 3),
        }

    def _request(self, share: float) -> Request:
        return replace(self.planner.options.request, budget=self._budget(share))

    def _budget(self, share: float) -> Budget:
        if not isinstance(self.cost, Milliseconds):
            return Budget(self.cost, share)
        whole = cost_of(self.planner.analysis.trace, self.cost, np.zeros(0, np.int64))
        return Budget(self.cost, share * whole)  # milliseconds are never a share

    def _missed(self) -> KeptError:
        where = f"--metric {self.metric.name}"
        if not self.trials:
            return KeptError(f"no plan leaves less {self.cost.name}", where=where, hint="fewer layers excluded")
        nearest = max(self.trials, key=lambda t: t.cost)
        what = f"no smaller model keeps {self.limit}: with {100 * nearest.cost:.1f} % of the {self.cost.name}"
        hint = "more samples, a larger --max-drop, or --confidence 0"
        return KeptError(
            f"{what} it is {nearest.metric:.6g}, a drop of {told(nearest.drop, nearest.error)}", where=where, hint=hint
        )
