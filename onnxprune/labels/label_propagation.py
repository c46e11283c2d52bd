"""The first run: the rules run on fresh labels, and what they say is recorded.

The result is one plain value, the `Trace`: the layers of every tensor, which labels are one channel (a *unit*), which
units are pinned and by which nodes, and which rows must keep equal counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune.labels import ops
from onnxprune.labels.constant_channels import Known
from onnxprune.labels.labels import FIXED, Labels, Layer, Op, Tensor, line, meet, settle
from onnxprune.labels.ops.table import Blocks
from onnxprune.labels.union import HeadUnits, heads_of, join
from onnxprune.model.graph import Naming, Node, Shape
from onnxprune.model.onnx_model import Model
from onnxprune.running.tensor_shapes import Shapes

#: Constants of these types are indices, sizes or text: they carry no channels.
_UNLABELLED = {TensorProto.INT64, TensorProto.STRING}

#: Operators that take parts of input 0.
_PARTS = ("Slice", "Split", "Gather")

#: A use of a constant: (name, node index, input position), or (name, -1, -1) for one whose uses share their labels.
Use = tuple[str, int, int]


@dataclass(frozen=True)
class Pinned:
    """Why channels stay: the node that needs them, and what it does with them.

    Where ``why`` is empty, the reason needs no words.
    """

    node: str
    why: str

    def __str__(self) -> str:
        return f"{self.node}: {self.why}" if self.node else self.why


@dataclass(frozen=True)
class Fold:
    """Constant channels that a node can take into its bias, input 2.

    ``added[i]`` is what the channel at ``positions[i]`` of the axis ``summed`` of input 0 adds to it; it lies along the
    axis ``made`` of the output.
    """

    summed: int
    made: int
    positions: NDArray[np.int64] = field(repr=False)
    added: NDArray[np.float64] = field(repr=False)  # [n, width of the bias]


@dataclass(frozen=True)
class Read:
    """Where channels end: an input of a node that sums over them, and the input that holds its zero point, if any.

    ``silent``: the units, sorted, whose removal the node does not notice, given the ``fold`` (see `.lossless_removal`).
    """

    node: int
    position: int
    zero: int | None = None
    silent: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False, compare=False)
    fold: Fold | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Rows:
    """Labels or units [*rows, n] of which each row keeps the same number.

    ``whole``: rows of heads may also go whole.
    """

    labels: Labels = field(repr=False)
    reason: Pinned
    whole: bool

    @property
    def flat(self) -> Labels:
        """As [rows, n]."""
        return self.labels.reshape(-1, self.labels.shape[-1])


@dataclass(frozen=True)
class Trace:
    """The result of the first run. ``unit[label]`` is the channel that a label stands for; unit 0 always stays."""

    model: Model = field(repr=False)
    shapes: Shapes = field(repr=False)
    tensors: dict[str, Tensor] = field(repr=False)
    uses: dict[Use, Tensor] = field(repr=False)  # constants, with their first labels
    unit: NDArray[np.int64] = field(repr=False)
    role: NDArray[np.int8] = field(repr=False)  # of each label, an index into ROLES
    pinned: dict[int, tuple[Pinned, ...]] = field(repr=False)  # by unit
    intact: list[Rows] = field(repr=False)  # of labels
    heads: HeadUnits
    reads: list[Read] = field(repr=False)
    lossless: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)  # units, sorted
    same: Mapping[str, Known] = field(default_factory=dict, repr=False)  # tensors that are equal for every input

    @property
    def units(self) -> int:
        """How many units there are."""
        return int(self.unit.max(initial=0)) + 1

    def input(self, node: Node, position: int) -> Tensor | None:
        """What ``node`` reads at ``position``, with the labels of the first run."""
        name = node.inputs[position]
        return self.uses.get(use_of(self.model, name, node.index, position)) or self.tensors.get(name)


ROLES = ("", "out", "in", "scale")


def trace(model: Model, shapes: Shapes) -> Trace:
    """Run ``model``'s graph on labels."""
    run = _Run(model, shapes)
    for node in model.graph.nodes:
        with Naming(node, model.path or ""):
            run.visit(node)
    run.finish()
    return run.close()


def use_of(model: Model, name: str, node: int, position: int) -> Use:
    """The use of a constant that its labels belong to: vectors have labels for each use, larger constants one set.

    Exporters merge equal vectors, so the uses of one may have to be cut differently. A vector that is read in parts, as
    the gates of a bias are, has one set too: a copy of all of it for each part would save nothing.
    """
    vector = sum(s > 1 for s in model.graph.constants.get(name, (0, ()))[1]) <= 1
    if vector and len(model.graph.consumers.get(name, [])) > 1 and is_taken_apart(model, (name, -1, -1)):
        vector = False
    return (name, node, position) if vector else (name, -1, -1)


