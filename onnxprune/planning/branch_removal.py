"""Take residual branches out as a whole: width 0.

    Y = P(X) + B(X)        B's last products get weights of zeros, and B is a constant b

Then `RemoveBranches` takes b into P's bias, or lets the sum read it, and all that B was computed with goes. What is
left is the same function as the model with these weights at zero, to rounding: `WithoutBranches.run` measures it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.errors import CheckError, PlanError
from onnxprune.labels import label_propagation as tracing
from onnxprune.labels import lossless_removal, ops
from onnxprune.labels.analysis import Analysis
from onnxprune.labels.label_propagation import Trace
from onnxprune.labels.lossless_removal import same_after
from onnxprune.labels.rewrite import alive_of
from onnxprune.model.edits import Edits
from onnxprune.model.graph import Node
from onnxprune.model.onnx_model import Model
from onnxprune.passes.base import PassResult
from onnxprune.passes.remove_branches import RemoveBranches
from onnxprune.proof.exact import default_rtol
from onnxprune.running import seeded_inputs
from onnxprune.running import session as runtime
from onnxprune.running.snr_and_cosine import Differences


@dataclass(frozen=True)
class Branch:
    """One side of a sum, computed by ``nodes`` alone: the tensor ``name``, constant once ``weights`` are zeros."""

    name: str
    weights: tuple[str, ...]
    nodes: frozenset[int] = field(repr=False)


def branches(trace: Trace) -> Iterator[Branch]:
    """The branches that could go, in the order of the graph."""
    graph, shapes = trace.model.graph, trace.shapes.shape
    for node in graph.nodes:
        if ops.gathers_of(node) != "adds" or len(node.inputs) != 2:
            continue
        for position, name in enumerate(node.inputs):
            other = node.inputs[1 - position]
            maker, same = graph.producer.get(name), shapes.get(name) == shapes.get(other) == shapes.get(node.outputs[0])
            if maker is None or other not in graph.producer or not same or name == other:
                continue
            nodes = frozenset(graph.unread({maker.index}, {(node.index, position)}))
            weights = dict.fromkeys(_last_weights(trace, maker, nodes))
            if weights and graph.producer[other].index not in nodes and None not in weights:
                yield Branch(name, tuple(w for w in weights if w), nodes)


def _last_weights(trace: Trace, node: Node, nodes: frozenset[int]) -> Iterator[str | None]:
    """The weights of the products nearest to a branch's end; None where it holds anything else up to its start."""
    graph, seen, stack = trace.model.graph, {node.index}, [node]
    while stack:
        here = stack.pop()
        rule = ops.find(here)
        weight = here.input(1) if rule is not None and rule.linear is not None else ""
        if here.index not in nodes:
            yield None
        elif weight in graph.constants:
            yield weight if len(graph.consumers[weight]) == 1 and weight not in trace.model.overridable else None
        else:
            before = [graph.producer[n] for n in here.inputs if n in graph.producer]
            stack += [b for b in before if b.index not in seen]
            seen |= {b.index for b in before}


@dataclass(frozen=True)
class WithoutBranches:
    """Take out the branches that give these tensors."""

    analysis: Analysis = field(repr=False)
    names: Sequence[str]
    name: str = "whole-branches"

    def run(self, model: Model) -> PassResult:
        """The model that was analysed, without them. Raises PlanError where one is none, and CheckError."""
        trace, known = self.analysis.trace, {b.name: b for b in branches(self.analysis.trace)}
        if unknown := [n for n in self.names if n not in known]:
            raise PlanError(f"'{unknown[0]}' is no branch that could go whole", where="plan")
        weights = [w for n in self.names for w in known[n].weights]
        silent = {w: np.zeros_like(model.array(w)) for w in weights}
        zeroed = model.apply(Edits(constants=silent))
        silenced = lossless_removal.mark(tracing.trace(zeroed, trace.shapes))
        same = same_after(silenced, alive_of(silenced, np.zeros(0, np.int64)))
        keep = self.analysis.flat.inner()
        result = RemoveBranches(same, trace.shapes.shape, keep).run(zeroed)
        if any(n in result.model.graph.producer for n in self.names):
            raise PlanError(f"the branch '{self.names[0]}' cannot go", where="plan")
        self._prove(zeroed, result.model)
        return result

    def _prove(self, zeroed: Model, result: Model) -> None:
        """Raise CheckError where the result is not the model with zeros, on one drawn input."""
        shapes, where = self.analysis.trace.shapes, str(zeroed.path or "model")
        feeds = seeded_inputs.seeded_feeds(zeroed.graph.inputs, shapes.inputs, 0, shapes.draws)
        sides = []
        for model in (zeroed, result):
            with runtime.session(model, where) as active:
                sides.append(runtime.arrays(runtime.run(active, feeds, where)))
        found = Differences()
        found.add(*sides)
        worst = max(found.errors(), key=lambda e: e.relative)
        if not worst.relative <= default_rtol(self.analysis.trace):
            what = f"taking branches out changes it by {worst.relative:.2e} of its range"
            raise CheckError(what, where=f"tensor '{worst.name}'", hint="please report this as a bug")
