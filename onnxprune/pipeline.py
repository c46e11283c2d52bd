"""The stages of a run, in order: analyse, observe the calibration data, choose, rewrite, prove, compensate, report.

Every stage hands on a plain value. Nothing here knows operators, file formats or terminals.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.calibration import samples
from onnxprune.calibration.cached.folder import CacheFolder
from onnxprune.calibration.data_options import NO_DATA
from onnxprune.calibration.original_observed import ObservedOriginal, observe_original
from onnxprune.calibration.synthetic import drawing, few_samples
from onnxprune.errors import CheckError, KeptError, MetricError, OnnxPruneError, OptionError, ToolError
from onnxprune.file_system.arrays_on_disk import spilling
from onnxprune.formats.export import check_asked, export
from onnxprune.importance import criteria
from onnxprune.labels.analysis import Analysis
from onnxprune.labels.ops import custom
from onnxprune.memory_and_threads import keep_what_is_freed, one_thread
from onnxprune.model.files import Folder
from onnxprune.model.onnx_model import Model
from onnxprune.options import Options
from onnxprune.passes import (
    JoinRows,
    Pass,
    RestoreBranches,
    RestoreCalls,
)
from onnxprune.passes import run as run_passes
from onnxprune.passes.bits import grids_of, left_to_callers, planned
from onnxprune.passes.recover import Constrained, Solved
from onnxprune.passes.zeros import Asked
from onnxprune.plans.applied import applied, plan_of
from onnxprune.plans.plan_file import Plan
from onnxprune.progress import Progress, Stopwatch, silent
from onnxprune.proof.exact import Proof, prove
from onnxprune.proof.revalued import Revalued, prove_revalued
from onnxprune.proof.side_by_side import On, apart
from onnxprune.proof.validity import check_original, check_valid
from onnxprune.proof.weights import GridsProof, ZerosProof, prove_grids, prove_zeros
from onnxprune.report.assemble import Outcome, report_of
from onnxprune.report.run_report import Report
from onnxprune.search import whole_branches
from onnxprune.search.given_model import Given, analysed, folding
from onnxprune.search.planner import Planner
from onnxprune.search.sensitivity import Sensitivity, SensitivityRequest, measure
from onnxprune.search.smallest import Found, smallest
from onnxprune.search.workers import Workers, gathered
from onnxprune.widths import named_channels
from onnxprune.widths.choose_channels import Choice
from onnxprune.widths.plan_contest import Judged
from onnxprune.widths.request import Request

#: Said of models that were quantized, and of others whose weights are computed.
NOTHING_TO_SOLVE = "no layer has weights of its own in floats to solve anew: if it was quantized, prune it before"


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
        made = export(options, result.model, grids_of(result.plan), options.input_shapes, options.seed)
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
    if plan is not None and plan.weighed and options.recover and (plan.grids or plan.activations):
        raise OptionError("trains weights off the grids of the plan", where="--recover", hint="leave it out")


def _attempted(workers: Workers, plan: Plan | None, watch: Stopwatch, where: str) -> Result:
    model, options = workers.model, workers.options
    _check(options, plan)
    analysis, given = analysed(model, options, plan.options if plan else options.to_json(), watch)
    if options.reading is None or not options.reading.drawn:
        return _run_on_data(analysis, workers, watch, plan, where, given)
    drawing.check(options.reading)

    def weights_only() -> Workers:
        return replace(workers, options=replace(options, data=NO_DATA))

    idle = not len(analysis.groups) or (plan is None and options.request.exact)
    if idle and not options.weighed and not (plan and plan.weighed):
        return _run_on_data(analysis, weights_only(), watch, plan, where, given)
    try:
        return _run_on_data(analysis, workers, watch, plan, where, given)
    except (MetricError, KeptError, ToolError):
        raise  # other weights are no answer to these
    except (OnnxPruneError, np.linalg.LinAlgError) as reason:
        if options.bits is not None and options.bits.needs_samples:
            raise
        what = reason.what if isinstance(reason, OnnxPruneError) else str(reason)
        note = f"drawn inputs did not serve, and weights are as they were: {what}; --data gives real samples"
        return _run_on_data(analysis, weights_only(), watch, plan, where, given, note)


def sensitivity(model: Model, options: Options, asked: SensitivityRequest, progress: Progress = silent) -> Sensitivity:
    """Measure what cutting each group of channels alone does to a metric. Raises OnnxPruneError."""
    told = replace(options, progress=progress)
    with gathered(model, told, planning) as workers, planning(model, workers.options) as planner:
        return measure(planner, asked, progress, workers)


@contextmanager
def planning(model: Model, options: Options) -> Iterator[Planner]:
    """Open a planner for ``model``, with its observations on disk until the block ends. Raises OnnxPruneError."""
    watch = Stopwatch(options.progress)
    with custom.declared([custom.read(text) for text in options.custom]):
        analysis, given = analysed(model, options, options.to_json(), watch)
        if options.reading is not None and options.reading.drawn:
            drawing.check(options.reading)
        with observing(analysis, options, watch, judged=True) as observed:
            yield Planner(analysis, options, observed, watch.announce, [*given.rows.values()])


def _run_on_data(
    analysis: Analysis, workers: Workers, watch: Stopwatch, plan: Plan | None, where: str, given: Given, *notes: str
) -> Result:
    """Observe the calibration data, if there is any, and run the other stages. ``notes``: added to the report."""
    searched = plan is not None and "metric" in plan.options  # samples are split as they were then
    with observing(given.whole or analysis, workers.options, watch, judged=searched) as seen:
        observed = whole_branches.observed_for(analysis, workers.options, seen) if seen and given.whole else seen
        return _Run(analysis, workers, observed, watch, given, notes).result(plan, where)


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


@contextmanager
def observing(
    analysis: Analysis, options: Options, watch: Stopwatch, *, judged: bool = False
) -> Iterator[ObservedOriginal | None]:
    """Observe the original on the calibration data; None without data.

    Inside the block the observations lie on disk, and BLAS has one thread. ``judged``: whether models will be compared
    on samples that are held out of the data.
    """
    if options.reading is None:
        yield None
        return
    if analysis.severed.foreign:
        node = analysis.severed.foreign[0].label
        raise OptionError(f"needs a model that can be run, and '{node}' cannot", where="--data", hint="leave it out")
    trace, reading = analysis.trace, options.reading
    keep_what_is_freed()
    with one_thread():
        with watch.stage("data"):
            if reading.drawn:
                data = drawing.load(reading, trace.model, trace.shapes, options.seed)
            else:
                data = samples.load(reading, trace.model, trace.shapes.inputs, watch.announce)
                judged = judged or options.metric is not None
                data = few_samples.with_drawn(data, reading, trace.model, trace.shapes, options.seed, judged=judged)
        with spilling() as spill:
            with watch.stage("observe"):
                fold = folding(options, trace, analysis.flat.inner())
                reference = run_passes(trace.model, [*fold, RestoreBranches(analysis.flat)]).model
                observed = observe_original(
                    trace, reference, data, spill, watch.announce, CacheFolder.at(options.cache)
                )
            yield observed


@dataclass(frozen=True)
class _Run:
    """One run, from its analysis on. ``observed``: the original as observed on calibration data, if there is any."""

    analysis: Analysis
    workers: Workers
    observed: ObservedOriginal | None
    watch: Stopwatch
    given: Given = field(default_factory=Given)
    notes: tuple[str, ...] = field(default=())
    judged: Judged[Choice] | None = None  # what was chosen before, if anything was

    @property
    def options(self) -> Options:
        """The options of the run."""
        return self.workers.options

    def result(self, plan: Plan | None, where: str) -> Result:
        """Choose channels, or apply ``plan`` (from ``where``); then rewrite, prove, and solve the weights anew."""
        analysis, watch, options = self.analysis, self.watch, self.options
        planner = Planner(analysis, options, self.observed, watch.announce, [*self.given.rows.values()])
        found, request = None, options.request
        if plan is None and options.metric is not None:
            with watch.stage("search"):
                found = smallest(planner, watch.announce, self.workers)
            request = found.made.request
        with watch.stage("choose"):
            judged, without = self._judged(planner, request, found, plan, where)
        if without is not None:
            return without.result(None, where)
        choice = judged.best
        asked = {**options.to_json(), **request.to_json(), **self.given.to_json()}
        made = plan or plan_of(analysis.trace, choice.rewrite, asked)
        weighed = plan.weighed if plan is not None else options.weighed
        with watch.stage("rewrite"):
            lossless = options.lossless or bool(plan and plan.options.get("lossless"))
            done, whole = planner.cut(choice, lossless=lossless, weighed=weighed)
            called = run_passes(whole, self._last(choice))
            written = called.model if len(choice.groups) or weighed else analysis.inlined.model
        with watch.stage("prove"):
            # Nodes that cannot be run are known by their own names, which a call hides.
            proof = self._proof(choice, whole if analysis.severed.gone else written)
        solved, revalued = Solved(whole), None
        if not (proof and proof.failures()) and (self.observed is not None or weighed):
            with watch.stage("compensate"):
                solved = found.made.solved if found else planner.solved(judged, whole, made, plan)
                if solved.model is not whole:
                    written, revalued = self._written(whole, solved, choice)
        holds = solved.holds
        made = planned(replace(made, masks=holds.masks), holds.grids)
        zeros, grids = self._constrained(written, holds, solved.asked, judged=solved.recovered is not None)
        outcome = Outcome(
            analysis=analysis,
            whole=self.given.whole or analysis,
            choice=choice,
            pruned=done.model,
            written=written,
            changes=done.changes + called.changes,
            proof=proof,
            recovered=solved.recovered,
            revalued=revalued,
            plan=made,
            planned=plan is not None,
            request=request,
            options=asked,
            input_shapes=options.input_shapes,
            input_values=options.input_values,
            notes=self._notes(choice) + judged.missed + solved.asked.notes + solved.asked.bits.notes,
            zeros=zeros,
            grids=grids,
            seconds=watch.seconds,
            search=found.report if found else None,
        )
        return Result(written, made, report_of(outcome))

    def _written(self, cut: Model, solved: Solved, choice: Choice) -> tuple[Model, Revalued]:
        """The model to write after weights were solved, and proof that only weights changed. Raises CheckError."""
        revalued = prove_revalued(cut, solved.model)
        written = run_passes(solved.model, self._last(choice)).model
        check_valid((self.given.whole or self.analysis).inlined.model, written)
        return written, revalued

    def _notes(self, choice: Choice) -> tuple[str, ...]:
        """What the report says about outputs, data, and branches that are gone."""
        held = named_channels.still_there(self.analysis.trace, choice.groups, choice.dead, self.given.rows)
        data = self.observed.notes if self.observed else ()
        if self.observed and not self.observed.seen.products and len(self.analysis.groups):
            data = (*data, NOTHING_TO_SOLVE)
        count, names = len(self.given.gone), ", ".join(f"'{n}'" for n in self.given.gone)
        gone = [f"{count} branch{'es' if count > 1 else ''} went whole, constant now: {names}"] if count else []
        weighed = self.observed is not None or self.options.weighed
        left = left_to_callers(self.analysis.trace) if weighed else ()
        return (*self.given.notes, *gone, *held, *left, *data, *self.notes)

    def _last(self, choice: Choice) -> list[Pass]:
        """The passes after weights are solved: calls are put back, and outputs that were cut lose their Gather."""
        shapes, whole = choice.rewrite.shapes, self.given.rows.items()
        joined = [n for n, r in whole if shapes.get(r.whole, {r.axis: 0})[r.axis] == len(r.positions)]
        return [RestoreCalls(self.analysis.inlined), *([JoinRows(joined)] if joined else [])]

    def _judged(
        self, planner: Planner, request: Request, found: Found | None, plan: Plan | None, where: str
    ) -> tuple[Judged[Choice], _Run | None]:
        """What is chosen; or a run on the model without some branches, where it is better that these go whole."""
        if found is not None:
            return found.made.judged, None
        if plan is not None:
            return Judged(self._planned(plan, where)), None
        if self.judged is not None:
            return self.judged, None
        if self.given.rows or not whole_branches.may_go(self.options, self.analysis, self.observed):
            return planner.chosen(request), None
        won = whole_branches.contest(planner)
        if not won.names:
            return won.judged, None
        given = replace(self.given, gone=won.names, whole=self.analysis)
        own = won.planner
        return won.judged, replace(self, analysis=own.analysis, observed=own.observed, given=given, judged=won.judged)

    def _constrained(
        self, written: Model, holds: Constrained, asked: Asked, *, judged: bool
    ) -> tuple[ZerosProof | None, GridsProof | None]:
        """Prove zeros and grids; measure what they cost on seeded inputs, unless samples ``judged`` it already."""
        zeros = prove_zeros(written, holds.masks) if asked.fixed or asked.solved else None
        grids = prove_grids(written, holds.grids) if asked.bits else None
        if not asked or judged or not self.options.check_n or self.analysis.severed.foreign:
            return zeros, grids
        shapes = self.analysis.trace.shapes
        on = On(shapes.inputs, None, self.options.check_n, self.options.seed, shapes.draws)
        found = apart(self.analysis.inlined.model, written, shapes.inputs, shapes.shape, on, self.watch.announce)
        if zeros is not None:
            return replace(zeros, outputs=found.outputs), grids
        return zeros, replace(grids, outputs=found.outputs) if grids is not None else None

    def _planned(self, plan: Plan, where: str) -> Choice:
        dead, rewrite = applied(self.analysis.trace, plan, where)
        return Choice(dead, rewrite, self.analysis.groups, {})

    def _proof(self, choice: Choice, pruned: Model) -> Proof | None:
        options, analysis = self.options, self.analysis
        if options.check_n == 0:
            return None
        return prove(
            analysis.trace,
            analysis.severed,
            analysis.flat,
            choice.dead,
            pruned,
            samples=options.check_n,
            seed=options.seed,
            rtol=options.rtol,
            atol=options.atol,
            original=self.given.whole.severed.part if self.given.whole else None,
            progress=self.watch.announce,
        )
