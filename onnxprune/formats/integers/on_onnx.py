"""The steps as an ONNX graph without a float in it, of operators that onnxruntime has kernels for.

products       ConvInteger and MatMulInteger, sums int32. Weights are uint8 with zero point 128: kernels that multiply
unsigned by signed saturate on processors without VNNI. Wider ones are a high and a low part.
right shift    BitShift of uint64, after an offset or a Max that leaves nothing below 0: it is for unsigned numbers
tables         Gather
zero padding   by ConvInteger, which pads with the zero point
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper
from onnx import numpy_helper as nph

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
    Sum,
    Times,
)
from onnxprune.model.onnx_model import Model

#: The key of metadata_props that says what integers stand for.
METADATA = "onnxprune.integers"

#: The least IR version of the opsets that these operators are of.
_IR = 7

#: The opset from which on ReduceMax has its axes as an input.
_AXES_ARE_INPUTS = 18

#: The zero point of weights.
_MIDDLE = 128

_UINT8, _INT32, _INT64, _UINT64 = (np.dtype(t) for t in ("uint8", "int32", "int64", "uint64"))


def graph_of(program: Program, source: Model) -> Model:
    """The graph; name, IR version and metadata are those of ``source``."""
    made = _Graph({n: c.dtype for n, c in program.tensors().items()}, program.opset)
    for step in program.steps:
        made.write(step)
    given = [_info(program, n, dims) for n, dims in program.inputs.items()]
    results = [_info(program, n, (None,) * rank) for n, rank in program.outputs.items()]
    constants = [nph.from_array(a, n) for n, a in made.constants.items()]
    graph = helper.make_graph(made.nodes, source.proto.graph.name or "integers", given, results, constants)
    opsets = [helper.make_opsetid("", program.opset)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=max(source.proto.ir_version, _IR))
    proto.metadata_props.extend(source.proto.metadata_props)
    told = {
        "rounding": program.rounding,
        "inputs": {n: program.codes[n].to_json() for n in program.inputs if n in program.codes},
        "outputs": {n: program.codes[n].to_json() for n in program.outputs if n in program.codes},
    }
    proto.metadata_props.add(key=METADATA, value=json.dumps(told))
    return Model(proto)


def _info(program: Program, name: str, dims: Sequence[int | None]) -> Any:
    code = program.codes.get(name)
    kind = program.kinds[name] if code is None else int(helper.np_dtype_to_tensor_dtype(code.dtype))
    return helper.make_tensor_value_info(name, kind, dims)


@dataclass
class _Graph:
    """Nodes and constants so far. ``types``: what each tensor of a step must be."""

    types: Mapping[str, np.dtype[Any]]
    opset: int
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    between: int = 0

    def write(self, step: Any) -> None:
        """The nodes of one step."""
        _WRITERS[type(step)](self, step)

    def constant(self, array: NDArray[Any], dtype: np.dtype[Any] | None = None) -> str:
        """A new constant."""
        name = f"constant{len(self.constants)}"
        self.constants[name] = np.ascontiguousarray(array, dtype).reshape(np.shape(array))
        return name

    def node(self, op: str, *inputs: str, out: str = "", **attrs: Any) -> str:
        """A node, and what its output is called."""
        self.between += 1
        out = out or f"between{self.between}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], f"{op}{self.between}", **attrs))
        return out

    def cast(self, name: str, was: np.dtype[Any], to: np.dtype[Any], out: str = "") -> str:
        """In another type, or as ``out``."""
        if was == to:
            return self.node("Identity", name, out=out) if out else name
        return self.node("Cast", name, out=out, to=int(helper.np_dtype_to_tensor_dtype(to)))

    def give(self, name: str, was: np.dtype[Any], out: str) -> None:
        """A step's result, of the type that it must be; in the node that made it, where nothing is to be cast."""
        if was == self.types.get(out, was):
            self.nodes[-1].output[0] = out
        else:
            self.cast(name, was, self.types[out], out)

    def centred(self, x: Code | Ints, dtype: np.dtype[Any]) -> str:
        """X without its zero point."""
        if not isinstance(x, Code):
            return self.constant(x, dtype)
        name = self.cast(x.name, self.types[x.name], dtype)
        return self.node("Sub", name, self.constant(np.asarray(x.zero), dtype)) if x.zero else name

    def shifted(self, name: str, shift: Ints) -> str:
        """An int64 that is not below 0, over 2^shift, as uint64."""
        return self.node("BitShift", self.cast(name, _INT64, _UINT64), self.constant(shift, _UINT64), direction="RIGHT")


