"""Layers and pools in integers: sums of products, and what their scales are then."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.formats.integers.lowering import Lowering, bounds_of
from onnxprune.formats.integers.steps import Code, Convolve, Extreme, Float, Ints, Largest, Mix, Multiply, Spread, Sum
from onnxprune.model.graph import Node, Shape

#: Sums are int32.
_SUMS = 2**31 - 1

#: How far weights may be from their zero point: two products of 8 bits.
_WIDEST = 2**15


def _weights(low: Lowering, node: Node, name: str) -> tuple[Ints, Float]:
    """Integers without their zero point, and a scale for each of them."""
    values = low.constant(name)
    if name not in low.weights or values is None:
        low.refuse(node, f"its weight '{name}' is on no grid")
    grid = low.weights[name]
    zero = grid.zero_point
    for axis, whole in enumerate(values.shape):
        zero = zero.repeat(whole // zero.shape[axis], axis)
    found = grid.codes(values) - zero
    if np.abs(found).max(initial=0) > _WIDEST:
        low.refuse(node, f"its weight '{name}' has more than 16 bits with its zero point", "--symmetric")
    ones = np.ones(values.shape)
    scale = grid.scale.astype(np.float64)
    for axis, whole in enumerate(values.shape):
        scale = scale.repeat(whole // scale.shape[axis], axis)
    return found, scale * ones


def _one_each(low: Lowering, node: Node, scale: Float) -> Float:
    """Of the scales [outputs, n] one an output."""
    if (scale != scale[:, :1]).any():
        hint = "give --weights-per channel, or --format qdq"
        low.refuse(node, "its weight has scales for blocks of inputs, whose sums are of unlike units", hint)
    return scale[:, 0]


def _bias(low: Lowering, node: Node, position: int, scale: Float, times: float = 1.0) -> Ints | None:
    if len(node.inputs) <= position or not node.inputs[position]:
        return None
    value = low.floats(node.inputs[position])
    if value is None:
        low.refuse(node, "its bias is computed")
    codes = np.rint(times * value / scale)
    if np.abs(codes).max(initial=0) > _SUMS:
        low.refuse(node, "its bias does not fit into 32 bits in units of its sums", "a scale that is less small")
    return codes.astype(np.int64)


def _sums(low: Lowering, node: Node, x: Code, weights: Ints, bias: Ints | None, scale: Float, name: str) -> Code:
    """The code of sums of ``weights`` [outputs, n] with x. Raises where they do not fit into 32 bits."""
    span = (np.asarray(x.low - x.zero), np.asarray(x.high - x.zero))
    least, most = bounds_of(*span, weights)
    largest = (np.abs(weights).sum(axis=1) * x.size).max(initial=0)
    if bias is not None:
        least, most = least + bias, most + bias
        largest = max(largest, np.abs(least).max(initial=0), np.abs(most).max(initial=0))
    wide = np.abs(weights).max(initial=0) > 255
    if largest > _SUMS and not wide:  # wider weights are added up in 64
        low.refuse(node, "its sums do not fit into 32 bits", "fewer bits")
    return Code(name, scale, 0, min(int(least.min(initial=0)), 0), max(int(most.max(initial=0)), 0))


def spatial(node: Node, low: Lowering, kernel: Shape) -> tuple[Shape, Shape, Shape]:
    """Strides, pads (all beginnings, then all ends) and dilations, with auto_pad worked out."""
    rank = len(kernel)
    strides = tuple(node.attrs.get("strides", (1,) * rank))
    dilations = tuple(node.attrs.get("dilations", (1,) * rank))
    pads = tuple(node.attrs.get("pads", (0,) * 2 * rank))
    auto = node.attrs.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        size = low.shape(node, node.inputs[0])[2:]
        reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
        whole = [max((-(-n // s) - 1) * s + r - n, 0) for n, s, r in zip(size, strides, reach, strict=True)]
        half = [w // 2 for w in whole]
        rest = [w - h for w, h in zip(whole, half, strict=True)]
        pads = (*half, *rest) if auto == "SAME_UPPER" else (*rest, *half)
    return strides, pads, dilations


def convolution(low: Lowering, node: Node) -> Code:
    """Conv."""
    x = low.byte(node, node.inputs[0])
    weight, scales = _weights(low, node, node.inputs[1])
    rows = weight.reshape(len(weight), -1)
    scale = x.scale * _one_each(low, node, scales.reshape(rows.shape))
    bias = _bias(low, node, 2, scale)
    group = int(node.attrs.get("group", 1))
    strides, pads, dilations = spatial(node, low, weight.shape[2:])
    name = node.outputs[0]
    low.add(Convolve(name, x, weight, bias, strides, pads, dilations, group))
    return _sums(low, node, x, rows, bias, _on_channels(scale, weight.ndim), name)


def _on_channels(scale: Float, rank: int) -> Float:
    return scale.reshape(1, -1, *(1,) * (rank - 2))


def transposed(low: Lowering, node: Node) -> Code:
    """ConvTranspose: the convolution, with the kernel turned round, of x with zeros between its positions."""
    x = low.byte(node, node.inputs[0])
    weight, scales = _weights(low, node, node.inputs[1])
    group, rank = int(node.attrs.get("group", 1)), weight.ndim - 2
    strides, pads, dilations = spatial(node, low, weight.shape[2:])
    if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in node.attrs:
        low.refuse(node, "its padding follows from its output", "export it with explicit pads")
    extra = tuple(node.attrs.get("output_padding", (0,) * rank))

    def turned(array: NDArray[Any]) -> NDArray[Any]:
        inputs, outputs = array.shape[:2]
        split = array.reshape(group, inputs // group, outputs, *array.shape[2:]).swapaxes(1, 2)
        return np.flip(split.reshape(group * outputs, inputs // group, *array.shape[2:]), tuple(range(2, 2 + rank)))

    weight, scales = turned(weight), turned(scales)
    rows = weight.reshape(len(weight), -1)
    scale = x.scale * _one_each(low, node, scales.reshape(rows.shape))
    bias = _bias(low, node, 2, scale)
    reach = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
    begin = [r - p for r, p in zip(reach, pads[:rank], strict=True)]
    end = [r - p + e - s + 1 for r, p, e, s in zip(reach, pads[rank:], extra, strides, strict=True)]
    if min(*begin, *end) < 0:
        low.refuse(node, "cuts more off than its kernel reaches")
    if max(strides) > 1:
        size = tuple(s * n for s, n in zip(strides, low.shape(node, node.inputs[0])[2:], strict=True))
        low.add(Spread(f"{node.outputs[0]}__spread", x, strides, size))
        x = Code(f"{node.outputs[0]}__spread", x.scale, x.zero, x.low, x.high)
    name = node.outputs[0]
    low.add(Convolve(name, x, weight, bias, (1,) * rank, (*begin, *end), dilations, group))
    return _sums(low, node, x, rows, bias, _on_channels(scale, weight.ndim), name)


def gemm(low: Lowering, node: Node) -> Code:
    """Gemm of x [n, inputs]."""
    if node.attrs.get("transA", 0):
        low.refuse(node, "turns its input over")
    x = low.byte(node, node.inputs[0])
    weight, scales = _weights(low, node, node.inputs[1])
    if node.attrs.get("transB", 0):
        weight, scales = weight.T, scales.T
    scale = x.scale * _one_each(low, node, scales.T) * node.attrs.get("alpha", 1.0)
    if (scale <= 0).any():
        low.refuse(node, f"alpha is {node.attrs['alpha']}")
    bias = _bias(low, node, 2, scale, node.attrs.get("beta", 1.0))
    if bias is not None:
        if bias.size not in (1, weight.shape[1]):
            low.refuse(node, "its bias differs from row to row")
        bias = np.broadcast_to(bias.reshape(-1), weight.shape[1:])
    low.add(Multiply(node.outputs[0], x, weight, bias))
    return _sums(low, node, x, weight.T, bias, scale, node.outputs[0])


def product(low: Lowering, node: Node) -> Code:
    """MatMul, of two activations or with a matrix of weights."""
    a, b = node.inputs
    name = node.outputs[0]
    if low.constant(a) is not None:
        low.refuse(node, "its first factor is a weight")
    x = low.byte(node, a)
    if low.constant(b) is not None:
        weight, scales = _weights(low, node, b)
        if weight.ndim != 2:
            low.refuse(node, f"its weight has {weight.ndim} axes")
        scale = x.scale * _one_each(low, node, scales.T)
        low.add(Multiply(name, x, weight))
        return _sums(low, node, x, weight.T, None, scale, name)
    y = low.byte(node, b)
    count = low.shape(node, a)[-1]
    low.add(Multiply(name, x, y))
    size = count * x.size * y.size
    if size > _SUMS:
        low.refuse(node, "its sums do not fit into 32 bits", "fewer bits")
    return Code(name, x.scale * y.scale, 0, -size, size)


def max_pool(low: Lowering, node: Node) -> Code:
    """MaxPool, without indices."""
    if len([o for o in node.outputs if o]) > 1:
        low.refuse(node, "gives indices")
    x = low.byte(node, node.inputs[0])
    kernel = tuple(node.attrs["kernel_shape"])
    size = low.shape(node, node.outputs[0])[2:]
    strides, pads, dilations = _to_size(low, node, kernel, size)
    low.add(Largest(node.outputs[0], x, kernel, strides, pads, dilations, size))
    return replace(x, name=node.outputs[0])


def _to_size(low: Lowering, node: Node, kernel: Shape, size: Shape) -> tuple[Shape, Shape, Shape]:
    """Strides, pads with what ceil_mode adds at the ends, and dilations."""
    strides, pads, dilations = spatial(node, low, kernel)
    rank, inner = len(kernel), low.shape(node, node.inputs[0])[2:]
    each = zip(size, strides, dilations, kernel, inner, pads[:rank], pads[rank:], strict=True)
    ends = [max((o - 1) * s + d * (k - 1) + 1 - n - b, e) for o, s, d, k, n, b, e in each]
    return strides, (*pads[:rank], *ends), dilations


def average_pool(low: Lowering, node: Node) -> Code:
    """AveragePool: a sum over the window, whose scale is divided by how many it holds.

    Of codes it is a convolution with ones; of sums that have no grid, a matrix of ones along each axis.
    """
    x, name = low.code(node, node.inputs[0]), node.outputs[0]
    apart = not x.is_codes and low.ahead(node.inputs[0]) is None and all(n == 1 for n in x.scale.shape[2:])
    apart = apart and len(low.shape(node, node.inputs[0])) < 5
    if not apart:
        x = low.byte(node, node.inputs[0])
    kernel = tuple(node.attrs["kernel_shape"])
    channels, *inner = low.shape(node, node.inputs[0])[1:]
    size = low.shape(node, name)[2:]
    strides, pads, dilations = _to_size(low, node, kernel, size)
    means = low.alone(node, np.ones((1, 1, *inner), np.float32))[0, :1]  # what of each window is not padding
    inside, matrices = np.ones((1, 1)), []
    for axis, (n, s, d, k, b, o) in enumerate(zip(inner, strides, dilations, kernel, pads, size, strict=False)):
        at = np.arange(o)[:, None] * s + np.arange(k) * d - b
        matrices.append((at[:, :, None] == np.arange(n)).sum(axis=1))
        inside = inside[..., None] * matrices[-1].sum(axis=1).reshape(1, *(1,) * axis, 1, -1)
    count = np.rint(inside / means[None])
    scale = x.scale / (count if count.min() < count.max() else count.reshape(-1)[:1])
    if apart:
        low.add(Mix(name, x, matrices))
        most = x.size * math.prod(kernel)
        return Code(name, scale, 0, -most, most)
    weight = np.ones((channels, 1, *kernel), np.int64)
    low.add(Convolve(name, x, weight, None, strides, pads, dilations, channels))
    return _sums(low, node, x, weight.reshape(channels, -1), None, scale, name)


def total(low: Lowering, node: Node) -> Code:
    """GlobalAveragePool, ReduceMean and ReduceSum: a sum, whose scale is divided by how many it holds."""
    x = low.code(node, node.inputs[0])
    shape = low.shape(node, node.inputs[0])
    axes = axes_of(low, node, len(shape))
    kept = node.op == "GlobalAveragePool" or bool(node.attrs.get("keepdims", 1))
    along = (1,) * (len(shape) - x.scale.ndim) + x.scale.shape
    if x.scale.size > 1 and (not kept or any(along[a] != 1 for a in axes)):
        x = low.byte(node, node.inputs[0])
    count = math.prod(shape[a] for a in axes)
    low.add(Sum(node.outputs[0], x, axes, kept))
    size = count * x.size
    return Code(node.outputs[0], x.scale if node.op == "ReduceSum" else x.scale / count, 0, -size, size)


def largest(low: Lowering, node: Node) -> Code:
    """GlobalMaxPool, ReduceMax and ReduceMin."""
    x = low.byte(node, node.inputs[0])
    axes = axes_of(low, node, len(low.shape(node, node.inputs[0])))
    kept = node.op == "GlobalMaxPool" or bool(node.attrs.get("keepdims", 1))
    op = "ReduceMin" if node.op == "ReduceMin" else "ReduceMax"
    low.add(Extreme(node.outputs[0], x, op, axes, kept))
    return replace(x, name=node.outputs[0])


def axes_of(low: Lowering, node: Node, rank: int) -> Shape:
    """Which axes are reduced; counted from 0."""
    if node.op.startswith("Global"):
        return tuple(range(2, rank))
    given = node.attrs.get("axes")
    if given is None and (name := node.input(1)):
        given = low.constant(name)
        if given is None:
            low.refuse(node, "its axes are computed")
    if given is None:
        given = () if node.attrs.get("noop_with_empty_axes", 0) else range(rank)
    return tuple(sorted(int(a) % rank for a in given))
