"""Gradients of the weights of grouped and of transposed convolutions, which onnx-ad does not give.

Of Y = Conv(X [N, g n, *in], W [g m, n, *k]), with dL/dY of the shape of Y [N, g m, *out], every group of every sample
is a convolution by itself, whose kernel is as large as its output:

    dL/dW = sum over N of Conv(X as [n, N g, *in], dL/dY as [N g m, 1, *out], N g groups), cropped to *k

with strides and dilations in each other's place; of a transposed convolution, X and dL/dY too. dL/dY is the gradient of
a gate of zeros that is added to Y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, helper, numpy_helper

from onnxprune.calibration.reverse_mode.gradients import SEED, gate_of, through_gates, ungated

_Ints = tuple[int, ...]

#: What a transposed convolution may not have: its padding is to be known.
_UNSAID = ("output_shape", "auto_pad")


@dataclass(frozen=True)
class Convolution:
    """One convolution: its tensors, their shapes, and what it does with positions.

    ``shape`` and ``result``: of input and output; ``kernel``: of the weight, [g m, n, *k], or [g n, m, *k] transposed.
    """

    source: str
    weight: str
    output: str
    shape: _Ints
    kernel: _Ints
    result: _Ints
    elem_type: int
    transposed: bool
    groups: int
    strides: _Ints
    dilations: _Ints
    pads: _Ints

    @property
    def gate(self) -> str:
        """The graph input of zeros that is added to the output."""
        return gate_of(self.output)


def apart(proto: ModelProto, weights: set[str]) -> tuple[list[Convolution], set[str]]:
    """The grouped and transposed convolutions of ``proto`` with one of ``weights``; and weights that have no gradient.

    These are read by something else too, or the shapes and the padding of the convolution are not known.
    """
    known = (*proto.graph.input, *proto.graph.value_info, *proto.graph.output)
    shapes = {v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in known}
    types = {i.name: i.type.tensor_type.elem_type for i in proto.graph.input}
    found, others, lost = list[Convolution](), set[str](), set[str]()
    for node in proto.graph.node:
        given: dict[str, Any] = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        groups, transposed = given.get("group", 1), node.op_type == "ConvTranspose"
        is_one = node.domain == "" and (transposed or (node.op_type == "Conv" and groups > 1))
        if not is_one or node.input[1] not in weights:
            others.update(node.input)
            continue
        names = (node.input[0], node.input[1], node.output[0])
        source, kernel, result = (shapes.get(n, ()) for n in names)
        if not (source and result and all((*source, *result))) or (transposed and set(_UNSAID) & given.keys()):
            lost.add(node.input[1])
            continue
        ones, none = [1] * (len(kernel) - 2), [0, 0] * (len(kernel) - 2)
        how = (tuple(given.get(n, d)) for n, d in (("strides", ones), ("dilations", ones), ("pads", none)))
        found.append(Convolution(*names, source, kernel, result, types[node.input[1]], transposed, groups, *how))
    lost |= {c.weight for c in found if c.weight in others}
    return [c for c in found if c.weight not in lost], lost


def opened_up(proto: ModelProto, convolutions: Sequence[Convolution]) -> ModelProto:
    """A copy of ``proto`` in which the outputs of ``convolutions`` meet their gates."""
    out = ModelProto()
    out.CopyFrom(proto)
    through_gates(out, {c.output for c in convolutions}, "Add")
    for c in convolutions:
        out.graph.input.append(helper.make_tensor_value_info(c.gate, c.elem_type, c.result))
        out.graph.value_info.append(helper.make_tensor_value_info(ungated(c.output), c.elem_type, c.result))
    return out


def with_gradients(reverse: ModelProto, convolutions: Sequence[Convolution]) -> ModelProto:
    """``reverse``, which has the gradients of all gates, with those of the weights in their place."""
    graph = reverse.graph
    gates = {f"{SEED}{c.gate}" for c in convolutions}
    kept = [o for o in graph.output if o.name not in gates]
    del graph.output[:]
    graph.output.extend(kept)
    found: dict[str, list[Convolution]] = {}
    for each in convolutions:
        found.setdefault(each.weight, []).append(each)
    for weight, own in found.items():
        made = [_gradient(graph, each) for each in own]
        graph.node.append(helper.make_node("Sum", made, [f"{SEED}{weight}"]))
        graph.output.append(helper.make_tensor_value_info(f"{SEED}{weight}", own[0].elem_type, own[0].kernel))
    return reverse


def _gradient(graph: GraphProto, conv: Convolution) -> str:
    """Append what makes the gradient of one convolution's weight; its name."""
    rows, inner, *kernel = conv.kernel
    after = list(range(3, 3 + len(kernel)))
    ends = ((conv.source, conv.shape), (f"{SEED}{conv.gate}", conv.result))
    (images, space), (filters, window) = ends[::-1] if conv.transposed else ends
    batch, groups = space[0], conv.groups

    def made(op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{SEED}{conv.output}__of_weight_{len(graph.node)}"
        graph.node.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def whole(*numbers: int) -> str:
        name = f"{SEED}{conv.output}__numbers_{len(graph.initializer)}"
        graph.initializer.append(numpy_helper.from_array(np.array(numbers, np.int64), name))
        return name

    split = made("Reshape", images, whole(batch, groups, inner, *space[2:]))
    turned = made("Transpose", split, perm=[2, 0, 1, *after])
    each = made("Reshape", turned, whole(inner, batch * groups, *space[2:]))
    windows = made("Reshape", filters, whole(batch * rows, 1, *window[2:]))
    how = {"strides": conv.dilations, "dilations": conv.strides, "pads": conv.pads}
    wide = made("Conv", each, windows, group=batch * groups, **how)
    axes = range(2, 2 + len(kernel))
    cropped = made("Slice", wide, whole(*(0 for _ in kernel)), whole(*kernel), whole(*axes))
    samples = made("Reshape", cropped, whole(inner, batch, rows, *kernel))
    return made("Transpose", made("ReduceSum", samples, whole(1), keepdims=0), perm=[1, 0, *axes])
