"""The whole line, stage by stage: model -> trace -> groups -> scores -> plan -> rewrite -> fuse BN -> proof -> report.

With calibration data, weights are solved anew behind the proof. Every stage hands on a plain value. Nothing here knows
an operator, a file format or a terminal.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from importlib import metadata

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration import samples as calibration
from onnxprune.calibration.product_statistics import spilling
from onnxprune.calibration.reference import Lesson, learn
from onnxprune.calibration.samples import CalibrationSet
from onnxprune.cost import measures as cost
from onnxprune.errors import CheckError, ModelError, OnnxPruneError, OptionError
from onnxprune.importance import criteria as scores
from onnxprune.importance.criterion import Scorer, Subject
from onnxprune.labels import groups as grouping
from onnxprune.labels import plan as plans
from onnxprune.labels.analysis import Analysis, analyse
from onnxprune.labels.plan import Plan
from onnxprune.labels.rewrite import Rewrite
from onnxprune.labels.trace import Trace
from onnxprune.model.graph import Graph, Shape
from onnxprune.model.onnx_model import Model
from onnxprune.options import Options
from onnxprune.passes import FuseBatchNorm, Pass, RemoveChannels, RestoreBranches, RestoreCalls
from onnxprune.passes import run as run_passes
from onnxprune.passes.recover import Recovery
from onnxprune.progress import Progress, silent
from onnxprune.proof.exact import Proof, check_valid, prove
from onnxprune.report import run_report as report
from onnxprune.report import structure as anatomy
from onnxprune.report.run_report import Learnt, Report, SizeReport
from onnxprune.running import input_shapes
from onnxprune.running.unknown_operators import Severed
from onnxprune.widths import plan_contest as candidates
from onnxprune.widths.choose_channels import Choice, choose, ratio_of
from onnxprune.widths.plan_contest import Tried, Way


@dataclass(frozen=True)
class Result:
    """The pruned model, the plan that made it, and the report on it."""

    model: Model
    plan: Plan
    report: Report


class Stopwatch:
    """Seconds by stage; announces each stage as it starts."""

    def __init__(self, announce: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self.announce = announce

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage."""
        self.announce(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 4)


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
    """As `prune`, but a rewrite error over the limit is no exception: `unproven` says so. Raises OnnxPruneError."""
    watch = Stopwatch(progress)
    if plan is None:
        for way in options.ways:
            scores.resolve(way.importance).check(options.data)
    with watch.stage("analyse"):
        analysis = analyse(model, exclude=options.exclude, input_shapes=options.input_shapes, seed=options.seed)
    if (name := analysis.trace.model.not_a_number()) is not None:
        where_ = f"{model.path or 'model'}, tensor '{name}'"
        raise ModelError("has NaN weights", where=where_, hint="repair or export the model again")
    with ExitStack() as stack:
        lesson = None
        if options.data is not None:
            lesson = stack.enter_context(_learning(analysis, options, watch))
        return _pruned(analysis, options, plan, lesson, watch, where)


@contextmanager
def _learning(analysis: Analysis, options: Options, watch: Stopwatch) -> Iterator[Lesson]:
    """What calibration data teaches, while what was seen lies on disk."""
    if analysis.severed.gone:
        node = analysis.severed.gone[0].label
        raise OptionError(f"needs a model that can be run, and '{node}' cannot", where="--data", hint="leave it out")
    data = _calibration(analysis.trace, options, watch)
    with spilling() as spill:
        with watch.stage("observe"):
            original = analysis.trace.model
            steps: list[Pass] = [FuseBatchNorm(analysis.flat.inner())] if options.fuse_bn else []
            reference = run_passes(original, [*steps, RestoreBranches(analysis.flat)]).model
            lesson = learn(analysis.trace, reference, data, spill, watch.announce)
        yield lesson


