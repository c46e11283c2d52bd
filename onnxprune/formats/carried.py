"""Which tensor is on which grid: those that have one of their own, and those that only move or choose such values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.constraints.grids import Grid, Grids
from onnxprune.model.graph import Graph, Node
from onnxprune.model.onnx_model import Model

#: Operators that take elements of input 0 as they are.
MOVES = {
    *("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Slice", "Split", "Gather"),
    *("Expand", "Tile", "DepthToSpace", "SpaceToDepth"),
}

#: Operators whose results are elements of what they read, or zero.
_CHOOSES = {*MOVES, "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "Relu"}

#: The widest integer of a bias.
_BIAS_LIMIT = 2**31 - 1


def keeps_grid(node: Node) -> bool:
    """Whether the output of ``node`` is on the grid of its input 0; zero is on every grid."""
    nearest = node.op in ("Resize", "Upsample") and node.attrs.get("mode", "nearest") == "nearest"
    return node.domain == "" and (node.op in _CHOOSES or nearest)


def carried(graph: Graph, activations: Mapping[str, Grid]) -> dict[str, Grid]:
    """The grids ``activations``, and the grids of the tensors that follow from them."""
    found = dict(activations)
    for node in graph.nodes:
        if not node.inputs or not keeps_grid(node) or node.inputs[0] not in found:
            continue
        for name in node.outputs:
            if name:
                found.setdefault(name, found[node.inputs[0]])
    return found


@dataclass(frozen=True)
class Bias:
    """The bias that node ``node`` reads at ``position``: ``codes`` [outputs] of ``scale`` [outputs] and zero point 0.

    The scale is the product of those of what the node multiplies, as sums of products have it.
    """

    node: int
    position: int
    codes: NDArray[np.int64] = field(repr=False)
    scale: NDArray[np.float32] = field(repr=False)

    @property
    def values(self) -> NDArray[np.float32]:
        """The numbers that the codes stand for."""
        return np.asarray(self.codes.astype(np.float32) * self.scale)


def biases(model: Model, grids: Grids) -> Iterator[Bias]:
    """The biases of layers whose input and weight are on grids, with one scale for each output or one for all."""
    on, graph = carried(model.graph, grids.activations), model.graph
    for node in graph.nodes:
        layer, position = _layer_of(graph, node)
        if layer is None:
            continue
        x, w, name = *layer.inputs[:2], node.inputs[position]
        if x in on and w in grids.weights and name in graph.constants and name not in grids.weights:
            found = _bias(layer, model.array(name), on[x], grids.weights[w])
            if found is not None:
                yield Bias(node.index, position, *found)


def _layer_of(graph: Graph, node: Node) -> tuple[Node | None, int]:
    """The layer whose bias ``node`` reads, and where: itself, or the MatMul that it adds one to."""
    if node.domain or len(node.inputs) < 2:
        return None, 0
    if node.op in ("Conv", "ConvTranspose", "Gemm") and node.input(2):
        return node, 2
    if node.op == "Add":
        for position in (0, 1):
            layer = graph.producer.get(node.inputs[1 - position])
            if layer is not None and layer.op == "MatMul" and node.inputs[position] in graph.constants:
                return layer, position
    return None, 0


def output_axis(node: Node) -> int:
    """The axis of a layer's weight that its outputs lie along."""
    if node.op == "Conv":
        return 0
    if node.op == "Gemm":
        return 0 if node.attrs.get("transB", 0) else 1
    return 1  # ConvTranspose; MatMul of a matrix


def _bias(node: Node, bias: NDArray[Any], x: Grid, w: Grid) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
    """Codes and scales."""
    axis = output_axis(node)
    others = [n for a, n in enumerate(w.scale.shape) if a != axis]
    grouped = node.op == "ConvTranspose" and node.attrs.get("group", 1) != 1
    scaled = node.op == "Gemm" and (node.attrs.get("alpha", 1.0), node.attrs.get("beta", 1.0)) != (1.0, 1.0)
    shared = w.scale.size not in (1, bias.size)  # one number for outputs of other scales
    if any(n != 1 for n in others) or bias.ndim != 1 or scaled or shared or (grouped and w.scale.size > 1):
        return None
    scale = np.broadcast_to((x.scale.reshape(()) * w.scale.reshape(-1)).astype(np.float32), bias.shape)
    codes = np.rint(bias.astype(np.float32) / scale).astype(np.float64)
    if not np.isfinite(codes).all() or np.abs(codes).max(initial=0) > _BIAS_LIMIT:
        return None
    return codes.astype(np.int64), scale
