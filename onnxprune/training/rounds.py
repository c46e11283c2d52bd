"""Prune, train, measure, again, until a metric says stop: training is a function of the user's (``--finetune``).

Each round takes a share of what is left, proves that, and hands the pruned model over with its plan; what comes back
is measured against the original. The best that held is the answer. What training gave is kept beside the table of
trials as soon as it is there: a run that was killed trains nothing twice.
"""

from __future__ import annotations

import inspect
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxprune import pipeline
from onnxprune.calibration.data_options import NO_DATA
from onnxprune.cost.macs_and_bytes import Macs
from onnxprune.cost.sizes import cost_of
from onnxprune.errors import KeptError, MetricError, OnnxPruneError, OptionError
from onnxprune.file_system import scratch
from onnxprune.file_system.arrays_on_disk import spilling
from onnxprune.labels.analysis import analyse
from onnxprune.model import files
from onnxprune.model.onnx_model import Model, from_proto
from onnxprune.model.opening import Source, opened, to_proto
from onnxprune.options import Options
from onnxprune.pipeline import Result, prune
from onnxprune.planning.planner_opened import planning
from onnxprune.plans.plan_file import Plan
from onnxprune.plugins import RAISED, user_function
from onnxprune.progress import Progress
from onnxprune.report.run_report import Report, SizeReport
from onnxprune.search.drop import told
from onnxprune.search.metrics import first_hint
from onnxprune.search.smallest import Measuring, Trial, measuring_of, tested
from onnxprune.search.trials import Keys, Row, Table, ensure_table
from onnxprune.widths.metric_options import name_of

#: Where a report has what is made small.
_SIZES = {"macs": "macs", "params": "parameters", "bytes": "file_bytes"}

_GIVES = "it returns a ModelProto, or the path of a model, of the same shapes as it was given"


def attempt(model: Model, options: Options, plan: Plan | None, progress: Progress, where: str) -> Result:
    """As `pipeline.attempt`, in rounds where there is somebody who trains."""
    if options.finetune is None or plan is not None:
        return pipeline.attempt(model, options, plan, progress, where)
    return finetuned(model, options, progress)


def finetuned(model: Model, options: Options, progress: Progress) -> Result:
    """The smallest model of a row of rounds that the metric accepts. Raises OnnxPruneError; KeptError where none is."""
    if options.remove or options.keep or options.outputs or options.keep_outputs:
        what = "names positions or outputs that the next round has not"
        raise OptionError(what, where="--remove, --keep, --outputs or --keep-outputs", hint="leave --finetune out")
    if options.format != "float":
        what = "is of what is pruned, and training comes after it"
        raise OptionError(what, where=f"--format {options.format}", hint="quantize what --finetune writes")
    ensure_table(options)
    drawn = options.reading is not None and options.reading.drawn
    seen = replace(
        options, progress=progress, finetune=None, step=Options.step, data=NO_DATA if drawn else options.data
    )
    with planning(model, seen) as planner, spilling() as spill:
        progress("measure the original")
        rounds = _Rounds(model, options, measuring_of(planner, spill), progress)
        result = rounds.result()
        if options.test_metric is None:
            return result
        assert result.report.search is not None
        test = tested(planner, result.model, rounds.measuring.limit, spill)
        return replace(result, report=replace(result.report, search=replace(result.report.search, test=test)))


@dataclass(frozen=True)
class _Round:
    """What a round began with, and what training gave. ``pruned``: between them; None where it was not made again."""

    before: Model = field(repr=False)
    after: Model = field(repr=False)
    row: Row
    pruned: Result | None = field(repr=False)


