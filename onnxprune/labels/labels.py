"""Channel labels: the value that the graph is run on, and what operator rules say about it.

A *label* is an integer that stands for one channel. A *layer* is an integer array that says, for every position along
one or several axes of a tensor, which channel it belongs to; along all other axes it has size 1. A [N, C, H, W]
feature map carries one layer of shape [1, C, 1, 1]; a weight [O, I, kH, kW] two, [O, 1, 1, 1] and [1, I, 1, 1];
attention heads one of shape [1, heads, 1, dim]. A position stays as long as all its labels stay. Label 0 is a
position that always stays.

Rules see an `Op`: the inputs with their layers, and a recorder for what they have to say:

    equate     positions of two layers are the same channel
    pin        these channels stay, and why
    intact     these axes keep their length, so the rest must keep equal counts in each of their rows
    together   a row of one layer goes as a whole, and then with that of another: an attention head in Q, K and V
    read       an operator sums over the channels: where they end

The same rules run twice: over all labels, to record what they say (`onnxprune.labels.label_propagation`), and over the
kept labels, to check it (`onnxprune.labels.rewrite`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxprune.model.graph import Node, Shape

Labels = NDArray[np.int64]

#: Which positions of an array of labels stay.
Alive = Callable[[Labels], NDArray[np.bool_]]

#: The label of a position that always stays.
FIXED = 0


@dataclass(frozen=True)
class Layer:
    """Labels along ``axes`` (ascending) of a tensor; ``labels`` has the tensor's rank and size 1 elsewhere.

    With several axes, ``columns`` is the one that shrinks when each row of the others keeps an equal count.
    """

    labels: Labels = field(repr=False)
    axes: tuple[int, ...]
    columns: int

    def transposed(self, perm: Sequence[int]) -> Layer:
        """The layer of a transposed tensor."""
        axes = tuple(sorted(perm.index(a) for a in self.axes))
        return Layer(self.labels.transpose(perm), axes, perm.index(self.columns))

    def expanded(self, rank: int) -> Layer:
        """The layer on a tensor with leading axes added, as broadcasting does."""
        extra = rank - self.labels.ndim
        labels = self.labels.reshape((1,) * extra + self.labels.shape)
        return Layer(labels, tuple(a + extra for a in self.axes), self.columns + extra)

    def picked(self, axis: int, index: Any) -> Layer:
        """The layer with ``labels`` indexed along ``axis`` by a slice or an array of positions."""
        return replace(self, labels=self.labels[(slice(None),) * axis + (index,)])


def line(labels: Labels, axis: int, rank: int) -> Layer:
    """A layer along one axis, from labels in any shape."""
    return Layer(labels.reshape((1,) * axis + (-1,) + (1,) * (rank - axis - 1)), (axis,), axis)


@dataclass(frozen=True)
class Tensor:
    """A tensor as the rules see it: its ``shape`` in this run, in the original model (``full``), and its layers.

    An axis cut down to one channel is still an axis: ``full`` tells. ``counted``: its elements are positions in a
    tensor of the same channels, each of so many elements, and are made anew with it; 0: they are not.
    """

    name: str
    shape: Shape
    full: Shape
    layers: tuple[Layer, ...] = ()
    constant: bool = False  # computed from initializers alone
    counted: int = 0

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    def along(self, axis: int) -> Layer | None:
        """The layer that labels ``axis``, if any."""
        for layer in self.layers:
            if axis in layer.axes:
                return layer
        return None

    def transposed(self, perm: Sequence[int]) -> Tensor:
        """The tensor as Transpose gives it."""
        return replace(
            self,
            shape=tuple(self.shape[p] for p in perm),
            full=tuple(self.full[p] for p in perm),
            layers=tuple(layer.transposed(perm) for layer in self.layers),
        )

    def with_leading(self, rank: int) -> Tensor:
        """The tensor with axes of size 1 added in front, as broadcasting does."""
        if rank == self.rank:
            return self
        ones = (1,) * (rank - self.rank)
        layers = tuple(layer.expanded(rank) for layer in self.layers)
        return replace(self, shape=ones + self.shape, full=ones + self.full, layers=layers)

    def at_axis(self, axis: int, rank: int) -> Tensor:
        """A vector placed along ``axis`` of a tensor of ``rank``; anything but a vector stays as it is."""
        if self.rank != 1:
            return self
        size = tuple(self.shape[0] if a == axis else 1 for a in range(rank))
        full = tuple(self.full[0] if a == axis else 1 for a in range(rank))
        return replace(self, shape=size, full=full, layers=tuple(line(la.labels, axis, rank) for la in self.layers))


class Recorder(Protocol):
    """What a rule may say. The first run writes it down; the second checks that it holds."""

    def equate(self, a: Labels, b: Labels, why: str) -> None:
        """Positions of ``a`` and ``b``, broadcast against each other, are the same channels."""

    def pin(self, labels: Labels, why: str) -> None:
        """These channels stay."""

    def intact(self, rows: Labels) -> None:
        """[rows, n]: each row keeps the same number of its channels, and at least one."""

    def split(self, blocks: Labels) -> None:
        """[*rows, n]: a reshape made these rows; whole rows go, or whole columns, or equal counts of each row."""

    def together(self, a: Labels, b: Labels) -> None:
        """[rows, m] and [rows, n]: row h of ``a`` is gone if and only if row h of ``b`` is; those that stay are equal.

        A row of one label stands for its row in the other: a head's place in the attention matrix, or its temperature.
        """

    def fresh(self, out: Tensor, axis: int) -> Layer:
        """New channels along ``axis`` of an output, which the node makes without a weight."""

    def positions(self, out: Tensor, size: int) -> None:
        """The elements of an output count positions of a tensor whose channels have ``size`` elements each."""

    def read(self, position: int, zero: int | None = None) -> None:
        """Input ``position`` is summed over its channels; ``zero``: the input that holds its zero point."""

    def role(self, labels: Labels, role: str) -> None:
        """What these channels of a constant are for: 'out' makes channels, 'in' reads them, 'scale' scales them."""


@dataclass(frozen=True)
class Op:
    """One node as its rule sees it; attributes and values may be rewritten ones."""

    node: Node
    attrs: Mapping[str, Any]
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]  # shapes of this run; in the second, with the layers of the first
    values: tuple[NDArray[Any] | None, ...]  # inputs known before running
    say: Recorder

    def tensor(self, position: int) -> Tensor | None:
        """Input ``position``, or None where it is absent."""
        return self.inputs[position] if position < len(self.inputs) else None

    def value(self, position: int) -> NDArray[Any] | None:
        """The value of input ``position``, or None where it is absent or not known before running."""
        return self.values[position] if position < len(self.values) else None

    def has(self, position: int) -> bool:
        """Whether input ``position`` is given at all."""
        return self.node.input(position) != ""

    def role(self, tensor: Tensor | None, labels: Labels, role: str) -> None:
        """What channels of a constant are for; says nothing of those of other tensors."""
        if tensor is not None and tensor.constant:
            self.say.role(labels, role)

    def pin(self, layer: Layer, why: str) -> None:
        """Channels of ``layer`` stay."""
        self.say.pin(layer.labels, why)

    def keep_all(self, tensor: Tensor | None, why: str) -> None:
        """All channels of ``tensor`` stay."""
        for layer in tensor.layers if tensor else ():
            self.pin(layer, why)

    def hold(self, layer: Layer, axes: Sequence[int], why: str) -> bool:
        """``axes`` of ``layer`` keep their length. Returns whether anything of it can still go.

        Nothing left to shrink pins it. Where its columns shrink, each row keeps an equal count; where its rows do, a
        row goes as a whole.
        """
        held = [a for a in layer.axes if a in axes]
        if not held:
            return True
        free = [a for a in layer.axes if a not in axes]
        if not free:
            self.pin(layer, why)
        elif layer.columns in free:
            self.say.intact(rows_of(layer, held))
        else:
            whole = layer.labels[tuple(slice(0, 1) if a in held else slice(None) for a in range(layer.labels.ndim))]
            self.say.equate(layer.labels, whole, why)
        return bool(free)


def rows_of(layer: Layer, axes: Sequence[int]) -> Labels:
    """The labels as [rows, n], a row for each position along ``axes``."""
    first = np.moveaxis(layer.labels, axes, range(len(axes)))
    return first.reshape(math.prod(first.shape[: len(axes)]), -1)


def settle(say: Recorder, layers: Sequence[Layer], out: Tensor) -> tuple[Layer, ...]:
    """What a rule gives, as every tensor has it: at most one layer an axis, and none along an axis of one element.

    What does not fit is pinned and dropped: no layer means that all stays.
    """
    result = []
    for layer in _uncrowded(say, layers, out):
        if out.full[layer.columns] == 1:
            say.pin(layer.labels, "is used as a scalar")
        else:
            result.append(replace(layer, axes=tuple(a for a in layer.axes if out.full[a] > 1)))
    return tuple(result)


def _uncrowded(say: Recorder, layers: Sequence[Layer], out: Tensor) -> list[Layer]:
    """Of layers that share an axis the one with the most positions; all of the others stay."""
    result: list[Layer] = []
    for layer in sorted(layers, key=lambda la: -int(np.prod([out.full[a] for a in la.axes]))):
        if any(set(known.axes) & set(layer.axes) for known in result):
            say.pin(layer.labels, "is laid out in a way that does not keep channels apart")
        else:
            result.append(layer)
    return [layer for layer in layers if any(layer is known for known in result)]


def meet(a: Labels, b: Labels) -> tuple[Labels, Labels]:
    """Both broadcast against each other, once where both only repeat: a weight's labels do along its other axes."""
    a, b = np.broadcast_arrays(a, b)
    once = tuple(slice(0, 1) if i == j == 0 else slice(None) for i, j in zip(a.strides, b.strides, strict=True))
    return a[once], b[once]


