"""Shape arithmetic: values of small tensors that only describe shapes, and which of their elements follow from what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune.model.graph import Node, Shape
from onnxprune.model.onnx_model import Model

#: Shape arithmetic works on small tensors; larger ones are data.
MAX_INTS, MAX_FLOATS = 4096, 16

INTS = {TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL}

#: Operators that only move elements: what is dynamic in their input is so at the matching place of the output.
_MOVES = {
    "Gather",
    "Slice",
    "Concat",
    "Unsqueeze",
    "Squeeze",
    "Reshape",
    "Flatten",
    "Transpose",
    "Identity",
    "Cast",
} | {
    "Split",
    "Expand",
    "Tile",
    "Where",
}

#: Operators each element of whose result follows from those at the same place of their inputs.
_BY_POSITION = {
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Mod",
    "Max",
    "Min",
    "Pow",
    "Neg",
    "Abs",
    "Sign",
    "Sqrt",
    "Floor",
    "Ceil",
} | {
    *("Round", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not", "Clip"),
}

#: What of these computes floats computes sizes on the way, as long as they are numbers or lists of numbers.
_SIZES = _MOVES - {"Expand", "Tile"} | _BY_POSITION | {"CastLike", "ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin"}

#: Operators whose result is not a function of their inputs.
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}


@dataclass(frozen=True)
class Value:
    """A small tensor known before running. ``dynamic``: which elements follow from a dynamic input dimension."""

    array: NDArray[Any]
    dynamic: NDArray[np.bool_]

    def same_as(self, other: Value) -> bool:
        """Whether both hold the same numbers in the same shape."""
        return self.array.shape == other.array.shape and bool(np.array_equal(self.array, other.array))


def evaluate(node: Node, model: Model, inputs: Sequence[Value | None]) -> list[Value] | None:
    """What ``node`` computes from known inputs by onnx's reference operators; None where it has no such operator."""
    try:
        arrays = _computed(node, model, [v.array if v else None for v in inputs])
        dynamic = [_dynamic_of(node, model, inputs, a, at) for at, a in enumerate(arrays)]
    except Exception:  # noqa: BLE001 (what cannot be evaluated is simply not known)
        return None
    return [Value(a, d) for a, d in zip(arrays, dynamic, strict=True)]


def told(node: Node, arrays: Sequence[NDArray[Any] | None]) -> float:
    """About how many elements an operator makes that makes as many as its inputs say; 0 of all others."""
    given = [np.ones(1) if a is None or a.dtype.kind not in "iufb" else a.astype(np.float64) for a in arrays]
    if node.op == "ConstantOfShape":
        return float(np.prod(given[0]))
    if node.op in ("Expand", "Tile", "OneHot"):
        return float(given[0].size * np.prod(np.maximum(given[1], 1)))
    if node.op == "Pad":
        pads = given[1] if len(given) > 1 else np.asarray(node.attrs.get("pads", 0), np.float64)
        return float(np.prod(np.asarray(given[0].shape) + np.abs(pads).sum()))
    if node.op == "Range":
        start, limit, delta = (float(a.reshape(-1)[0]) for a in given)
        return abs(limit - start) / max(abs(delta), 1e-9)
    return 0


def sources(node: Node, model: Model, inputs: Sequence[Value | None], output: int) -> NDArray[np.int64] | None:
    """Where each element of an output that only moves elements comes from; None where more than that is done.

    The elements of the inputs that are moved (`moving`) are numbered one input after the other.
    """
    places = moving(node)
    if not places:
        return None
    numbers: list[NDArray[Any] | None] = [v.array if v else None for v in inputs]
    start = 0
    for place in places:
        value = inputs[place]
        if value is None:
            return None
        numbers[place] = np.arange(start, start + value.array.size, dtype=np.int64).reshape(value.array.shape)
        start += value.array.size
    if node.op == "Cast":
        return numbers[0]
    try:
        return _computed(node, model, numbers)[output].astype(np.int64)
    except Exception:  # noqa: BLE001 (as above)
        return None


def moving(node: Node) -> tuple[int, ...]:
    """The inputs whose elements an operator moves, without computing anything of them."""
    if node.domain or node.op not in _MOVES:
        return ()
    return tuple(range(len(node.inputs))) if node.op == "Concat" else (1, 2) if node.op == "Where" else (0,)


def _computed(node: Node, model: Model, arrays: Sequence[NDArray[Any] | None]) -> list[NDArray[Any]]:
    """One run of ``node`` alone, at the model's own opsets: an operator means what it meant then."""
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 (heavy: only where shapes are computed)

    proto = onnx.ModelProto(ir_version=model.proto.ir_version, opset_import=model.proto.opset_import)
    proto.graph.name = "node"
    proto.graph.node.append(model.proto.graph.node[node.index])
    feeds = {n: a for n, a in zip(node.inputs, arrays, strict=True) if n and a is not None}
    proto.graph.input.extend(onnx.ValueInfoProto(name=n) for n in feeds)
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in node.outputs if n)
    return [np.asarray(r) for r in ReferenceEvaluator(proto).run(None, feeds)]


def _dynamic_of(
    node: Node, model: Model, inputs: Sequence[Value | None], result: NDArray[Any], output: int
) -> NDArray[np.bool_]:
    """Which elements of a result follow from a dynamic size: by what is moved where, or position by position."""
    masks = [v.dynamic for v in inputs if v]
    if not any(m.any() for m in masks):
        return np.zeros(result.shape, np.bool_)
    places = sources(node, model, inputs, output)
    if places is not None:
        flat = np.concatenate([v.dynamic.reshape(-1) for i in moving(node) if (v := inputs[i]) is not None])
        found = flat[places]
        chosen = inputs[0] if node.op == "Where" else None
        return np.asarray(found | np.broadcast_to(chosen.dynamic, found.shape) if chosen else found)
    if node.op in _BY_POSITION and not node.domain:
        return np.asarray(np.any([np.broadcast_to(m, result.shape) for m in masks], axis=0))
    return np.ones(result.shape, np.bool_)


def shape_value(node: Node, shape: Shape, dynamic: tuple[bool, ...]) -> Value:
    """What a Shape or Size node gives for a tensor of ``shape``."""
    if node.op == "Size":
        return Value(np.asarray(math.prod(shape), np.int64), np.asarray(any(dynamic)))
    part = slice(node.attrs.get("start", 0), node.attrs.get("end"))
    return Value(np.asarray(shape[part], np.int64), np.asarray(dynamic[part], np.bool_))


def is_open_data(node: Node, value: Value) -> bool:
    """Floats in a dynamic shape that are more than a size on its way from integers to integers: data, of any size."""
    if value.array.dtype.kind != "f" or not value.dynamic.any():
        return False
    return node.op not in _SIZES or value.array.ndim > 1 or value.array.size > MAX_FLOATS


def is_shape_source(node: Node) -> bool:
    """Whether the node turns a shape into a value."""
    return node.op in ("Shape", "Size") and not node.domain