@dataclass
class _Rounds:
    """All rounds. ``held``: the last that held, and its place among ``trials``."""

    model: Model
    options: Options
    measuring: Measuring
    progress: Progress
    trials: list[Trial] = field(default_factory=list)
    held: tuple[int, _Round] | None = None

    def __post_init__(self) -> None:
        """Nothing is trained yet. Raises OptionError and DataError, as `Table.of` does."""
        self.table = Table.of(self.options)
        self.keys = Keys(self.measuring.planner, self.measuring.metric)

    def result(self) -> Result:
        """Go on while the metric holds. Raises KeptError where the first round does not."""
        last: _Round | None = None
        first: Report | None = None
        for number in range(1, self.options.evaluations + 1):
            self.progress("rounds", number - 1, self.options.evaluations)
            last = self._round(number, last)
            if last is None:
                break
            if number == 1 and last.pruned is not None:
                first = last.pruned.report
            if not self._noted(last.row):
                break
            self.held = len(self.trials) - 1, last
        if self.held is None:
            raise self._missed()
        place, best = self.held
        pruned = best.pruned or self._again(best.before)
        first = first or (pruned if place == 0 else self._again(self.model)).report
        return replace(pruned, model=best.after, report=self._report(first, pruned.report, place))

    def _round(self, number: int, last: _Round | None) -> _Round | None:
        """A round, of which as little is done as a table and the models beside it leave; None where nothing may go."""
        before, start = last.after if last else self.model, time.perf_counter()
        started = {"before": before.sha256, "finetune": _source(self.options.finetune)}
        key = self.keys.of(round=number, step=self.options.step, **started)
        kept = self.table.path and self.table.path.with_name(f"{self.table.path.name}.{key[:16]}.onnx")
        trained, row = self._kept(kept), self.table.known.get(key)
        if trained is not None and row is not None and row["trained"] == trained.sha256:
            return _Round(before, trained, row, None)
        pruned = self._pruned(before)
        if pruned is None:
            return None
        if trained is None:
            trained = self._trained(pruned, number)
            if kept is not None:
                files.write({kept: trained})
        left, sizes = self._left(last, pruned.report)
        row = self._row(number, trained, left, sizes, time.perf_counter() - start)
        return _Round(before, trained, self.table.add(key, row), pruned)

    def _kept(self, path: Path | None) -> Model | None:
        """What training gave in a run before, if that was kept."""
        if path is None or not self.options.resume or not path.exists():
            return None
        return from_proto(to_proto(files.load(path)))

    def _again(self, before: Model) -> Result:
        """What a round was trained on that is not made again for its training."""
        pruned = self._pruned(before)
        assert pruned is not None
        return pruned

    def _pruned(self, current: Model) -> Result | None:
        """A share less of ``current``, proven; None where so little cannot be left."""
        budget = f"{self.measuring.cost.name}={1 - self.options.step:g}"
        asked = replace(self.options, budget=budget, **Options.without_metric())
        try:
            return prune(current, asked, None, self.progress)
        except OptionError as reason:
            if reason.where != "--budget":
                raise
            return None

    def _left(self, last: _Round | None, report: Report) -> tuple[float, tuple[float, float]]:
        """Shares of the original: of what is made small, and of MACs and parameters."""
        left, macs, params = (last.row[n] for n in ("cost", "macs", "params")) if last else (1.0, 1.0, 1.0)
        name = self.measuring.cost.name
        own: SizeReport = getattr(report, _SIZES[name]) if name in _SIZES else report.costs[name]
        return left * own.ratio, (macs * report.macs.ratio, params * report.parameters.ratio)

    def _trained(self, pruned: Result, number: int) -> Model:
        """What the user's function makes of a pruned model. Raises MetricError where that is no such model."""
        source = self.options.finetune
        where = f"--finetune {name_of(source)}" if source is not None else ""
        function = _function(source)
        try:
            found = _called(function, pruned.model, pruned.plan, number)
        except OnnxPruneError:
            raise
        except RAISED as error:
            raise MetricError(f"raises {type(error).__name__}: {error}", where=where) from None
        if found is None:
            raise MetricError("gives no model", where=where, hint=_GIVES)
        self._same_shapes(pruned, found, where)
        return found

    def _same_shapes(self, pruned: Result, found: Model, where: str) -> None:
        """Raise MetricError where ``found`` is not what was pruned, with other weights."""
        for kind in ("inputs", "outputs"):
            before, after = (
                [(i.name, i.elem_type, i.dims) for i in getattr(m.graph, kind)] for m in (pruned.model, found)
            )
            if before != after:
                raise MetricError(f"gives a model with other {kind}: {after}, not {before}", where=where, hint=_GIVES)
        shapes = {n: s for n, (_, s) in pruned.model.graph.constants.items()}
        for name, (_, shape) in found.graph.constants.items():
            if shapes.get(name, shape) != shape:
                what = f"gives '{name}' in shape {list(shape)}, not {list(shapes[name])}"
                raise MetricError(what, where=where, hint=_GIVES)
        trace = analyse(found, input_shapes=self.options.input_shapes, input_values=self.options.input_values).trace
        macs = round(cost_of(trace, Macs(), np.zeros(0, np.int64)))
        if macs != pruned.report.macs.after:
            what = f"gives a model of {macs} MACs, not {pruned.report.macs.after}"
            raise MetricError(what, where=where, hint=_GIVES)

    def _row(self, number: int, model: Model, left: float, sizes: tuple[float, float], seconds: float) -> Row:
        measuring = self.measuring
        return {
            "model": str(self.model.path or ""),
            "sha256": self.keys.sha256,
            "metric": measuring.metric.name,
            "minimised": measuring.cost.name,
            "round": number,
            "asked": (1 - self.options.step) ** number,
            "cost": left,
            "macs": sizes[0],
            "params": sizes[1],
            **measuring.judged(model),
            "noise": None,
            "trained": model.sha256,
            "seconds": round(seconds, 3),
        }

    def _noted(self, row: Row) -> bool:
        names = ("asked", "cost", "macs", "params", "drop", "error", "holds", "noise", "seconds")
        self.trials.append(Trial(**{n: row[n] for n in names}, metric=row["value"]))
        return bool(row["holds"])

    def _report(self, first: Report, last: Report, place: int) -> Report:
        """The last round's, with the original's sizes before it."""
        search = self.measuring.report(self.trials, place)
        sizes = {
            n: SizeReport(getattr(first, n).before, getattr(last, n).after)
            for n in ("channels", "parameters", "macs", "file_bytes")
        }
        costs = {n: SizeReport(first.costs[n].before, s.after) for n, s in last.costs.items() if n in first.costs}
        note = f"{place + 1} rounds of pruning and training: sizes are of the whole, groups, plan and proof of the last"
        changed: dict[str, Any] = {**sizes, "costs": costs, "model": first.model, "sha256": first.sha256}
        return replace(last, **changed, search=search, notes=(*last.notes, note))

    def _missed(self) -> KeptError:
        where = f"--metric {self.measuring.metric.name}"
        if not self.trials:
            return KeptError("no plan leaves less", where=where, hint="a smaller --step")
        worst = self.trials[0]
        what = f"the first round does not keep {self.measuring.limit}: it is {worst.metric:.6g}"
        hint = "a smaller --step, more training, or a larger --max-drop"
        return KeptError(f"{what}, a drop of {told(worst.drop, worst.error)}", where=where, hint=hint)


def _called(function: Callable[..., Any], model: Model, plan: Plan, number: int) -> Model | None:
    """The function, by its annotation on a path or a ModelProto; None where it gives no model."""
    with tempfile.TemporaryDirectory(prefix=scratch.prefix()) as folder:
        hint = first_hint(function)
        if hint in (str, Path):
            path = Path(folder, "model.onnx")
            files.write({path: model})
            found = function(hint(path), plan, number)
        else:
            found = function(to_proto(model), plan, number)
        if not isinstance(found, (str, Path, bytes, ModelProto)):
            return None
        source: Source = found
        return from_proto(to_proto(opened(source)))  # the file may be written over by the next round


def _function(source: Any) -> Callable[..., Any]:
    """The function itself, or that of a ``module:function``."""
    found: Callable[..., Any] = user_function(source, "--finetune") if isinstance(source, str) else source
    return found


def _source(function: Any) -> str:
    """What a round's outcome depends on beside the model."""
    try:
        return inspect.getsource(_function(function))
    except (OSError, TypeError):
        return ""
