"""What a model gives: cut it at given tensors, or take some rows of an output.

CutToOutputs    tensors inside the model become its outputs; nodes, weights and inputs behind are dropped
KeepRows        an output y becomes y = Gather(y_all, rows): what is not taken, nobody reads
JoinRows        where y_all has been cut to these rows, it is y itself
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import networkx as nx
from onnx import ValueInfoProto, helper

from onnxprune.errors import ModelError, OptionError, nearest
from onnxprune.model import new_outputs
from onnxprune.model.edits import Edits
from onnxprune.model.graph import Graph, Shape
from onnxprune.model.new_outputs import whole_of
from onnxprune.model.onnx_model import Model
from onnxprune.passes.base import PassResult
from onnxprune.passes.base import run as run_passes
from onnxprune.running.seeded_inputs import seeded_feeds
from onnxprune.running.session import arrays, run, session
from onnxprune.running.tried_input_shapes import choose_inputs


@dataclass(frozen=True)
class CutToOutputs:
    """Make ``names``, tensors or nodes, the outputs, in this order.

    ``input_shapes``, ``input_values``: to run the model at, where nothing says what shape a new output has.
    """

    names: Sequence[str]
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    input_values: Mapping[str, float] = field(default_factory=dict)
    name: str = "cut-to-outputs"

    def run(self, model: Model) -> PassResult:
        """Raises OptionError for a name that there is not."""
        graph = model.graph
        wanted = list(dict.fromkeys(t for name in self.names for t in _tensors(graph, name)))
        if wanted == [o.name for o in graph.outputs]:
            return PassResult(model)
        makers = {graph.producer[t].index for t in wanted}
        stay = makers.union(*(nx.ancestors(graph.network, m) for m in makers))
        declared = new_outputs.declared(model, wanted)
        if missing := [t for t in wanted if t not in declared]:
            declared |= self._run(new_outputs.part(model, stay, [ValueInfoProto(name=t) for t in wanted]), missing)
        result = new_outputs.part(model, stay, [declared[t] for t in wanted])
        gone = len(graph.nodes) - len(stay)
        inputs = [i.name for i in graph.inputs if i.name not in {j.name for j in result.graph.inputs}]
        change = f"cut at {', '.join(wanted)}: {gone} of {len(graph.nodes)} nodes went"
        return PassResult(result, (change + (f", with the inputs {', '.join(inputs)}" if inputs else ""),))

    def _run(self, part: Model, names: Sequence[str]) -> dict[str, ValueInfoProto]:
        where = str(part.path or "model")
        at = choose_inputs(part, self.input_shapes, self.input_values)
        with session(part, where) as active:
            given = seeded_feeds(part.graph.inputs, at.shapes, 0, at.draws)
            results = arrays(run(active, given, where))
        still = all(i.dims is not None and None not in i.dims for i in part.graph.inputs)
        found = {}
        for name in names:
            if name not in results:
                raise ModelError(
                    "is no tensor, and cannot be an output", where=f"{where}, '{name}'", hint="name another tensor"
                )
            kind, shape = helper.np_dtype_to_tensor_dtype(results[name].dtype), results[name].shape
            found[name] = helper.make_tensor_value_info(name, kind, shape if still else [None] * len(shape))
        return found


def cut_to(
    model: Model, outputs: Sequence[str], input_shapes: Mapping[str, Sequence[int]], input_values: Mapping[str, float]
) -> PassResult:
    """``model`` that ends at ``outputs``, where there are any. Raises OptionError, and CheckError as every pass."""
    if not outputs:
        return PassResult(model)
    shapes = {n: tuple(s) for n, s in input_shapes.items()}
    return run_passes(model, [CutToOutputs(outputs, shapes, input_values)])


def _tensors(graph: Graph, name: str) -> list[str]:
    """The tensors that ``name`` stands for: itself, or what a node gives."""
    if name in graph.producer:
        return [name]
    node = next((n for n in graph.nodes if n.label == name), None)
    if node is None:
        known = [*graph.producer, *(n.label for n in graph.nodes)]
        raise OptionError(f"no node or tensor is called '{name}'", where="--outputs", hint=nearest(name, known, ""))
    return [o for o in node.outputs if o]


@dataclass(frozen=True)
class KeepRows:
    """Leave these positions along an axis of graph outputs: {output: (axis, positions)}."""

    rows: Mapping[str, tuple[int, tuple[int, ...]]]
    name: str = "keep-rows"

    def run(self, model: Model) -> PassResult:
        """Raises OptionError where an output is no result of a node alone."""
        changes = []
        for output, (axis, at) in self.rows.items():
            model, change = new_outputs.with_rows(model, output, axis, at)
            changes.append(change)
        return PassResult(model, tuple(changes))


@dataclass(frozen=True)
class JoinRows:
    """Drop the Gather of `KeepRows` behind ``outputs``, of which all rows are taken by now."""

    outputs: Sequence[str]
    name: str = "join-rows"

    def run(self, model: Model) -> PassResult:
        """The model in which these outputs are made at once."""
        graph = model.graph
        inputs: dict[int, dict[int, str]] = {}
        outputs: dict[int, dict[int, str]] = {}
        removed: set[int] = set()
        for output in self.outputs:
            gather, whole = graph.producer[output], whole_of(output)
            maker = graph.producer[whole]
            removed.add(gather.index)
            outputs.setdefault(maker.index, {})[maker.outputs.index(whole)] = output
            for reader, position in graph.consumers[whole]:
                if reader is not gather:
                    inputs.setdefault(reader.index, {})[position] = output
        if not removed:
            return PassResult(model)
        edits = Edits(inputs=inputs, outputs=outputs, removed=frozenset(removed))
        return PassResult(model.apply(edits), tuple(f"{o} is made at once" for o in self.outputs))
