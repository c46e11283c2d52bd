"""QuantizeLinear and DequantizeLinear around what is on a grid: what onnxruntime, TensorRT and most compilers read.

    weight       integers -> DequantizeLinear                       one scale, one an output, or one a block (opset 21)
    activation   (Clip ->) QuantizeLinear -> DequantizeLinear       Clip: where the grid has fewer codes than its type
    bias         int32 -> DequantizeLinear, its scale that of the input times that of the weight

Integers are of the smallest type that the opset and onnxruntime have: 2 bits (opset 25), 4 (opset 21), 8, 16 (opset
21). A model's opset is raised where that is needed; where it cannot be, few bits lie in 8.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, defs, helper
from onnx import numpy_helper as nph

from onnxprune.constraints.grids import Grid, Grids
from onnxprune.errors import ModelError
from onnxprune.formats.carried import Bias
from onnxprune.formats.inserted_nodes import IR, Parts, at_opset, insert, reads_of_biases, single, source_and_target
from onnxprune.formats.read_back import NO_VALUES, check_rounding, check_same, read_back, run_on_seeded
from onnxprune.model.dtypes import BITS, dtype_of
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model
from onnxprune.running import session as runtime
from onnxprune.running.snr_and_cosine import Differences

#: Types of 16 bits, and how far a network of them may be off, as a share of an output's range.
_WIDE, _NEAR = {TensorProto.INT16, TensorProto.UINT16}, 0.05

#: Bits of a type, the opset from which DequantizeLinear takes it, and its name.
_TYPES = ((2, 25, "INT2"), (4, 21, "INT4"), (8, 13, "INT8"), (16, 21, "INT16"))


def write(model: Model, grids: Grids, input_shapes: Mapping[str, Shape] | None = None, *, apart: bool = False) -> Model:
    """``model``, whose weights lie on ``grids``, in integers. Raises ModelError where its opset cannot be raised.

    ``apart``: weights of other types than 8 bits are reshaped to what they are, so that no runtime takes them and what
    multiplies with them for one kernel.
    """
    used = [*grids.weights.values(), *grids.activations.values()]
    wide = max([21 if g.bits > 8 else 13 for g in used], default=13)
    wide = 21 if any(_block(g, model.graph.constants[n][1]) for n, g in grids.weights.items()) else wide
    try:
        raised = at_opset(model, max([wide, *(_since(g) for g in grids.weights.values())]), input_shapes)
    except ModelError:
        raised = at_opset(model, wide, input_shapes)
    opset = raised.opset
    inputs = {i.name for i in raised.graph.inputs}
    return insert(
        raised,
        {n: _of_weight(n, single(raised, n), g, opset, apart=apart) for n, g in grids.weights.items()},
        {n: _of_activation(*source_and_target(n, given=n in inputs), g, opset) for n, g in grids.activations.items()},
        reads_of_biases(raised, grids, _of_bias),
    )


def verify(
    model: Model,
    grids: Grids,
    written: Model,
    input_shapes: Mapping[str, Shape],
    seed: int = 0,
    input_values: Mapping[str, float] = NO_VALUES,
) -> None:
    """Read ``written`` back and check that it has the weights of ``model`` and rounds as ``grids`` do, bit for bit.

    ``input_shapes``, ``input_values``: of the inputs that it is run on, where they were given. Raises CheckError.
    """
    again = read_back(written)
    inputs = {i.name for i in model.graph.inputs}
    pairs = {n: source_and_target(n, given=n in inputs) for n in grids.activations}
    extra = [*grids.weights, *(t for pair in pairs.values() for t in pair if t not in inputs)]
    feeds, found = run_on_seeded(again, extra, input_shapes, seed, input_values)
    for name in grids.weights:
        check_same(name, found[name], model.array(name))
    for name, (source, target) in pairs.items():
        check_rounding(name, grids.activations[name], {**feeds, **found}[source], found[target])


def written_to_run(
    model: Model,
    grids: Grids,
    input_shapes: Mapping[str, Shape],
    seed: int = 0,
    input_values: Mapping[str, float] = NO_VALUES,
) -> tuple[Model, str]:
    """`write`, so that onnxruntime runs it as users do, where that can be had; and what is to be said of that.

    onnxruntime 1.32 makes kernels of integers of weights of 2 bits, and then refuses them, and wrong ones of 16 bits.
    """
    plain = write(model, grids, input_shapes)
    if not grids.activations or _runs_for_users(plain, input_shapes, seed, input_values):
        return plain, ""
    written = write(model, grids, input_shapes, apart=True)
    if _runs_for_users(written, input_shapes, seed, input_values):
        return (
            written,
            "weights of other types than 8 bits are reshaped, as onnxruntime fails here without",
        )
    return plain, 'onnxruntime runs this with add_session_config_entry("session.disable_quant_qdq", "1") alone'


def _runs_for_users(
    written: Model, input_shapes: Mapping[str, Shape], seed: int, input_values: Mapping[str, float]
) -> bool:
    """Whether it is not refused, and, with weights of 16 bits, near to what it gives when nothing is optimized."""
    again = read_back(written)
    feeds, wanted = run_on_seeded(again, (), input_shapes, seed, input_values)
    try:
        found = runtime.as_users_run(again, feeds)
    except ModelError:
        return False
    if not any(kind in _WIDE for kind, _ in again.graph.constants.values()):
        return True  # integers of 8 bits saturate on some processors: that is theirs
    apart = Differences()
    apart.add(wanted, found)
    return all(error.relative < _NEAR for error in apart.errors())


def _since(grid: Grid) -> int:
    """The opset that has the smallest type for a grid's codes that onnxruntime here takes."""
    return next(since for bits, since, name in _TYPES if bits >= grid.bits and _runs(name, since))


