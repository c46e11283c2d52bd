"""Nodes that stand for operators which nothing here can run, and of which it is known that they work by position.

An elementwise operator tells no more of a rewrite than any other: where both models give it the same at each position,
both go on alike. So a node of standard operators takes its place while models are compared. QONNX's quantizers are run
as what they are, but for their rounding:

    Quant    y = (clip(x / s + z) - z) * s        for so many bits

A Dropout that drops at random stands aside for one that drops nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from onnxprune.model.dtypes import to_tensor
from onnxprune.model.graph import Naming, Node
from onnxprune.model.onnx_model import Model

#: Domains of QONNX and of what it came from.
QONNX = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")

#: QONNX's quantizers of (x, scale, zero point or not).
QUANTIZERS = ("Quant", "IntQuant", "Trunc", "FloatQuant", "BipolarQuant")

_ZEROED = ("Quant", "IntQuant", "Trunc")

#: Operators that were declared, by (domain, operator): to work by position, or on each channel by itself.
DECLARED: dict[tuple[str, str], str] = {}


def _stands_in(model: Model, node: Node) -> bool:
    """Whether something can stand for the node."""
    how = DECLARED.get((node.domain, node.op))
    if how == "channelwise":
        return bool(node.outputs) and _space(model, node.outputs[0]) is not None
    return how == "elementwise" or (node.domain in QONNX and node.op in QUANTIZERS) or _drops(node)


def _drops(node: Node) -> bool:
    return node.op == "Dropout" and not node.domain


def _space(model: Model, name: str) -> tuple[int, ...] | None:
    """The declared size of a map without batch and channels."""
    for info in (*model.proto.graph.value_info, *model.proto.graph.output):
        dims = info.type.tensor_type.shape.dim
        if info.name == name and len(dims) > 2 and all(d.dim_value > 0 for d in dims[2:]):
            return tuple(d.dim_value for d in dims[2:])
    return None


def with_stand_ins(model: Model, foreign: Callable[[NodeProto], bool]) -> tuple[Model, tuple[Node, ...]]:
    """The model with stand-ins for ``foreign`` nodes, where there are any, and the nodes that they stand for."""
    proto = model.proto
    pairs = list(zip(model.graph.nodes, proto.graph.node, strict=True))
    stood = [node for node, p in pairs if foreign(p) and _stands_in(model, node)]
    if not stood:
        return model, ()
    out = ModelProto()
    out.CopyFrom(proto)
    del out.graph.node[:]
    places = {node.index for node in stood}
    for node, own in pairs:
        if node.index not in places:
            out.graph.node.append(own)
            continue
        writer = _Writer(model, node)
        with Naming(node, model.path or ""):
            writer.write()
        out.graph.node.extend(writer.nodes)
        out.graph.initializer.extend(writer.constants)
    return Model(out, model.path, model.weights), tuple(stood)


@dataclass
class _Writer:
    model: Model
    node: Node
    nodes: list[NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def add(self, op: str, inputs: Sequence[str], output: str = "") -> str:
        name = output or f"{self.node.outputs[0]}__{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name]))
        return name

    def write(self) -> None:
        """What stands for the node."""
        how = DECLARED.get((self.node.domain, self.node.op))
        if how == "channelwise":
            self.channelwise()
        elif how == "elementwise":
            self.elementwise()
        elif _drops(self.node):
            self.nodes.append(helper.make_node("Dropout", self.node.inputs[:1], self.node.outputs))
        else:
            self.quantizer()

    def constant(self, suffix: str, array: NDArray[np.float32]) -> str:
        name = f"{self.node.outputs[0]}__{suffix}"
        self.constants.append(to_tensor(array, name, TensorProto.FLOAT))
        return name

    def channelwise(self) -> None:
        """The mean of each channel, everywhere."""
        space = _space(self.model, self.node.outputs[0])
        assert space is not None
        mean = self.add("GlobalAveragePool", self.node.inputs[:1])
        zeros = self.constant("space", np.zeros((1, 1, *space), np.float32))
        self.add("Add", [mean, zeros], self.node.outputs[0])

    def elementwise(self) -> None:
        """The sum of all inputs of floats."""
        kinds = {n: self.model.graph.constants[n][0] for n in self.node.inputs if n in self.model.graph.constants}
        floats = [n for n in self.node.inputs if n and kinds.get(n, TensorProto.FLOAT) == TensorProto.FLOAT]
        for output in filter(None, self.node.outputs):
            self.add("Sum", floats, output)

    def quantizer(self) -> None:
        x, scale = self.node.inputs[:2]
        code = self.add("Div", [x, scale])
        zero = self.node.inputs[2] if self.node.op in _ZEROED else ""
        code = self.add("Add", [code, zero]) if zero else code
        for op, limit in zip(("Max", "Min"), self._limits(), strict=False):
            code = self.add(op, [code, self.constant(op, np.asarray(limit, np.float32))])
        code = self.add("Sub", [code, zero]) if zero else code
        self.add("Mul", [code, scale], self.node.outputs[0])

    def _limits(self) -> tuple[float, ...]:
        """The least and the greatest code, where they are known."""
        if self.node.op == "BipolarQuant":
            return -1.0, 1.0
        bits = self._scalar(3) if self.node.op in ("Quant", "IntQuant") else None
        if bits is None:
            return ()
        signed, narrow = self.node.attrs.get("signed", 1), self.node.attrs.get("narrow", 0)
        high = 2.0 ** (bits - 1) - 1 if signed else 2.0**bits - 1 - (1 if narrow else 0)
        return (-high - (0 if narrow else 1) if signed else 0.0), high

    def _scalar(self, position: int) -> float | None:
        name = self.node.input(position)
        array: NDArray[Any] | None = self.model.array(name) if name in self.model.graph.constants else None
        return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None
