"""The smallest model that a metric accepts: plans at a few budgets are measured, and a curve says where to look."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.calibration import samples
from onnxprune.calibration.data_options import Data
from onnxprune.cost.chips import Milliseconds
from onnxprune.cost.macs_and_bytes import COSTS, CostModel
from onnxprune.cost.sizes import cost_of
from onnxprune.errors import KeptError, MetricError, OptionError
from onnxprune.file_system.arrays_on_disk import Spill, spilling
from onnxprune.model.onnx_model import Model
from onnxprune.options import Options
from onnxprune.planning.planner import Made, Planner
from onnxprune.plugins import is_code
from onnxprune.search.curve import FIRST, Point, find, taken
from onnxprune.search.drop import Measurement, drop, told, within
from onnxprune.search.metrics import Metric, alike, user_metric
from onnxprune.search.ready import ReadyMetric, ready
from onnxprune.search.trials import Keys, Row, Table
from onnxprune.search.workers import Workers
from onnxprune.widths.budget import Budget
from onnxprune.widths.choose_channels import Choice
from onnxprune.widths.metric_options import Limit, MetricSource
from onnxprune.widths.plan_contest import Judged, Way
from onnxprune.widths.request import Request

#: Shares of the cost at which all ways to choose are tried against each other: of those that are measured first.
CONTESTS = FIRST


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


def smallest(planner: Planner, workers: Workers) -> Found:
    """The smallest model that the metric of the planner's options accepts.

    Raises MetricError; KeptError where none that is smaller holds.
    """
    options = planner.options
    with spilling() as spill:
        planner.progress("measure the original")
        measuring = measuring_of(planner, spill)
        found = _Search(measuring, workers).run()
        if options.test_metric is None:
            return found
        test = tested(planner, found.made.measured, measuring.limit, spill)
        return replace(found, report=replace(found.report, test=test))


def tested(planner: Planner, model: Model, limit: Limit, spill: Spill) -> Tested:
    """What the metric that steers nothing says of ``model``."""
    assert planner.options.test_metric is not None
    test = metric_of(planner, planner.options.test_metric, "--test-metric", spill)
    before, after = (test.measure(m) for m in (planner.analysis.runnable, model))
    lost = drop(limit, before, alike(after, before, f"--test-metric {test.name}"))
    return Tested(test.name, before.value, after.value, lost.amount, lost.error, before.samples)


def metric_of(planner: Planner, source: MetricSource, option: str, spill: Spill, *, drawn: bool = False) -> Metric:
    """A user's function, or one that is ready, with its samples; ``drawn``: also of what nobody gave.

    Raises OptionError, MetricError and DataError.
    """
    options = planner.options
    if not isinstance(source, str) or is_code(source):
        return user_metric(source, option, lower=options.metric_lower_is_better)
    name, kind, path = ready(source, option)
    trace, observed = planner.analysis.trace, planner.observed
    if kind.perfect and options.min_metric is None:
        raise MetricError(
            "is infinite of the original, so it cannot drop", where=f"{option} {name}", hint="--min-metric"
        )
    if path:
        reading = options.reading or Data(None)
        count = reading.samples if is_code(path) else sys.maxsize  # --samples is of what weights are solved on
        data = samples.load(replace(reading, source=path, samples=count), trace.model, trace.shapes.inputs)
        if kind.labelled and not data.labelled:
            raise MetricError("has no array 'labels'", where=path, hint=f"{name} needs the class of each sample")
    elif observed is None or (observed.data.drawn and not drawn):
        raise MetricError("needs samples of yours", where=f"{option} {name}", hint=f"--data, or {name}@PATH")
    else:
        data = observed.data.split()[1]
    return ReadyMetric(source, kind, data, trace.shapes.shape, planner.analysis.runnable, spill, option)


def _cost(options: Options) -> CostModel:
    """What is made small. Raises OptionError where there is no target for its cycles."""
    target = options.request.target
    name = options.minimise or ("cycles" if target else "macs")
    return Budget.of(name, 0.5, target).cost


@dataclass(frozen=True)
class Measuring:
    """Plans of ``planner`` that a metric judges, and its value of the original. ``made``: what came of them here.

    ``contests``: which way to choose was the best at `CONTESTS`; elsewhere it is that of the nearest of them.
    """

    planner: Planner
    metric: Metric
    limit: Limit
    cost: CostModel
    original: Measurement
    made: dict[float, Made] = field(default_factory=dict, repr=False)
    contests: dict[float, Judged[Choice] | OptionError] = field(default_factory=dict, repr=False)

    def row(self, share: float) -> Row:
        """What comes of a plan with ``share`` of the cost, as the table has it; no ``cost`` where there is none."""
        start = time.perf_counter()
        planner = self.planner
        try:
            made = self.plan(share)
        except OptionError as reason:
            if reason.where != "--budget":
                raise
            return {"asked": share, "cost": None}
        choice = made.judged.best
        self.made[share] = made
        return {
            "asked": share,
            "cost": planner.left(self.cost, choice),
            "macs": planner.left(COSTS["macs"], choice),
            "params": planner.left(COSTS["params"], choice),
            **self.judged(made.measured),
            "noise": made.noise,
            "seconds": round(time.perf_counter() - start, 3),
        }

    def plan(self, share: float) -> Made:
        """A plan with ``share`` of the cost, and its model. Raises OptionError where so little cannot be left."""
        request = self.request(share)
        if share in CONTESTS:
            judged = self._contest(share)
        elif share >= 1:
            judged = self.planner.chosen(replace(request, ways=request.ways[:1]))
        else:
            held = (self._way(at) for at in sorted(CONTESTS, key=lambda at: abs(at - share)))
            way = next(filter(None, held), None)
            judged = self.planner.chosen(request if way is None else replace(request, ways=(way,)))
        return self.planner.made(request, judged)

    def _contest(self, share: float) -> Judged[Choice]:
        """Of all ways, once."""
        if share not in self.contests:
            try:
                self.contests[share] = self.planner.chosen(self.request(share))
            except OptionError as reason:
                self.contests[share] = reason
        found = self.contests[share]
        if isinstance(found, OptionError):
            raise found
        return found

    def _way(self, share: float) -> Way | None:
        """The best at ``share``; None where so little cannot be left."""
        if len(self.planner.options.request.ways) == 1:
            return None
        try:
            return self._contest(share).way
        except OptionError:
            return None

    def judged(self, model: Model) -> Row:
        """What the metric says of ``model`` beside the original, as the table has it. Raises MetricError."""
        found = alike(self.metric.measure(model), self.original, f"--metric {self.metric.name}")
        lost = drop(self.limit, self.original, found)
        return {
            "value": found.value,
            "original": self.original.value,
            "samples": found.samples,
            "drop": lost.amount,
            "error": lost.error,
            "holds": lost.holds,
        }

    @property
    def permitted(self) -> float:
        """How much the metric may drop."""
        return drop(self.limit, self.original, self.original).permitted

    def report(self, trials: Sequence[Trial], taken: int) -> SearchReport:
        """How far it let go; ``taken``: the place of the answer among ``trials``."""
        return SearchReport(
            metric=self.metric.name,
            limit=str(self.limit),
            permitted=self.permitted,
            confidence=self.limit.confidence,
            minimised=self.cost.name,
            original=self.original.value,
            samples=self.original.samples,
            trials=tuple(trials),
            taken=taken,
        )

    def request(self, share: float) -> Request:
        """What is asked for a plan with ``share`` of the cost."""
        return replace(self.planner.options.request, budget=self._budget(share))

    def _budget(self, share: float) -> Budget:
        if not isinstance(self.cost, Milliseconds):
            return Budget(self.cost, share)
        whole = cost_of(self.planner.analysis.trace, self.cost, np.zeros(0, np.int64))
        return Budget(self.cost, share * whole)  # milliseconds are never a share


def measuring_of(planner: Planner, spill: Spill) -> Measuring:
    """What judges plans of ``planner``, by its options; the original is measured."""
    options, limit = planner.options, planner.options.limit
    assert options.metric is not None
    assert limit is not None
    metric = metric_of(planner, options.metric, "--metric", spill)
    limit = replace(limit, lower=limit.lower or metric.lower)
    return Measuring(planner, metric, limit, _cost(options), metric.measure(planner.analysis.runnable))


def _maker(planner: Planner, spill: Spill) -> Callable[[float], Row]:
    """What makes rows in a worker, which keeps no models."""
    measuring = measuring_of(planner, spill)

    def row(share: float) -> Row:
        measuring.made.clear()
        return measuring.row(share)

    return row


@dataclass
class _Search:
    """One search. ``trials`` are in the order in which they were measured."""

    measuring: Measuring
    workers: Workers
    trials: list[Trial] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Nothing is measured yet. Raises OptionError and DataError, as `Table.of` does."""
        self.permitted = self.measuring.permitted
        self.table = Table.of(self.measuring.planner.options)
        self.keys = Keys(self.measuring.planner, self.measuring.metric)

    def run(self) -> Found:
        """Measure plans until enough is known. Raises KeptError where none holds."""
        measuring = self.measuring
        options, limit, original = measuring.planner.options, measuring.limit, measuring.original
        if self.permitted < 0:
            what = f"the original's metric is {original.value:.6g}, which is not as good as asked for"
            raise KeptError(what, where=f"--metric {measuring.metric.name}", hint="a smaller --min-metric")
        points = find(self._measured, self.permitted, limit.confidence, options.evaluations, whole=options.weighed)
        answer = taken(points, self.permitted)
        if answer is None:
            raise self._missed()
        place = self.points.index(answer)
        report = measuring.report(self.trials, place)
        share = self.trials[place].asked
        made = measuring.made.get(share)  # a row of the table says what came of a plan, and not the plan
        return Found(made or measuring.plan(share), report)

    def _measured(self, shares: Sequence[float]) -> list[Point | None]:
        """Plan, make and measure models with these shares of the cost; None where so little cannot be left."""
        measuring, before = self.measuring, len(self.trials)
        common = {
            "model": str(measuring.planner.analysis.inlined.model.path or ""),
            "sha256": self.keys.sha256,
            "metric": measuring.metric.name,
            "minimised": measuring.cost.name,
        }
        rows = self.table.rows(
            {self._key(share): share for share in shares},
            lambda left: self.workers.rows(_maker, measuring.planner, measuring.row, left),
            common,
            lambda done: measuring.planner.progress("search", before + done, measuring.planner.options.evaluations),
        )
        return [self._point(row) for row in rows]

    def _key(self, share: float) -> str:
        limit = self.measuring.limit
        return self.keys.of(
            asked=share,
            cost=self.measuring.cost.name,
            floor=limit.min_metric is not None,
            relative=limit.relative,
            lower=limit.lower,
        )

    def _point(self, row: Row) -> Point | None:
        """A trial, noted; None where there is none."""
        if row["cost"] is None:
            return None
        told = {n: row[n] for n in ("asked", "cost", "macs", "params", "drop", "error", "noise", "seconds")}
        holds = within(row["drop"], row["error"], self.permitted, self.measuring.limit.confidence)
        if not math.isfinite(row["drop"]):
            holds = bool(row["holds"])
        self.trials.append(Trial(**told, metric=row["value"], holds=holds))
        left, noise = row["cost"], row["noise"]
        point = Point(left, 1 - left if noise is None else noise, row["drop"], row["error"] or 0.0, holds)
        self.points.append(point)
        return point

    def _missed(self) -> KeptError:
        name, limit, minimised = self.measuring.metric.name, self.measuring.limit, self.measuring.cost.name
        where = f"--metric {name}"
        if not self.trials:
            return KeptError(f"no plan leaves less {minimised}", where=where, hint="fewer layers excluded")
        nearest = max(self.trials, key=lambda t: t.cost)
        what = f"no smaller model keeps {limit}: with {100 * nearest.cost:.1f} % of the {minimised}"
        hint = "more samples, a larger --max-drop, or --confidence 0"
        if self.measuring.planner.options.weighed:
            what = f"what is asked of the weights does not keep {limit}, even where no channel goes"
            hint = "fewer zeros, more bits, a larger --max-drop, or --confidence 0"
        return KeptError(
            f"{what} it is {nearest.metric:.6g}, a drop of {told(nearest.drop, nearest.error)}", where=where, hint=hint
        )
