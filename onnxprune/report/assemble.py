"""Making the report of a run from the results of its stages."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata

import numpy as np
from numpy.typing import NDArray

from onnxprune.cost import macs_and_bytes
from onnxprune.labels.groups import Groups
from onnxprune.labels.label_propagation import Trace
from onnxprune.labels.rewrite import Rewrite
from onnxprune.model.graph import Graph, Shape
from onnxprune.model.onnx_model import Model
from onnxprune.report import structure
from onnxprune.report.run_outcome import Outcome
from onnxprune.report.run_report import GroupReport, Report, SizeReport
from onnxprune.report.sparsity import sparsity_of
from onnxprune.widths.choose_channels import ratio_of
from onnxprune.widths.request import Request


def report_of(outcome: Outcome) -> Report:
    """The report of a run."""
    analysis, request, written = outcome.planner.analysis, outcome.request, outcome.written
    trace, first, given, choice = analysis.trace, outcome.whole.trace, outcome.whole.inlined.model, outcome.judged.best
    groups, gone, later = choice.groups, outcome.gone, _shapes_after(trace, choice.rewrite, written.pruned)
    removed = {g.index: int(gone[g.units].sum()) for g in groups}
    asked = _asked(outcome, removed)
    there = groups.width if outcome.whole is analysis else outcome.whole.groups.width  # some were pinned since
    total = sum(removed.values()) + there - groups.width
    before = macs_and_bytes.cost(first.model.graph, first.shapes.shape)
    after = macs_and_bytes.cost(written.pruned.graph, later)
    return Report(
        model=str(given.path or ""),
        output="",
        sha256=given.sha256,
        options=outcome.options,
        asked=(sum(asked[g.index] * g.width for g in groups) + there - groups.width) / there if there else 0.0,
        achieved=total / there if there else 0.0,
        lossless=int(gone[groups.lossless].sum()),
        channels=SizeReport(there, there - total),
        parameters=SizeReport(before.parameters, after.parameters),
        macs=SizeReport(before.macs, after.macs),
        file_bytes=SizeReport(given.byte_size, written.model.byte_size),
        costs=_costs(first, request, written.pruned, later),
        groups=_groups(groups, gone, asked, choice.notes, choice.scores),
        proof=written.proof,
        changes=written.changes,
        notes=outcome.notes(),
        versions=versions(),
        seconds=outcome.seconds,
        recovered=written.solved.recovered,
        revalued=written.revalued,
        search=outcome.search,
        parts=structure.parts(trace, groups, {i: groups.groups[i].width - n for i, n in removed.items()}),
        layers=structure.layers(first.model.graph, first.shapes.shape, written.pruned.graph, later, request.target),
        slices=structure.slices(trace, groups, written.plan),
        zeros=written.zeros,
        grids=written.grids,
        sparsity=sparsity_of(written.pruned, later, written.solved.model) if written.zeros is not None else None,
    )


def _asked(outcome: Outcome, removed: Mapping[int, int]) -> dict[int, float]:
    """The ratio of each group that was asked for; where none was, or only one of all together, what was ``removed``."""
    request, groups = outcome.request, outcome.judged.best.groups
    own = ratio_of(outcome.planner.analysis.trace, groups, request)
    free = outcome.planned or request.budget is not None or request.only_named
    return {g.index: own.get(g.index, removed[g.index] / g.width if free else request.ratio) for g in groups}


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


def _shapes_after(trace: Trace, result: Rewrite, pruned: Model) -> dict[str, Shape]:
    constants = {n: s for n, (_, s) in pruned.graph.constants.items()}
    return {**trace.shapes.shape, **result.shapes, **constants}


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
