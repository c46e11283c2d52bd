"""Random graphs of all rules together: a builder that keeps live tensors with their shapes, and steps that use them.

A step is one method of `Builder`: it draws what it needs among the live tensors and adds nodes, or raises UnsuitedError
where nothing live suits it. A new rule joins by a step, or by a name in one of the lists.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.model.edits import captured
from onnxprune.model.graph import Shape
from onnxprune.running.stand_in_nodes import QONNX
from tests.models import TAKES_ALL, declared, noise

T = TypeVar("T")

UNARY = (
    "Relu", "Sigmoid", "Tanh", "Neg", "Abs", "LeakyRelu", "Elu", "Selu", "Softplus", "HardSigmoid", "Erf", "Identity",
    "Sin", "Softsign", "Dropout", "Cos", "Atan", "Asinh", "Clip",
)  # fmt: skip
BINARY = ("Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean")
MICROSOFT = "com.microsoft"
REDUCE = (
    "ReduceMean",
    "ReduceSum",
    "ReduceMax",
    "ReduceMin",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSumExp",
)
WIDTHS = (4, 2, 6, 3, 8, 1)
MAX_ELEMENTS, MAX_RANK, MAX_CHANNELS = 3000, 6, 12


class UnsuitedError(Exception):
    """Nothing live suits a step."""


@dataclass(frozen=True)
class Live:
    """A tensor that steps may read."""

    name: str
    shape: Shape

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass
class Builder:
    """Nodes and weights so far, and the tensors that they give."""

    draw: st.DrawFn
    opset: int
    nodes: list[NodeProto] = field(default_factory=list)
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)
    live: list[Live] = field(default_factory=list)
    read: set[str] = field(default_factory=set)
    outputs: list[Live] = field(default_factory=list)
    count: int = 0
    dormant: bool = False  # some weights have zeros

    # --- drawing ----------------------------------------------------------------------------------------------------

    def one(self, options: Sequence[T]) -> T:
        return self.draw(st.sampled_from(options))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def pick(self, suits: Callable[[Live], bool] = lambda _: True) -> Live:
        """A live tensor that suits; the model's input, whose channels are fixed, is rare."""
        found = [t for t in reversed(self.live) if suits(t)]
        made = [t for t in found if t.name != "x"]
        if not found:
            raise UnsuitedError
        return self.one(found if not made or self.rarely() else made)

    def rarely(self) -> bool:
        return self.number(0, 9) == 7

    # --- building ---------------------------------------------------------------------------------------------------

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def node(self, op: str, inputs: Sequence[str], outputs: int = 1, **attrs: Any) -> list[str]:
        names = [self.name(op.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attrs))
        self.read.update(inputs)
        return names

    def add(self, op: str, inputs: Sequence[str], shape: Sequence[int], **attrs: Any) -> Live:
        """A node of one output, which lives on."""
        live = Live(self.node(op, inputs, **attrs)[0], tuple(map(int, shape)))
        self.live.append(live)
        return live

    def const(self, array: Any, dtype: Any = np.int64) -> str:
        name = self.name("c")
        self.weights[name] = np.asarray(array, dtype)
        return name

    def weight(self, shape: Sequence[int], stem: str = "w") -> str:
        """A weight: a new one, one that others read too, or one behind a Constant, Identity, Cast or Transpose node."""
        shape = list(shape)
        same = [n for n, a in self.weights.items() if n.startswith(stem) and list(a.shape) == shape and a.dtype == "f"]
        way = self.one(["new", "new", "new", "same", "same", "Constant", "Identity", "Cast", "Transpose"])
        if way == "same" and same:
            return self.one(same)
        name = self.name(stem)
        array = self._silenced(noise(name, shape).astype(np.float32))
        if way == "Constant":
            return self.node("Constant", [], value=numpy_helper.from_array(array))[0]
        if way == "Cast":
            self.weights[name] = array.astype(np.float64)
            return self.node("Cast", [name], to=TensorProto.FLOAT)[0]
        self.weights[name] = array.T if way == "Transpose" else array
        return self.node(way, [name])[0] if way in ("Identity", "Transpose") else name

    def _silenced(self, array: NDArray[Any]) -> NDArray[Any]:
        """Sometimes with zeros at some positions of an axis: filters that make nothing, channels that nobody reads."""
        axes = [a for a in range(min(array.ndim, 2)) if array.shape[a] > 1]
        if axes and self.dormant and self.flag():
            axis = self.one(axes)
            gone = self.draw(st.sets(st.integers(0, array.shape[axis] - 1), min_size=1, max_size=3))
            array[(slice(None),) * axis + (sorted(gone),)] = 0
        return array

    # --- steps: contracting -----------------------------------------------------------------------------------------

    def conv(self) -> None:
        x = self.pick(lambda t: 3 <= t.rank <= 5)
        self._conv(x, transposed=self.flag() and self.flag())

    def _conv(self, x: Live, *, transposed: bool = False, out: int | None = None) -> Live:
        channels, space = x.shape[1], x.shape[2:]
        group = 1 if out else self.one([1, *(g for g in range(1, channels + 1) if channels % g == 0), channels])
        per_group = out or self.one([n for n in (4, 2, 3, 6, 8, 1) if n * group <= MAX_CHANNELS] or [1])
        kernel = [1 if out else self.number(1, min(3, s)) for s in space]
        shape = [channels, per_group] if transposed else [group * per_group, channels // group]
        inputs = [x.name, self.weight([*shape, *kernel])]
        if self.flag():
            inputs.append(self.weight([group * per_group], "b"))
        pad = 0 if out or transposed or max(space) > 8 else self.one([0, 0, 1])
        sizes = [s + k - 1 if transposed else s - k + 1 + 2 * pad for s, k in zip(space, kernel, strict=True)]
        op = "ConvTranspose" if transposed else "Conv"
        pads = {"pads": [pad] * (2 * len(space))} if pad else {}
        return self.add(op, inputs, [x.shape[0], group * per_group, *sizes], group=group, **pads)

    def matmul_weight(self) -> None:
        x = self.pick(lambda t: t.rank >= 2)
        width = self.one(WIDTHS)
        batch = x.shape[:-2] if self.flag() and self.flag() else ()
        if self.flag() and self.flag():
            self.add("MatMul", [self.weight([*batch, width, x.shape[-2]]), x.name], [*x.shape[:-2], width, x.shape[-1]])
        else:
            self.add("MatMul", [x.name, self.weight([*batch, x.shape[-1], width])], [*x.shape[:-1], width])

    def dynamic(self) -> None:
        """Quantized at run time and multiplied with integers, as quantize_dynamic writes it."""
        x = self.pick(lambda t: t.rank >= 2 and self.rarely())
        inner, width = x.shape[-1], self.one(WIDTHS)
        weight = self.const(np.round(noise(self.name("q"), [inner, width]) * 40), np.int8)
        scale = self.weight(self.one([[], [width]]), "var")
        codes, size, zero = self.node("DynamicQuantizeLinear", [x.name], 3)
        (total,) = self.node("MatMulInteger", [codes, weight, zero])
        (number,) = self.node("Cast", [total], to=TensorProto.FLOAT)
        (both,) = self.node("Mul", [size, scale])
        self.add("Mul", [number, both], [*x.shape[:-1], width])

    def quantizer(self) -> None:
        """QONNX's own, which nothing here can run."""
        x = self.pick(lambda t: t.rank >= 2 and self.rarely())
        shape = [s if a == 1 and self.flag() else 1 for a, s in enumerate(x.shape)]
        given = [self.weight(shape, "var"), self.const(0, np.float32), self.const(8, np.float32)]
        self.add("Quant", [x.name, *given], x.shape, domain=QONNX[0], signed=1, narrow=0)

    def blocked(self) -> None:
        """A weight of integers with a scale for each block of the channels that it reads."""
        x = self.pick(lambda t: t.rank >= 2 and self.opset >= 21)
        inner, width, size = x.shape[-1], self.one(WIDTHS), self.number(1, 4)
        axis = self.number(0, 1)
        shape = [inner, width]
        scales = [-(-s // size) if a == axis else s for a, s in enumerate(shape)]
        weight = self.const(np.round(noise(self.name("q"), shape) * 40), np.int8)
        attrs = {"axis": axis, "block_size": size}
        (plain,) = self.node("DequantizeLinear", [weight, self.weight(scales, "var")], **attrs)
        self.add("MatMul", [x.name, plain], [*x.shape[:-1], width])

    def gemm(self) -> None:
        x = self.pick(lambda t: t.rank == 2)
        a, b, width = int(self.flag()), int(self.flag()), self.one(WIDTHS)
        rows, inner = x.shape[::-1] if a else x.shape
        inputs = [x.name, self.weight([width, inner] if b else [inner, width])]
        bias = self.one([None, [width], [1, width], [rows, width], [rows, 1], [1]])
        inputs += [self.weight(bias, "b")] if bias else []
        self.add("Gemm", inputs, [rows, width], transA=a, transB=b, alpha=0.5, beta=2.0)

    def matmul(self) -> None:
        a = self.pick(lambda t: 2 <= t.rank <= 4)

        def suits(t: Live) -> bool:
            return t.rank == a.rank and t.shape[:-2] == a.shape[:-2] and a.shape[-1] in t.shape[-2:]

        b = self.pick(suits)
        if b.shape[-2] != a.shape[-1]:
            b = self._transpose(b, [*range(b.rank - 2), b.rank - 1, b.rank - 2])
        self.add("MatMul", [a.name, b.name], [*a.shape[:-1], b.shape[-1]])

    def fused_matmul(self) -> None:
        """Either side transposed, or with its batch second."""
        x = self.pick(lambda t: 2 <= t.rank <= 4)
        batch, rows, inner, width = x.shape[:-2], x.shape[-2], x.shape[-1], self.one(WIDTHS)
        flip = int(self.flag())
        shape = [*batch, width, inner] if flip else [*batch, inner, width]
        second = int(bool(batch) and self.flag())
        if second:  # [M, ..., K]: its first axis stands before the batch
            x = self._transpose(x, [x.rank - 2, *range(x.rank - 2), x.rank - 1])
        weight = self.weight(shape)
        attrs = {"transBatchA": second, "transB": flip, "alpha": 0.5}
        self.add("FusedMatMul", [x.name, weight], [*batch, rows, width], domain=MICROSOFT, **attrs)

    def fused_conv(self) -> None:
        x = self.pick(lambda t: t.rank == 4)
        width = self.one(WIDTHS)
        inputs = [x.name, self.weight([width, x.shape[1], 1, 1]), self.weight([width], "b")]
        shape = [x.shape[0], width, *x.shape[2:]]
        self.add("FusedConv", inputs, shape, domain=MICROSOFT, activation="Relu")

    def einsum(self) -> None:
        x = self.pick(lambda t: 2 <= t.rank <= 4 and self.opset > 11)
        letters = "abcd"[: x.rank]
        summed = self.one(letters)
        sizes = dict(zip(letters, x.shape, strict=True)) | {"z": self.one(WIDTHS)}
        weight = self.weight([sizes["z"], sizes[summed]])
        out = self.one([letters.replace(summed, "z"), letters.replace(summed, "") + "z"])
        self.add("Einsum", [x.name, weight], [sizes[c] for c in out], equation=f"{letters},z{summed}->{out}")

    def recurrent(self) -> None:
        x = self.pick(lambda t: t.rank == 3 and t.shape[0] <= 6)
        op, gates = self.one([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
        hidden, both = self.one(WIDTHS), int(self.flag())
        ways = 1 + both
        inputs = [x.name, self.weight([ways, gates * hidden, x.shape[2]]), self.weight([ways, gates * hidden, hidden])]
        inputs += [self.weight([ways, 2 * gates * hidden], "b")] if self.flag() else []
        shape = [x.shape[0], ways, x.shape[1], hidden]
        self.add(op, inputs, shape, hidden_size=hidden, direction=["forward", "bidirectional"][both])

    # --- steps: elementwise -----------------------------------------------------------------------------------------

    def unary(self) -> None:
        x = self.pick()
        self.add(self.one(UNARY), [x.name], x.shape)

    def binary(self) -> None:
        a = self.pick()
        b = self.pick(lambda t: t is not a and self._broadcast(a, t) is not None)
        shape = self._broadcast(a, b)
        self.add(self.one(BINARY), [a.name, b.name] if self.flag() else [b.name, a.name], shape or ())

    def _broadcast(self, a: Live, b: Live) -> Shape | None:
        try:
            shape = np.broadcast_shapes(a.shape, b.shape)
        except ValueError:
            return None
        return shape if np.prod(shape) <= MAX_ELEMENTS else None

    def with_constant(self) -> None:
        x = self.pick()
        full = [s if self.flag() else 1 for s in x.shape][self.number(0, x.rank) :]
        self.add(self.one(BINARY), [x.name, self.weight(full, "b")], x.shape)

    def widened_by_constant(self) -> None:
        x = self.pick(lambda t: 1 in t.shape and t.size <= MAX_ELEMENTS / 4)
        axis = self.one([a for a, s in enumerate(x.shape) if s == 1])
        size = self.number(2, 4)
        shape = [size if a == axis else s for a, s in enumerate(x.shape)]
        self.add(self.one(BINARY), [self.weight(shape[axis:], "b"), x.name], shape)

    def where(self) -> None:
        x = self.pick()
        y = self.pick(lambda t: t.shape == x.shape)
        shape = [s if self.flag() else 1 for s in x.shape]
        condition = self.const(noise(self.name("m"), shape) > 0, np.bool_)
        self.add("Where", [condition, x.name, y.name], x.shape)

    def compared(self) -> None:
        """One of two, by comparison with a constant."""
        x = self.pick()
        y = self.pick(lambda t: t.shape == x.shape)
        limit = self.weight([s if self.flag() else 1 for s in x.shape], "b")
        op = self.one(["Less", "Greater", "LessOrEqual", "GreaterOrEqual"])
        if self.opset < 12 and op.endswith("Equal"):
            raise UnsuitedError
        (condition,) = self.node(op, [x.name, limit])
        if self.flag():
            (condition,) = self.node("Not", [condition])
        self.add("Where", [condition, x.name, y.name], x.shape)

    def contrib_gelu(self) -> None:
        x = self.pick(lambda t: t.rank >= 1)
        op = self.one(["Gelu", "FastGelu", "QuickGelu", "BiasGelu"])
        bias = [self.weight([x.shape[-1]], "b")] if op == "BiasGelu" else []
        self.add(op, [x.name, *bias], x.shape, domain=MICROSOFT)

    def prelu(self) -> None:
        x = self.pick(lambda t: t.rank >= 2)
        slope = [x.shape[1], *(1,) * (x.rank - 2)] if self.flag() else [x.shape[-1]]
        self.add("PRelu", [x.name, self.weight(slope, "b")], x.shape)

    # --- steps: movement --------------------------------------------------------------------------------------------

    def concat(self) -> None:
        x = self.pick(lambda t: t.rank >= 1)
        axis = self.number(0, x.rank - 1)

        def suits(t: Live) -> bool:
            return t.rank == x.rank and all(a == axis or s == x.shape[a] for a, s in enumerate(t.shape))

        parts = [x, *(self.pick(suits) for _ in range(self.number(0, 2)))]
        names = [p.name for p in parts]
        size = sum(p.shape[axis] for p in parts)
        if self.flag() and self.flag():
            extra = self.number(1, 3)
            names.insert(self.number(0, len(names)), self.weight([*x.shape[:axis], extra, *x.shape[axis + 1 :]], "b"))
            size += extra
        shape = [*x.shape[:axis], size, *x.shape[axis + 1 :]]
        if np.prod(shape) > MAX_ELEMENTS:
            raise UnsuitedError
        self.add("Concat", names, shape, axis=axis - (x.rank if self.flag() else 0))

    def split(self) -> None:
        x = self.pick(lambda t: max(t.shape, default=0) >= 2)
        axis = self.one([a for a, s in enumerate(x.shape) if s >= 2])
        size, parts = x.shape[axis], self.number(2, min(3, x.shape[axis]))
        sizes = [size // parts] * parts
        inputs, attrs = [x.name], {"axis": axis}
        if size % parts or self.flag():
            cuts = sorted(self.draw(st.sets(st.integers(1, size - 1), min_size=parts - 1, max_size=parts - 1)))
            sizes = np.diff([0, *cuts, size]).tolist()
            if self.opset < 13:
                attrs["split"] = sizes
            else:
                inputs.append(self.const(sizes))
        elif self.opset >= 18:
            attrs["num_outputs"] = parts
        names = self.node("Split", inputs, parts, **attrs)
        self.live += [Live(n, (*x.shape[:axis], s, *x.shape[axis + 1 :])) for n, s in zip(names, sizes, strict=True)]

    def sequence(self) -> None:
        """Split into a sequence, of which some parts are taken, or all joined again."""
        x = self.pick(lambda t: max(t.shape, default=0) >= 2)
        axis = self.one([a for a, s in enumerate(x.shape) if s >= 2])
        size, first = x.shape[axis], self.number(1, x.shape[axis] - 1)
        sizes = [first, size - first]
        (parts,) = self.node("SplitToSequence", [x.name, self.const(sizes)], axis=axis)
        if self.flag():
            (parts,) = self.node("SequenceInsert", [parts, x.name])
            sizes.append(size)
        if self.flag():
            whole = [*x.shape[:axis], sum(sizes), *x.shape[axis + 1 :]]
            self.add("ConcatFromSequence", [parts], whole, axis=axis)
        for at in self.draw(st.sets(st.integers(0, len(sizes) - 1), min_size=1)):
            shape = [*x.shape[:axis], sizes[at], *x.shape[axis + 1 :]]
            self.add("SequenceAt", [parts, self.const(at - (len(sizes) if self.flag() else 0))], shape)

    def slice(self) -> None:
        x = self.pick(lambda t: max(t.shape, default=0) >= 2)
        axis = self.one([a for a, s in enumerate(x.shape) if s >= 2])
        size = x.shape[axis]
        start, end, step = self.number(-size, size - 1), self.number(-size - 1, size + 1), self.one([1, 1, 1, 2, -1])
        bounds = slice(start, None if step < 0 and end < -size else end, step)
        left = len(range(size)[bounds])
        if left == 0:
            raise UnsuitedError
        given = [axis - (x.rank if self.flag() else 0)]
        dtype = self.one([np.int64, np.int32])
        extra = [self.const([step], dtype)] if step != 1 or self.flag() else []
        inputs = [x.name, self.const([start], dtype), self.const([end], dtype), self.const(given, dtype), *extra]
        self.add("Slice", inputs, [*x.shape[:axis], left, *x.shape[axis + 1 :]])

    def gather(self) -> None:
        x = self.pick(lambda t: t.rank >= 1)
        axis = self.number(0, x.rank - 1)
        size = x.shape[axis]
        index: Any = self.draw(st.lists(st.integers(-size, size - 1), min_size=1, max_size=size))
        index = self.one([index, index, np.arange(size)[::-1], index[0]])
        shape = [*x.shape[:axis], *np.shape(index), *x.shape[axis + 1 :]]
        self.add("Gather", [x.name, self.const(index)], shape, axis=axis)

    def gather_elements(self) -> None:
        x = self.pick(lambda t: t.rank >= 1 and self.opset >= 11)
        axis = self.number(0, x.rank - 1)
        index = np.broadcast_to(np.arange(x.shape[axis])[::-1].reshape([-1] + [1] * (x.rank - 1 - axis)), x.shape)
        if self.flag():
            self.add("GatherElements", [x.name, self.const(index)], x.shape, axis=axis)
        else:
            y = self.pick(lambda t: t.shape == x.shape)
            self.add("ScatterElements", [x.name, self.const(index), y.name], x.shape, axis=axis)

    def gather_nd(self) -> None:
        x = self.pick(lambda t: t.rank >= 2)
        index = [[self.number(0, x.shape[0] - 1)] for _ in range(self.number(1, 2))]
        shape = [len(index), *x.shape[1:]]
        if self.flag():
            self.add("GatherND", [x.name, self.const(index)], shape)
        else:
            updates = self.weight([1, *x.shape[1:]], "b")
            self.add("ScatterND", [x.name, self.const(index[:1]), updates], x.shape)

    def _transpose(self, x: Live, perm: Sequence[int]) -> Live:
        return self.add("Transpose", [x.name], [x.shape[p] for p in perm], perm=perm)

    def transpose(self) -> None:
        x = self.pick(lambda t: t.rank >= 2)
        self._transpose(x, self.draw(st.permutations(range(x.rank))))

    def reshape(self) -> None:
        """Merge neighbours, split axes by a divisor, or both."""
        x = self.pick(lambda t: t.rank >= 2)
        shape: list[int] = []
        for size in x.shape:
            divisors = [d for d in range(2, size) if size % d == 0]
            way = self.one(["keep", "keep", "merge", "split"])
            if way == "merge" and shape:
                shape[-1] *= size
            elif way == "split" and divisors and x.rank < MAX_RANK:
                inner = self.one(divisors)
                shape += [size // inner, inner]
            else:
                shape.append(size)
        if self.flag() and self.flag():
            shape = [x.shape[0], x.size // x.shape[0]]
        self._reshape(x, shape)

    def _reshape(self, x: Live, shape: Sequence[int]) -> Live:
        """Written with numbers, 0, -1, or computed from Shape."""
        if len(shape) > MAX_RANK:
            return x
        target = list(shape)
        for axis, (before, after) in enumerate(zip(x.shape, shape, strict=False)):
            if before == after and self.flag():
                target[axis] = 0
        if self.flag():
            target[self.number(0, len(target) - 1)] = -1
        if target[0] == 0 and self.flag():
            (sizes,) = self.node("Shape", [x.name])
            (first,) = self.node("Gather", [sizes, self.const([0])])
            (told,) = self.node("Concat", [first, self.const(target[1:])], axis=0)
        else:
            told = self.const(target)
        return self.add("Reshape", [x.name, told], shape)

    def flatten(self) -> None:
        x = self.pick(lambda t: t.rank >= 2)
        axis = self.number(0, x.rank)
        shape = [int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis:]))]
        self.add("Flatten", [x.name], shape, axis=axis)

    def squeeze(self) -> None:
        x = self.pick(lambda t: 1 in t.shape)
        axis = self.one([a for a, s in enumerate(x.shape) if s == 1])
        self._axes("Squeeze", x, [axis], [*x.shape[:axis], *x.shape[axis + 1 :]])

    def unsqueeze(self) -> None:
        x = self.pick(lambda t: t.rank < MAX_RANK)
        axis = self.number(0, x.rank)
        self._axes("Unsqueeze", x, [axis], [*x.shape[:axis], 1, *x.shape[axis:]])

    def _axes(self, op: str, x: Live, axes: list[int], shape: Sequence[int], since: int = 13, **attrs: Any) -> Live:
        if self.opset < since:
            return self.add(op, [x.name], shape, axes=axes, **attrs)
        return self.add(op, [x.name, self.const(axes)], shape, **attrs)

    def pad(self) -> None:
        x = self.pick(lambda t: t.rank >= 1)
        axis = self.number(0, x.rank - 1)
        low, high = self.number(0, 2), self.number(0, 2)
        pads = [low if a == axis else 0 for a in range(x.rank)] + [high if a == axis else 0 for a in range(x.rank)]
        shape = [s + (low + high if a == axis else 0) for a, s in enumerate(x.shape)]
        self.add("Pad", [x.name, self.const(pads)], shape, mode=self.one(["constant", "constant", "edge"]))

    def resize(self) -> None:
        x = self.pick(lambda t: t.rank == 4 and t.size <= MAX_ELEMENTS / 4)
        shape = [*x.shape[:2], x.shape[2] * 2, x.shape[3] * 2]
        told = ["", self.const([1, 1, 2, 2], np.float32)] if self.flag() else ["", "", self.const(shape)]
        told[0] = self.const([], np.float32) if self.opset < 13 else ""
        if len(told) == 3 and self.opset < 13:
            told[1] = told[0]
        self.add("Resize", [x.name, *told], shape, mode="nearest")

    def depth_to_space(self) -> None:
        x = self.pick(lambda t: t.rank == 4 and t.shape[1] % 4 == 0)
        n, c, h, w = x.shape
        self.add("DepthToSpace", [x.name], [n, c // 4, h * 2, w * 2], blocksize=2, mode=self.one(["DCR", "CRD"]))

    def space_to_depth(self) -> None:
        x = self.pick(lambda t: t.rank == 4 and t.shape[2] % 2 == t.shape[3] % 2 == 0)
        n, c, h, w = x.shape
        self.add("SpaceToDepth", [x.name], [n, c * 4, h // 2, w // 2], blocksize=2)

    def repeat(self) -> None:
        """Expand along axes of size 1, or Tile."""
        x = self.pick(lambda t: t.rank >= 1 and t.size <= MAX_ELEMENTS / 3)
        axis, times = self.number(0, x.rank - 1), self.number(1, 3)
        counts = [times if a == axis else 1 for a in range(x.rank)]
        shape = [s * c for s, c in zip(x.shape, counts, strict=True)]
        if x.shape[axis] == 1 and self.flag():
            self.add("Expand", [x.name, self.const(self.one([shape, counts]))], shape)
        else:
            self.add("Tile", [x.name, self.const(counts)], shape)

    def filled(self) -> None:
        """Combined with a tensor that has the shape of another and one value."""
        x = self.pick(lambda t: t.rank >= 1)
        (shape,) = self.node("Shape", [x.name])
        value = helper.make_tensor("value", TensorProto.FLOAT, [1], [1.5])
        (same,) = self.node("ConstantOfShape", [shape if self.flag() else self.const(x.shape)], value=value)
        self.add(self.one(["Add", "Mul"]), [same, x.name], x.shape)

    # --- steps: along axes ------------------------------------------------------------------------------------------

    def reduce(self) -> None:
        x = self.pick(lambda t: t.rank >= 2)
        axes = self.one([[a] for a in range(x.rank)] + [[a, a + 1] for a in range(x.rank - 1)])
        op, keep = self.one(REDUCE), self.flag()
        shape = [1 if a in axes else s for a, s in enumerate(x.shape) if keep or a not in axes]
        self._axes(op, x, axes, shape, 13 if op == "ReduceSum" else 18, keepdims=int(keep))

    def along(self) -> None:
        x = self.pick(lambda t: t.rank >= 2)
        axis = self.number(0, x.rank - 1)
        op = self.one(["Softmax", "LogSoftmax", "LpNormalization", "CumSum", "LayerNormalization"])
        if op == "CumSum":
            self.add(op, [x.name, self.const(axis)], x.shape)
        elif op == "LayerNormalization":
            if self.opset < 17:
                raise UnsuitedError
            self.add(op, [x.name, self.weight(x.shape[axis:], "b")], x.shape, axis=axis)
        else:
            self.add(op, [x.name], x.shape, axis=axis)

    def by_place(self) -> None:
        """What an element becomes depends on where along an axis it is."""
        x = self.pick(lambda t: t.rank >= 2)
        op = self.one(["Trilu", "ReverseSequence", "Compress", "CenterCropPad"])
        axis = self.number(0, x.rank - 1)
        if op == "Trilu" and self.opset >= 14:
            self.add(op, [x.name], x.shape, upper=self.number(0, 1))
        elif op == "ReverseSequence":
            time = self.number(0, 1)
            lengths = [self.number(1, x.shape[time]) for _ in range(x.shape[1 - time])]
            self.add(op, [x.name, self.const(lengths)], x.shape, time_axis=time, batch_axis=1 - time)
        elif op == "Compress":
            stay = [self.flag() for _ in range(x.shape[axis] - 1)]
            shape = [*x.shape[:axis], 1 + sum(stay), *x.shape[axis + 1 :]]
            self.add(op, [x.name, self.const([True, *stay], np.bool_)], shape, axis=axis)
        elif op == "CenterCropPad" and self.opset >= 18:
            size = self.number(1, x.shape[axis] + 2)
            self.add(op, [x.name, self.const([size])], [*x.shape[:axis], size, *x.shape[axis + 1 :]], axes=[axis])

    def pool(self) -> None:
        x = self.pick(lambda t: t.rank in (3, 4) and min(t.shape[2:]) >= 2)
        op = self.one(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"])
        if op.startswith("Global"):
            self.add(op, [x.name], [*x.shape[:2], *(1,) * (x.rank - 2)])
        else:
            self.add(op, [x.name], [*x.shape[:2], *(s - 1 for s in x.shape[2:])], kernel_shape=[2] * (x.rank - 2))

    def unpool(self) -> None:
        """Maxima put back where they were, with something done to them between."""
        x = self.pick(lambda t: t.rank == 4 and min(t.shape[2:]) >= 2)
        stride = 1 if any(s % 2 for s in x.shape[2:]) else self.number(1, 2)
        kind = {"kernel_shape": [2, 2], "strides": [stride, stride]}
        values, places = self.node("MaxPool", [x.name], 2, **kind)
        small = [*x.shape[:2], *((s - 2) // stride + 1 for s in x.shape[2:])]
        y = self.add(self.one(["Neg", "Sigmoid"]), [values], small)
        y = self._conv(y, out=x.shape[1]) if self.flag() else y
        if list(y.shape) == small:
            shape = [*x.shape[:3], x.shape[3] + self.number(0, 1)]
            told = [self.const(shape)] if shape != list(x.shape) or self.flag() else []
            self.add("MaxUnpool", [y.name, places, *told], shape, **kind)

    def sample(self) -> None:
        """Read at given coordinates or in given boxes."""
        x = self.pick(lambda t: t.rank == 4)
        n, c, *_ = x.shape
        if self.flag() and self.opset >= 17:
            grid = self.const(noise(self.name("grid"), [n, 3, 2, 2]), np.float32)
            self.add("GridSample", [x.name, grid], [n, c, 3, 2])
        else:
            boxes, which = self.const([[0, 0, 3, 2], [1, 0, 2, 2]], np.float32), self.const([0, n - 1])
            self.add("RoiAlign", [x.name, boxes, which], [2, c, 2, 2], output_height=2, output_width=2)

    def deform_conv(self) -> None:
        x = self.pick(lambda t: t.rank == 4 and self.opset >= 19 and TAKES_ALL)
        n, c, h, w = x.shape
        group = self.one([g for g in range(1, c + 1) if c % g == 0])
        shared, out = self.one([1, group]), group * self.number(1, 3)
        offsets = self.const(noise(self.name("o"), [n, shared * 2, h, w]), np.float32)
        weight = self.weight([out, c // group, 1, 1])
        self.add("DeformConv", [x.name, weight, offsets], [n, out, h, w], group=group, offset_group=shared)

    def norm(self) -> None:
        x = self.pick(lambda t: t.rank >= 3)
        vectors = [self.weight([x.shape[1]], "b") for _ in range(2)]
        if self.flag():
            statistics = [self.weight([x.shape[1]], "b"), self.weight([x.shape[1]], "var")]
            self.add("BatchNormalization", [x.name, *vectors, *statistics], x.shape)
        elif int(np.prod(x.shape[2:])) > 1:
            self.add("InstanceNormalization", [x.name, *vectors], x.shape, epsilon=0.1)

    def group_norm(self) -> None:
        x = self.pick(lambda t: t.rank >= 3 and t.shape[1] > 1 and math.prod(t.shape[2:]) > 1 and self.opset >= 21)
        groups = self.one([g for g in range(1, x.shape[1] + 1) if x.shape[1] % g == 0])
        vectors = [self.weight([x.shape[1]], "b") for _ in range(2)]
        self.add("GroupNormalization", [x.name, *vectors], x.shape, num_groups=groups, epsilon=0.1)

    def across_channels(self) -> None:
        x = self.pick(lambda t: t.rank == 4)
        self.add("LRN", [x.name], x.shape, size=3)

    # --- steps: whole idioms ----------------------------------------------------------------------------------------

    def residual(self) -> None:
        x = self.pick(lambda t: 3 <= t.rank <= 5)
        y = self._conv(x, out=x.shape[1])
        self.add("Add", [x.name, y.name], x.shape)

    def gate(self) -> None:
        x = self.pick(lambda t: 3 <= t.rank <= 5)
        pooled = self.add("GlobalAveragePool", [x.name], [*x.shape[:2], *(1,) * (x.rank - 2)])
        gate = self._conv(self._conv(pooled, out=self.number(1, 4)), out=x.shape[1])
        self.add("Mul", [x.name, self.add("Sigmoid", [gate.name], gate.shape).name], x.shape)

    def shuffle(self) -> None:
        x = self.pick(lambda t: t.rank == 4 and t.shape[1] % 2 == 0)
        n, c, h, w = x.shape
        rows = self._reshape(x, [n, 2, c // 2, h, w])
        self._reshape(self._transpose(rows, [0, 2, 1, 3, 4]), x.shape)

    def attention(self) -> None:
        """Q, K and V of each head, in any layout; across positions or, as in XCiT, across channels."""
        x = self.pick(lambda t: t.rank == 3 and t.shape[-1] > 1 and t.shape[1] <= 8)
        heads, dim = self.number(1, 4), self.number(1, 4)
        q, k, v = self.one([self._separate, self._packed, self._packed_in_heads])(x, heads, dim)
        if self.rarely():
            norm = self._axes("ReduceL2", q, [3], [*q.shape[:3], 1], 18)
            q = self.add("Div", [q.name, norm.name], q.shape)
        across = k.shape == v.shape and self.flag() and self.flag()
        if across:
            q, k, v = (self._transpose(t, [0, 1, 3, 2]) for t in (q, k, v))
        shape = [*q.shape[:3], k.shape[2]]
        if self.opset > 11 and self.rarely():
            scores = self.add("Einsum", [q.name, k.name], shape, equation="bhid,bhjd->bhij")
        else:
            scores = self.add("MatMul", [q.name, self._transpose(k, [0, 1, 3, 2]).name], shape)
        for _ in range(self.number(0, 2)):
            scores = self._biased(scores, x, q)
        p = self.add("Softmax", [scores.name], scores.shape, axis=3)
        out = self.add("MatMul", [p.name, v.name], [*p.shape[:3], v.shape[3]])
        out = self._transpose(out, [0, 3, 1, 2] if across else [0, 2, 1, 3])
        self._reshape(out, [*out.shape[:2], out.shape[2] * out.shape[3]])

    def _separate(self, x: Live, heads: int, dim: int) -> list[Live]:
        """A weight each; V of another size, or K and V with fewer heads."""
        n, length, width = x.shape
        shared = heads % 2 == 0 and self.rarely()
        found = []
        for which, size in enumerate((dim, dim, self.one([dim, 2]))):
            own = heads // 2 if shared and which else heads
            wide = self.add("MatMul", [x.name, self.weight([width, own * size])], [n, length, own * size])
            part = self._reshape(wide, [n, length, own, size])
            if own < heads:
                part = self._reshape(part, [n, length, own, 1, size])
                counts = self.const([1, 1, 1, 2, 1])
                part = self.add("Expand", [part.name, counts], [n, length, own, 2, size])
                part = self._reshape(part, [n, length, heads, size])
            found.append(self._transpose(part, [0, 2, 1, 3]))
        return found

    def _packed(self, x: Live, heads: int, dim: int) -> list[Live]:
        """[.., 3, heads, dim], taken apart by Gather or Split."""
        n, length, width = x.shape
        wide = self.add("MatMul", [x.name, self.weight([width, 3 * heads * dim])], [n, length, 3 * heads * dim])
        if self.flag():
            wide = self.add("Add", [wide.name, self.weight([3 * heads * dim], "b")], wide.shape)
        t = self._transpose(self._reshape(wide, [n, length, 3, heads, dim]), [2, 0, 3, 1, 4])
        if self.flag():
            return [self.add("Gather", [t.name, self.const(i)], t.shape[1:], axis=0) for i in range(3)]
        parts = [Live(name, (1, *t.shape[1:])) for name in self.node("Split", [t.name], 3, axis=0, **self._in(3))]
        return [self._axes("Squeeze", part, [0], t.shape[1:]) for part in parts]

    def _packed_in_heads(self, x: Live, heads: int, dim: int) -> list[Live]:
        """[.., heads, 3 * dim], taken apart by Split."""
        n, length, width = x.shape
        wide = self.add("MatMul", [x.name, self.weight([width, 3 * heads * dim])], [n, length, 3 * heads * dim])
        t = self._transpose(self._reshape(wide, [n, length, heads, 3 * dim]), [0, 2, 1, 3])
        return [Live(name, (*t.shape[:3], dim)) for name in self.node("Split", [t.name], 3, axis=3, **self._in(3))]

    def _in(self, parts: int) -> dict[str, int]:
        return {"num_outputs": parts} if self.opset >= 18 else {}

    def _biased(self, scores: Live, x: Live, q: Live) -> Live:
        """Attention before its softmax, with what networks do to it there."""
        n, heads, a, b = scores.shape
        way = self.one(["root", "temperature", "bias", "table", "gate"])
        if way == "root":
            return self._scaled(scores, q, -1)
        if way == "temperature":
            return self.add("Mul", [scores.name, self.weight([heads, 1, 1], "b")], scores.shape)
        if way == "bias":
            shape = self.one([[heads, a, b], [1, heads, a, b], [a, b], [1, 1, b]])
            return self.add("Add", [scores.name, self.weight(shape, "b")], scores.shape)
        if way == "table":
            index = self.const(np.arange(a * b) * 3 % 5)
            rows = self.add("Gather", [self.weight([5, heads], "b"), index], [a * b, heads], axis=0)
            table = self._transpose(self._reshape(rows, [a, b, heads]), [2, 0, 1])
            return self.add("Add", [scores.name, table.name], scores.shape)
        gate = self.add("MatMul", [x.name, self.weight([x.shape[-1], heads])], [*x.shape[:2], heads])
        gate = self._transpose(self._axes("ReduceMean", gate, [1], [n, 1, heads], 18), [0, 2, 1])
        gate = self._axes("Unsqueeze", gate, [3], [n, heads, 1, 1])
        return self.add("Mul", [scores.name, gate.name], scores.shape)

    def fused_attention(self) -> None:
        """In onnxruntime's own operators."""
        if not TAKES_ALL:  # onnxruntime 1.17 does not broadcast a position bias over samples
            raise UnsuitedError
        x = self.pick(lambda t: t.rank == 3 and t.shape[-1] > 1 and t.shape[1] <= 8)
        heads, dim = self.number(1, 4), self.number(1, 4)
        n, length, width = x.shape
        table = self.weight([1, heads, length, length], "b") if self.flag() else ""
        shape = [n, length, heads * dim]
        if self.flag():
            inputs = [x.name, self.weight([width, 3 * heads * dim]), self.weight([3 * heads * dim], "b"), "", "", table]
            self.add("Attention", inputs, shape, domain=MICROSOFT, num_heads=heads)
            return
        parts = [self.add("MatMul", [x.name, self.weight([width, heads * dim])], shape).name for _ in range(3)]
        bias = self.weight([3 * heads * dim], "b") if self.flag() else ""
        self.add("MultiHeadAttention", [*parts, bias, "", table], shape, domain=MICROSOFT, num_heads=heads)

    def _scaled(self, x: Live, by: Live, axis: int) -> Live:
        """Divided by the root of a size of another tensor."""
        (sizes,) = self.node("Shape", [by.name])
        (size,) = self.node("Gather", [sizes, self.const(axis)])
        (number,) = self.node("Cast", [size], to=TensorProto.FLOAT)
        (root,) = self.node("Sqrt", [number])
        return self.add("Div", [x.name, root], x.shape)

    def scaled(self) -> None:
        x, by = self.pick(), self.pick(lambda t: t.rank >= 1)
        self._scaled(x, by, self.number(0, by.rank - 1))

    def choice(self) -> None:
        """Two branches that each compute something of one shape, of what they capture and of constants of their own."""
        x = self.pick(lambda t: t.rank >= 1)
        z = self.pick(lambda t: t.shape == x.shape)
        if not self.flag():
            raise UnsuitedError
        then, other = (self._branch(t, z) for t in (x, z))
        self.read.update((x.name, z.name))
        self.add("If", [self.const(self.flag(), np.bool_)], x.shape, then_branch=then, else_branch=other)

    def _branch(self, x: Live, z: Live) -> GraphProto:
        nodes, constants, name = [], [], x.name
        for _ in range(self.number(1, 3)):
            out = self.name("inner")
            way = self.one(["unary", "binary", "constant"])
            if way == "constant":
                constant = self.name("own")
                shape = [s if self.flag() else 1 for s in x.shape]
                constants.append(numpy_helper.from_array(noise(constant, shape).astype(np.float32), constant))
                nodes.append(helper.make_node("Mul", [name, constant], [out]))
            elif way == "binary":
                nodes.append(helper.make_node("Add", [name, z.name], [out]))
            else:
                nodes.append(helper.make_node(self.one(["Relu", "Neg", "Sigmoid"]), [name], [out]))
            name = out
        info = helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape if self.flag() else None)
        return helper.make_graph(nodes, name, [], [info], constants)

    def opaque(self) -> None:
        """Something that the body of a Loop reads."""
        x = self.pick()
        if not self.rarely():
            raise UnsuitedError
        count, going, kept, out = (self.name(n) for n in ("i", "c", "k", "inner"))
        info = helper.make_tensor_value_info
        body = helper.make_graph(
            [helper.make_node("Identity", [going], [kept]), helper.make_node("Relu", [x.name], [out])],
            "body",
            [info(count, TensorProto.INT64, []), info(going, TensorProto.BOOL, [])],
            [info(kept, TensorProto.BOOL, []), info(out, TensorProto.FLOAT, None)],
        )
        self.read.add(x.name)
        self.add("Loop", [self.const(1), ""], [1, *x.shape], body=body)

    # --- the whole --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Every tensor that nobody read is read by a weight, all of it or along one axis, or is an output itself."""
        for x in [t for t in self.live if t.name not in self.read]:
            way = "output" if x.rank < 2 or self.rarely() else self.one(["all", "all", "all", "axis"])
            if way == "axis" and 3 <= x.rank <= 5:
                self.outputs.append(self._conv(x, out=2))
                continue
            read = self.add("Flatten", [x.name], [x.shape[0], x.size // x.shape[0]]) if way == "all" else x
            if way != "output":
                weight = self.weight([read.shape[-1], 3])
                read = self.add("MatMul", [read.name, weight], [*read.shape[:-1], 3])
            self.outputs.append(read)


STEPS: tuple[Callable[[Builder], None], ...] = (
    Builder.conv, Builder.conv, Builder.matmul_weight, Builder.matmul_weight, Builder.gemm, Builder.blocked,
    Builder.dynamic, Builder.quantizer,
    Builder.matmul,
    Builder.unary, Builder.binary, Builder.binary, Builder.with_constant, Builder.widened_by_constant, Builder.where,
    Builder.prelu, Builder.concat, Builder.concat, Builder.split, Builder.split, Builder.sequence, Builder.slice,
    Builder.gather,
    Builder.transpose, Builder.reshape, Builder.reshape, Builder.flatten, Builder.squeeze, Builder.unsqueeze,
    Builder.pad, Builder.resize, Builder.depth_to_space, Builder.space_to_depth, Builder.repeat, Builder.filled,
    Builder.reduce, Builder.along, Builder.by_place, Builder.pool, Builder.unpool, Builder.sample, Builder.deform_conv,
    Builder.norm,
    Builder.residual, Builder.gate, Builder.shuffle,
    Builder.attention, Builder.attention, Builder.fused_attention, Builder.scaled, Builder.opaque, Builder.choice,
    Builder.einsum, Builder.recurrent, Builder.fused_matmul, Builder.fused_conv, Builder.compared,
    Builder.contrib_gelu, Builder.gather_elements, Builder.gather_nd, Builder.group_norm, Builder.across_channels,
)  # fmt: skip

#: Each opset is where some operator takes another form.
OPSETS = (11, 13, 17, 18, 21)


def with_function(builder: Builder, nodes: list[NodeProto]) -> tuple[list[NodeProto], list[FunctionProto]]:
    """Some nodes that follow each other become a function, which is called in their place."""
    if not builder.flag() or not builder.flag():
        return nodes, []
    start = builder.number(0, len(nodes) - 1)
    end = builder.number(start + 1, min(len(nodes), start + 6))
    body, rest = nodes[start:end], [*nodes[:start], *nodes[end:]]
    if any(n.domain for n in body):  # onnx.checker cannot look into functions of what it does not know
        return nodes, []
    made = [o for n in body for o in n.output if o]
    inputs = [i for i in dict.fromkeys(r for n in body for r in reads(n)) if i not in made]
    outside = {r for n in rest for r in reads(n)} | {o.name for o in builder.outputs}
    outputs = [o for o in made if o in outside] or made[-1:]
    opsets = [helper.make_opsetid("", builder.opset)]
    function = helper.make_function("local", "Part", inputs, outputs, body, opsets)
    call = helper.make_node("Part", inputs, outputs, "part", domain="local")
    return [*nodes[:start], call, *nodes[end:]], [function]


def reads(node: NodeProto) -> list[str]:
    """What a node and its subgraphs read from around them."""
    return [*filter(None, node.input), *captured(node)]


@st.composite
def models(draw: st.DrawFn, max_steps: int = 12, *, dormant: bool | None = None) -> tuple[ModelProto, dict[str, Shape]]:
    """A valid model, and shapes of its inputs. ``dormant``: whether some weights have zeros; None for either."""
    builder = Builder(draw, draw(st.sampled_from(OPSETS)), dormant=draw(st.booleans()) if dormant is None else dormant)
    dynamic = builder.flag() and builder.flag()
    shape: Shape = builder.one([(2, 3, 4, 4), (1, 4, 4, 6), (2, 5, 6), (2, 6), (1, 2, 3, 2, 4)])
    x = Live("x", shape)
    builder.live.append(x)
    for _ in range(builder.number(1, 3)):
        if x.rank == 2 or builder.rarely():
            builder.add("MatMul", ["x", builder.weight([shape[-1], 8])], [*shape[:-1], 8])
        else:
            builder._conv(x, out=8)
    for _ in range(builder.number(4, max_steps)):
        with contextlib.suppress(UnsuitedError):
            builder.one(STEPS)(builder)
    builder.close()
    dims: list[str | int] = ["N" if dynamic else shape[0], *shape[1:]]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)]
    outputs = [helper.make_tensor_value_info(o.name, TensorProto.FLOAT, o.shape) for o in builder.outputs]
    initializers = [numpy_helper.from_array(np.asarray(a, order="C"), n) for n, a in builder.weights.items()]
    nodes, functions = with_function(builder, builder.nodes)
    graph = helper.make_graph(nodes, "random", inputs, outputs, initializers)
    domains = (("", builder.opset), (MICROSOFT, 1), ("local", 1), (QONNX[0], 1))
    opsets = [helper.make_opsetid(name, version) for name, version in domains]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, functions=functions)
    return declared(model), {"x": shape}
