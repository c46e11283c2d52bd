"""The stages of a run, in order: analyse, choose, rewrite, prove, and with calibration data observe and compensate.

Every stage hands on a plain value. Nothing here knows an operator, a file format or a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.calibration import samples
from onnxprune.calibration.cached.folder import CacheFolder
from onnxprune.calibration.data_options import NO_DATA
from onnxprune.calibration.gram_matrices import spilling
from onnxprune.calibration.original_observed import Lesson, learn
from onnxprune.calibration.synthetic import drawing, few_samples
from onnxprune.errors import (
    CheckError,
    KeptError,
    MetricError,
    OnnxPruneError,
    OptionError,
    ToolError,
)
from onnxprune.formats.export import check_asked, export
from onnxprune.importance import criteria
from onnxprune.labels.analysis import Analysis
from onnxprune.labels.ops import custom
from onnxprune.memory_and_threads import keep_what_is_freed, one_thread
from onnxprune.model.files import Folder
from onnxprune.model.onnx_model import Model
from onnxprune.options import Options
from onnxprune.passes import (
    FuseBatchNorm,
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
from onnxprune.search.given_model import Given, analysed
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
    """The pruned model, the plan that made it, and the report on it; ``exported``: what is written instead, if any."""

    model: Model
    plan: Plan
    report: Report
    exported: Model | Folder | None = None


def prune(
    model: Model, options: Options, plan: Plan | None = None, progress: Progress = silent, where: str = "plan"
) -> Result:
    """Prune ``model`` and prove it. Raises OnnxPruneError; CheckError where the result is not what it must be."""
    result = attempt(model, options, plan, progress, where)
    if (failed := unproven(result.report)) is not None:
        raise failed
    return result


def attempt(
    model: Model, options: Options, plan: Plan | None = None, progress: Progress = silent, where: str = "plan"
) -> Result:
    """As `prune`, but a rewrite error over the limit is no exception: `unproven` says so. Raises OnnxPruneError.

    Where a check fails, or other shapes come out, of a model that is refused itself, that is a ModelError.
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
    """``result`` with what is written in the format asked for. What is not proven is not written."""
    if options.format == "float" or unproven(result.report) is not None:
        return result
    with watch.stage("export"):
        made = export(options, result.model, grids_of(result.plan), options.input_shapes, options.seed)
    size = replace(result.report.file_bytes, after=made.content.byte_size)
    notes = (*result.report.notes, *made.notes)
    report = replace(result.report, file_bytes=size, notes=notes, seconds=watch.seconds)
    return replace(result, exported=made.content, report=report)


def _check(options: Options, plan: Plan | None) -> None:
    """Raise OptionError for what does not go together, before any work."""
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
        return _taught(analysis, workers, watch, plan, where, given)
    drawing.check(options.reading)

    def weights_only() -> Workers:
        return replace(workers, options=replace(options, data=NO_DATA))

    idle = not len(analysis.groups) or (plan is None and options.request.exact)
    if idle and not options.weighed and not (plan and plan.weighed):
        return _taught(analysis, weights_only(), watch, plan, where, given)
    try:
        return _taught(analysis, workers, watch, plan, where, given)
    except (MetricError, KeptError, ToolError):
        raise  # other weights are no answer to these
    except (OnnxPruneError, np.linalg.LinAlgError) as reason:
        if options.bits is not None and options.bits.needs_samples:
            raise
        what = reason.what if isinstance(reason, OnnxPruneError) else str(reason)
        note = f"drawn inputs did not serve, and weights are as they were: {what}; --data gives real samples"
        return _taught(analysis, weights_only(), watch, plan, where, given, note)


def sensitivity(model: Model, options: Options, asked: SensitivityRequest, progress: Progress = silent) -> Sensitivity:
    """What each group of channels costs a metric, alone. Raises OnnxPruneError."""
    told = replace(options, progress=progress)
    with gathered(model, told, planning) as workers, planning(model, workers.options) as planner:
        return measure(planner, asked, progress, workers)


@contextmanager
def planning(model: Model, options: Options) -> Iterator[Planner]:
    """A planner of ``model``, while what was seen of it is there; `Options.progress` is told. Raises OnnxPruneError."""
    watch = Stopwatch(options.progress)
    with custom.declared([custom.read(text) for text in options.custom]):
        analysis, given = analysed(model, options, options.to_json(), watch)
        if options.reading is not None and options.reading.drawn:
            drawing.check(options.reading)
        with learning(analysis, options, watch, judged=True) as lesson:
            yield Planner(analysis, options, lesson, watch.announce, [*given.rows.values()])


def _taught(
    analysis: Analysis, workers: Workers, watch: Stopwatch, plan: Plan | None, where: str, given: Given, *notes: str
) -> Result:
    """Prune with what calibration data teaches, where there is some. ``notes``: how it came to this."""
    searched = plan is not None and "metric" in plan.options  # samples are split as they were then
    with learning(given.whole or analysis, workers.options, watch, judged=searched) as taught:
        lesson = whole_branches.lesson_of(analysis, workers.options, taught) if taught and given.whole else taught
        return _Run(analysis, workers, lesson, watch, given, notes).result(plan, where)


