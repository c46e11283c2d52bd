"""Elementwise operators in integers: sums and products of what has scales, and tables for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxprune.constraints.grids import Grid
from onnxprune.formats.integers.lowering import FINE, Lowering, code_of
from onnxprune.formats.integers.steps import Add, Clamp, Code, Float, Ints, Look, Times
from onnxprune.model.graph import Node

#: Operators of one input that a table stands for.
TABLES = {
    *("Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Selu", "Celu", "Softplus", "Softsign", "Exp", "Log"),
    *("Sqrt", "Reciprocal", "Abs", "Erf", "Gelu", "Mish", "ThresholdedRelu", "Pow", "Swish", "Sin", "Cos"),
}

#: Bits that sums of unlike scales have more than what is summed, and the most that they have, so that 20 are left for
#: the multiplier that follows.
_MORE, _MOST = 10, 41

#: From how many bits on the steps of sums are fine enough to add a constant to.
_SUMS = 17


def addition(low: Lowering, node: Node) -> Code:
    """Add, and Sub."""
    terms: list[tuple[str, Float]] = []
    constant: Float | None = None
    for position, name in enumerate(node.inputs):
        sign = -1.0 if node.op == "Sub" and position else 1.0
        value = low.floats(name)
        if value is not None:
            constant = sign * value + (0.0 if constant is None else constant)
        else:
            terms.append((name, np.asarray(sign)))
    return _summed(low, node, [(low.code(node, n), s) for n, s in terms], constant)


def _summed(low: Lowering, node: Node, terms: Sequence[tuple[Code, Float]], constant: Float | None) -> Code:
    """In units of which the largest scale is a power of two, and that are fine enough for the smallest."""
    if len(terms) == 1 and constant is not None and terms[0][1] > 0:
        x = terms[0][0]
        if x.size >= 2**_SUMS:  # sums: their steps are fine enough
            return _added(low, node, [(x, np.ones((), np.int64))], np.rint(constant / x.scale), x.scale)
    unit = _unit([c for c, _ in terms])
    whole = [(c, (s * np.rint(c.scale / unit)).astype(np.int64)) for c, s in terms]
    return _added(low, node, whole, None if constant is None else np.rint(constant / unit), np.full((1,), unit))


def _unit(codes: Sequence[Code]) -> float:
    most = max(float(c.scale.max()) for c in codes)
    spread = max(c.size * float(c.scale.max()) / most for c in codes)
    size = max(c.size for c in codes).bit_length()
    fine = max(min(_MORE + size, _MOST - int(np.ceil(np.log2(max(spread, 1.0)))) - len(codes)), 0)
    return most / 2.0**fine


def in_one_unit(low: Lowering, codes: Sequence[Code], name: str) -> list[Code]:
    """Sums and codes of unlike scales, as sums of one; they are called ``name`` and a number."""
    unit, found = _unit(codes), []
    for index, code in enumerate(codes):
        multiplier = np.rint(code.scale / unit).astype(np.int64)
        low.add(Add(f"{name}{index}", ((code, multiplier),)))
        size = code.size * int(multiplier.max())
        found.append(Code(f"{name}{index}", np.full((1,), unit), 0, -size, size))
    size = max(c.high for c in found)
    return [replace(c, low=-size, high=size) for c in found]


def _added(low: Lowering, node: Node, terms: Sequence[tuple[Code, Ints]], constant: Float | None, scale: Float) -> Code:
    whole = None if constant is None else constant.astype(np.int64)
    name = node.outputs[0]
    low.add(Add(name, terms, whole))
    size = sum(c.size * int(np.abs(m).max()) for c, m in terms)
    size += 0 if whole is None else int(np.abs(whole).max())
    return Code(name, scale, 0, -size, size)


def multiplication(low: Lowering, node: Node) -> Code:
    """Mul, and Div by a constant."""
    a, b = node.inputs
    x, y = low.floats(a), low.floats(b)
    if node.op == "Div":
        if y is None or (y == 0).any():
            low.refuse(node, "divides by what is computed, or by 0")
        y = 1 / y
    if x is None and y is None:
        return _times(low, node, low.code(node, a), low.code(node, b))
    factor, other = (x, b) if x is not None else (y, a)
    assert factor is not None
    return scaled(low, node, low.code(node, other), factor)


def scaled(low: Lowering, node: Node, x: Code, factor: Float) -> Code:
    """X times a constant, which is another scale; a step only where it is not more than 0."""
    scale = x.scale * np.where(factor == 0, 1.0, np.abs(factor))
    if (factor > 0).all():
        return replace(x, scale=scale)
    name = f"{node.outputs[0]}__signed"
    low.add(Times(name, x, np.sign(factor).astype(np.int64)))
    return Code(name, scale, 0, -x.size, x.size)


def negative(low: Lowering, node: Node) -> Code:
    """Neg."""
    return scaled(low, node, low.code(node, node.inputs[0]), np.asarray(-1.0))


def _times(low: Lowering, node: Node, a: Code, b: Code) -> Code:
    if a.size * b.size >= 2**_MOST:
        a, b = (low.fine(node, n) for n in node.inputs)
    low.add(Times(node.outputs[0], a, b))
    size = a.size * b.size
    return Code(node.outputs[0], a.scale * b.scale, 0, -size, size)


def normalization(low: Lowering, node: Node) -> Code:
    """BatchNormalization of what is known: a factor and a summand for each channel."""
    values = [low.floats(n) for n in node.inputs[1:5]]
    if any(v is None for v in values):
        low.refuse(node, "its statistics are computed")
    gamma, beta, mean, variance = (v for v in values if v is not None)
    rank = len(low.shape(node, node.inputs[0]))
    factor = gamma / np.sqrt(variance + node.attrs.get("epsilon", 1e-5))
    summand = beta - mean * factor
    x = scaled(low, node, low.code(node, node.inputs[0]), factor.reshape(1, -1, *(1,) * (rank - 2)))
    constant = summand.reshape(1, -1, *(1,) * (rank - 2))
    return _summed(low, node, [(x, np.ones(()))], constant)


def relu(low: Lowering, node: Node) -> Code:
    """Relu."""
    x = low.code(node, node.inputs[0])
    return clamped(low, node, x, np.asarray(0.0), None)


def clip(low: Lowering, node: Node) -> Code:
    """Clip to constants."""
    ends: list[Float | None] = []
    for position, key in ((1, "min"), (2, "max")):
        value = np.asarray(node.attrs[key], np.float64) if key in node.attrs else None
        if name := node.input(position):
            value = low.floats(name)
            if value is None:
                low.refuse(node, "its bounds are computed")
        ends.append(value)
    return clamped(low, node, low.code(node, node.inputs[0]), *ends)


def clamped(low: Lowering, node: Node, x: Code, least: Float | None, most: Float | None) -> Code:
    """X between two numbers, which lie on its steps then; what lies beyond all that it can be is no bound."""
    start = np.rint((-np.inf if least is None else least) / x.scale) + x.zero
    end = np.rint((np.inf if most is None else most) / x.scale) + x.zero
    if (start > x.high).any() or (end < x.low).any():
        low.refuse(node, "its bounds leave out all that its input can be")
    down, up = (e.clip(x.low, x.high).astype(np.int64) for e in (start, end))
    if (down <= x.low).all() and (up >= x.high).all():
        return x
    low.add(Clamp(node.outputs[0], x, down, up))
    return replace(x, name=node.outputs[0], low=int(down.min()), high=int(up.max()))


def leaky(low: Lowering, node: Node) -> Code:
    """LeakyRelu and PRelu: what is above 0, and what is below times a slope."""
    slope = np.asarray(node.attrs.get("alpha", 0.01)) if node.op == "LeakyRelu" else low.floats(node.inputs[1])
    if slope is None or (slope < 0).any():
        low.refuse(node, "its slope is computed, or below 0")
    x, name = low.code(node, node.inputs[0]), node.outputs[0]
    zero, end = np.asarray(x.zero), (np.asarray(x.low), np.asarray(x.high))
    low.add(Clamp(f"{name}__above", x, zero, end[1]))
    low.add(Clamp(f"{name}__below", x, end[0], zero))
    above = replace(x, name=f"{name}__above", low=x.zero)
    below = replace(x, name=f"{name}__below", high=x.zero)
    room = min(20, _MOST - x.size.bit_length())
    factor = np.rint(slope * 2.0**room).astype(np.int64)
    return _added(low, node, [(above, np.asarray(2**room)), (below, factor)], None, x.scale / 2.0**room)


def table(low: Lowering, node: Node) -> Code:
    """Any function of one number: looked up, for each code that there is.

    What it gives is on the grid that it has, or on one of 16 bits over all that the table holds.
    """
    x = low.fine(node, node.inputs[0])
    values = (np.arange(x.low, x.high + 1) - x.zero) * x.scale
    with np.errstate(all="ignore"):
        found = low.alone(node, values.astype(np.float32).reshape(1, -1)).reshape(-1)
    grid = low.ahead(node.outputs[0])
    if grid is None:
        if not np.isfinite(found).all():
            what = f"'{node.outputs[0]}' is on no grid, and is infinite for what its input could be"
            low.refuse(node, what, "--activations 8 gives every layer's input one")
        least, most = min(float(found.min()), 0.0), max(float(found.max()), 0.0)
        scale = np.full((1,), max((most - least) / (2**FINE - 2), 1e-30), np.float32)
        zero = np.rint(-least / scale).astype(np.int64)
        grid = Grid(scale, zero, FINE, signed=False)
    one = Grid(grid.scale.reshape(1), grid.zero_point.reshape(1), grid.bits, grid.signed)
    ends = one.values(np.asarray([one.low, one.high]))
    low.add(Look(node.outputs[0], x, one.codes(np.nan_to_num(found).clip(*ends)) - one.low))
    return code_of(grid, node.outputs[0])