def _type(grid: Grid, opset: int, least: int = 2) -> int:
    bits = max(grid.bits, least)
    fits = (name for b, since, name in _TYPES if b >= bits and since <= opset and _runs(name, since))
    return _signed(next(fits), grid.signed)


def _signed(name: str, signed: bool) -> int:
    return int(TensorProto.DataType.Value(name if signed else f"U{name}"))


@cache
def _runs(name: str, since: int) -> bool:
    """Whether onnx has both types of this name, and onnxruntime gives numbers for them."""
    if bits_of(name) >= 8:
        return since <= defs.onnx_opset_version()
    if since > defs.onnx_opset_version() or not hasattr(TensorProto, name):
        return False
    codes = integers(np.array([1, 0, 1]), "codes", _signed(name, signed=False))
    scale = nph.from_array(np.asarray(0.5, np.float32), "scale")
    node = helper.make_node("DequantizeLinear", ["codes", "scale"], ["y"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])
    graph = helper.make_graph([node], "g", [], [y], [codes, scale])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", since)], ir_version=IR[since])
    try:
        return np.array_equal(runtime.results(Model(proto), {})["y"], [0.5, 0.0, 0.5])
    except ModelError:
        return False


def integers(codes: NDArray[np.int64], name: str, kind: int) -> TensorProto:
    """Integers as a tensor of an integer type, packed where some share a byte, the first of them lowest."""
    flat, bits = codes.reshape(-1), BITS[kind]
    if bits < 8:
        flat = np.append(flat, np.zeros(-len(flat) % (8 // bits), np.int64)).reshape(-1, 8 // bits) & (2**bits - 1)
        data = (flat << (bits * np.arange(8 // bits))).sum(axis=1).astype(np.uint8)
    else:
        data = flat.astype(dtype_of(kind))
    return TensorProto(name=name, data_type=kind, dims=codes.shape, raw_data=data.tobytes())


def bits_of(name: str) -> int:
    """The number of bits of the element type called ``name``."""
    return int(name.removeprefix("INT"))


def _block(grid: Grid, shape: Shape) -> bool:
    """Whether some axis has scales for blocks, or more than one axis has scales at all."""
    own = [(n, s) for n, s in zip(grid.scale.shape, shape, strict=True) if n != 1]
    return len(own) > 1 or any(n != s for n, s in own)


def _of_weight(name: str, values: NDArray[np.float32], grid: Grid, opset: int, *, apart: bool) -> Parts:
    kind = _type(grid, opset)
    scale, zero = grid.scale, grid.zero_point
    attributes: dict[str, Any] = {}
    if _block(grid, values.shape):
        axis = next((a for a, n in enumerate(scale.shape) if 1 < n < values.shape[a]), values.ndim - 1)
        for other, (n, whole) in enumerate(zip(scale.shape, values.shape, strict=True)):
            if other != axis and n != whole:
                scale, zero = scale.repeat(whole // n, other), zero.repeat(whole // n, other)
        attributes = {"axis": axis, "block_size": values.shape[axis] // scale.shape[axis]}
    elif scale.size > 1:
        attributes = {"axis": next(a for a, n in enumerate(scale.shape) if n != 1)}
        scale, zero = scale.reshape(-1), zero.reshape(-1)
    else:
        scale, zero = scale.reshape(()), zero.reshape(())
    names = [f"{name}__codes", f"{name}__scale", f"{name}__zero"]
    constants = [
        integers(grid.codes(values), names[0], kind),
        nph.from_array(np.asarray(scale, order="C"), names[1]),
        integers(zero, names[2], kind),
    ]
    if not apart or BITS[kind] == 8:
        return Parts(
            [helper.make_node("DequantizeLinear", names, [name], f"{name}__dequantize", **attributes)], constants
        )
    constants.append(nph.from_array(np.asarray(values.shape, np.int64), f"{name}__shape"))
    own, shape = f"{name}__numbers", f"{name}__shape"
    nodes = [
        helper.make_node("DequantizeLinear", names, [own], f"{name}__dequantize", **attributes),
        helper.make_node("Reshape", [own, shape], [name], f"{name}__apart"),
    ]
    return Parts(nodes, constants)


def _of_activation(source: str, target: str, grid: Grid, opset: int) -> Parts:
    # onnxruntime 1.32 makes QLinearConv of 4-bit activations, and then refuses it: they lie in 8.
    kind, scale, zero = _type(grid, opset, least=8), grid.scale.reshape(()), grid.zero_point.reshape(())
    base = target.removesuffix("__rounded")
    constants = [nph.from_array(scale, f"{base}__scale"), integers(zero, f"{base}__zero", kind)]
    nodes = []
    if grid.bits not in (8, 16):
        ends = [f"{base}__low", f"{base}__high"]
        bounds = (grid.values(np.full(grid.scale.shape, c)).reshape(()) for c in (grid.low, grid.high))
        constants += [nph.from_array(b, n) for b, n in zip(bounds, ends, strict=True)]
        nodes.append(helper.make_node("Clip", [source, *ends], [f"{base}__clipped"]))
        source = f"{base}__clipped"
    grid_names = [f"{base}__scale", f"{base}__zero"]
    nodes.append(helper.make_node("QuantizeLinear", [source, *grid_names], [f"{base}__codes"], f"{base}__quantize"))
    nodes.append(helper.make_node("DequantizeLinear", [f"{base}__codes", *grid_names], [target], f"{base}__dequantize"))
    return Parts(nodes, constants)


def _of_bias(name: str, bias: Bias) -> Parts:
    scale = bias.scale if len(set(bias.scale.tolist())) > 1 else bias.scale[:1].reshape(())
    names = [f"{name}__codes", f"{name}__scale"]
    constants = [
        nph.from_array(bias.codes.astype(np.int32), names[0]),
        nph.from_array(np.ascontiguousarray(scale), names[1]),
    ]
    axis: dict[str, Any] = {"axis": 0} if scale.ndim else {}
    return Parts([helper.make_node("DequantizeLinear", names, [name], f"{name}__dequantize", **axis)], constants)
