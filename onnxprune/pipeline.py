"""The whole line, stage by stage: model -> trace -> groups -> scores -> plan -> rewrite -> fuse BN -> proof -> report.

Every stage hands on a plain value. Nothing here knows an operator, a file format or a terminal.
"""

from __future__ import annotations

import fnmatch
import math
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from importlib import metadata
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune import calibration, cost, dormant, report, runtime, scores
from onnxprune import groups as grouping
from onnxprune import plan as plans
from onnxprune import rewrite as rewriting
from onnxprune import shapes as shaping
from onnxprune import trace as tracing
from onnxprune.allocate import Allocation, allocate
from onnxprune.branches import Flat, flatten
from onnxprune.calibration import CalibrationSet, Data
from onnxprune.errors import CheckError, ModelError, OptionError
from onnxprune.functions import Inlined, inline
from onnxprune.graph import Shape
from onnxprune.groups import Groups
from onnxprune.model import Model
from onnxprune.passes import FuseBatchNorm, Pass, RemoveChannels, RestoreBranches, RestoreCalls
from onnxprune.passes import run as run_passes
from onnxprune.plan import Plan
from onnxprune.progress import Progress, silent
from onnxprune.report import Report, SizeReport
from onnxprune.rewrite import Rewrite
from onnxprune.scores.subject import Criterion, Scorer, Subject
from onnxprune.severed import Severed, sever
from onnxprune.trace import Pinned, Trace
from onnxprune.verify import Proof, prove


@dataclass(frozen=True)
class Options:
    """How to prune. The fields are the command line's options; README.md describes them."""

    ratio: float = 0.3
    lossless: bool = False
    align: int = 1
    importance: str = "l2"
    scope: str = "group"
    exclude: tuple[str, ...] = ()
    ratio_for: tuple[tuple[str, float], ...] = ()
    max_ratio: float | None = None
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    fuse_bn: bool = True
    seed: int = 0
    check_n: int = 3
    rtol: float | None = None
    atol: float = 0.0
    data: Data | None = None
    flops_reg: float = 0.001

    def __post_init__(self) -> None:
        """Raise OptionError for values out of range."""
        _in_range("--ratio", self.ratio)
        for glob, value in self.ratio_for:
            _in_range(f"--ratio-for {glob}", value)
        if self.max_ratio is not None:
            _in_range("--max-ratio", self.max_ratio)
        if self.align < 1:
            raise OptionError(f"must be at least 1, not {self.align}", where="--align")
        if self.check_n < 0:
            raise OptionError(f"must not be negative, as {self.check_n} is", where="--check-n")
        if self.scope not in ("group", "global"):
            raise OptionError(f"must be group or global, not {self.scope}", where="--scope")

    def to_json(self) -> dict[str, Any]:
        """As plan and report write them."""
        return {
            "ratio": self.ratio,
            "lossless": self.lossless,
            "align": self.align,
            "importance": self.importance,
            "scope": self.scope,
            "exclude": list(self.exclude),
            "ratio_for": dict(self.ratio_for),
            "max_ratio": self.max_ratio,
            "input_shapes": {n: list(s) for n, s in self.input_shapes.items()},
            "fuse_bn": self.fuse_bn,
            "seed": self.seed,
            **({"flops_reg": self.flops_reg} if self.importance == "taylor" else {}),
            **({"data": self.data.to_json()} if self.data else {}),
        }


def _in_range(where: str, value: float) -> None:
    if not 0 <= value < 1:
        raise OptionError(
            f"must be at least 0 and less than 1, not {value:g}", where=where, hint="0.3 removes 30 % of the channels"
        )


@dataclass(frozen=True)
class Analysis:
    """A model that was run on labels, what of it can be run on numbers, and its groups; ``pins``: held by options.

    ``inlined``: the model as given, and with its functions written out; ``flat``: with its branches too, as it was run.
    """

    inlined: Inlined
    flat: Flat
    trace: Trace
    severed: Severed
    groups: Groups
    pins: Mapping[int, Pinned] = field(repr=False)


@dataclass(frozen=True)
class Choice:
    """Which units go, the rewrite that removes them, and the groups they were chosen from."""

    dead: NDArray[np.int64] = field(repr=False)
    rewrite: Rewrite
    groups: Groups
    notes: Mapping[int, str]


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


