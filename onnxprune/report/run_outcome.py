"""What came of a run, and what a reader must not miss of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import first_and_more
from onnxprune.labels.analysis import Analysis, matches, units_of
from onnxprune.labels.groups import Groups
from onnxprune.labels.label_propagation import Trace
from onnxprune.labels.lossless_removal import missed
from onnxprune.model.graph import Graph
from onnxprune.passes.bits import left_alone, left_to_callers
from onnxprune.planning.given_model import Given
from onnxprune.planning.planner import Planner
from onnxprune.planning.written_model import Written
from onnxprune.proof.exact import Proof
from onnxprune.proof.unrounded_quantized import Steps
from onnxprune.report.weights_accounted import account, first_reasons
from onnxprune.running import tried_input_shapes
from onnxprune.search.smallest import SearchReport
from onnxprune.widths import named_channels
from onnxprune.widths.choose_channels import Choice
from onnxprune.widths.plan_contest import Judged
from onnxprune.widths.request import Request

#: Said of models that were quantized, and of others whose weights are computed.
NOTHING_TO_SOLVE = (
    "no layer outside of an If has weights of its own in floats to solve anew: if it was quantized, prune it before"
)


@dataclass(frozen=True)
class Outcome:
    """The results of all stages of a run: ``judged`` was chosen for ``request``, and ``written`` made of it.

    ``given``: what was done to the model before it was analysed. ``planned``: whether a saved plan was applied.
    ``options``: what was asked for, as plans and reports write it. ``said``: notes on what was not tried. ``search``:
    how the request was found, where a metric decides.
    """

    planner: Planner
    given: Given
    judged: Judged[Choice]
    written: Written
    planned: bool
    request: Request
    options: Mapping[str, Any]
    said: tuple[str, ...]
    seconds: Mapping[str, float]
    search: SearchReport | None = None

    @property
    def whole(self) -> Analysis:
        """The analysis of the model before whole branches were removed."""
        return self.given.whole or self.planner.analysis

    @property
    def gone(self) -> NDArray[np.bool_]:
        """By unit, whether it went."""
        gone = np.zeros(self.planner.analysis.trace.units, np.bool_)
        gone[self.judged.best.dead] = True
        return gone

    def notes(self) -> tuple[str, ...]:
        """What the report says beside its numbers."""
        planner, analysis, choice, request = self.planner, self.planner.analysis, self.judged.best, self.request
        trace, options, written = analysis.trace, self.planner.options, self.written
        shapes, weights = trace.shapes, written.solved.asked
        return (
            *tried_input_shapes.guessed(
                self.whole.inlined.model, shapes.inputs, options.input_shapes, shapes.draws, options.input_values
            ),
            *_begun(planner, self.given, choice),
            *self.said,
            *self.judged.missed,
            *weights.notes,
            *weights.bits.notes,
            *choice.remarks,
            *(_stayed(choice.groups, self.gone, written.pruned.graph, request.align or 1) if request.lossless else ()),
            *_idle(trace, choice.groups, request, self.options),
            *_estimated(request),
            *(_branches(analysis.flat.taken) if len(choice.groups) else _nothing(trace, choice.groups)),
            *(_proven(written.proof, analysis) if written.proof else ()),
            *_unmoved(trace, choice, written.proof),
        )


def _begun(planner: Planner, given: Given, choice: Choice) -> tuple[str, ...]:
    """What is to say of outputs, data, and branches that are gone."""
    analysis, observed = planner.analysis, planner.observed
    held = named_channels.still_there(analysis.trace, choice.groups, choice.dead, given.rows)
    data = observed.notes if observed else ()
    if observed and not observed.seen.products and len(analysis.groups):
        data = (*data, NOTHING_TO_SOLVE)
    count, names = len(given.gone), ", ".join(f"'{n}'" for n in given.gone)
    gone = [f"{count} branch{'es' if count > 1 else ''} went whole, constant now: {names}"] if count else []
    left = left_to_callers(analysis.trace) if observed is not None or planner.options.weighed else ()
    alone = left_alone(analysis.trace, analysis.inlined.model) if planner.options.weighed else ()
    return (*given.notes, *gone, *held, *left, *alone, *data)


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


def _estimated(request: Request) -> Iterator[str]:
    """Whose cycles these are."""
    if request.target is None:
        return
    chip = request.target.chip
    source = f"the compiler's estimate ({chip.measured})" if chip.measured else "counted by what documents say"
    yield f"cycles of {request.target} are {source}, not a board's time"


def _branches(taken: Mapping[tuple[str, ...], bool]) -> Iterator[str]:
    """Which Ifs are written as one branch of theirs."""
    if taken:
        who = first_and_more([first for first, *_ in taken])
        branch = "then" if next(iter(taken.values())) else "else"
        yield f"the If of {who} always goes one way ({branch}): what it takes is written in its place"


def _nothing(trace: Trace, groups: Groups) -> Iterator[str]:
    """Where no group can be pruned: so it is, and the first reasons why."""
    yield "nothing in this model can be pruned: onnxprune inspect says why"
    yield from first_reasons(account(trace, groups))


def _proven(proof: Proof, analysis: Analysis) -> Iterator[str]:
    """What the proof could not compare, or compared in another way."""
    severed = analysis.severed
    for error in proof.rewrite:
        if error.compared < 1:
            share = f"{100 * (1 - error.compared):.0f} % of output '{error.name}'"
            yield f"{share} is NaN or infinite on these inputs, in both models: it could not be compared"
    if proof.steps is not None:
        yield _rounded(proof.steps)
    if severed.stood:
        whom = first_and_more([node.label for node in severed.stood])
        yield f"{whom} cannot be run here: compared with their like, which do not round, in their place"
    for output, sources in proof.picked.items():
        names = ", ".join(f"'{n}'" for n in sources)
        what = f"output '{output}' is picked by rank, which rounding changes"
        yield f"{what}: compared is what it is picked from, {names}"
    if severed.gone:
        first = severed.gone[0].label
        count = "it was" if len(severed.gone) == 1 else f"{len(severed.gone)} nodes from it on were"
        yield f"'{first}' cannot be run here: {count} left as in the model, and what it reads was compared"
    unknown = {n.outputs for n in severed.foreign}
    if drawing := [n.label for n in analysis.still.foreign if n.outputs not in unknown]:
        several = "" if len(drawing) > 1 else "s"
        how = "both models were given the same in the proof; in all other figures is chance, too"
        yield f"{first_and_more(drawing)} draw{several} random numbers: {how}"
    if proof.engine != "onnxruntime":
        yield f"proven with {proof.engine}: onnxruntime has no kernel for some of the types in the model"


def _rounded(steps: Steps) -> str:
    """What rounding of activations does to a rewrite that is exact without."""
    how = "the rewrite error is measured without rounding activations to their codes"
    if not steps.most:
        return f"{how}; rounded, all codes agree"
    several = "s" if steps.most > 1 else ""
    return f"{how}; rounded, {steps.share:.2%} of codes differ, by {steps.most} step{several} at most, at '{steps.at}'"


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
