"""One analysis, many plans: what was seen of a model once is asked for any number of plans.

Labels, groups, observations on calibration data and scores are the same whatever the budget. So a plan costs its
choice, its rewrite and its own compensation, and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import fmean

import numpy as np

from onnxprune.activations.simulated import simulated
from onnxprune.calibration.original_observed import ObservedOriginal
from onnxprune.constraints.grids import Grids
from onnxprune.constraints.quadratic import Float
from onnxprune.cost.macs_and_bytes import CostModel
from onnxprune.cost.sizes import cost_of
from onnxprune.errors import OnnxPruneError
from onnxprune.importance import kept_scores
from onnxprune.importance.criterion import Scorer, Subject
from onnxprune.labels.analysis import Analysis
from onnxprune.labels.groups import Groups
from onnxprune.labels.lossless_removal import same_after
from onnxprune.labels.rewrite import alive_of
from onnxprune.model.onnx_model import Model
from onnxprune.options import Options
from onnxprune.passes import Pass, PassResult, RemoveBranches, RemoveChannels, RestoreBranches
from onnxprune.passes import run as run_passes
from onnxprune.passes.base import Constrained
from onnxprune.passes.bits import GridAllocator, grids_of, nearest
from onnxprune.passes.bits_by_layer import BitAllocator
from onnxprune.passes.recover import Recovery, Solved
from onnxprune.passes.zeros import Asked, ZerosAllocator, felt_by_layer, felt_by_what_stays, masked
from onnxprune.planning.given_model import folding
from onnxprune.plans.applied import plan_of
from onnxprune.plans.plan_file import Plan
from onnxprune.progress import Progress
from onnxprune.widths import plan_contest
from onnxprune.widths.choose_channels import Choice, choose
from onnxprune.widths.named_channels import Rows
from onnxprune.widths.plan_contest import Judged, Way
from onnxprune.widths.request import Request


@dataclass(frozen=True)
class Made:
    """A plan for ``request``, and its model: ``solved``, where there is data."""

    request: Request
    judged: Judged[Choice] = field(repr=False)
    solved: Solved = field(repr=False)

    @property
    def measured(self) -> Model:
        """What is to be judged: the model, with activations rounded where they have few bits."""
        return simulated(self.solved.model, self.solved.holds.grids.activations)

    @property
    def noise(self) -> float | None:
        """Noise over signal of the outputs, the mean over held-out samples; None where there are none."""
        recovered = self.solved.recovered
        each = [s.final for s in recovered.by_sample if math.isfinite(s.final)] if recovered else []
        return fmean(each) if each else None


@dataclass(frozen=True)
class Planner:
    """A model that was analysed.

    ``observed``: the original on calibration data, where there is any; ``rows``: what outputs still show of their own.
    """

    analysis: Analysis = field(repr=False)
    options: Options
    observed: ObservedOriginal | None = field(repr=False)
    progress: Progress = field(repr=False)
    rows: Sequence[Rows] = ()

    def chosen(self, request: Request) -> Judged[Choice]:
        """The choice, the nearest to the original where there are several, what was tried, and what could not be.

        Raises OptionError where what is asked for cannot be had.
        """
        scorers, refused = self._scorers

        def plan(way: Way) -> Choice:
            return choose(self.analysis, request, self._subject, way, scorers[way.importance], self.rows)

        ways = [w for w in request.ways if w.importance in scorers]
        return plan_contest.best(ways, plan, self.distance, self.progress, refused)

    @property
    def importances(self) -> tuple[str, ...]:
        """The criteria that score here, the one that is tried first in front."""
        return tuple(self._scorers[0])

    def made(self, request: Request, judged: Judged[Choice] | None = None) -> Made:
        """A plan, or what was ``judged`` the best, and its model. Raises OptionError where it cannot be had."""
        judged, options = judged or self.chosen(request), self.options
        choice = judged.best
        _, whole = self.cut(choice, lossless=options.lossless, weighed=options.weighed)
        made = plan_of(self.analysis.trace, choice.rewrite, {})
        return Made(request, judged, self.solved(judged, whole, made, None))

    def left(self, cost: CostModel, choice: Choice) -> float:
        """The share of ``cost`` that a choice leaves."""
        trace = self.analysis.trace
        return cost_of(trace, cost, choice.dead) / cost_of(trace, cost, np.zeros(0, np.int64))

    def cut(self, choice: Choice, *, lossless: bool, weighed: bool = False) -> tuple[PassResult, Model]:
        """The model without what ``choice`` takes: as it was run on labels, and with its branches.

        ``lossless``: branches go of which nothing is left; ``weighed``: something is asked of the weights that stay.
        """
        touched = len(choice.groups) > 0 or weighed
        done = run_passes(self.analysis.trace.model, self._steps(choice, lossless=lossless) if touched else [])
        return done, run_passes(done.model, [RestoreBranches(self.analysis.flat)]).model

    def recovery(self, observed: ObservedOriginal) -> Recovery:
        """What makes up for what went."""
        options = self.options
        return Recovery(self.analysis.trace, observed, options.compensate, options.recover, options.seed, self.progress)

    def _asked(self, whole: Model, choice: Choice, made: Plan, plan: Plan | None) -> Asked:
        """What is asked of the weights that stay: by ``plan``, or by the options for the plan that was ``made``."""
        options, observed = self.options, self.observed if self.options.compensate else None
        bits = options.bits if plan is None else None
        by_layer = bits is not None and bits.by_layer
        felt: dict[str, Float] = {}
        if (self.observed if by_layer else observed) is not None and (plan is None or plan.weighed):
            felt = felt_by_what_stays(whole, self.analysis.trace, choice.dead, self._felt)
        deciding = ZerosAllocator(self.analysis.trace, choice.dead, observed, felt, self.progress)
        numbers = GridAllocator(self.analysis.trace, choice.dead, self.observed, options.compensate)
        if plan is not None:
            zeros = deciding.again(whole, plan.masks) if plan.masks else Asked()
            return replace(zeros, bits=numbers.again(whole, grids_of(plan)), felt=felt)
        zeros, likely = Asked(), whole
        if observed is not None and len(choice.dead) and (options.zeros is not None or by_layer):
            # What zeros and bits cost shows where channels are made up for.
            likely = self.recovery(observed).tried(whole, choice.dead)
        if options.zeros is not None:
            zeros = deciding.decide(likely, options.zeros, made)
        zeros = replace(zeros, felt=felt)
        if bits is None:
            return zeros
        if not by_layer:
            return replace(zeros, bits=numbers.decide(whole, bits))
        choosing = BitAllocator(replace(deciding, observed=self.observed), numbers, self.analysis.trace.model)
        chosen, notes = choosing.chosen(masked(likely, zeros.fixed), bits, zeros.solved)
        decided = numbers.decide(whole, bits, chosen)
        return replace(zeros, bits=replace(decided, notes=(*notes, *decided.notes)))

    def solved(self, judged: Judged[Choice], whole: Model, made: Plan, plan: Plan | None) -> Solved:
        """``whole`` with its weights solved anew where that helps.

        What is asked of them is what ``plan`` asks, or the options for what was ``made``. Without data nothing is told,
        and weights are what is asked.
        """
        asked = self._asked(whole, judged.best, made, plan) if plan or self.options.weighed else Asked()
        if self.observed is None:
            result, grids = nearest(masked(whole, asked.fixed), self.analysis.trace, asked.bits)
            holds = Constrained(asked.fixed, Grids(grids, asked.bits.activations))
            return Solved(result, None, asked, holds)
        if not len(judged.best.groups) and not asked:
            return Solved(whole)
        return self.recovery(self.observed).finished(whole, judged.best.dead, judged.tried, asked)

    def distance(self, choice: Choice) -> float:
        """How far the outputs of a plan are from the original's, on held-out samples."""
        assert self.observed is not None
        _, whole = self.cut(choice, lossless=self.options.lossless)
        return self.recovery(self.observed).distance(whole, choice.dead)

    @cached_property
    def _felt(self) -> dict[str, Float]:
        assert self.observed is not None
        return felt_by_layer(self.analysis.trace, self.observed, self.options.seed, self.progress)

    @cached_property
    def _subject(self) -> Subject:
        data = self.observed.data if self.observed else None
        options = self.options
        return Subject(self.analysis.trace, data, options.seed, options.flops_reg, self.progress, self.observed)

    @cached_property
    def _scorers(self) -> tuple[Mapping[str, Scorer], tuple[str, ...]]:
        """What scores, by criterion, made once; and why others cannot."""
        data = self._subject.data
        names = dict.fromkeys(w.importance for w in self.options.request.ways)
        found: dict[str, Scorer | str] = {}
        for name in names:
            found[name] = _scorer(name, self._subject, self.analysis.groups, alone=len(names) == 1)
            if data is not None and (data.drawn or data.mixture) and not isinstance(found[name], str):
                break  # the first that there is: what was drawn, or is few, does not tell which is best
        scorers = {n: s for n, s in found.items() if not isinstance(s, str)}
        return scorers, tuple(s for s in found.values() if isinstance(s, str))

    def _steps(self, choice: Choice, *, lossless: bool) -> list[Pass]:
        """What is done to the model; ``lossless``: branches go of which nothing is left."""
        keep = self.analysis.flat.inner() | {n.outputs for n in self.analysis.still.gone}
        fold = folding(self.options, self.analysis.trace, keep)
        branches: list[Pass] = []
        if lossless:
            trace = self.analysis.trace
            same = same_after(trace, alive_of(trace, choice.dead))
            branches = [RemoveBranches(same, trace.shapes.shape, keep)] if same else []
        return [RemoveChannels(choice.rewrite), *fold, *branches]


def _scorer(name: str, subject: Subject, groups: Groups, *, alone: bool) -> Scorer | str:
    """What scores, or, of several, why it cannot (where gradients are needed and there are none)."""
    try:
        return kept_scores.scorer(name, subject, groups)
    except OnnxPruneError as reason:
        if alone:
            raise
        return f"importance '{name}' was not tried: {reason.what}"