def cut_shape(tensor: Tensor, alive: Alive) -> Shape:
    """The shape of ``tensor`` once dead labels are gone.

    Along each axis of a layer the positions with anything alive stay; where columns are ragged, each row has an equal
    share. Raises LookupError where no shape fits.
    """
    shape = list(tensor.shape)
    for layer in tensor.layers:
        mask = alive(layer.labels)
        if len(layer.axes) == 1:
            shape[layer.columns] = int(mask.sum())
            continue
        for axis in layer.axes:
            shape[axis] = int(mask.any(axis=tuple(a for a in range(tensor.rank) if a != axis)).sum())
        rows = math.prod(shape[a] for a in layer.axes if a != layer.columns)
        total = int(mask.sum())
        if rows == 0 or total % rows:
            raise LookupError("its rows would keep different numbers of channels")
        shape[layer.columns] = total // rows
    return tuple(shape)


def cut_layer(layer: Layer, alive: Alive) -> Layer:
    """The layer once dead labels are gone, each row closing up along the columns. Raises LookupError as `cut_shape`."""
    rank = layer.labels.ndim
    if len(layer.axes) == 1:
        return line(layer.labels[alive(layer.labels)], layer.columns, rank)
    shape = cut_shape(Tensor("", layer.labels.shape, layer.labels.shape, (layer,)), alive)
    last = [*(a for a in range(rank) if a != layer.columns), layer.columns]
    ordered = layer.labels.transpose(last)
    kept = ordered[alive(ordered)].reshape([shape[a] for a in last])
    return replace(layer, labels=kept.transpose(np.argsort(last)))