def _products(graph: _Graph, weight: Ints, product: Callable[[NDArray[Any], str], str]) -> tuple[str, np.dtype[Any]]:
    """Sums of products with ``weight``, which ``product`` makes of uint8 weights and the name of their zero point."""
    if weight.min(initial=0) >= -_MIDDLE and weight.max(initial=0) < _MIDDLE:
        return product((weight + _MIDDLE).astype(np.uint8), graph.constant(np.asarray(_MIDDLE), _UINT8)), _INT32
    low, middle = weight & 255, graph.constant(np.asarray(_MIDDLE), _UINT8)
    parts = (
        product(((weight >> 8) + _MIDDLE).astype(np.uint8), middle),
        product(low.astype(np.uint8), graph.constant(np.asarray(0), _UINT8)),
    )
    high = graph.node("Mul", graph.cast(parts[0], _INT32, _INT64), graph.constant(np.asarray(256), _INT64))
    return graph.node("Add", high, graph.cast(parts[1], _INT32, _INT64)), _INT64


def _with_bias(graph: _Graph, sums: str, kind: np.dtype[Any], bias: Ints | None, out: str) -> None:
    if bias is not None:
        sums = graph.node("Add", sums, graph.constant(bias, kind))
    graph.give(sums, kind, out)


def _convolve(graph: _Graph, step: Convolve) -> None:
    rank = len(step.strides)
    attrs: dict[str, Any] = {n: getattr(step, n) for n in ("strides", "pads", "dilations", "group")}
    zero = graph.constant(np.asarray(step.x.zero), _UINT8)

    def product(weight: NDArray[Any], middle: str) -> str:
        shape = list(weight.shape[2:])
        return graph.node("ConvInteger", step.x.name, graph.constant(weight), zero, middle, kernel_shape=shape, **attrs)

    sums, kind = _products(graph, step.weight, product)
    bias = None if step.bias is None else step.bias.reshape(1, -1, *(1,) * rank)
    _with_bias(graph, sums, kind, bias, step.out)


def _multiply(graph: _Graph, step: Multiply) -> None:
    if isinstance(step.a, Code) and isinstance(step.b, Code):
        zeros = [graph.constant(np.asarray(c.zero), _UINT8) for c in (step.a, step.b)]
        sums, kind = graph.node("MatMulInteger", step.a.name, step.b.name, *zeros), _INT32
    else:
        assert isinstance(step.a, Code)
        assert not isinstance(step.b, Code)
        x, zero = step.a.name, graph.constant(np.asarray(step.a.zero), _UINT8)
        sums, kind = _products(
            graph, step.b, lambda w, middle: graph.node("MatMulInteger", x, graph.constant(w), zero, middle)
        )
    _with_bias(graph, sums, kind, step.bias, step.out)


def _spread(graph: _Graph, step: Spread) -> None:
    rank = len(step.strides)
    axes = np.asarray([3 + 2 * i for i in range(rank)])
    apart = graph.node("Unsqueeze", step.x.name, graph.constant(axes, _INT64))
    pads = np.zeros((2, 2 + 2 * rank), np.int64)
    pads[1, axes] = np.asarray(step.strides) - 1
    kind = graph.types[step.x.name]
    filled = graph.node("Pad", apart, graph.constant(pads.reshape(-1)), graph.constant(np.asarray(step.x.zero), kind))
    graph.give(graph.node("Reshape", filled, graph.constant(np.asarray([0, 0, *step.size]))), kind, step.out)


def _add(graph: _Graph, step: Add) -> None:
    found = ""
    for x, multiplier in step.terms:
        term = graph.centred(x, _INT64)
        if (multiplier != 1).any():
            term = graph.node("Mul", term, graph.constant(multiplier, _INT64))
        found = graph.node("Add", found, term) if found else term
    constant = np.zeros((), np.int64) if step.constant is None else step.constant
    if len(step.terms) == 1 or step.constant is not None:
        found = graph.node("Add", found, graph.constant(constant, _INT64))
    graph.give(found, _INT64, step.out)


def _times(graph: _Graph, step: Times) -> None:
    graph.give(graph.node("Mul", graph.centred(step.a, _INT64), graph.centred(step.b, _INT64)), _INT64, step.out)


