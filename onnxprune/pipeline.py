"""The stages of a run, in order: analyse, observe the calibration data, choose, rewrite, prove, compensate, report.

Every stage hands on a plain value. Nothing here knows operators, file formats or terminals.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from onnxprune.calibration.data_options import NO_DATA
from onnxprune.calibration.synthetic import drawing
from onnxprune.errors import CheckError, KeptError, MetricError, OnnxPruneError, OptionError, PlanError, ToolError
from onnxprune.formats.export import check_asked, check_model, export
from onnxprune.importance import criteria
from onnxprune.labels.analysis import Analysis
from onnxprune.labels.ops import custom
from onnxprune.model.files import Folder
from onnxprune.model.onnx_model import Model
from onnxprune.options import Options
from onnxprune.passes.bits import grids_of
from onnxprune.planning import whole_branches
from onnxprune.planning.given_model import Given, analysed
from onnxprune.planning.planner import Planner
from onnxprune.planning.planner_opened import observing, planning
from onnxprune.planning.written_model import Writing
from onnxprune.plans.applied import applied, made_for, plan_of
from onnxprune.plans.plan_file import Plan
from onnxprune.progress import Progress, Stopwatch, silent
from onnxprune.proof.validity import check_original
from onnxprune.report.assemble import report_of
from onnxprune.report.run_outcome import Outcome
from onnxprune.report.run_report import Report
from onnxprune.search.sensitivity import Sensitivity, SensitivityRequest, measure
from onnxprune.search.smallest import smallest
from onnxprune.search.trials import ensure_table
from onnxprune.search.workers import Workers, gathered
from onnxprune.widths.choose_channels import Choice
from onnxprune.widths.plan_contest import Judged


@dataclass(frozen=True)
class Result:
    """The pruned ``model``, its ``plan`` and ``report``; ``exported``: what is written instead of ``model``, if any."""

    model: Model
    plan: Plan
    report: Report
    exported: Model | Folder | None = None


def prune(
    model: Model, options: Options, plan: Plan | None = None, progress: Progress = silent, where: str = "plan"
) -> Result:
    """Prune ``model``, or apply ``plan`` (from ``where``). Raises OnnxPruneError; CheckError if the proof fails."""
    result = attempt(model, options, plan, progress, where)
    if (failed := unproven(result.report)) is not None:
        raise failed
    return result


def attempt(
    model: Model, options: Options, plan: Plan | None = None, progress: Progress = silent, where: str = "plan"
) -> Result:
    """Prune as `prune` does, but return a result whose check failed, for reports; `unproven` gives the error.

    Raises OnnxPruneError. Where a check fails because the original itself is not valid, that is a ModelError.
    """
    watch = Stopwatch(progress)
    with custom.declared([custom.read(text) for text in options.custom]):
        try:
            with gathered(model, options, planning) as workers:
                result = _exported(_attempted(workers, plan, watch, where), options, watch)
        except CheckError:
            check_original(model)
            raise
        if result.report.proof is not None and any(np.isinf(e.relative) for e in result.report.proof.failures()):
            check_original(model)
        return result


def _exported(result: Result, options: Options, watch: Stopwatch) -> Result:
    """Add the model in the format that was asked for to ``result``; a result that is not proven stays as it is."""
    if options.format == "float" or unproven(result.report) is not None:
        return result
    with watch.stage("export"):
        given = (options.input_shapes, options.seed, options.input_values)
        made = export(options, result.model, grids_of(result.plan), *given)
    size = replace(result.report.file_bytes, after=made.content.byte_size)
    notes = (*result.report.notes, *made.notes)
    report = replace(result.report, file_bytes=size, notes=notes, seconds=watch.seconds)
    return replace(result, exported=made.content, report=report)


def _check(options: Options, plan: Plan | None) -> None:
    """Raise OptionError for options that contradict each other or ``plan``, before any work is done."""
    if plan is not None and options.metric is not None:
        raise OptionError("says how far to go, and so does the plan", where="--metric", hint="leave one of them out")
    bits = options.bits
    weights = (
        bool(plan.grids or "weights_per" in plan.options)
        if plan
        else bits is not None and bool(bits.weights or bits.own)
    )
    activations = bool(plan.activations) if plan else bits is not None and bool(bits.activations)
    check_asked(options, weights=weights, activations=activations)
    if plan is None:
        for way in options.request.ways:
            criteria.resolve(way.importance).check(options.reading)
    options.refuse_trials()
    ensure_table(options)


def _attempted(workers: Workers, plan: Plan | None, watch: Stopwatch, where: str) -> Result:
    model, options = workers.model, workers.options
    _check(options, plan)
    analysis, given = analysed(model, options, plan.options if plan else options.to_json(), watch)
    check_model(options, analysis)
    run = _Run(analysis, given, plan, where, watch)
    if options.reading is None or not options.reading.drawn:
        return run.on_data(workers)
    drawing.check(options.reading)

    def weights_only() -> Workers:
        return replace(workers, options=replace(options, data=NO_DATA))

    idle = not len(analysis.groups) or (plan is None and options.request.exact)
    if idle and not options.weighed and not (plan and plan.weighed):
        return run.on_data(weights_only())
    try:
        return run.on_data(workers)
    except (MetricError, KeptError, ToolError):
        raise  # other weights are no answer to these
    except (OnnxPruneError, np.linalg.LinAlgError) as reason:
        if options.bits is not None and options.bits.needs_samples:
            raise
        what = reason.what if isinstance(reason, OnnxPruneError) else str(reason)
        note = f"drawn inputs did not serve, and weights are as they were: {what}; --data gives real samples"
        return run.on_data(weights_only(), note)


def sensitivity(model: Model, options: Options, asked: SensitivityRequest, progress: Progress = silent) -> Sensitivity:
    """Measure what cutting each group of channels alone does to a metric. Raises OnnxPruneError."""
    told = replace(options, progress=progress)
    ensure_table(options)
    with gathered(model, told, planning) as workers, planning(model, workers.options) as planner:
        return measure(planner, asked, workers)


@dataclass(frozen=True)
class _Run:
    """A model that was analysed, and what is made of it: what ``plan`` (from ``where``) says, or what is chosen."""

    analysis: Analysis
    given: Given
    plan: Plan | None
    where: str
    watch: Stopwatch

    def on_data(self, workers: Workers, *notes: str) -> Result:
        """Observe the calibration data, if there is any, and run the other stages. ``notes``: added to the report."""
        options, given = workers.options, self.given
        searched = self.plan is not None and "metric" in self.plan.options  # samples are split as then
        with observing(given.whole or self.analysis, options, self.watch, judged=searched) as seen:
            observed = whole_branches.observed_for(self.analysis, options, seen) if seen and given.whole else seen
            planner = Planner(self.analysis, options, observed, self.watch.announce, [*given.rows.values()])
            return self._finished(planner, workers, notes)

    def _finished(self, planner: Planner, workers: Workers, notes: tuple[str, ...]) -> Result:
        """Choose channels, or apply the plan; then write the model, proven, and the report."""
        options, given, request, found = planner.options, self.given, planner.options.request, None
        if self.plan is None and options.metric is not None:
            with self.watch.stage("search"):
                found = smallest(planner, workers)
            request = found.made.request
        with self.watch.stage("choose"):
            if found is not None:
                judged = found.made.judged
            elif self.plan is not None:
                dead, rewrite = applied(planner.analysis.trace, self.plan, self.where)
                judged = Judged(Choice(dead, rewrite, planner.analysis.groups, {}))
            else:
                planner, given, judged = _chosen(planner, given)
        asked = {**options.to_json(), **request.to_json(), **given.to_json()}
        made = self.plan or plan_of(planner.analysis.trace, judged.best.rewrite, asked)
        writing = Writing(planner, given, self.watch)
        try:
            written = writing.written(judged, made, self.plan, found.made.solved if found else None)
        except PlanError as error:
            raise PlanError(error.what, where=self.where, hint=made_for(made)) from None
        outcome = Outcome(
            planner,
            given,
            judged,
            written,
            planned=self.plan is not None,
            request=request,
            options=asked,
            said=notes,
            seconds=self.watch.seconds,
            search=found.report if found else None,
        )
        return Result(written.model, written.plan, report_of(outcome))


def _chosen(planner: Planner, given: Given) -> tuple[Planner, Given, Judged[Choice]]:
    """What is chosen, and of which model: without some branches, where it is better that these go whole."""
    options = planner.options
    if given.rows or not whole_branches.may_go(options, planner.analysis, planner.observed):
        return planner, given, planner.chosen(options.request)
    won = whole_branches.contest(planner)
    if not won.names:
        return planner, given, won.judged
    return won.planner, replace(given, gone=won.names, whole=planner.analysis), won.judged


def unproven(report: Report) -> CheckError | None:
    """The error for a result that failed a check: zeros, grids or the rewrite error; None for one that passed."""
    asked = ((report.zeros, "weights that must be zero are not"), (report.grids, "weights are not on their grids"))
    for found, what in asked:
        if found is not None and found.missed:
            text = f"{found.missed} {what}; no model was written"
            return CheckError(text, where=f"tensor '{found.where}'", hint="please report this as a bug")
    if (proof := report.proof) is None or not (failures := proof.failures()):
        return None
    error = f"rewrite error {failures[0].relative:.2e} of its range (limit {proof.rtol:.0e}); no model was written"
    hint = "widen the limit with --rtol, or, if this is no rounding, please report it as a bug"
    return CheckError(error, where=f"tensor '{failures[0].name}'", hint=hint)