def _pruned(
    analysis: Analysis, options: Options, plan: Plan | None, lesson: Lesson | None, watch: Stopwatch, where: str
) -> Result:
    trace, given = analysis.trace, analysis.inlined.model
    with watch.stage("choose"):
        if plan is None:
            choice, tried, missed = _chosen(analysis, options, lesson, watch)
        else:
            dead, result = plans.apply(trace, plan, where)
            choice, tried, missed = Choice(dead, result, analysis.groups, {}), (), ()
    with watch.stage("rewrite"):
        done = run_passes(trace.model, _steps(choice, options, analysis))
        whole = run_passes(done.model, [RestoreBranches(analysis.flat)]).model
        called = run_passes(whole, [RestoreCalls(analysis.inlined)])
        written = called.model if len(choice.groups) else given
    with watch.stage("prove"):
        # Nodes that cannot be run are known by their own names, which a call hides.
        proof = _proved(analysis, choice.dead, whole if analysis.severed.gone else written, options, watch.announce)
    changes, learnt = done.changes + called.changes, None
    failed = proof is not None and bool(proof.failures())
    if lesson is not None and len(choice.groups) and not failed:
        with watch.stage("compensate"):
            recovery = _recovery(trace, lesson, options, watch)
            solved, learnt = recovery.finished(whole, choice.dead, tried)
            if solved is not whole:
                written = run_passes(solved, [RestoreCalls(analysis.inlined)]).model
                check_valid(given, written)
    made = plan or plans.make(trace, choice.rewrite, options.to_json())
    outcome = _Outcome(choice, done.model, written, changes, proof, learnt, missed, plan is not None, made)
    return Result(written, made, _report(analysis, options, outcome, lesson.data if lesson else None, watch))


def _recovery(trace: Trace, lesson: Lesson, options: Options, watch: Stopwatch) -> Recovery:
    return Recovery(trace, lesson, options.compensate, options.recover, options.seed, watch.announce)


def _chosen(
    analysis: Analysis, options: Options, lesson: Lesson | None, watch: Stopwatch
) -> tuple[Choice, tuple[Tried, ...], tuple[str, ...]]:
    """The choice, the nearest to the original where there are several, what was tried, and what could not be."""
    data = lesson.data if lesson else None
    subject = Subject(analysis.trace, data, options.seed, options.flops_reg, watch.announce, lesson)
    names = dict.fromkeys(w.importance for w in options.ways)
    found = {n: _scorer(n, subject, alone=len(names) == 1) for n in names}
    scorers = {n: s for n, s in found.items() if not isinstance(s, str)}
    ways = [w for w in options.ways if w.importance in scorers]

    def plan(way: Way) -> Choice:
        return choose(analysis, options, subject, way, scorers[way.importance])

    def distance(choice: Choice) -> float:
        assert lesson is not None
        steps = [*_steps(choice, options, analysis), RestoreBranches(analysis.flat)]
        pruned = run_passes(analysis.trace.model, steps).model
        return _recovery(analysis.trace, lesson, options, watch).distance(pruned, choice.dead)

    choice, tried, missed = candidates.best(ways, plan, distance, watch.announce)
    return choice, tried, (*(s for s in found.values() if isinstance(s, str)), *missed)


def _scorer(name: str, subject: Subject, *, alone: bool) -> Scorer | str:
    """What scores, or, of several, why it cannot (where gradients are needed and there are none)."""
    try:
        return scores.resolve(name)(subject)
    except OnnxPruneError as reason:
        if alone:
            raise
        return f"importance '{name}' was not tried: {reason.what}"


def _calibration(trace: Trace, options: Options, watch: Stopwatch) -> CalibrationSet:
    """The calibration set that the options name, read once. Raises DataError."""
    assert options.data is not None
    reading = {f.name: getattr(options.data, f.name) for f in fields(options.data)}
    with watch.stage("data"):
        return calibration.load(model=trace.model, shapes=trace.shapes.inputs, progress=watch.announce, **reading)


def _steps(choice: Choice, options: Options, analysis: Analysis) -> list[Pass]:
    """What is done to the model: nothing at all where nothing can be pruned."""
    if not len(choice.groups):
        return []
    keep = analysis.flat.inner() | {n.outputs for n in analysis.severed.gone}
    fuse = [FuseBatchNorm(keep)] if options.fuse_bn else []
    return [RemoveChannels(choice.rewrite), *fuse]


