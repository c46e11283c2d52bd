"""Width 0: whether residual branches should go whole, judged as plans are.

Each branch alone is taken out, and what that does to held-out samples is set against the cost that it saves. The
cheapest one, two and three (or more, where no fewer meet the budget) are taken out, the rest of the budget is spent
as ever, and the plan that is nearest to the original on held-out samples is taken, which may be that with all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.calibration.gram_matrices import products
from onnxprune.calibration.original_observed import ObservedOriginal
from onnxprune.cost.macs_and_bytes import CostModel, by_node
from onnxprune.cost.sizes import cost_of
from onnxprune.errors import OnnxPruneError, OptionError
from onnxprune.labels.analysis import Analysis
from onnxprune.model.onnx_model import Model
from onnxprune.options import Options
from onnxprune.passes import run as run_passes
from onnxprune.planning.branch_removal import Branch, WithoutBranches, branches
from onnxprune.planning.given_model import folding, without
from onnxprune.planning.planner import Planner
from onnxprune.proof import distance_over_outputs as heldout
from onnxprune.widths.budget import Budget
from onnxprune.widths.choose_channels import Choice
from onnxprune.widths.plan_contest import Judged, Tried

#: So many plans are made without branches, and so many branches are looked at.
MOST, LOOKED_AT = 3, 48


@dataclass(frozen=True)
class Won:
    """The plan that is nearest, of a model without the branches ``names``: its analysis and what was tried."""

    names: tuple[str, ...]
    planner: Planner = field(repr=False)
    judged: Judged[Choice] = field(repr=False)


def may_go(options: Options, analysis: Analysis, observed: ObservedOriginal | None) -> bool:
    """Whether whole branches are a choice: with a budget and data, where nobody names channels."""
    request = options.request
    named = request.remove or request.keep or request.ratio_for or request.max_ratio is not None
    plain = analysis.trace.model is analysis.inlined.model and not analysis.pins
    judged = observed is not None and not observed.data.drawn_judge and options.compensate
    return bool(options.whole_branches and request.budget is not None and judged and plain and not named)


def contest(planner: Planner) -> Won:
    """The nearest plan, with whole branches gone or without. Raises OptionError where none meets the budget."""
    request, observed = planner.options.request, planner.observed
    assert observed is not None
    assert request.budget is not None
    trace = planner.analysis.trace
    cost = request.budget.cost
    whole = cost_of(trace, cost, np.zeros(0, np.int64))
    limit = Budget(cost, request.budget.amount(whole))
    order = _cheapest(planner, observed, cost, whole)
    best: list[tuple[float, Won]] = []
    tried: list[Tried] = []
    refused = None
    try:
        judged = planner.chosen(request)
    except OptionError as reason:
        refused = reason
    else:
        best.append((_distance(planner, judged), Won((), planner, judged)))
        tried += judged.tried or [Tried(str(request.ways[0]), best[0][0])]
    for count in range(1, len(order) + 1):
        names = tuple(b.name for b in order[:count])
        try:
            own = _without(planner, observed, names)
            made = own.chosen(replace(request, budget=limit))
        except OnnxPruneError:  # they lie in each other, or nothing is left to spend the budget on
            continue
        distance = _distance(own, made)
        tried.append(Tried(f"without {count} whole branch{'es' if count > 1 else ''}", distance))
        best.append((distance, Won(names, own, made)))
        planner.progress("compare whole branches", len(best), MOST)
        if sum(bool(won.names) for _, won in best) == MOST:
            break
    if refused is not None and not best:
        raise refused
    _, won = min(best, key=lambda b: b[0])
    return replace(won, judged=replace(won.judged, tried=tuple(tried)))


def _distance(planner: Planner, judged: Judged[Choice]) -> float:
    """Of the plan's outputs from the original's, on held-out samples."""
    known = [t.distance for t in judged.tried]
    return min(known) if known else planner.distance(judged.best)


def _cheapest(planner: Planner, observed: ObservedOriginal, cost: CostModel, whole: float) -> list[Branch]:
    """Branches by what they do to held-out samples for what they save, the cheapest first."""
    analysis = planner.analysis
    found: list[tuple[float, Branch]] = []
    for number, branch in enumerate([*branches(analysis.trace)][:LOOKED_AT]):
        try:
            left = WithoutBranches(analysis, [branch.name]).run(analysis.trace.model).model
            apart = heldout.distance(left, observed.seen, "the model without a branch")
        except OnnxPruneError:
            continue
        saved = whole - _cost(analysis, left, cost)
        if saved > 0:
            found.append((apart / saved, branch))
        planner.progress("look at branches", number + 1, LOOKED_AT)
    return [branch for _, branch in sorted(found, key=lambda f: f[0])]


def _cost(analysis: Analysis, left: Model, cost: CostModel) -> float:
    shapes = {**analysis.trace.shapes.shape, **{n: s for n, (_, s) in left.graph.constants.items()}}
    return float(sum(by_node(cost, left.graph, shapes).values()))


def _without(planner: Planner, observed: ObservedOriginal, names: Sequence[str]) -> Planner:
    """A planner for the model without these branches, with what was seen of the original."""
    analysis = without(planner.analysis, planner.options, names)
    return replace(planner, analysis=analysis, observed=observed_for(analysis, planner.options, observed))


def observed_for(analysis: Analysis, options: Options, observed: ObservedOriginal) -> ObservedOriginal:
    """What was seen of the whole model, for one without some of its branches."""
    model = analysis.trace.model
    reference = run_passes(model, folding(options, analysis.trace)).model
    seen, found = observed.seen, products(reference, analysis.trace.shapes.shape)
    own = {p.node.label: (p, seen.products[p.node.label]) for p in found if p.node.label in seen.products}
    left = {label: replace(p, total=whole.total, partner=whole.partner) for label, (p, whole) in own.items()}
    return replace(observed, reference=reference, seen=replace(seen, products=left), cache=None, key="")
