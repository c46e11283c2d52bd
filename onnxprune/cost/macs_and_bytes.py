"""What a model costs, as a function of tensor shapes. All cost models have one signature, so an allocator takes any.

    macs         multiply-accumulates, per run at these shapes
    params       elements of weights
    bytes        bytes of weights
    activations  bytes of activations written
    cycles       what a target's compiler charges, and ms, these by its clock (onnxprune.cost.chips)

The cost of a model is the sum over its nodes, and a node's follows from shapes alone: so a change of widths costs what
the nodes that see other shapes cost now.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from onnx import TensorProto, helper

from onnxprune.labels import ops
from onnxprune.model.dtypes import FLOATS
from onnxprune.model.graph import Graph, Naming, Node, Shape

_WEIGHTS = FLOATS | {v for n, v in TensorProto.DataType.items() if n.endswith("INT8") or n.startswith("FLOAT8")}

#: Element types of which two or more share a byte: the part of a byte that an element takes.
_PACKED = {
    v: bits / 8
    for n, v in TensorProto.DataType.items()
    for bits in (2, 4)
    if n in (f"INT{bits}", f"UINT{bits}") or n.startswith(f"FLOAT{bits}E")
}
_WEIGHTS |= set(_PACKED)


class CostModel(Protocol):
    """A cost that adds up over nodes. ``name``: what ``--budget NAME=SHARE`` calls it."""

    @property
    def name(self) -> str:
        """As in ``--budget``: 'macs', 'params', 'bytes', 'activations', 'cycles', 'ms'."""

    @property
    def stepped(self) -> bool:
        """Whether narrowing by one channel may save nothing, and by several the cost of a whole block."""

    def node(self, graph: Graph, node: Node, shapes: Mapping[str, Shape]) -> float:
        """The cost of ``node`` at these shapes of tensors and constants; a tensor whose shape is unknown is missing.

        It may depend on the shapes of the node's own tensors, and on those of the nodes that write its inputs (the
        parts of a Concat) and read its outputs (an Add that is fused into it).
        """


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates by the operator's own count; 0 for an operator that has none."""

    name: str = "macs"
    stepped: bool = False

    def node(self, graph: Graph, node: Node, shapes: Mapping[str, Shape]) -> float:
        """MACs of one run of the node."""
        del graph
        return node_macs(node, shapes) or 0


@dataclass(frozen=True)
class Params:
    """Elements of weights. One that several nodes read is counted at the first."""

    name: str = "params"
    stepped: bool = False

    def node(self, graph: Graph, node: Node, shapes: Mapping[str, Shape]) -> float:
        """Elements of the constants of float, 8-bit and narrower types that the node is the first to read."""
        return sum(math.prod(shapes[n]) for n in _own_weights(graph, node) if n in shapes)


@dataclass(frozen=True)
class Bytes:
    """Bytes of weights, as stored in the file. One that several nodes read is counted at the first."""

    name: str = "bytes"
    stepped: bool = False

    def node(self, graph: Graph, node: Node, shapes: Mapping[str, Shape]) -> float:
        """Bytes of the constants of float, 8-bit and narrower types that the node is the first to read."""
        own = [n for n in _own_weights(graph, node) if n in shapes]
        return sum(math.prod(shapes[n]) * _item_bytes(graph.constants[n][0]) for n in own)


@dataclass(frozen=True)
class Activations:
    """Bytes of activations that nodes write, in the type of the model's first input of floats. Vectors are sizes."""

    name: str = "activations"
    stepped: bool = False

    def node(self, graph: Graph, node: Node, shapes: Mapping[str, Shape]) -> float:
        """Bytes of the node's outputs."""
        written = [n for n in node.outputs if len(shapes.get(n, ())) > 1 and n not in graph.constants]
        kind = next((i.elem_type for i in graph.inputs if i.elem_type in FLOATS), TensorProto.FLOAT)
        return sum(math.prod(shapes[n]) for n in written) * _item_bytes(kind)


#: The cost models that need no target, by what --budget calls them.
COSTS: Mapping[str, CostModel] = {model.name: model for model in (Macs(), Params(), Bytes(), Activations())}


@dataclass(frozen=True)
class Cost:
    """``macs`` at the input shapes analysed; ``parameters``: elements of weights."""

    macs: int
    parameters: int


def by_node(model: CostModel, graph: Graph, shapes: Mapping[str, Shape]) -> dict[int, float]:
    """Cost of every node that has any, by node index."""
    found = {node.index: model.node(graph, node, shapes) for node in graph.nodes}
    return {index: value for index, value in found.items() if value}


def macs_by_node(graph: Graph, shapes: Mapping[str, Shape]) -> dict[str, int]:
    """MACs of each node that multiplies, by node label, at these tensor shapes (constants included)."""
    found = {node.label: node_macs(node, shapes) for node in graph.nodes}
    return {label: value for label, value in found.items() if value is not None}


def node_macs(node: Node, shapes: Mapping[str, Shape]) -> int | None:
    """MACs of one node; None for one that does not multiply, or whose shapes are not known."""
    rule = ops.find(node)
    known = all(n in shapes for n in (*node.inputs[:2], *node.outputs[:1]) if n)
    if rule is None or rule.macs is None or not known:
        return None
    inputs = [shapes.get(n, ()) for n in node.inputs]
    with Naming(node):
        return rule.macs(node, inputs, [shapes[n] for n in node.outputs if n in shapes])


def parameters(graph: Graph) -> int:
    """Number of weights: elements of initializers and Constant nodes of float, 8-bit and narrower types."""
    return sum(math.prod(s) for t, s in graph.constants.values() if t in _WEIGHTS)


def cost(graph: Graph, shapes: Mapping[str, Shape]) -> Cost:
    """The model's cost at these shapes."""
    return Cost(sum(macs_by_node(graph, shapes).values()), parameters(graph))


def _own_weights(graph: Graph, node: Node) -> list[str]:
    """Weights that ``node`` is the first to read."""
    names = dict.fromkeys(n for n in (*node.inputs, *node.captured) if n in graph.constants)
    return [n for n in names if graph.constants[n][0] in _WEIGHTS and graph.consumers[n][0][0] is node]


def _item_bytes(elem_type: int) -> float:
    return _PACKED.get(elem_type) or int(helper.tensor_dtype_to_np_dtype(elem_type).itemsize)
