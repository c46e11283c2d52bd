"""The steps on numpy, in 64 bits: what integers they give, told without ONNX, and what the ONNX graph must give.

Sums of products are done in double precision, which holds all integers up to 2^53.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from onnxprune.formats.integers.steps import (
    Add,
    Clamp,
    Code,
    Convolve,
    Extreme,
    Ints,
    Largest,
    Look,
    Mix,
    Move,
    Multiply,
    Program,
    Requantize,
    Spread,
    Step,
    Sum,
    Times,
)
from onnxprune.model.graph import Shape

Tensors = dict[str, NDArray[Any]]


def run(program: Program, feeds: Mapping[str, NDArray[Any]]) -> Tensors:
    """All tensors, for the integers in ``feeds``."""
    at: Tensors = {n: np.asarray(v, np.int64) for n, v in feeds.items()}
    for step in program.steps:
        if isinstance(step, Move):
            at.update(zip(step.outs, _moved(step, at, program.opset), strict=True))
        else:
            at[step.out] = _done(step, at)
    return at


def _moved(step: Move, at: Tensors, opset: int) -> list[NDArray[Any]]:
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 (heavy: only where models run)

    names = [f"i{i}" if not (isinstance(v, str) and not v) else "" for i, v in enumerate(step.inputs)]
    arrays = [at[v] if isinstance(v, str) and v else v for v in step.inputs]
    node = helper.make_node(step.op, names, list(step.outs), **step.attrs)
    inputs = [helper.make_tensor_value_info(n, _kind(a), None) for n, a in zip(names, arrays, strict=True) if n]
    outputs = [helper.make_tensor_value_info(n, 7, None) for n in step.outs]
    graph = helper.make_graph([node], "move", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    feeds = {n: np.asarray(a) for n, a in zip(names, arrays, strict=True) if n}
    return [np.asarray(found) for found in ReferenceEvaluator(model).run(None, feeds)]


def _kind(array: Any) -> int:
    return int(helper.np_dtype_to_tensor_dtype(np.asarray(array).dtype))


def _centred(at: Tensors, x: Code | Ints) -> NDArray[np.int64]:
    return at[x.name] - x.zero if isinstance(x, Code) else x


@singledispatch
def _done(step: Step, at: Tensors) -> NDArray[Any]:
    raise NotImplementedError(type(step), len(at))


@_done.register
def _(step: Convolve, at: Tensors) -> NDArray[Any]:
    rank = len(step.strides)
    ends = list(zip(step.pads[:rank], step.pads[rank:], strict=True))
    x = np.pad(_centred(at, step.x), [(0, 0), (0, 0), *ends]).astype(np.float64)
    windows = _windows(x, step.weight.shape[2:], step.strides, step.dilations)  # [n, c, *size, *kernel]
    n, channels, *size = windows.shape[: 2 + rank]
    split = windows.reshape(n, step.group, channels // step.group, *windows.shape[2:])
    order = (1, 0, *range(3, 3 + rank), 2, *range(3 + rank, 3 + 2 * rank))
    rows = split.transpose(order).reshape(step.group, n * int(np.prod(size)), -1)
    weight = step.weight.astype(np.float64).reshape(step.group, -1, rows.shape[2])
    sums = np.matmul(rows, weight.transpose(0, 2, 1))  # [group, n * size, outputs/group]
    found = np.rint(sums).astype(np.int64).transpose(1, 0, 2).reshape(n, *size, len(step.weight))
    if step.bias is not None:
        found = found + step.bias
    return np.moveaxis(found, -1, 1)


def _windows(x: NDArray[Any], kernel: Shape, strides: Shape, dilations: Shape) -> NDArray[Any]:
    rank = len(kernel)
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, tuple(range(2, 2 + rank)))
    steps = (*(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in dilations))
    return np.asarray(windows[(slice(None), slice(None), *steps)])


@_done.register
def _(step: Multiply, at: Tensors) -> NDArray[Any]:
    a, b = (_centred(at, v).astype(np.float64) for v in (step.a, step.b))
    sums = np.rint(np.matmul(a, b)).astype(np.int64)
    return np.asarray(sums if step.bias is None else sums + step.bias)


@_done.register
def _(step: Spread, at: Tensors) -> NDArray[Any]:
    x = at[step.x.name]
    out = np.full((*x.shape[:2], *step.size), step.x.zero, np.int64)
    out[(slice(None), slice(None), *(slice(None, None, s) for s in step.strides))] = x
    return out


@_done.register
def _(step: Add, at: Tensors) -> NDArray[Any]:
    found = np.asarray(0 if step.constant is None else step.constant)
    for x, multiplier in step.terms:
        found = found + _centred(at, x) * multiplier
    return found


@_done.register
def _(step: Times, at: Tensors) -> NDArray[Any]:
    return _centred(at, step.a) * _centred(at, step.b)


@_done.register
def _(step: Requantize, at: Tensors) -> NDArray[Any]:
    product = _centred(at, step.x) * step.multiplier
    if step.rounding == "half-up":
        found = _half_up(product, step.shift)
    else:
        first = np.minimum(step.shift, step.bits)
        high = _half_up(product, first)
        rest = step.shift - first
        half = np.where(rest > 0, 1 << np.maximum(rest - 1, 0), 0)
        found = np.sign(high) * ((np.abs(high) + half) >> rest)
    return np.asarray(np.clip(found + step.zero, 0, step.high))


def _half_up(product: NDArray[np.int64], shift: Ints) -> NDArray[np.int64]:
    return np.asarray((product + (np.int64(1) << (shift - 1))) >> shift)


@_done.register
def _(step: Clamp, at: Tensors) -> NDArray[Any]:
    return np.asarray(np.clip(at[step.x.name], step.low, step.high))


@_done.register
def _(step: Look, at: Tensors) -> NDArray[Any]:
    return np.asarray(step.table[at[step.x.name] - step.x.low])


@_done.register
def _(step: Largest, at: Tensors) -> NDArray[Any]:
    rank = len(step.kernel)
    ends = list(zip(step.pads[:rank], step.pads[rank:], strict=True))
    x = np.pad(at[step.x.name], [(0, 0), (0, 0), *ends], constant_values=step.x.low)
    windows = _windows(x, step.kernel, step.strides, step.dilations)
    found = windows.max(axis=tuple(range(-rank, 0)))
    return np.asarray(found[(slice(None), slice(None), *(slice(0, s) for s in step.size))])


@_done.register
def _(step: Extreme, at: Tensors) -> NDArray[Any]:
    x = at[step.x.name]
    kept = step.keepdims
    chosen = x.max if step.op == "ReduceMax" else x.min
    return np.asarray(chosen(axis=step.axes, keepdims=kept))


@_done.register
def _(step: Sum, at: Tensors) -> NDArray[Any]:
    return np.asarray(_centred(at, step.x).sum(axis=step.axes, keepdims=step.keepdims))


@_done.register
def _(step: Mix, at: Tensors) -> NDArray[Any]:
    found = _centred(at, step.x)
    for axis, matrix in enumerate(step.matrices, 2):
        found = np.moveaxis(np.moveaxis(found, axis, -1) @ matrix.T, -1, axis)
    return found