def merge(
    op: Op, tensors: Sequence[Tensor | None], why: str = "is combined with a tensor whose channels are fixed"
) -> tuple[Layer, ...]:
    """The layers of an elementwise result: what stands at the same position is the same channel.

    An input that has size 1 along an axis is broadcast and has no say there; one that has the full size but no labels
    holds the axis as it is.
    """
    present = [t for t in tensors if t is not None]
    if len(present) == 1:
        return present[0].layers
    rank = max((t.rank for t in present), default=0)
    aligned = [t.with_leading(rank) for t in present]
    result: list[Layer] = []
    for tensor in aligned:
        for layer in tensor.layers:
            others = [t for t in aligned if t is not tensor]
            held = [a for a in layer.axes if any(t.full[a] > 1 and t.along(a) is None for t in others)]
            if op.hold(layer, held, why):
                _absorb(op, result, layer, why)
    return tuple(result)


def _absorb(op: Op, result: list[Layer], layer: Layer, why: str) -> None:
    """Add ``layer`` to ``result``, joining it with those that share an axis."""
    sharing = [index for index, known in enumerate(result) if set(known.axes) & set(layer.axes)]
    if not sharing:
        result.append(layer)
        return
    index = sharing[0]
    joined = _joined(op, result[index], layer, why, alone=len(sharing) == 1)
    if set(joined.axes) <= set(result[index].axes):
        result[index] = joined
        return
    del result[index]
    _absorb(op, result, joined, why)


def _joined(op: Op, known: Layer, layer: Layer, why: str, *, alone: bool) -> Layer:
    """One layer of two that share an axis. What only one of them tells apart, the other lets go as a whole.

    Along a single axis of rows, a position goes with the whole row that it stands for.
    """
    shared = tuple(a for a in known.axes if a in layer.axes)
    small, large = sorted((known, layer), key=lambda la: len(la.axes))
    if small.axes == shared == large.axes:
        op.say.equate(known.labels, layer.labels, why)
        return known
    if small.axes == shared:
        if len(shared) == 1 and large.columns not in shared:
            op.say.together(small.labels.reshape(-1, 1), rows_of(large, shared))
        else:
            op.say.equate(known.labels, layer.labels, why)
        return large
    op.say.equate(known.labels, layer.labels, why)
    if alone:
        return whole(op.say, known, shared, why)
    axes = tuple(sorted({*known.axes, *layer.axes}))
    shape = np.broadcast_shapes(known.labels.shape, layer.labels.shape)
    return Layer(np.broadcast_to(known.labels, shape), axes, layer.columns)


def whole(say: Recorder, layer: Layer, axes: tuple[int, ...], why: str) -> Layer:
    """The layer along ``axes`` alone, each position of which goes as a whole."""
    first = layer.labels[tuple(slice(None) if a in axes else slice(0, 1) for a in range(layer.labels.ndim))]
    say.equate(layer.labels, first, why)
    return Layer(first, axes, layer.columns if layer.columns in axes else axes[-1])
