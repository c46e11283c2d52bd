"""From a model to what goes of it: labels, groups, scores, widths, and a rewrite that every node accepts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from onnxprune.cost.macs_and_bytes import Macs
from onnxprune.cost.sizes import cost_of
from onnxprune.errors import OptionError, thousands
from onnxprune.importance import across_groups as readers
from onnxprune.importance import criteria as scores
from onnxprune.importance.criterion import Scorer, Scores, Subject
from onnxprune.labels import groups as grouping
from onnxprune.labels import rewrite as rewriting
from onnxprune.labels.analysis import Analysis, matches, units_of
from onnxprune.labels.groups import Groups
from onnxprune.labels.label_propagation import Trace
from onnxprune.labels.rewrite import Rewrite
from onnxprune.widths import budget as budgets
from onnxprune.widths.alignment_steps import Multiple, TargetBlocks
from onnxprune.widths.allowed_widths import choices
from onnxprune.widths.budget_strategies import Spending
from onnxprune.widths.named_channels import NOBODY, Named, Rows, named, refused
from onnxprune.widths.plan_contest import Way
from onnxprune.widths.request import Request
from onnxprune.widths.rounding_to_alignment import Allocation, allocate


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


def choose(
    analysis: Analysis, request: Request, subject: Subject, way: Way, scorer: Scorer, rows: Sequence[Rows] = ()
) -> Choice:
    """Score, allocate and rewrite; what cannot follow is pinned and the choice made again.

    ``rows``: what outputs still show; the rest goes with all that is only there for it. Raises OptionError where what
    is named cannot go.
    """
    trace, groups, pins = analysis.trace, analysis.groups, dict(analysis.pins)
    while True:
        who = named(trace, groups, request.remove, request.keep, rows)
        scored = scores.score(subject, groups, scorer)
        allocation = _allocate(subject, groups, scored, request, way, who)
        result = rewriting.rewrite(trace, allocation.dead)
        if isinstance(result, Rewrite):
            remarks = () if len(who.gone) else _wasteful(subject, groups, scored, request, way, allocation)
            return Choice(allocation.dead, result, groups, allocation.notes, tuple(scored), remarks)
        if (error := refused(trace, request.remove, result)) is not None:
            raise error
        new = [int(u) for u in result.units if int(u) not in pins and int(u) not in trace.pinned]
        if not new:
            raise AssertionError(f"{result.reason}, and nothing is left to pin")
        pins.update((u, result.reason) for u in new)
        groups = grouping.group(trace, pins)


def _allocate(
    subject: Subject, groups: Groups, scored: Sequence[Scores], request: Request, way: Way, who: Named = NOBODY
) -> Allocation:
    trace, plain = subject.trace, Multiple(request.align or 1)
    if request.only_named:
        return _only_named(trace, groups, who, request.align or 1)
    allocated = partial(
        allocate,
        max_ratio=request.max_ratio,
        ratio_of=ratio_of(trace, groups, request),
        lossless=groups.lossless if request.lossless else None,
    )
    align = TargetBlocks(trace, groups, request.target) if request.target and request.align is None else plain
    if request.budget is None and len(request.ways) == 1 and way.scope != "cost":
        return allocated(choices(groups, scored, align, who), ratio=request.ratio, scope=way.scope)
    cost = request.budget.cost if request.budget else request.target or Macs()
    if request.budget is None:  # what the ratio leaves of the cost when each group loses as much
        by_size = scores.score(subject, groups, scores.resolve("l2")(subject))
        evenly = allocated(choices(groups, by_size, align, who), ratio=request.ratio, scope="group")
        limit = cost_of(trace, cost, evenly.dead)
    else:
        limit = request.budget.amount(cost_of(trace, cost, np.zeros(0, np.int64)))
    if way.scope == "cost" and scores.resolve(way.importance).within:
        scored = readers.comparable(groups, scored)
    spending = Spending(trace, groups, scored, allocated, cost, limit, way.scope, request.align, request.target, who)
    return spending.allocation()


def _only_named(trace: Trace, groups: Groups, who: Named, align: int) -> Allocation:
    """What is named goes, and nothing else; what that makes of widths is told."""
    dead = trace.heads.completed(who.gone)
    left = {g.index: g.width - int(np.isin(g.units, dead).sum()) for g in groups}
    odd = {g.index for g in groups if left[g.index] < g.width and left[g.index] % align}
    return Allocation(dead, {i: f"{left[i]} is no multiple of {align}: only what is named goes" for i in odd})


def _wasteful(
    subject: Subject, groups: Groups, scored: Sequence[Scores], request: Request, way: Way, made: Allocation
) -> tuple[str, ...]:
    """What the target's own blocks would give, where ``--align`` says less and that wastes cycles or score."""
    if request.target is None or request.align is None or not len(groups):
        return ()
    block = math.lcm(request.target.precision.out_block, request.target.precision.in_block)
    if request.align % block == 0:
        return ()
    other = budgets.attempt(partial(_allocate, subject, groups, scored, replace(request, align=block), way))
    if isinstance(other, OptionError):
        return ()
    trace, total = subject.trace, sum(float(s.sum()) for s in scored)
    (now, lost), (then, less) = (
        (cost_of(trace, request.target, a.dead), groups.lost(scored, a.dead)) for a in (made, other)
    )
    if then >= now and less >= lost:
        return ()
    left = " instead of ".join(map(thousands, (then, now)))
    kept = " instead of ".join(f"{100 * (1 - x / total):.1f} %" for x in (less, lost))
    return (
        f"{request.target} computes in {block} channels: --align {block} leaves {left} cycles, and {kept} of the score",
    )


def ratio_of(trace: Trace, groups: Groups, request: Request) -> dict[int, float]:
    """Groups with a ratio of their own; the last glob that names one of their channels decides."""
    found: dict[int, float] = {}
    for glob, value in request.ratio_for:
        units = units_of(trace, matches(trace, glob, "--ratio-for"))
        found.update((g.index, value) for g in groups if np.isin(g.units, units).any())
    return found
