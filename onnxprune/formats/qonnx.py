"""QONNX (arXiv 2206.07527): Quant nodes on floats, of any width, as FINN and hls4ml read them.

    Quant(x, scale, zero point, bits) = (round(clip(x / scale + zero point)) - zero point) * scale

Weights stay floats, which are on their grids, with a Quant each. A scale that is a power of two is a shift to those who
build hardware of it. Halves are rounded to even after the zero point was added, and by ONNX before: with an odd zero
point they are rounded to the other side, which concerns activations only, and only those that are halves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper
from onnx import numpy_helper as nph

from onnxprune.constraints.grids import Grid, Grids
from onnxprune.errors import CheckError
from onnxprune.formats.carried import Bias
from onnxprune.formats.inserted_nodes import Parts, at_opset, insert, reads_of_biases, single, source_and_target
from onnxprune.formats.read_back import check_same, read_back
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model

DOMAIN = "qonnx.custom_op.general"

#: What a weight is called before its Quant.
_FLOAT = "__float"

#: The opset that hls4ml and FINN read, or a later one.
_OPSET = 11


def write(model: Model, grids: Grids, input_shapes: Mapping[str, Shape] | None = None) -> Model:
    """``model``, whose weights lie on ``grids``, with a Quant node for each grid."""
    raised = at_opset(model, _OPSET, input_shapes)
    inputs = {i.name for i in raised.graph.inputs}
    weights = {}
    for name, grid in grids.weights.items():
        values = single(raised, name)
        parts = _quant(f"{name}{_FLOAT}", name, grid, values.shape)
        weights[name] = Parts(parts.nodes, [nph.from_array(values, f"{name}{_FLOAT}"), *parts.constants])
    tensors = {n: _quant(*source_and_target(n, given=n in inputs), g) for n, g in grids.activations.items()}
    return insert(raised, weights, tensors, reads_of_biases(raised, grids, _of_bias), {DOMAIN: 1})


def verify(model: Model, grids: Grids, written: Model) -> None:
    """Read ``written`` back and check that each Quant gives the weights of ``model`` and rounds as ``grids`` do.

    Raises CheckError.
    """
    again = read_back(written)
    found = {n.outputs[0]: n for n in again.graph.nodes if n.domain == DOMAIN}
    inputs = {i.name for i in again.graph.inputs}
    names = {n: source_and_target(n, given=n in inputs)[1] for n in grids.activations}
    for name, grid in (*grids.weights.items(), *grids.activations.items()):
        node = found.get(names.get(name, name))
        if node is None:
            raise CheckError("has no Quant", where=f"tensor '{name}'", hint="please report this as a bug")
        scale, zero, bits = (again.array(n) for n in node.inputs[1:])
        signed = bool(node.attrs["signed"])
        weight = name in grids.weights
        values = again.array(node.inputs[0]) if weight else _ramp(grid)
        wanted = model.array(name) if weight else grid.of_rank(1).rounded(values)
        check_same(name, quantized(values, scale, zero, int(bits), signed=signed), wanted)


def quantized(
    x: NDArray[np.float32], scale: NDArray[np.float32], zero: NDArray[np.float32], bits: int, *, signed: bool
) -> NDArray[np.float32]:
    """The result of Quant as QONNX's own reference computes it, in single precision."""
    low = -(2.0 ** (bits - 1)) if signed else 0.0
    codes = np.rint(np.clip(x / scale + zero, np.float32(low), np.float32(low + 2.0**bits - 1)))
    return np.asarray((codes - zero) * scale, np.float32)


def _quant(source: str, target: str, grid: Grid, shape: tuple[int, ...] = ()) -> Parts:
    base = f"{target}__quant"
    names = [f"{base}_scale", f"{base}_zero", f"{base}_bits"]
    scale, zero = (grid if shape else grid.of_rank(0)).along(shape)  # without a shape: one for all
    constants = [
        nph.from_array(np.asarray(v, np.float32), n) for v, n in zip((scale, zero, grid.bits), names, strict=True)
    ]
    attributes: dict[str, Any] = {"signed": int(grid.signed), "narrow": 0, "rounding_mode": "ROUND"}
    node = helper.make_node("Quant", [source, *names], [target], base, domain=DOMAIN, **attributes)
    return Parts([node], constants)


def _of_bias(name: str, bias: Bias) -> Parts:
    """In the units of its sums, of as many bits as its numbers take: hls4ml makes no constant without a width."""
    bits = int(np.abs(bias.codes).max(initial=1)).bit_length() + 1
    grid = Grid(bias.scale, np.zeros(bias.scale.shape, np.int64), bits, signed=True)
    parts = _quant(f"{name}{_FLOAT}", name, grid, bias.scale.shape)
    return Parts(parts.nodes, [nph.from_array(bias.values, f"{name}{_FLOAT}"), *parts.constants])


def _ramp(grid: Grid) -> NDArray[np.float32]:
    """Numbers over all of a grid and past its ends, none of them a half."""
    steps = np.linspace(grid.low - 3, grid.high + 3, 1000) - grid.zero_point.item()
    return np.asarray((np.rint(steps) + 0.25) * grid.scale.item(), np.float32)
