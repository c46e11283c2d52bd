"""Fold BatchNormalization into the convolution or Gemm before it.

    y = gamma * (W x + b - mean) / sqrt(var + eps) + beta
      = (s W) x + s (b - mean) + beta          with s = gamma / sqrt(var + eps), one number for each output channel

Computed in float64 and rounded once. A pair is left alone where folding would change anything else: an output that
others read or that is a graph output, weights or bias that others read, that are graph inputs or not constants,
statistics in another precision than the weights, training mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.labels.ops.normalization import trains
from onnxprune.model.edits import Edits
from onnxprune.model.graph import Graph, Node
from onnxprune.model.mapped_weights import Value
from onnxprune.model.onnx_model import Model
from onnxprune.passes.base import PassResult

Array = NDArray[Any]


@dataclass(frozen=True)
class _Fold:
    """The new weight and bias of ``node``, which takes over the output of ``norm``."""

    node: Node
    norm: Node
    weight: Value
    bias: Array


@dataclass(frozen=True)
class FuseBatchNorm:
    """Fold every BatchNormalization that allows it; ``keep``: outputs of nodes that stay as they are."""

    keep: frozenset[tuple[str, ...]] = frozenset()
    name: str = "fuse-batchnorm"

    def run(self, model: Model) -> PassResult:
        """Model without the foldable BatchNormalization nodes."""
        norms = [node for node in model.graph.nodes if node.outputs not in self.keep]
        folds = [f for node in norms if (f := _fold(model, node)) is not None]
        if not folds:
            return PassResult(model)
        constants: dict[str, Value] = {}
        added: dict[str, Value] = {}
        types: dict[str, int] = {}
        inputs: dict[int, dict[int, str]] = {}
        taken = {*model.graph.constants, *model.graph.producer}
        for fold in folds:
            constants[fold.node.inputs[1]] = fold.weight
            if len(fold.node.inputs) > 2 and fold.node.inputs[2]:
                constants[fold.node.inputs[2]] = fold.bias
            else:
                name = _free(f"{fold.node.inputs[1]}_bias", taken)
                added[name] = fold.bias
                types[name] = model.graph.constants[fold.node.inputs[1]][0]
                inputs[fold.node.index] = {2: name}
        edits = Edits(
            constants=constants,
            added=added,
            types=types,
            inputs=inputs,
            outputs={f.node.index: {0: f.norm.outputs[0]} for f in folds},
            removed=frozenset(f.norm.index for f in folds) | _orphans(model.graph, folds),
        )
        return PassResult(model.apply(edits), tuple(f"folded {f.norm.label} into {f.node.label}" for f in folds))


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def _orphans(graph: Graph, folds: list[_Fold]) -> frozenset[int]:
    """Constant nodes that only the removed BatchNormalization nodes read."""
    gone = {f.norm.index for f in folds}
    found = set()
    for fold in folds:
        for name in fold.norm.inputs[1:]:
            if name in graph.producer and all(reader.index in gone for reader, _ in graph.consumers[name]):
                found.add(graph.producer[name].index)
    return frozenset(found)


def _fold(model: Model, norm: Node) -> _Fold | None:
    graph = model.graph
    if norm.op != "BatchNormalization" or norm.domain or trains(norm):
        return None
    node = graph.producer.get(norm.inputs[0])
    if node is None or node.op not in ("Conv", "ConvTranspose", "Gemm") or node.domain:
        return None
    outputs = {o.name for o in graph.outputs}
    inputs = {i.name for i in model.proto.graph.input}
    weights = [n for n in node.inputs[1:] if n]
    constants = [*weights, *norm.inputs[1:]]
    private = all(len(graph.consumers[n]) == 1 and n not in outputs for n in (*weights, node.outputs[0]))
    fixed = all(n in graph.constants and n not in inputs for n in constants)
    if not (private and fixed) or len({graph.constants[n][0] for n in constants}) > 1:
        return None
    return _computed(model, node, norm)


def _computed(model: Model, node: Node, norm: Node) -> _Fold | None:
    shape = model.graph.constants[node.inputs[1]][1]
    gamma, beta, mean, var = (model.array(n).astype(np.float64) for n in norm.inputs[1:5])
    scale = gamma / np.sqrt(var + norm.attrs.get("epsilon", 1e-5))
    name = node.input(2)
    bias = model.array(name).astype(np.float64) if name else np.zeros(len(scale))
    if node.op == "Gemm":
        if not _plain_gemm(node, bias, len(scale)) or len(shape) != 2:
            return None
        axis = 0 if node.attrs.get("transB", 0) else 1
        by_weight = scale.reshape((-1, 1) if axis == 0 else (1, -1))
        # alpha scales A @ B alone; beta, which is 1 here, the bias
    elif node.op == "ConvTranspose":
        group = node.attrs.get("group", 1)
        rows = np.repeat(scale.reshape(group, -1), shape[0] // group, axis=0)
        by_weight = rows.reshape(*shape[:2], *(1,) * (len(shape) - 2))
    else:
        by_weight = scale.reshape(-1, *(1,) * (len(shape) - 1))
    if not (np.isfinite(scale).all() and np.isfinite(bias).all()):
        return None

    def scaled(weight: Array) -> Array:
        product: Array = np.multiply(weight, by_weight, dtype=np.float64)
        return product.astype(weight.dtype)

    folded = model.changed(node.inputs[1], shape, scaled)
    dtype = model.array(norm.inputs[1]).dtype  # the weight has the same
    return _Fold(node, norm, folded, (scale * (bias - mean) + beta).astype(dtype))


def _plain_gemm(node: Node, bias: Array, width: int) -> bool:
    return bool(node.attrs.get("beta", 1.0) == 1.0) and bias.shape == (width,)