def unproven(report: Report) -> CheckError | None:
    """What is raised where a tensor differs by more than rounding; None where none does."""
    proof, zeros = report.proof, report.zeros
    if zeros is not None and zeros.missed:
        what = f"{zeros.missed} weights that must be zero are not; no model was written"
        return CheckError(what, where=f"tensor '{zeros.where}'", hint="please report this as a bug")
    if (grids := report.grids) is not None and grids.missed:
        what = f"{grids.missed} weights are not on their grids; no model was written"
        return CheckError(what, where=f"tensor '{grids.where}'", hint="please report this as a bug")
    if proof is None or not (failures := proof.failures()):
        return None
    error = f"rewrite error {failures[0].relative:.2e} of its range (limit {proof.rtol:.0e}); no model was written"
    hint = "a wider limit is --rtol; if it is not rounding, please report this as a bug"
    return CheckError(error, where=f"tensor '{failures[0].name}'", hint=hint)


@contextmanager
def learning(
    analysis: Analysis, options: Options, watch: Stopwatch, *, judged: bool = False
) -> Iterator[Lesson | None]:
    """What calibration data teaches, while what was seen lies on disk and BLAS has one thread; None without data.

    ``judged``: models are to be judged on what is held out of it.
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
                steps: list[Pass] = [FuseBatchNorm(analysis.flat.inner())] if options.fuse_bn else []
                reference = run_passes(trace.model, [*steps, RestoreBranches(analysis.flat)]).model
                lesson = learn(trace, reference, data, spill, watch.announce, CacheFolder.at(options.cache))
            yield lesson


@dataclass(frozen=True)
class _Run:
    """One run, from its analysis on. ``lesson``: what calibration data taught, where there is any."""

    analysis: Analysis
    workers: Workers
    lesson: Lesson | None
    watch: Stopwatch
    given: Given = field(default_factory=Given)
    notes: tuple[str, ...] = field(default=())
    judged: Judged[Choice] | None = None  # what was chosen before, if anything was

    @property
    def options(self) -> Options:
        """Those of the run."""
        return self.workers.options

    def result(self, plan: Plan | None, where: str) -> Result:
        """Choose, or apply ``plan`` (``where`` it is from), rewrite, prove, and solve weights anew."""
        analysis, watch, options = self.analysis, self.watch, self.options
        planner = Planner(analysis, options, self.lesson, watch.announce, [*self.given.rows.values()])
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
        if not (proof and proof.failures()) and (self.lesson is not None or weighed):
            with watch.stage("compensate"):
                solved = found.made.solved if found else planner.solved(judged, whole, made, plan)
                if solved.model is not whole:
                    written, revalued = self._written(whole, solved, choice)
        holds = solved.holds
        made = planned(replace(made, masks=holds.masks), holds.grids)
        zeros, grids = self._constrained(written, holds, solved.asked, judged=solved.learnt is not None)
        outcome = Outcome(
            analysis=analysis,
            whole=self.given.whole or analysis,
            choice=choice,
            pruned=done.model,
            written=written,
            changes=done.changes + called.changes,
            proof=proof,
            learnt=solved.learnt,
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
        """What is written of a model whose weights were solved anew, and what these changed. Raises CheckError."""
        revalued = prove_revalued(cut, solved.model)
        written = run_passes(solved.model, self._last(choice)).model
        check_valid((self.given.whole or self.analysis).inlined.model, written)
        return written, revalued

    def _notes(self, choice: Choice) -> tuple[str, ...]:
        """What is to be said of the outputs, of the data, and of what was not tried."""
        held = named_channels.still_there(self.analysis.trace, choice.groups, choice.dead, self.given.rows)
        taught = self.lesson.notes if self.lesson else ()
        if self.lesson and not self.lesson.seen.products and len(self.analysis.groups):
            taught = (*taught, NOTHING_TO_SOLVE)
        count, names = len(self.given.gone), ", ".join(f"'{n}'" for n in self.given.gone)
        gone = [f"{count} branch{'es' if count > 1 else ''} went whole, constant now: {names}"] if count else []
        weighed = self.lesson is not None or self.options.weighed
        left = left_to_callers(self.analysis.trace) if weighed else ()
        return (*self.given.notes, *gone, *held, *left, *taught, *self.notes)

    def _last(self, choice: Choice) -> list[Pass]:
        """What is done once weights are solved: calls are put back, and outputs are made at once that were cut."""
        shapes, whole = choice.rewrite.shapes, self.given.rows.items()
        joined = [n for n, r in whole if shapes.get(r.whole, {r.axis: 0})[r.axis] == len(r.positions)]
        return [RestoreCalls(self.analysis.inlined), *([JoinRows(joined)] if joined else [])]

    def _judged(
        self, planner: Planner, request: Request, found: Found | None, plan: Plan | None, where: str
    ) -> tuple[Judged[Choice], _Run | None]:
        """What is chosen; or the run on the model without branches that are better gone whole."""
        if found is not None:
            return found.made.judged, None
        if plan is not None:
            return Judged(self._planned(plan, where)), None
        if self.judged is not None:
            return self.judged, None
        if self.given.rows or not whole_branches.may_go(self.options, self.analysis, self.lesson):
            return planner.chosen(request), None
        won = whole_branches.contest(planner)
        if not won.names:
            return won.judged, None
        given = replace(self.given, gone=won.names, whole=self.analysis)
        own = won.planner
        return won.judged, replace(self, analysis=own.analysis, lesson=own.lesson, given=given, judged=won.judged)

    def _constrained(
        self, written: Model, holds: Constrained, asked: Asked, *, judged: bool
    ) -> tuple[ZerosProof | None, GridsProof | None]:
        """That weights are what they must be; and what that costs, unless it was ``judged`` on samples."""
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