def analyse(model: Model, options: Options) -> Analysis:
    """Run the model on labels and group its channels. Raises ModelError and OptionError."""
    inlined = inline(model)
    severed = sever(inlined.written)
    part = severed.part
    flat = flatten(inlined.written, wanted=not severed.gone)  # what cannot be run is pinned as a whole
    model = flat.written
    input_shapes = runtime.choose_shapes(model, options.input_shapes, part)
    shapes = shaping.resolve(
        model,
        input_shapes,
        lambda names: runtime.probe_shapes(part, names, input_shapes, options.seed),
        inlined.written,
    )
    trace = dormant.mark(tracing.trace(model, shapes))
    pins = _excluded(trace, options.exclude)
    return Analysis(inlined, flat, trace, sever(inlined.written, shapes), grouping.group(trace, pins), pins)


def _matches(trace: Trace, glob: str, where: str) -> set[str]:
    """Names of nodes and tensors that ``glob`` matches. Raises OptionError where there are none."""
    graph = trace.model.graph
    names = [n.label for n in graph.nodes] + [*graph.constants, *trace.tensors]
    found = {n for n in names if n == glob or fnmatch.fnmatchcase(n, glob)}
    if not found:
        raise OptionError(f"no node or tensor matches '{glob}'", where=where, hint="onnxprune inspect lists the names")
    return found


def _units_of(trace: Trace, names: set[str]) -> NDArray[np.int64]:
    """The units of named tensors and of the outputs of named nodes."""
    tensors = [t for n, t in trace.tensors.items() if n in names] + [
        t for use, t in trace.uses.items() if use[0] in names
    ]
    tensors += [
        trace.tensors[o] for n in trace.model.graph.nodes if n.label in names for o in n.outputs if o in trace.tensors
    ]
    units = [trace.unit[layer.labels].reshape(-1) for t in tensors for layer in t.layers]
    return np.unique(np.concatenate(units)) if units else np.zeros(0, np.int64)


def _excluded(trace: Trace, exclude: tuple[str, ...]) -> dict[int, Pinned]:
    pins: dict[int, Pinned] = {}
    for glob in exclude:
        for unit in _units_of(trace, _matches(trace, glob, "--exclude")):
            pins.setdefault(int(unit), Pinned("", f"is excluded by '{glob}'"))
    return pins


def choose(analysis: Analysis, options: Options, subject: Subject, criterion: Criterion) -> Choice:
    """Score, allocate and rewrite; what cannot follow is pinned and the choice made again."""
    scorer = criterion(subject)
    trace, groups, pins = analysis.trace, analysis.groups, dict(analysis.pins)
    while True:
        allocation = _allocate(subject, groups, options, scorer)
        result = rewriting.rewrite(trace, allocation.dead)
        if isinstance(result, Rewrite):
            return Choice(allocation.dead, result, groups, allocation.notes)
        new = [int(u) for u in result.units if int(u) not in pins and int(u) not in trace.pinned]
        if not new:
            raise AssertionError(f"{result.reason}, and nothing is left to pin")
        pins.update((u, result.reason) for u in new)
        groups = grouping.group(trace, pins)


def _allocate(subject: Subject, groups: Groups, options: Options, scorer: Scorer) -> Allocation:
    return allocate(
        groups,
        scores.score(subject, groups, scorer),
        ratio=options.ratio,
        align=options.align,
        scope=options.scope,
        max_ratio=options.max_ratio,
        ratio_of=_ratio_of(subject.trace, groups, options),
        all_lossless=options.lossless,
    )


def _ratio_of(trace: Trace, groups: Groups, options: Options) -> dict[int, float]:
    """Groups with a ratio of their own; the last glob that names one of their channels decides."""
    found: dict[int, float] = {}
    for glob, value in options.ratio_for:
        units = _units_of(trace, _matches(trace, glob, "--ratio-for"))
        found.update((g.index, value) for g in groups if np.isin(g.units, units).any())
    return found


