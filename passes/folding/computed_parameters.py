"""Store weights and biases that nodes compute from constants alone, as some exporters leave them.

PyTorch's newer exporter writes the bias that a convolution does not have as Expand(0, Shape(weight)), others write a
Transpose or an Identity of an initializer. Until the result is an initializer nothing can be folded into it, and
nothing solved anew. A parameter stays computed where storing it would make the file larger, and where it is
dequantized: its integers are what the file is for.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.model.dtypes import FLOATS, dtype_of
from onnxprune.model.edits import Edits
from onnxprune.model.graph import Graph, Node
from onnxprune.model.onnx_model import Model
from onnxprune.passes.base import PassResult
from onnxprune.running.shape_arithmetic import RANDOM, Value, evaluate, is_shape_source, told

#: Who reads parameters, and from which position on.
_READERS = {"Conv": 1, "ConvTranspose": 1, "BatchNormalization": 1, "Gemm": 0, "MatMul": 0}

#: What is not undone: integers would become floats.
_QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}

#: Elements by which a parameter may be larger than the constants that go for it.
_MORE = 65536


@dataclass(frozen=True)
class FoldComputedParameters:
    """Store what can be; ``elem_type``: TensorProto.DataType of tensors; ``keep``: outputs of nodes that stay."""

    elem_type: Mapping[str, int] = field(repr=False)
    keep: Collection[tuple[str, ...]] = ()
    name: str = "fold-computed-parameters"

    def run(self, model: Model) -> PassResult:
        """Model whose products and BatchNormalization nodes read initializers where they can."""
        graph = model.graph
        computed = _of_constants(model, self.elem_type)
        added: dict[str, NDArray[Any]] = {}
        inputs: dict[int, dict[int, str]] = {}
        for name in (n for n in _parameters(graph) if n in computed):
            readers, cone = graph.consumers[name], _upstream(computed[name], computed)
            if any(node.outputs in self.keep for node in (*cone, *(reader for reader, _ in readers))):
                continue
            source = _renamed(name, computed)
            if source in graph.constants and all(position >= 0 for _, position in readers):
                for reader, position in readers:
                    inputs.setdefault(reader.index, {})[position] = source
            elif (value := self._value(model, name, computed)) is not None:
                added[name] = value
        if not (added or inputs):
            return PassResult(model)
        own = [*added, *(graph.nodes[i].inputs[p] for i, at in inputs.items() for p in at)]
        rewired = {(reader.index, position) for name in own for reader, position in graph.consumers[name]}
        gone = graph.unread({computed[name].index for name in own}, rewired)
        edits = Edits(added=added, inputs=inputs, removed=frozenset(gone))
        return PassResult(model.apply(edits), (f"stored {len({*own})} parameters that were computed from constants",))

    def _value(self, model: Model, name: str, computed: Mapping[str, Node]) -> NDArray[Any] | None:
        """What ``name`` holds; None where that is too large, tied, or not told by onnx's reference operators."""
        graph, constants = model.graph, model.graph.constants
        cone = _upstream(computed[name], computed)
        if len(cone[-1].outputs) > 1:
            return None
        gone = graph.unread({cone[-1].index}, {(reader.index, position) for reader, position in graph.consumers[name]})
        data = {
            n for node in cone for p, n in enumerate(node.inputs) if n in constants and not _only_described(node, p)
        }
        tied = {n for n in data if any(reader.index not in gone for reader, _ in graph.consumers[n])}
        if any(constants[n][0] in FLOATS and math.prod(constants[n][1]) > 1 for n in tied):
            return None
        most = _MORE + sum(math.prod(constants[n][1]) for n in data - tied)
        values: dict[str, NDArray[Any]] = {}
        for node in cone:
            arrays = [self._input(model, node, p, values) if n else None for p, n in enumerate(node.inputs)]
            if told(node, arrays) > most:
                return None
            results = evaluate(node, model, [None if a is None else Value(a, np.zeros(a.shape, bool)) for a in arrays])
            if results is None or any(r.array.size > most for r in results):
                return None
            values.update({n: r.array for n, r in zip(filter(None, node.outputs), results, strict=True)})
        kind = self.elem_type.get(name)
        return values[name] if kind in FLOATS and values[name].dtype == dtype_of(kind) else None

    def _input(self, model: Model, node: Node, position: int, values: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """What ``node`` reads at ``position``, or an array that is described as that is."""
        name = node.inputs[position]
        if name in values:
            return values[name]
        if is_shape_source(node):
            return np.broadcast_to(np.zeros((), np.bool_), model.graph.constants[name][1])
        if _only_described(node, position):
            return np.zeros(1, dtype_of(self.elem_type[name]))
        return model.array(name)


def _renamed(name: str, computed: Mapping[str, Node]) -> str:
    """What ``name`` is another name of, through Identity nodes."""
    while name in computed and computed[name].op == "Identity":
        name = computed[name].inputs[0]
    return name


def _only_described(node: Node, position: int) -> bool:
    """Whether the node reads no more of an input than its shape or its element type."""
    return is_shape_source(node) or (node.op == "CastLike" and position == 1)


def _parameters(graph: Graph) -> list[str]:
    """What nodes read as weights, biases and statistics, and other nodes make."""
    read = (n for node in graph.nodes if not node.domain for n in node.inputs[_READERS.get(node.op, 9) :])
    outputs = {o.name for o in graph.outputs}
    return [n for n in dict.fromkeys(read) if n in graph.producer and n not in graph.constants and n not in outputs]


def _of_constants(model: Model, elem_type: Mapping[str, int]) -> dict[str, Node]:
    """The nodes that make what follows from constants alone, by output."""
    constant = set(model.graph.constants) - model.overridable
    found: dict[str, Node] = {}
    for node in model.graph.nodes:
        if node.domain or node.op in RANDOM | _QUANTIZED | {"Constant"} or node.has_graphs or not any(node.inputs):
            continue
        types = [n for p, n in enumerate(node.inputs) if _only_described(node, p) and not is_shape_source(node)]
        if all(n in constant for n in node.inputs if n and n not in types) and all(n in elem_type for n in types):
            constant.update(filter(None, node.outputs))
            found.update((n, node) for n in node.outputs if n)
    return found


def _upstream(node: Node, computed: Mapping[str, Node]) -> list[Node]:
    """``node`` and those that it follows from, in the order of the graph."""
    found: dict[int, Node] = {}
    stack = [node]
    while stack:
        node = stack.pop()
        if node.index not in found:
            found[node.index] = node
            stack.extend(computed[n] for n in node.inputs if n in computed)
    return [found[i] for i in sorted(found)]
