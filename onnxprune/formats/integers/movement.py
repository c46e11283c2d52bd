"""Operators that only move numbers, in integers: themselves, on codes; and resizing, by whole matrices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune.formats.integers.by_position import in_one_unit
from onnxprune.formats.integers.lowering import Lowering, same_grid
from onnxprune.formats.integers.steps import Code, Float, Mix, Move
from onnxprune.model.graph import Node

#: Integers that a model may compute with itself.
INTS = {TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL}

#: Bits that the weights of a resized position add up to.
_WEIGHTS = 11

#: What is made of codes is int32, and of sums int64, with room for a multiplier.
_CODES, _SUMS = 2**31 - 1, 2**41


def same(low: Lowering, node: Node) -> Code:
    """Identity, and Dropout."""
    return low.code(node, node.inputs[0])


def moved(low: Lowering, node: Node) -> Code:
    """An operator that takes elements of input 0, all outputs of it."""
    x = low.single(node, node.inputs[0])
    low.add(Move(tuple(node.outputs), node.op, (x.name, *_rest(low, node)), dict(node.attrs)))
    for name in node.outputs:
        low.codes[name] = replace(x, name=name)
    return low.codes[node.outputs[0]]


def _rest(low: Lowering, node: Node) -> list[str | NDArray[Any]]:
    """Inputs but the first: constants, or what the model computes in integers."""
    found: list[str | NDArray[Any]] = []
    for name in node.inputs[1:]:
        value = low.constant(name) if name else None
        if value is None and name and name not in low.whole:
            low.refuse(node, f"'{name}' is computed from what is no integer")
        found.append(name if value is None else value)
    return found


def pad(low: Lowering, node: Node) -> Code:
    """Pad: zero is the zero point."""
    x = low.single(node, node.inputs[0])
    rest = _rest(low, node)
    if node.attrs.get("mode", "constant") == "constant":
        value = rest[1] if len(rest) > 1 else np.zeros(())
        number = float(value.reshape(-1)[0]) if isinstance(value, np.ndarray) and value.size else 0.0
        code = np.clip(np.rint(number / x.scale.item()) + x.zero, x.low, x.high)
        rest = [rest[0], np.asarray(code.item(), x.dtype), *rest[2:]]
    else:
        rest = [rest[0], *("" for _ in rest[1:2]), *rest[2:]]
    low.add(Move((node.outputs[0],), "Pad", (x.name, *rest), dict(node.attrs)))
    return replace(x, name=node.outputs[0])


def concatenation(low: Lowering, node: Node) -> Code:
    """Concat, on the grid of its output; where it has none, in one unit that is fine enough for all of them."""
    name = node.outputs[0]
    grid = low.ahead(name)
    if grid is None:
        codes = [low.code(node, n) for n in node.inputs]
        if not all(c.scale.size == 1 and same_grid(c, codes[0]) and same_grid(codes[0], c) for c in codes):
            codes = in_one_unit(low, codes, f"{name}__part")
    else:
        codes = [low.rounded(low.code(node, n), grid, f"{name}__part{i}") for i, n in enumerate(node.inputs)]
    low.add(Move((name,), "Concat", tuple(c.name for c in codes), {"axis": node.attrs["axis"]}))
    return replace(codes[0], name=name, low=min(c.low for c in codes), high=max(c.high for c in codes))


def resized(low: Lowering, node: Node) -> Code:
    """Resize and Upsample of the spatial axes: nearest takes positions; others are a matrix along each axis."""
    x = low.code(node, node.inputs[0])
    near = node.attrs.get("mode", "nearest") == "nearest"
    if near or any(n != 1 for n in x.scale.shape[2:]):
        x = low.byte(node, node.inputs[0])
    before, after = low.shape(node, node.inputs[0]), low.shape(node, node.outputs[0])
    if before[:2] != after[:2] or len(before) not in (3, 4):
        low.refuse(node, "resizes more than height and width")
    if node.op == "Resize" and node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        low.refuse(node, "crops and resizes")
    matrices = [_matrix(low, node, axis, before, after) for axis in range(2, len(before))]
    name = node.outputs[0]
    if near:
        for axis, matrix in enumerate(matrices, 2):
            at = matrix.argmax(axis=1)
            out = name if axis == len(before) - 1 else f"{name}__axis{axis}"
            low.add(Move((out,), "Gather", (x.name, at), {"axis": axis}))
            x = replace(x, name=out)
        return x
    bits, limit = _WEIGHTS, _CODES if x.is_codes else _SUMS
    while x.size * np.prod([np.abs(np.rint(m * 2.0**bits)).sum(axis=1).max() for m in matrices]) > limit:
        bits -= 1
    whole = [np.rint(m * 2.0**bits).astype(np.int64) for m in matrices]
    low.add(Mix(name, x, whole))
    size = int(x.size * np.prod([np.abs(m).sum(axis=1).max() for m in whole]))
    return Code(name, x.scale / 2.0 ** (bits * len(whole)), 0, -size, size)


def _matrix(low: Lowering, node: Node, axis: int, before: tuple[int, ...], after: tuple[int, ...]) -> Float:
    """[new size, size]: what each new position along ``axis`` is made of; rows add up to 1."""
    size, rank = before[axis], len(before)
    shape = [1, size, *before[2:]]
    shape[2:] = [size if a == axis else before[a] for a in range(2, rank)]
    ramp = np.eye(size, dtype=np.float32).reshape(1, size, *(size if a == axis else 1 for a in range(2, rank)))
    x = np.broadcast_to(ramp, shape).astype(np.float32)
    given: dict[str, NDArray[Any]] = {}
    if node.op == "Resize" and (name := node.input(3)):
        sizes = low.constant(name)
        if sizes is not None and len(sizes) == rank:
            given["_3"] = np.asarray([1, size, *sizes[2:]], np.int64)
    found = low.alone(node, x, **given)
    along = np.moveaxis(found[0], axis - 1, 1).reshape(size, after[axis], -1)[:, :, 0]
    return np.asarray(along.T, np.float64)


def whole(low: Lowering, node: Node) -> bool:
    """Whether the node computes with integers alone, or a shape; then it stays as it is."""
    kinds = low.shapes.elem_type
    if any(kinds.get(o, 0) not in INTS for o in node.outputs if o) or node.captured:
        return False
    if node.op in ("Shape", "Size"):
        low.add(Move(tuple(node.outputs), node.op, (low.code(node, node.inputs[0]).name,), dict(node.attrs)))
    else:
        values = [n if n in low.whole or not n else low.constant(n) for n in node.inputs]
        if any(v is None or (isinstance(v, np.ndarray) and v.dtype.kind not in "iub") for v in values):
            return False
        low.add(Move(tuple(node.outputs), node.op, tuple(v for v in values if v is not None), dict(node.attrs)))
    low.whole.update(node.outputs)
    return True