def _requantize(graph: _Graph, step: Requantize) -> None:
    product = graph.node("Mul", graph.centred(step.x, _INT64), graph.constant(step.multiplier, _INT64))
    if step.rounding == "half-up":
        summand = (np.int64(step.zero) << step.shift) + (np.int64(1) << (step.shift - 1))
        moved = graph.node("Add", product, graph.constant(summand, _INT64))
        above = graph.node("Max", moved, graph.constant(np.asarray(0), _INT64))
        codes = graph.shifted(above, step.shift)
        found, kind = graph.node("Min", codes, graph.constant(np.asarray(step.high), _UINT64)), _UINT64
    else:
        first = np.minimum(step.shift, step.bits)
        rest = step.shift - first
        offset = -(-(step.x.size * np.abs(step.multiplier)) >> first)
        start = (offset << first) + (np.int64(1) << (first - 1))
        high = graph.shifted(graph.node("Add", product, graph.constant(start, _INT64)), first)
        high = graph.node("Sub", graph.cast(high, _UINT64, _INT64), graph.constant(offset, _INT64))
        half = np.where(rest > 0, np.int64(1) << np.maximum(rest - 1, 0), 0)
        size = graph.node("Add", graph.node("Abs", high), graph.constant(half, _INT64))
        size = graph.cast(graph.shifted(size, rest), _UINT64, _INT64)
        away = graph.node("Mul", size, graph.node("Sign", high))
        whole = graph.node("Add", away, graph.constant(np.asarray(step.zero), _INT64))
        ends = (graph.constant(np.asarray(e), _INT64) for e in (0, step.high))
        found, kind = graph.node("Clip", whole, *ends), _INT64
    graph.give(found, kind, step.out)


def _clamp(graph: _Graph, step: Clamp) -> None:
    kind = graph.types[step.x.name]
    if step.low.size == step.high.size == 1:
        ends = (graph.constant(e.reshape(()), kind) for e in (step.low, step.high))
        graph.give(graph.node("Clip", step.x.name, *ends), kind, step.out)
        return
    kind = kind if kind == _INT64 else _INT32
    above = graph.node("Max", graph.cast(step.x.name, graph.types[step.x.name], kind), graph.constant(step.low, kind))
    graph.give(graph.node("Min", above, graph.constant(step.high, kind)), kind, step.out)


def _look(graph: _Graph, step: Look) -> None:
    at = graph.cast(step.x.name, graph.types[step.x.name], _INT32)
    if step.x.low:
        at = graph.node("Sub", at, graph.constant(np.asarray(step.x.low), _INT32))
    kind = _UINT8 if step.table.max(initial=0) < 2**8 else np.dtype(np.uint16)
    graph.give(graph.node("Gather", graph.constant(step.table, kind), at, axis=0), kind, step.out)


def _largest(graph: _Graph, step: Largest) -> None:
    attrs: dict[str, Any] = {n: getattr(step, n) for n in ("strides", "pads", "dilations")}
    found = graph.node("MaxPool", step.x.name, kernel_shape=step.kernel, **attrs)
    graph.give(found, graph.types[step.x.name], step.out)


def _extreme(graph: _Graph, step: Extreme) -> None:
    kind = graph.types[step.x.name]
    kept = int(step.keepdims)
    if graph.opset >= _AXES_ARE_INPUTS:
        found = graph.node(step.op, step.x.name, graph.constant(np.asarray(step.axes), _INT64), keepdims=kept)
    else:
        found = graph.node(step.op, step.x.name, axes=step.axes, keepdims=kept)
    graph.give(found, kind, step.out)


def _sum(graph: _Graph, step: Sum) -> None:
    kind = graph.types.get(step.out, _INT64)
    kind = kind if kind == _INT64 else _INT32
    axes = graph.constant(np.asarray(step.axes), _INT64)
    found = graph.node("ReduceSum", graph.centred(step.x, kind), axes, keepdims=int(step.keepdims))
    graph.give(found, kind, step.out)


def _mix(graph: _Graph, step: Mix) -> None:
    kind = graph.types.get(step.out, _INT64)
    kind = kind if kind == _INT64 else _INT32
    found = graph.centred(step.x, kind)
    *first, last = step.matrices
    for matrix in first:
        found = graph.node("MatMul", graph.constant(matrix, kind), found)
    graph.give(graph.node("MatMul", found, graph.constant(last.T, kind)), kind, step.out)


def _move(graph: _Graph, step: Move) -> None:
    names = [v if isinstance(v, str) else graph.constant(v) for v in step.inputs]
    graph.between += 1
    graph.nodes.append(helper.make_node(step.op, names, list(step.outs), f"{step.op}{graph.between}", **step.attrs))


_WRITERS: dict[type, Callable[[_Graph, Any], None]] = {
    Convolve: _convolve,
    Multiply: _multiply,
    Spread: _spread,
    Add: _add,
    Times: _times,
    Requantize: _requantize,
    Clamp: _clamp,
    Look: _look,
    Largest: _largest,
    Extreme: _extreme,
    Sum: _sum,
    Mix: _mix,
    Move: _move,
}
