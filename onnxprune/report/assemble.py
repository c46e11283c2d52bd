"""Making the report of a run from the results of its stages."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from onnxprune.cost import macs_and_bytes
from onnxprune.errors import first_and_more
from onnxprune.labels.analysis import Analysis, matches, units_of
from onnxprune.labels.groups import Groups
from onnxprune.labels.label_propagation import Trace
from onnxprune.labels.lossless_removal import missed
from onnxprune.labels.rewrite import Rewrite
from onnxprune.model.graph import Graph, Shape
from onnxprune.model.onnx_model import Model
from onnxprune.passes.recover import Recovered
from onnxprune.plans.plan_file import Plan
from onnxprune.proof.exact import Proof
from onnxprune.proof.revalued import Revalued
from onnxprune.proof.unrounded_quantized import Steps
from onnxprune.proof.weights import GridsProof, ZerosProof
from onnxprune.report import structure
from onnxprune.report.run_report import GroupReport, Report, SizeReport
from onnxprune.report.sparsity import sparsity_of
from onnxprune.report.weights_accounted import account, first_reasons
from onnxprune.running import tried_input_shapes
from onnxprune.running.unknown_operators import Severed
from onnxprune.search.smallest import SearchReport
from onnxprune.widths.choose_channels import Choice, ratio_of
from onnxprune.widths.request import Request


@dataclass(frozen=True)
class Outcome:
    """The results of all stages of a run. ``whole``: the analysis before whole branches were removed.

    ``pruned``: the pruned model as analysed; ``written``: as it goes to the file. ``planned``: whether a saved plan was
    applied. ``request``, ``options``, ``input_shapes`` and ``input_values``: what was asked for. ``notes``: on the
    data, and on what was not tried. ``revalued``: proof that only weights changed when they were solved. ``zeros`` and
    ``grids``: proof of what was asked of weights, if anything was.
    """

    analysis: Analysis
    whole: Analysis
    choice: Choice
    pruned: Model
    written: Model
    changes: tuple[str, ...]
    proof: Proof | None
    recovered: Recovered | None
    revalued: Revalued | None
    plan: Plan = field(repr=False)
    planned: bool
    request: Request
    options: Mapping[str, Any]
    input_shapes: Mapping[str, Sequence[int]]
    input_values: Mapping[str, float]
    notes: tuple[str, ...]
    seconds: Mapping[str, float]
    search: SearchReport | None = None
    zeros: ZerosProof | None = None
    grids: GridsProof | None = None


def report_of(outcome: Outcome) -> Report:
    """The report of a run."""
    analysis, request = outcome.analysis, outcome.request
    trace, given, choice = analysis.trace, outcome.whole.inlined.model, outcome.choice
    gone = np.zeros(trace.units, np.bool_)
    gone[choice.dead] = True
    groups, removed = choice.groups, {g.index: int(gone[g.units].sum()) for g in choice.groups}
    own = ratio_of(trace, groups, request)
    # No group was asked for a ratio; or only all of them together.
    free = outcome.planned or request.budget is not None or request.only_named
    asked = {g.index: own.get(g.index, removed[g.index] / g.width if free else request.ratio) for g in groups}
    width, first = groups.width, outcome.whole.trace
    there = width if outcome.whole is analysis else outcome.whole.groups.width  # some were pinned since
    before = macs_and_bytes.cost(first.model.graph, first.shapes.shape)
    later = _shapes_after(trace, choice.rewrite, outcome.pruned)
    after = macs_and_bytes.cost(outcome.pruned.graph, later)
    total = sum(removed.values()) + there - width
    return Report(
        model=str(given.path or ""),
        output="",
        sha256=given.sha256,
        options=outcome.options,
        asked=(sum(asked[g.index] * g.width for g in groups) + there - width) / there if there else 0.0,
        achieved=total / there if there else 0.0,
        lossless=int(gone[groups.lossless].sum()),
        channels=SizeReport(there, there - total),
        parameters=SizeReport(before.parameters, after.parameters),
        macs=SizeReport(before.macs, after.macs),
        file_bytes=SizeReport(given.byte_size, outcome.written.byte_size),
        costs=_costs(first, request, outcome.pruned, later),
        groups=_groups(groups, gone, asked, choice.notes, choice.scores),
        proof=outcome.proof,
        changes=outcome.changes,
        notes=(
            *tried_input_shapes.guessed(
                given, trace.shapes.inputs, outcome.input_shapes, trace.shapes.draws, outcome.input_values
            ),
            *outcome.notes,
            *choice.remarks,
            *(_stayed(choice.groups, gone, outcome.pruned.graph, request.align or 1) if request.lossless else ()),
            *_idle(trace, groups, request, outcome.options),
            *_estimated(request),
            *(_branches(analysis.flat.taken) if len(groups) else ()),
            *_notes(choice, outcome.proof, analysis.severed, _stays(trace, groups)),
            *_unmoved(trace, choice, outcome.proof),
        ),
        versions=versions(),
        seconds=outcome.seconds,
        recovered=outcome.recovered,
        revalued=outcome.revalued,
        search=outcome.search,
        parts=structure.parts(trace, groups, {i: groups.groups[i].width - n for i, n in removed.items()}),
        layers=structure.layers(first.model.graph, first.shapes.shape, outcome.pruned.graph, later, request.target),
        slices=structure.slices(trace, groups, outcome.plan),
        zeros=outcome.zeros,
        grids=outcome.grids,
        sparsity=sparsity_of(outcome.written, later) if outcome.zeros is not None else None,
    )


def _stayed(groups: Groups, gone: NDArray[np.bool_], after: Graph, align: int) -> Iterator[str]:
    """Which lossless channels stay, and why, of layers that are still there."""
    left = {node.label for node in after.nodes}
    for group in groups:
        own = np.intersect1d(group.units, groups.lossless)
        staying = int((~gone[own]).sum())
        if not staying or group.name not in left:
            continue
        rest = group.width - int(gone[group.units].sum())
        why = f"{rest - staying} would be left, and {rest} is the next width that is allowed"
        if rest == staying:
            why = "something of a layer always stays"
        elif align > 1:
            why = f"{rest - staying} would be left, and the next multiple of {align} is {rest}"
        yield f"{group.name}: {staying} of its {len(own)} lossless channels stay: {why}"


def _costs(trace: Trace, request: Request, pruned: Model, after: Mapping[str, Shape]) -> dict[str, SizeReport]:
    """What a target and a budget make interesting, beside what is always reported; ``after``: shapes of ``pruned``."""
    models: dict[str, macs_and_bytes.CostModel] = {"cycles": request.target} if request.target else {}
    if request.budget and request.budget.cost.name == "activations":
        models["activations"] = request.budget.cost

    def total(model: macs_and_bytes.CostModel, graph: Graph, shapes: Mapping[str, Shape]) -> int:
        return round(sum(macs_and_bytes.by_node(model, graph, shapes).values()))

    return {
        name: SizeReport(total(m, trace.model.graph, trace.shapes.shape), total(m, pruned.graph, after))
        for name, m in models.items()
    }


def _estimated(request: Request) -> tuple[str, ...]:
    """Whose cycles these are."""
    if request.target is None:
        return ()
    chip = request.target.chip
    source = f"the compiler's estimate ({chip.measured})" if chip.measured else "counted by what documents say"
    return (f"cycles of {request.target} are {source}, not a board's time",)


def _branches(taken: Mapping[tuple[str, ...], bool]) -> Iterator[str]:
    """Which Ifs are written as one branch of theirs."""
    if taken:
        who = first_and_more([first for first, *_ in taken])
        branch = "then" if next(iter(taken.values())) else "else"
        yield f"the If of {who} always goes one way ({branch}): what it takes is written in its place"


def _shapes_after(trace: Trace, result: Rewrite, pruned: Model) -> dict[str, Shape]:
    constants = {n: s for n, (_, s) in pruned.graph.constants.items()}
    return {**trace.shapes.shape, **result.shapes, **constants}


def _unmoved(trace: Trace, choice: Choice, proof: Proof | None) -> Iterator[str]:
    """Which outputs come from what was cut, and give the same as before on all inputs of the proof."""
    if proof is None or not missed(trace)[choice.dead].any():
        return
    graph, shapes = trace.model.graph, trace.shapes.shape
    cut = [graph.producer[n] for n, s in choice.rewrite.shapes.items() if n in graph.producer and s != shapes.get(n)]
    behind = {n.index for n in cut}.union(*(nx.descendants(graph.network, n.index) for n in cut))
    for error in proof.pruning:
        maker = graph.producer.get(error.name)
        if error.max_abs == 0 and maker is not None and maker.index in behind:
            what = f"output '{error.name}' did not react to what was removed"
            yield f"{what}: on these inputs the proof says little of it"


def _idle(trace: Trace, groups: Groups, request: Request, options: Mapping[str, Any]) -> Iterator[str]:
    """Patterns that have no effect: all that they name stays anyway."""
    free = np.concatenate([np.zeros(0, np.int64), *(g.units for g in groups)])
    given = [("--ratio-for", glob) for glob, _ in request.ratio_for]
    for option, glob in (*given, *(("--exclude", glob) for glob in options.get("exclude", ()))):
        units = units_of(trace, matches(trace, glob, option))
        own = [trace.pinned.get(int(u)) for u in units if u]
        if option == "--ratio-for" and np.isin(units, free).any():
            continue
        if option == "--exclude" and not all(own):
            continue
        reasons = [str(r) for found in own for r in found or () if r.why]
        why = reasons[0] if reasons else "it names no channels"
        yield f"{option} '{glob}' has no effect: {why}"


def _stays(trace: Trace, groups: Groups) -> list[str]:
    """Where nothing can be pruned, the first reasons why."""
    return [] if len(groups) else first_reasons(account(trace, groups))


def _notes(choice: Choice, proof: Proof | None, severed: Severed, stays: Sequence[str]) -> tuple[str, ...]:
    """What a reader must not miss."""
    notes = [] if len(choice.groups) else ["nothing in this model can be pruned: onnxprune inspect says why", *stays]
    for error in proof.rewrite if proof else ():
        if error.compared < 1:
            share = f"{100 * (1 - error.compared):.0f} % of output '{error.name}'"
            notes.append(f"{share} is NaN or infinite on these inputs, in both models: it could not be compared")
    if proof is not None and proof.steps is not None:
        notes.append(_rounded(proof.steps))
    if proof is not None and severed.stood:
        whom = first_and_more([node.label for node in severed.stood])
        notes.append(f"{whom} cannot be run here: compared with their like, which do not round, in their place")
    for output, sources in (proof.picked if proof else {}).items():
        names = ", ".join(f"'{n}'" for n in sources)
        what = f"output '{output}' is picked by rank, which rounding changes"
        notes.append(f"{what}: compared is what it is picked from, {names}")
    if proof is not None and severed.gone:
        first = severed.gone[0].label
        count = "it was" if len(severed.gone) == 1 else f"{len(severed.gone)} nodes from it on were"
        notes.append(f"'{first}' cannot be run here: {count} left as in the model, and what it reads was compared")
    if proof is not None and proof.engine != "onnxruntime":
        notes.append(f"proven with {proof.engine}: onnxruntime has no kernel for some of the types in the model")
    return tuple(notes)


def _rounded(steps: Steps) -> str:
    """What rounding of activations does to a rewrite that is exact without."""
    how = "the rewrite error is measured without rounding activations to their codes"
    if not steps.most:
        return f"{how}; rounded, all codes agree"
    several = "s" if steps.most > 1 else ""
    return f"{how}; rounded, {steps.share:.2%} of codes differ, by {steps.most} step{several} at most, at '{steps.at}'"


def versions() -> dict[str, str]:
    """The versions of the packages that a result depends on."""
    names = ("onnxprune", "onnx", "onnxruntime", "onnx-graphsurgeon", "numpy", "scipy", "networkx")
    return {"python": platform.python_version(), **{n: metadata.version(n) for n in names}}


def _groups(
    groups: Groups,
    gone: NDArray[np.bool_],
    asked: Mapping[int, float],
    notes: Mapping[int, str],
    scores: Sequence[NDArray[np.float64]],
) -> tuple[GroupReport, ...]:
    """A line for each group; ``gone``: by unit; ``scores``: [width] of each group, or none at all."""
    found = []
    for place, g in enumerate(groups):
        removed = np.flatnonzero(gone[g.units])
        found.append(
            GroupReport(
                g.name,
                g.width,
                g.width - len(removed),
                asked[g.index],
                len(removed) / g.width,
                notes.get(g.index, ""),
                tuple(float(f"{s:.4g}") for s in scores[place]) if scores else (),
                tuple(removed.tolist()),
            )
        )
    return tuple(found)
