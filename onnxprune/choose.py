"""From a model to what goes of it: labels, groups, scores, widths, and a rewrite that every node accepts."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnxprune import budget as budgets
from onnxprune import dormant, runtime, scores
from onnxprune import groups as grouping
from onnxprune import rewrite as rewriting
from onnxprune import shapes as shaping
from onnxprune import trace as tracing
from onnxprune.alignment import Multiple, TargetBlocks
from onnxprune.allocate import Allocation, allocate
from onnxprune.branches import Flat, flatten
from onnxprune.candidates import Way
from onnxprune.cost import Macs
from onnxprune.errors import OptionError, nearest, thousands
from onnxprune.functions import Inlined, inline
from onnxprune.groups import Groups
from onnxprune.model import Model
from onnxprune.options import Options
from onnxprune.rewrite import Rewrite
from onnxprune.scores import readers
from onnxprune.scores.subject import Scorer, Scores, Subject
from onnxprune.severed import Severed, sever
from onnxprune.sizing import cost_of
from onnxprune.spend import Spending
from onnxprune.trace import Pinned, Trace
from onnxprune.widths import choices


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
    """Which units go, the rewrite that removes them, and the groups they were chosen from, with their ``scores``.

    There are no scores where a saved plan was applied.
    """

    dead: NDArray[np.int64] = field(repr=False)
    rewrite: Rewrite
    groups: Groups
    notes: Mapping[int, str]
    scores: tuple[Scores, ...] = field(default=(), repr=False)
    remarks: tuple[str, ...] = ()  # on the whole of it


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
        hint = nearest(glob.strip("*"), names, "onnxprune inspect lists the names")
        raise OptionError(f"no node or tensor matches '{glob}'", where=where, hint=hint)
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


def choose(analysis: Analysis, options: Options, subject: Subject, way: Way, scorer: Scorer) -> Choice:
    """Score, allocate and rewrite; what cannot follow is pinned and the choice made again."""
    trace, groups, pins = analysis.trace, analysis.groups, dict(analysis.pins)
    while True:
        scored = scores.score(subject, groups, scorer)
        allocation = _allocate(subject, groups, scored, options, way)
        result = rewriting.rewrite(trace, allocation.dead)
        if isinstance(result, Rewrite):
            remarks = _wasteful(subject, groups, scored, options, way, allocation)
            return Choice(allocation.dead, result, groups, allocation.notes, tuple(scored), remarks)
        new = [int(u) for u in result.units if int(u) not in pins and int(u) not in trace.pinned]
        if not new:
            raise AssertionError(f"{result.reason}, and nothing is left to pin")
        pins.update((u, result.reason) for u in new)
        groups = grouping.group(trace, pins)


def _allocate(subject: Subject, groups: Groups, scored: Sequence[Scores], options: Options, way: Way) -> Allocation:
    trace, plain = subject.trace, Multiple(options.align or 1)
    allocated = partial(
        allocate,
        max_ratio=options.max_ratio,
        ratio_of=ratio_of(trace, groups, options),
        lossless=groups.lossless if options.lossless else None,
    )
    align = TargetBlocks(trace, groups, options.target) if options.target and options.align is None else plain
    if options.budget is None and len(options.ways) == 1 and way.scope != "cost":
        return allocated(choices(groups, scored, align), ratio=options.ratio, scope=way.scope)
    cost = options.budget.cost if options.budget else options.target or Macs()
    if options.budget is None:  # what the ratio leaves of the cost when each group loses as much
        by_size = scores.score(subject, groups, scores.resolve("l2")(subject))
        evenly = allocated(choices(groups, by_size, align), ratio=options.ratio, scope="group")
        limit = cost_of(trace, cost, evenly.dead)
    else:
        limit = options.budget.amount(cost_of(trace, cost, np.zeros(0, np.int64)))
    if way.scope == "cost" and scores.resolve(way.importance).within:
        scored = readers.comparable(groups, scored)
    spending = Spending(trace, groups, scored, allocated, cost, limit, way.scope, options.align, options.target)
    return spending.allocation()


def _wasteful(
    subject: Subject, groups: Groups, scored: Sequence[Scores], options: Options, way: Way, made: Allocation
) -> tuple[str, ...]:
    """What the target's own blocks would give, where ``--align`` says less and that wastes cycles or score."""
    if options.target is None or options.align is None or not len(groups):
        return ()
    block = math.lcm(options.target.precision.out_block, options.target.precision.in_block)
    if options.align % block == 0:
        return ()
    other = budgets.attempt(partial(_allocate, subject, groups, scored, replace(options, align=block), way))
    if isinstance(other, OptionError):
        return ()
    trace, total = subject.trace, sum(float(s.sum()) for s in scored)
    (now, lost), (then, less) = (
        (cost_of(trace, options.target, a.dead), groups.lost(scored, a.dead)) for a in (made, other)
    )
    if then >= now and less >= lost:
        return ()
    left = " instead of ".join(map(thousands, (then, now)))
    kept = " instead of ".join(f"{100 * (1 - x / total):.1f} %" for x in (less, lost))
    return (
        f"{options.target} computes in {block} channels: --align {block} leaves {left} cycles, and {kept} of the score",
    )


def ratio_of(trace: Trace, groups: Groups, options: Options) -> dict[int, float]:
    """Groups with a ratio of their own; the last glob that names one of their channels decides."""
    found: dict[int, float] = {}
    for glob, value in options.ratio_for:
        units = _units_of(trace, _matches(trace, glob, "--ratio-for"))
        found.update((g.index, value) for g in groups if np.isin(g.units, units).any())
    return found
