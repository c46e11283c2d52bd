"""The reverse-mode graph that onnx-ad writes, without what costs time and changes nothing.

Nodes that lead to no output go (gradients of everything that nobody asked for); sums over axes that hold 1 are the
same again; a choice between a gradient and zero is a product, which onnxruntime computes many times faster; and a
transposed convolution of stride 1 is the convolution with its kernel turned round,

    ConvTranspose(X, W, pads p) = Conv(X, W', pads d (k - 1) - p)       W'[c, m, t] = W[m, c, k - 1 - t]

And one thing is mended: a transposed convolution of a given output shape is padded alike on both sides by definition,
where the convolution that it is the adjoint of may not be. So it is given its padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from onnxprune.labels.ops.table import Array
from onnxprune.model.dtypes import NUMPY_FLOATS
from onnxprune.model.edits import captured


def quick(proto: ModelProto) -> ModelProto:
    """``proto``, which becomes a graph of the same gradients in less time."""
    graph = proto.graph
    needed = _needed(graph)
    del graph.node[:]
    graph.node.extend(needed)
    work = _Work(_constants(graph), _shapes(proto))
    nodes = [new for node in needed for new in work.quicker(node)]
    kept = {i for n in nodes for i in n.input}
    del graph.node[:]
    graph.node.extend(nodes)
    initializers = [*(t for t in graph.initializer if t.name in kept), *work.added.values()]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
    return proto


def _shapes(proto: ModelProto) -> dict[str, list[int]]:
    """Of tensors whose shapes can be told; 0 for a dimension that cannot."""
    try:
        graph = shape_inference.infer_shapes(proto, data_prop=True).graph
    except Exception:  # noqa: BLE001 (onnx raises bare errors: then nothing is known)
        return {}
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.input, *graph.value_info)}


def _constants(graph: GraphProto) -> dict[str, TensorProto]:
    """Initializers, and what nodes of constants hold."""
    found = {t.name: t for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return found


def _needed(graph: GraphProto) -> list[NodeProto]:
    """The nodes that lead to an output, in order."""
    needed, kept = {o.name for o in graph.output}, list[NodeProto]()
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            needed.update(captured(node))
            kept.append(node)
    return kept[::-1]


@dataclass(frozen=True)
class _Work:
    """Node by node: what ``constants`` and ``shapes`` tell, and the constants that new nodes need."""

    constants: Mapping[str, TensorProto]
    shapes: Mapping[str, list[int]]
    added: dict[str, TensorProto] = field(default_factory=dict)

    def quicker(self, node: NodeProto) -> Iterator[NodeProto]:
        """Nodes that give the same outputs as ``node``."""
        if node.op_type == "ReduceSum" and self._same(node):
            yield helper.make_node("Identity", node.input[:1], node.output)
        elif node.op_type == "Where" and _is_zero(self.constants.get(node.input[2])):
            kept = f"{node.output[0]}__kept"
            yield helper.make_node("Cast", node.input[:1], [kept], to=self.constants[node.input[2]].data_type)
            yield helper.make_node("Mul", [node.input[1], kept], node.output)
        elif node.op_type == "ConvTranspose":
            yield self._turned(node) or self._padded(node)
        else:
            yield node

    def _same(self, node: NodeProto) -> bool:
        """Whether a sum is over axes that hold 1, or over none, and keeps them."""
        axes = self.constants.get(node.input[1]) if len(node.input) > 1 else None
        attributes, shape = _attributes(node), self.shapes.get(node.input[0], [])
        if axes is None or not attributes.get("keepdims", 1):
            return False
        summed = numpy_helper.to_array(axes).reshape(-1).tolist()
        if not summed:
            return bool(attributes.get("noop_with_empty_axes"))
        return all(-len(shape) <= a < len(shape) and shape[a] == 1 for a in summed)

    def _turned(self, node: NodeProto) -> NodeProto | None:
        """The convolution that a transposed one is, where its stride is 1 and its padding is given."""
        attributes, weight = _attributes(node), self.constants.get(node.input[1])
        if weight is None or len(node.input) > 2 or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
            return None
        kernel = weight.dims[2:]
        ones = [1] * len(kernel)
        dilations, pads = attributes.get("dilations", ones), attributes.get("pads")
        if attributes.get("strides", ones) != ones or "output_padding" in attributes or pads is None:
            return None
        wider = [d * (k - 1) - p for d, k, p in zip([*dilations] * 2, [*kernel] * 2, pads, strict=True)]
        if min(wider, default=0) < 0:
            return None
        group = attributes.get("group", 1)
        name = f"{weight.name or node.input[1]}__turned_{group}"
        if name not in self.added:
            self.added[name] = numpy_helper.from_array(_turned_weight(numpy_helper.to_array(weight), group), name)
        return helper.make_node(
            "Conv", [node.input[0], name], node.output, group=group, dilations=dilations, pads=wider
        )

    def _dims(self, name: str) -> list[int]:
        return [*self.constants[name].dims] if name in self.constants else self.shapes.get(name, [])

    def _padded(self, node: NodeProto) -> NodeProto:
        """One of a given output shape with the padding of its convolution instead, where sizes are known."""
        attributes = _attributes(node)
        wanted, pads = attributes.get("output_shape"), attributes.get("pads")
        inputs, kernel = (self._dims(n)[2:] for n in node.input[:2])
        if wanted is None or pads is None or not all(inputs) or not len(inputs) == len(kernel) == len(wanted):
            return node
        ones = [1] * len(kernel)
        strides, dilations = attributes.get("strides", ones), attributes.get("dilations", ones)
        sizes = zip(wanted, inputs, strides, dilations, kernel, pads, pads[len(kernel) :], strict=False)
        more = [o - (s * (i - 1) + d * (k - 1) + 1 - p - q) for o, i, s, d, k, p, q in sizes]
        if min(more) < 0:
            return node
        padded = {n: a for n, a in attributes.items() if n != "output_shape"}
        return helper.make_node("ConvTranspose", node.input, node.output, **padded, output_padding=more)


def _is_zero(tensor: TensorProto | None) -> bool:
    """Whether it is one zero, of floats."""
    return (
        tensor is not None
        and tensor.data_type in NUMPY_FLOATS
        and not tensor.dims
        and not numpy_helper.to_array(tensor)
    )


def _turned_weight(weight: Array, group: int) -> Array:
    """[m, c/group, *k] as [c, m/group, *k], its kernels the other way round."""
    rows, channels, *kernel = weight.shape
    blocks = weight.reshape(group, rows // group, channels, *kernel).swapaxes(1, 2)
    flipped = np.flip(blocks, tuple(range(3, blocks.ndim)))
    return np.ascontiguousarray(flipped.reshape(group * channels, rows // group, *kernel))


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