def _proved(
    analysis: Analysis, dead: NDArray[np.int64], pruned: Model, options: Options, progress: Progress
) -> Proof | None:
    if options.check_n == 0:
        return None
    return prove(
        analysis.trace,
        analysis.severed,
        analysis.flat,
        dead,
        pruned,
        samples=options.check_n,
        seed=options.seed,
        rtol=options.rtol,
        atol=options.atol,
        progress=progress,
    )


def unproven(report: Report) -> CheckError | None:
    """What is raised where a tensor differs by more than rounding; None where none does."""
    proof = report.proof
    if proof is None or not (failures := proof.failures()):
        return None
    error = f"rewrite error {failures[0].relative:.2e} of its range (limit {proof.rtol:.0e}); no model was written"
    hint = "a wider limit is --rtol; if it is not rounding, please report this as a bug"
    return CheckError(error, where=f"tensor '{failures[0].name}'", hint=hint)


@dataclass(frozen=True)
class _Outcome:
    """What a run came to. ``pruned``: on the graph that was analysed; ``written``: as it goes to the file."""

    choice: Choice
    pruned: Model
    written: Model
    changes: tuple[str, ...]
    proof: Proof | None
    learnt: Learnt | None
    missed: tuple[str, ...]  # what was not tried, and why
    planned: bool
    plan: Plan = field(repr=False)


def _report(
    analysis: Analysis, options: Options, outcome: _Outcome, data: CalibrationSet | None, watch: Stopwatch
) -> Report:
    trace, given, choice = analysis.trace, analysis.inlined.model, outcome.choice
    gone = np.zeros(trace.units, np.bool_)
    gone[choice.dead] = True
    groups, removed = choice.groups, {g.index: int(gone[g.units].sum()) for g in choice.groups}
    own = ratio_of(trace, groups, options)
    free = outcome.planned or options.budget is not None or len(options.ways) > 1  # no group was asked for a ratio
    asked = {g.index: own.get(g.index, removed[g.index] / g.width if free else options.ratio) for g in groups}
    width = groups.width
    before = cost.cost(trace.model.graph, trace.shapes.shape)
    later = _shapes_after(trace, choice.rewrite, outcome.pruned)
    after = cost.cost(outcome.pruned.graph, later)
    total = sum(removed.values())
    return Report(
        model=str(given.path or ""),
        output="",
        sha256=given.sha256,
        options=options.to_json(),
        asked=sum(asked[g.index] * g.width for g in groups) / width if width else 0.0,
        achieved=total / width if width else 0.0,
        lossless=int(gone[groups.lossless].sum()),
        channels=SizeReport(width, width - total),
        parameters=SizeReport(before.parameters, after.parameters),
        macs=SizeReport(before.macs, after.macs),
        file_bytes=SizeReport(given.byte_size, outcome.written.byte_size),
        costs=_costs(trace, options, outcome.pruned, later),
        groups=report.group_reports(groups, gone, asked, choice.notes, choice.scores),
        proof=outcome.proof,
        changes=outcome.changes,
        notes=(
            *input_shapes.guessed(given.graph.inputs, trace.shapes.inputs, options.input_shapes),
            *(data.notes if data else ()),
            *outcome.missed,
            *choice.remarks,
            *_estimated(options),
            *_notes(choice, outcome.proof, analysis.severed),
        ),
        versions=versions(),
        seconds=watch.seconds,
        learnt=outcome.learnt,
        parts=anatomy.parts(trace, groups, {i: groups.groups[i].width - n for i, n in removed.items()}),
        layers=anatomy.layers(trace.model.graph, trace.shapes.shape, outcome.pruned.graph, later, options.target),
        slices=anatomy.slices(trace, groups, outcome.plan),
    )