def prune(
    model: Model, options: Options, plan: Plan | None = None, progress: Progress = silent, where: str = "plan"
) -> Result:
    """Prune ``model`` and prove it. Raises OnnxPruneError; CheckError where the result is not what it must be."""
    watch = Stopwatch(progress)
    criterion = scores.resolve(options.importance)
    if plan is None and options.data is None:
        criterion.check(None)
    with watch.stage("analyse"):
        analysis = analyse(model, options)
    trace = analysis.trace
    if (name := trace.model.not_a_number()) is not None:
        where_ = f"{model.path or 'model'}, tensor '{name}'"
        raise ModelError("has NaN weights", where=where_, hint="repair or export the model again")
    data = _calibration(trace, options, watch)
    with watch.stage("choose"):
        if plan is None:
            subject = Subject(trace, data, options.seed, options.flops_reg, watch.announce)
            choice = choose(analysis, options, subject, criterion)
        else:
            dead, result = plans.apply(trace, plan, where)
            choice = Choice(dead, result, analysis.groups, {})
    with watch.stage("rewrite"):
        done = run_passes(trace.model, _steps(choice, options, analysis))
        whole = run_passes(done.model, [RestoreBranches(analysis.flat)]).model
        called = run_passes(whole, [RestoreCalls(analysis.inlined)])
        written = called.model if len(choice.groups) else model
    with watch.stage("prove"):
        # Nodes that cannot be run are known by their own names, which a call hides.
        proof = _proved(analysis, choice.dead, whole if analysis.severed.gone else written, options, progress)
    changes = done.changes + called.changes
    made = plan or plans.make(trace, choice.rewrite, options.to_json())
    return Result(
        written,
        made,
        _report(
            analysis, choice, options, done.model, written, changes, proof, watch, planned=plan is not None, data=data
        ),
    )


def _calibration(trace: Trace, options: Options, watch: Stopwatch) -> CalibrationSet | None:
    """The calibration set that the options name, read once. Raises DataError."""
    if options.data is None:
        return None
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
    proof = prove(
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
    for failure in proof.failures():
        raise CheckError(
            f"rewrite error {failure.relative:.2e} of its range (limit {proof.rtol:.0e}); nothing was written",
            where=f"tensor '{failure.name}'",
            hint="a wider limit is --rtol; if it is not rounding, please report this as a bug",
        )
    return proof


def _report(
    analysis: Analysis,
    choice: Choice,
    options: Options,
    pruned: Model,
    written: Model,
    changes: tuple[str, ...],
    proof: Proof | None,
    watch: Stopwatch,
    *,
    planned: bool,
    data: CalibrationSet | None,
) -> Report:
    trace, given = analysis.trace, analysis.inlined.model
    gone = np.zeros(trace.units, np.bool_)
    gone[choice.dead] = True
    removed = {g.index: int(gone[g.units].sum()) for g in choice.groups}
    own = _ratio_of(trace, choice.groups, options)
    asked = {g.index: removed[g.index] / g.width if planned else own.get(g.index, options.ratio) for g in choice.groups}
    width = choice.groups.width
    before = cost.cost(trace.model.graph, trace.shapes.shape)
    after = cost.cost(pruned.graph, _shapes_after(trace, choice.rewrite, pruned))
    total = sum(removed.values())
    return Report(
        model=str(given.path or ""),
        output="",
        sha256=given.sha256,
        options=options.to_json(),
        asked=sum(asked[g.index] * g.width for g in choice.groups) / width if width else 0.0,
        achieved=total / width if width else 0.0,
        lossless=int(gone[choice.groups.lossless].sum()),
        channels=SizeReport(width, width - total),
        parameters=SizeReport(before.parameters, after.parameters),
        macs=SizeReport(before.macs, after.macs),
        file_bytes=SizeReport(given.byte_size, written.byte_size),
        groups=report.group_reports(choice.groups, removed, asked, choice.notes),
        proof=proof,
        changes=changes,
        notes=(*(data.notes if data else ()), *_notes(choice, proof, analysis.severed)),
        versions=versions(),
        seconds=watch.seconds,
    )


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
    analysis = analyse(model, options)
    trial = Options(ratio=0.5, importance="random", exclude=options.exclude, input_shapes=options.input_shapes)
    trace = analysis.trace
    groups = choose(analysis, trial, Subject(trace), scores.resolve("random")).groups
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