def is_taken_apart(model: Model, use: Use) -> bool:
    """Whether every reader of the constant at this use takes only parts of it."""
    name, index, _ = use
    readers = [(r, at) for r, at in model.graph.consumers.get(name, []) if index in (-1, r.index)]
    return bool(readers) and all(at == 0 and ops.is_one_of(reader, _PARTS) for reader, at in readers)


def is_data(shapes: Shapes, name: str) -> bool:
    """Whether a computed value is a tensor like a constant (a bias made by Expand, say), and not a size."""
    value = shapes.value.get(name)
    return value is not None and value.array.dtype.kind == "f" and value.array.size > 1 and not value.dynamic.any()


def known_values(model: Model, shapes: Shapes, node: Node) -> list[NDArray[np.int64] | None]:
    """The inputs of ``node`` that are known before running: integer constants and shape arithmetic."""
    found: list[NDArray[np.int64] | None] = []
    for name in node.inputs:
        if name in shapes.value:
            found.append(shapes.value[name].array)
        elif name in model.graph.constants and model.graph.constants[name][0] in (TensorProto.INT64, TensorProto.INT32):
            found.append(model.array(name))
        else:
            found.append(None)
    return found


class _Run:
    """A recorder, and the state of the run."""

    def __init__(self, model: Model, shapes: Shapes) -> None:
        self.model, self.shapes = model, shapes
        self.tensors: dict[str, Tensor] = {
            i.name: Tensor(i.name, shapes.shape[i.name], shapes.shape[i.name])
            for i in model.graph.inputs
            if i.name in shapes.shape
        }
        self.uses: dict[Use, Tensor] = {}
        self.labels = 1  # the next fresh one
        self.pairs: list[tuple[Labels, Labels]] = []
        self.pins: list[tuple[Labels, Pinned]] = []
        self.intacts: list[Rows] = []
        self.heads: list[tuple[Labels, Labels]] = []  # rows that go together
        self.reads: list[Read] = []
        self.roles: list[tuple[Labels, str]] = []
        self.counted: dict[str, int] = {}
        self.here: Node | None = None

    # --- the recorder -----------------------------------------------------------------------------------------------

    def _reason(self, why: str) -> Pinned:
        return Pinned(self.here.label if self.here and why else "", why)

    def equate(self, a: Labels, b: Labels, why: str) -> None:
        a, b = meet(a, b)
        same = a == b
        if same.all():
            return
        for one, other in ((a, b), (b, a)):
            if (fixed := (other == FIXED) & ~same).any():
                self.pins.append((np.unique(one[fixed]), self._reason(why)))
        joined = ~same & (a != FIXED) & (b != FIXED)
        if joined.any():
            self.pairs.append((a[joined], b[joined]))

    def pin(self, labels: Labels, why: str) -> None:
        self.pins.append((labels.reshape(-1), self._reason(why)))

    def intact(self, rows: Labels) -> None:
        self.intacts.append(Rows(rows, self._reason("needs equal counts in each of its blocks"), whole=False))

    def split(self, blocks: Labels) -> None:
        self.intacts.append(Rows(blocks, self._reason("needs equal counts in each of its rows"), whole=True))

    def together(self, a: Labels, b: Labels) -> None:
        self.heads.append((a, b))
        self.split(a)
        self.split(b)

    def fresh(self, out: Tensor, axis: int) -> Layer:
        size = out.shape[axis]
        self.labels += size
        return line(np.arange(self.labels - size, self.labels, dtype=np.int64), axis, out.rank)

    def positions(self, out: Tensor, size: int) -> None:
        self.counted[out.name] = size

    def read(self, position: int, zero: int | None = None) -> None:
        if self.here is not None:
            self.reads.append(Read(self.here.index, position, zero))

    def role(self, labels: Labels, role: str) -> None:
        self.roles.append((labels, role))

    # --- the run ----------------------------------------------------------------------------------------------------

    def _fresh(self, name: str, shape: Shape, blocks: Blocks | None) -> Tensor:
        """A constant with a label for each position of each axis."""
        layers = []
        for axis, size in enumerate(shape):
            if size == 1:
                continue
            dims, axes = [1] * len(shape), [axis]
            dims[axis] = size
            if blocks is not None and axis == blocks.columns:
                dims[blocks.rows] = blocks.count
                axes = sorted((blocks.rows, axis))
            count = math.prod(dims)
            labels = np.arange(self.labels, self.labels + count, dtype=np.int64).reshape(dims)
            self.labels += count
            if blocks is not None and axis == blocks.columns:
                labels = labels.repeat(shape[blocks.rows] // blocks.count, axis=blocks.rows)
            layers.append(Layer(labels, tuple(axes), axis))
        return Tensor(name, shape, shape, tuple(layers), constant=True)

    def _constant(self, node: Node, position: int, name: str, blocks: Blocks | None) -> Tensor:
        use = use_of(self.model, name, node.index, position)
        if use not in self.uses:
            elem_type, shape = self.shapes.elem_type[name], self.shapes.shape[name]
            if elem_type in _UNLABELLED or 0 in shape:
                self.uses[use] = Tensor(name, shape, shape, constant=True)
            else:
                self.uses[use] = self._fresh(name, shape, blocks)
        return self.uses[use]

    def _inputs(self, node: Node, blocks: dict[int, Blocks]) -> list[Tensor | None]:
        found: list[Tensor | None] = []
        for position, name in enumerate(node.inputs):
            if name in self.model.graph.constants or is_data(self.shapes, name):
                found.append(self._constant(node, position, name, blocks.get(position)))
            else:
                found.append(self.tensors.get(name))
        return found

    def visit(self, node: Node) -> None:
        """Run one node."""
        if node.op == "Constant" and not node.domain:
            return
        self.here = node
        shapes = [self.shapes.shape.get(name) for name in node.outputs]
        outputs = tuple(Tensor(n, s, s) for n, s in zip(node.outputs, shapes, strict=True) if s is not None)
        layers: Sequence[tuple[Layer, ...]] = ()
        constant = False
        if not all(name in self.shapes.value for name in node.outputs):
            rule = ops.find(node)
            inputs = self._inputs(node, dict(rule.blocks(node)) if rule and rule.blocks else {})
            for position, tensor in enumerate(inputs):
                if tensor is not None and tensor.counted and (rule is None or position not in rule.positions):
                    for layer in tensor.layers:
                        self.pin(layer.labels, "reads positions that count over all channels")
            known = all(t is not None for t, n in zip(inputs, node.inputs, strict=True) if n)
            if rule is None or not known or len(outputs) < sum(map(bool, node.outputs)):
                self._opaque(node, inputs)
            else:
                values = tuple(known_values(self.model, self.shapes, node))
                layers = rule.trace(Op(node, node.attrs, tuple(inputs), outputs, values, self))
                constant = bool(inputs) and all(t is None or t.constant for t in inputs)
                if len(layers) < len(outputs):
                    self._hold_all(inputs, "has another output, of which its rule says nothing")
        for position, out in enumerate(outputs):
            own = settle(self, layers[position], out) if position < len(layers) else ()
            counted = self.counted.get(out.name, 0)
            self.tensors[out.name] = Tensor(out.name, out.shape, out.full, own, constant, counted)

    def _opaque(self, node: Node, inputs: list[Tensor | None]) -> None:
        if node.captured:
            why = f"is read inside {node.op}"
        else:
            why = f"{node.op} has no rule" if ops.find(node) is None else "meets a tensor whose shape nobody knows"
        self._hold_all([*inputs, *(self.tensors.get(n) for n in node.captured)], why)

    def _hold_all(self, tensors: Sequence[Tensor | None], why: str) -> None:
        for tensor in tensors:
            for layer in tensor.layers if tensor else ():
                self.pin(layer.labels, why)

    def finish(self) -> None:
        """Graph outputs stay as they are."""
        self.here = None
        for out in self.model.graph.outputs:
            for layer in self.tensors[out.name].layers if out.name in self.tensors else ():
                self.pins.append((layer.labels.reshape(-1), Pinned("", f"is the graph output '{out.name}'")))

    def close(self) -> Trace:
        """Join labels into units and name what is pinned."""
        unit, stay = join(self.pairs, self.heads, [r.flat for r in self.intacts if r.whole], self.labels)
        self.pins.append((stay, Pinned("", "")))
        pinned: dict[int, dict[Pinned, None]] = {}
        for labels, reason in self.pins:
            for u in dict.fromkeys(unit[labels].tolist()):
                pinned.setdefault(u, {})[reason] = None
        role = np.zeros(self.labels, np.int8)
        for labels, name in sorted(self.roles, key=lambda r: -ROLES.index(r[1])):  # of several, the first of ROLES
            role[labels.reshape(-1)] = ROLES.index(name)
        return Trace(
            self.model,
            self.shapes,
            self.tensors,
            self.uses,
            unit,
            role,
            {u: tuple(r) for u, r in pinned.items()},
            [rows for rows in self.intacts if not (rows.whole and _rectangular(unit[rows.flat]))],
            heads_of([(unit[a], unit[b]) for a, b in self.heads], int(unit.max(initial=0)) + 1),
            self.reads,
        )


def _rectangular(rows: NDArray[np.int64]) -> bool:
    """Whether only whole rows or only whole columns can go, so that what is left is a rectangle by itself."""
    return bool((rows == rows[:1]).all()) or bool((rows == rows[:, :1]).all())