def _costs(trace: Trace, options: Options, pruned: Model, after: Mapping[str, Shape]) -> dict[str, SizeReport]:
    """What a target and a budget make interesting, beside what is always reported; ``after``: shapes of ``pruned``."""
    models: dict[str, cost.CostModel] = {"cycles": options.target} if options.target else {}
    if options.budget and options.budget.cost.name == "activations":
        models["activations"] = options.budget.cost

    def total(model: cost.CostModel, graph: Graph, shapes: Mapping[str, Shape]) -> int:
        return round(sum(cost.by_node(model, graph, shapes).values()))

    return {
        name: SizeReport(total(m, trace.model.graph, trace.shapes.shape), total(m, pruned.graph, after))
        for name, m in models.items()
    }


def _estimated(options: Options) -> tuple[str, ...]:
    """Whose cycles these are."""
    if options.target is None:
        return ()
    chip = options.target.chip
    source = f"the compiler's estimate ({chip.measured})" if chip.measured else "counted by what documents say"
    return (f"cycles of {options.target} are {source}, not a board's time",)


def _shapes_after(trace: Trace, result: Rewrite, pruned: Model) -> dict[str, Shape]:
    constants = {n: s for n, (_, s) in pruned.graph.constants.items()}
    return {**trace.shapes.shape, **result.shapes, **constants}


def _notes(choice: Choice, proof: Proof | None, severed: Severed) -> tuple[str, ...]:
    """What a reader must not miss."""
    notes = [] if len(choice.groups) else ["nothing in this model can be pruned: onnxprune inspect says why"]
    for error in proof.rewrite if proof else ():
        if error.compared < 1:
            share = f"{100 * (1 - error.compared):.0f} % of output '{error.name}'"
            notes.append(f"{share} is NaN or infinite on these inputs, in both models: it could not be compared")
    if proof is not None and severed.gone:
        first = severed.gone[0].label
        count = "it was" if len(severed.gone) == 1 else f"{len(severed.gone)} nodes from it on were"
        notes.append(f"'{first}' cannot be run here: {count} left as in the model, and what it reads was compared")
    if proof is not None and proof.engine != "onnxruntime":
        notes.append(f"proven with {proof.engine}: onnxruntime has no kernel for some of the types in the model")
    return tuple(notes)


def versions() -> dict[str, str]:
    """Versions of what decides the result."""
    names = ("onnxprune", "onnx", "onnxruntime", "onnx-graphsurgeon", "numpy", "scipy", "networkx")
    return {"python": platform.python_version(), **{n: metadata.version(n) for n in names}}


def inspect(model: Model, options: Options) -> report.Inspection:
    """What could be pruned, and what could not and why.

    Nodes that cannot follow are found by a trial at half the width.
    """
    analysis = analyse(model, exclude=options.exclude, input_shapes=options.input_shapes, seed=options.seed)
    trial = Options(ratio=0.5, importance="random", exclude=options.exclude, input_shapes=options.input_shapes)
    trace, subject = analysis.trace, Subject(analysis.trace)
    groups = choose(analysis, trial, subject, trial.ways[0], scores.resolve("random")(subject)).groups
    model = trace.model
    macs = cost.macs_by_node(model.graph, trace.shapes.shape)
    return report.Inspection(
        str(model.path or ""),
        trace.shapes.inputs,
        cost.cost(model.graph, trace.shapes.shape),
        groups.width,
        len(groups.lossless),
        tuple(report.inspect_group(g, _parameters(model, g), sum(macs.get(n, 0) for n in g.nodes)) for g in groups),
        tuple(report.InspectHeld(h.node, h.constant, h.width, h.held, tuple(map(str, h.reasons))) for h in groups.held),
    )


def _parameters(model: Model, group: grouping.Group) -> int:
    """Parameters in the slices of a group's channels: what goes when all of it does."""
    total = 0
    for name in dict.fromkeys(s.constant for s in group.slices if s.constant in model.graph.constants):
        shape = model.graph.constants[name][1]
        share = 1.0
        for part in group.slices:
            if part.constant == name:
                share *= 1 - float(np.isin(part.units, [*group.units, *group.places]).mean())
        total += round(math.prod(shape) * (1 - share))
    return total
