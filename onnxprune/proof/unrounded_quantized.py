"""A quantized model without the rounding of its activations: codes are floats, scales and zero points as they are.

    QuantizeLinear    clip(x / s + z)       instead of    clip(round(x / s) + z)
    QLinearConv       clip(Conv((x - z) s, (W - w) v, b) / t + u), and so on

Rounding turns a difference in the last bit of a float into a whole step, and hides behind its own size what is wrong.
A rewrite cuts scales and zero points and rounds nothing: without rounding it is shown to be exact as that of any other
model is. Weights stay on their grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from onnxprune.labels import ops
from onnxprune.model.dtypes import to_tensor
from onnxprune.model.graph import Node
from onnxprune.model.onnx_model import Model

Array = NDArray[Any]

#: What gives codes of codes, moved or chosen among.
_CARRY = ("MaxPool", "Identity", "Slice", "Gather", "Expand", "Tile", "Pad", "DepthToSpace", "SpaceToDepth")

#: Operators on codes, (code, scale, zero point) for each of so many inputs, then scale and zero point of the output.
_ON_CODES = {
    "QLinearAdd": ("Add", 2),
    "QLinearMul": ("Mul", 2),
    "QLinearSigmoid": ("Sigmoid", 1),
    "QLinearLeakyRelu": ("LeakyRelu", 1),
    "QLinearAveragePool": ("AveragePool", 1),
    "QLinearGlobalAveragePool": ("GlobalAveragePool", 1),
    "QLinearMatMul": ("MatMul", 2),
}


class _CannotError(Exception):
    """Inside this module: rounding cannot be taken out."""


def codes_of(model: Model) -> list[str]:
    """The tensors that hold codes of activations."""
    return [n.outputs[0] for n in model.graph.nodes if _quantizes(n)]


def _quantizes(node: Node) -> bool:
    return node.op in ("QuantizeLinear", "QLinearConv", "QLinearConcat", "QGemm", *_ON_CODES)


def unrounded(model: Model, ranks: Mapping[str, int]) -> Model | None:
    """``model`` with codes that are not rounded; None where something reads them that works on integers alone.

    ``ranks``: numbers of dimensions, of tensors as they are called in the model.
    """
    run = _Unrounded(model, ranks)
    try:
        for node, proto in zip(model.graph.nodes, model.proto.graph.node, strict=True):
            run.visit(node, proto)
    except (_CannotError, KeyError, ValueError, TypeError):
        return None
    return run.result() if run.floats.isdisjoint(o.name for o in model.graph.outputs) else None


@dataclass
class _Unrounded:
    model: Model
    ranks: Mapping[str, int]
    floats: set[str] = field(default_factory=set)  # codes that are floats now
    nodes: list[NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)

    def result(self) -> Model:
        out = ModelProto()
        out.CopyFrom(self.model.proto)
        declared = [v for v in self.model.proto.graph.value_info if v.name not in self.floats]
        for name in ("node", "value_info"):
            out.graph.ClearField(name)
        out.graph.node.extend(self.nodes)
        out.graph.value_info.extend(declared)
        for name, array in self.constants.items():
            out.graph.initializer.append(to_tensor(array, name, int(helper.np_dtype_to_tensor_dtype(array.dtype))))
        return Model(out, self.model.path, self.model.weights)

    def visit(self, node: Node, proto: NodeProto) -> None:
        """Take a node over, or what stands for it. Raises _CannotError."""
        stands = {"QLinearConv": self._convolve, "QGemm": self._gemm, "QLinearConcat": self._concat}
        if node.op in stands or node.op in _ON_CODES:
            stands.get(node.op, self._on_codes)(node)
        elif node.op == "QuantizeLinear" and node.inputs[0] not in self.model.graph.constants:
            self._quantize(node, node.inputs[0], 1, node.outputs[0])
        elif self.floats.isdisjoint((*node.inputs, *node.captured)):
            self.nodes.append(proto)
        elif node.op == "DequantizeLinear":
            self._dequantize(node, 0, node.outputs[0])
        elif ops.is_one_of(node, ("Where",)):  # a gate: the zero point where channels are gone
            zero = self._constant(node, 2, self._array(node.inputs[2]).astype(np.float32))
            self._add("Where", [*node.inputs[:2], zero], node.outputs[0])
            self.floats.add(node.outputs[0])
        else:
            self._carry(node, proto)

    def _carry(self, node: Node, proto: NodeProto) -> None:
        """A node that moves codes, or chooses among them."""
        how = ops.gathers_of(node)
        data = node.inputs if how == "joins" else node.inputs[:1]
        rest = [n for n in (*node.inputs, *node.captured) if n not in data]
        if how not in ("moves", "joins", "parts") and not ops.is_one_of(node, _CARRY):
            raise _CannotError
        if not self.floats.issuperset(data) or not self.floats.isdisjoint(rest):
            raise _CannotError
        self.floats.update(filter(None, node.outputs))
        self.nodes.append(proto)

    # --- scales and zero points -------------------------------------------------------------------------------------

    def _array(self, name: str) -> Array:
        if name not in self.model.graph.constants:
            raise _CannotError
        return self.model.array(name)

    def _grid(self, node: Node, scale: int, axis: int, rank: int) -> tuple[Array, Array, np.dtype[Any]]:
        """Scale and zero point at input ``scale`` on, as they lie along ``axis`` of ``rank``, and the type of codes."""
        if node.attrs.get("block_size", 0) or node.attrs.get("channels_last", 0) or "output_dtype" in node.attrs:
            raise _CannotError
        found = []
        size = self._array(node.inputs[scale])
        name = node.input(scale + 1)
        zero = self._array(name) if name else np.zeros((), np.uint8)
        for array in (size, zero):
            vector = array.ndim == 1 and array.size > 1
            shape = [-1 if a == axis % max(rank, 1) else 1 for a in range(rank)] if vector else []
            found.append(array.reshape(shape).astype(size.dtype))
        return found[0], found[1], zero.dtype

    def _constant(self, node: Node, position: int, array: Array) -> str:
        name = f"{node.outputs[0]}__{position}"
        self.constants[name] = array
        return name

    def _add(self, op: str, inputs: Iterable[str], output: str, **attrs: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attrs))
        return output

    def _quantize(self, node: Node, name: str, scale: int, output: str) -> None:
        rank = self.ranks[node.outputs[0]]
        size, zero, kind = self._grid(node, scale, int(node.attrs.get("axis", 1)), rank)
        limits = np.iinfo(kind)
        for position, (op, array) in enumerate(
            (("Div", size), ("Add", zero), ("Max", np.asarray(limits.min, size.dtype))), start=90
        ):
            name = self._add(op, [name, self._constant(node, position, array)], f"{output}__{op}")
        self._add("Min", [name, self._constant(node, 93, np.asarray(limits.max, size.dtype))], output)
        self.floats.add(output)

    def _dequantize(self, node: Node, position: int, output: str, axis: int | None = None) -> str:
        """(code - z) * s of the input at ``position``, which stand behind it."""
        name = node.inputs[position]
        rank = len(self.model.graph.constants[name][1]) if name in self.model.graph.constants else self.ranks[name]
        along = int(node.attrs.get("axis", 1)) if axis is None else axis
        size, zero, _ = self._grid(node, position + 1, along, rank)
        if name not in self.floats:
            kind = int(helper.np_dtype_to_tensor_dtype(size.dtype))
            name = self._add("Cast", [name], f"{output}__cast{position}", to=kind)
        name = self._add("Sub", [name, self._constant(node, position + 40, zero)], f"{output}__sub{position}")
        return self._add("Mul", [name, self._constant(node, position + 60, size)], output)

    # --- operators on codes -----------------------------------------------------------------------------------------

    def _kept(self, node: Node) -> dict[str, Any]:
        return {k: v for k, v in node.attrs.items() if k not in ("axis", "channels_last")}

    def _convolve(self, node: Node) -> None:
        out = node.outputs[0]
        inputs = [self._dequantize(node, 0, f"{out}__x"), self._dequantize(node, 3, f"{out}__w", 0)]
        inputs += self._bias(node, 8)
        self._quantize(node, self._add("Conv", inputs, f"{out}__y", **self._kept(node)), 6, out)

    def _bias(self, node: Node, position: int) -> list[str]:
        """The bias, which is on the grid of the product."""
        if not node.input(position):
            return []
        both = self._array(node.inputs[1]).reshape(-1) * self._array(node.inputs[4]).reshape(-1)
        return [self._constant(node, position, (self._array(node.inputs[position]) * both).astype(both.dtype))]

    def _gemm(self, node: Node) -> None:
        out, axis = node.outputs[0], 0 if node.attrs.get("transB", 0) else 1
        inputs = [self._dequantize(node, 0, f"{out}__x"), self._dequantize(node, 3, f"{out}__w", axis)]
        quantized = node.input(7) != ""
        beta = float(node.attrs.get("alpha", 1.0))
        name = f"{out}__y" if quantized else out
        self._add("Gemm", [*inputs, *self._bias(node, 6)], name, **self._kept(node), beta=beta)
        if quantized:
            self._quantize(node, name, 7, out)

    def _concat(self, node: Node) -> None:
        parts = [self._dequantize(node, i, f"{node.outputs[0]}__{i}") for i in range(2, len(node.inputs), 3)]
        joined = self._add("Concat", parts, f"{node.outputs[0]}__y", axis=node.attrs["axis"])
        self._quantize(node, joined, 0, node.outputs[0])

    def _on_codes(self, node: Node) -> None:
        op, count = _ON_CODES[node.op]
        out, last = node.outputs[0], -1 if op == "MatMul" else 1
        inputs = [self._dequantize(node, 3 * i, f"{out}__{i}", last) for i in range(count)]
        self._quantize(node, self._add(op, inputs, f"{out}__y", **self._kept(node)), 3 * count, out)


@dataclass(frozen=True)
class Steps:
    """By how many quantization steps codes differ: at most, at which tensor, and the share of them that do at all."""

    most: int = 0
    at: str = ""
    share: float = 0.0


def steps(wanted: Sequence[Mapping[str, Array]], found: Sequence[Mapping[str, Array]]) -> Steps:
    """Of codes by name, of each input."""
    count = differ = most = 0
    at = ""
    for a, b in zip(wanted, found, strict=True):
        for name, codes in a.items():
            gap = np.abs(codes.astype(np.int64) - b[name].astype(np.int64))
            count, differ = count + gap.size, differ + int((gap > 0).sum())
            if gap.max(initial=0) > most:
                most, at = int(gap.max()), name
    return Steps(most, at, differ / count if count else 0.0)
