"""Gather, scatter and sampling by computed positions, and Einsum.

Indexed axes and sampled ones are held, summed ones read, others go through; positions, coordinates and offsets stay as
they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxprune.labels.labels import Layer, Op, Tensor, line, merge
from onnxprune.labels.ops.contracting import conv_blocks, conv_macs, convolution, product, rewrite_group
from onnxprune.labels.ops.reduction import hold_axes
from onnxprune.labels.ops.table import Layers, blocks, macs, rewrite, rule
from onnxprune.model.graph import Node, Shape

_INDEXED = "is indexed by positions"


def _without(op: Op, tensor: Tensor, axes: Sequence[int]) -> Tensor:
    """The tensor with ``axes`` held and seen as one position."""
    full = tuple(1 if a in axes else s for a, s in enumerate(tensor.full))
    return replace(tensor, full=full, layers=hold_axes(op, tensor, axes, _INDEXED))


@rule("GatherElements", "ScatterElements", "Scatter")
def elements(op: Op) -> Sequence[Layers]:
    """Positions along ``axis`` are looked up for each position of the other axes, which must agree."""
    tensors = [t for t in op.inputs if t is not None]
    axis = op.attrs.get("axis", 0) % tensors[0].rank
    return [merge(op, [_without(op, t, [axis]) for t in tensors])]


@rule("ScatterND")
def scatter_nd(op: Op) -> Sequence[Layers]:
    """data[indices[..., :k]] = updates: the first k axes are indexed, the others go through."""
    data, indices, updates = op.inputs
    assert data is not None
    assert indices is not None
    assert updates is not None
    op.keep_all(indices, _INDEXED)
    k = indices.shape[-1]
    rest = _without(op, data, range(k))
    lead = updates.rank - (data.rank - k)
    trailing = _tail(op, updates, lead, data.rank)
    return [merge(op, [rest, trailing])]


def _tail(op: Op, tensor: Tensor, lead: int, rank: int) -> Tensor:
    """The axes from ``lead`` on, at the end of a tensor of ``rank``; those before are held."""
    kept = _without(op, tensor, range(lead))
    count = tensor.rank - lead
    layers = []
    for layer in kept.layers:
        labels = layer.labels.reshape((1,) * (rank - count) + layer.labels.shape[lead:])
        shift = rank - tensor.rank
        layers.append(Layer(labels, tuple(a + shift for a in layer.axes), layer.columns + shift))
    ones = (1,) * (rank - count)
    return Tensor(tensor.name, ones + tensor.shape[lead:], ones + tensor.full[lead:], tuple(layers), tensor.constant)


@rule("GatherND")
def gather_nd(op: Op) -> Sequence[Layers]:
    """data[indices[..., :k]]: the axes after the k indexed ones go through."""
    data, indices = op.inputs
    assert data is not None
    assert indices is not None
    op.keep_all(indices, _INDEXED)
    lead = op.attrs.get("batch_dims", 0) + indices.shape[-1]
    return [_tail(op, data, lead, op.outputs[0].rank).layers]


@rule("Einsum")
def einsum(op: Op) -> Sequence[Layers]:
    """A letter in both inputs but not in the output is summed, in one alone it is held; all others go through."""
    tensors = [t for t in op.inputs if t is not None]
    terms, output = _terms(op.node, [t.rank for t in tensors])
    plain = all(len(set(t)) == len(t) for t in terms)
    if plain and all(len(la.axes) == 1 for t in tensors for la in t.layers):
        found = []
        for letter in dict.fromkeys("".join(terms)):
            layer = _letter(op, letter, terms, tensors, summed=letter not in output)
            if layer is not None and letter in output:
                found.append(line(layer.labels, output.index(letter), len(output)))
        return [tuple(found)]
    summed = set("".join(terms)) - set(output)
    if plain and len(terms) == 2 and len(summed) == 1 and summed <= set(terms[0]) & set(terms[1]):
        return [_contracted(op, terms, output, summed.pop())]
    for tensor in tensors:
        op.keep_all(tensor, "goes through an Einsum that is not a product of plain axes")
    return [()]


def _terms(node: Node, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The letters of each input and of the output; those that an ellipsis stands for are capitals."""
    equation = node.attrs["equation"]
    text = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    left, arrow, output = text.partition("->")
    terms = left.split(",")
    hidden = [rank - len(t) + 3 if "." in t else 0 for t, rank in zip(terms, ranks, strict=True)]
    if not arrow:
        once = sorted(c for c in set(left) if c.isalpha() and left.count(c) == 1)
        output = ("..." if "." in left else "") + "".join(once)
    capitals = next(c for c in ("ABCDEFGH", "STUVWXYZ") if not set(c) & set(left))[: max(hidden)]
    expanded = [t.replace("...", capitals[len(capitals) - n :]) for t, n in zip(terms, hidden, strict=True)]
    return expanded, output.replace("...", capitals)


def _contracted(op: Op, terms: Sequence[str], output: str, summed: str) -> Layers:
    """As a matrix product over ``summed`` for each combination of all other letters."""
    order = [*output]
    sides = []
    for tensor, term, ends in zip(op.inputs, terms, (["*", summed], [summed, "*"]), strict=True):
        assert tensor is not None
        for letter in set(term) - {summed}:
            if (layer := tensor.along(term.index(letter))) is not None:
                op.role(tensor, layer.labels, "out")
        sides.append(_laid(tensor, term, [*order, *ends]))
    y = _laid(op.outputs[0], output, [*order, "*", "*"])
    layers = product(replace(op, inputs=tuple(sides), outputs=(y,)))
    return tuple(replace(la, labels=la.labels.reshape(la.labels.shape[:-2])) for la in layers)


def _laid(tensor: Tensor, term: str, order: Sequence[str]) -> Tensor:
    """The tensor with its letters in ``order``, and size 1 where it has none."""
    moved = tensor.transposed([term.index(c) for c in order if c in term])
    place = [i for i, c in enumerate(order) if c in term]

    def wide(shape: Shape) -> Shape:
        sizes = dict(zip(place, shape, strict=True))
        return tuple(sizes.get(i, 1) for i in range(len(order)))

    layers = tuple(
        Layer(la.labels.reshape(wide(la.labels.shape)), tuple(place[a] for a in la.axes), place[la.columns])
        for la in moved.layers
    )
    return replace(moved, shape=wide(moved.shape), full=wide(moved.full), layers=layers)


def _letter(op: Op, letter: str, terms: Sequence[str], tensors: Sequence[Tensor], *, summed: bool) -> Layer | None:
    """What one letter says of the axes that it stands for."""
    places = [
        (i, t, term.index(letter)) for i, (t, term) in enumerate(zip(tensors, terms, strict=True)) if letter in term
    ]
    layers = [t.along(axis) for _, t, axis in places]
    first = next((la for la in layers if la is not None), None)
    if first is None:
        return None
    for (position, tensor, axis), layer in zip(places, layers, strict=True):
        size_one = tensor.full[axis] == 1
        other = layer.labels.reshape(-1) if layer else np.zeros(1, np.int64)
        if not size_one:
            op.say.equate(first.labels.reshape(-1), other, "is combined with a tensor whose channels are fixed")
        if layer is not None and summed:
            op.role(tensor, layer.labels, "in")
            if not tensor.constant:
                op.say.read(position)
        elif layer is not None:
            op.role(tensor, layer.labels, "out")
    if summed and len(places) == 1 and places[0][1].constant:
        op.pin(first, "is summed over its channels")
    return first


@macs("Einsum")
def einsum_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """One for each combination of all letters; none where there is but one operand."""
    terms, _ = _terms(node, [len(shape) for shape in inputs])
    if len(terms) == 1:
        return 0
    sizes = {
        letter: size
        for term, shape in zip(terms, inputs, strict=True)
        for letter, size in zip(term, shape, strict=True)
    }
    del outputs
    return math.prod(sizes.values())


_WHERE = "gives positions to sample at"


@rule("GridSample", "RoiAlign", "MaxRoiPool")
@rule("GridSample", "CropAndResize", domain="com.microsoft")
def sample(op: Op) -> Sequence[Layers]:
    """X: [N, C, *S], and where to sample it; Y: [any, C, *S']."""
    x = op.inputs[0]
    assert x is not None
    for where in op.inputs[1:]:
        op.keep_all(where, _WHERE)
    return [hold_axes(op, x, [a for a in range(x.rank) if a != 1], "is sampled along these positions")]


@rule("AffineGrid")
def affine_grid(op: Op) -> Sequence[Layers]:
    """theta: [N, 2, 3] or [N, 3, 4], and a size [N, C, *S] of which C does not matter; coordinates have no channels."""
    op.keep_all(op.inputs[0], _WHERE)
    return [()]


@rule("DeformConv")
def deform_conv(op: Op) -> Sequence[Layers]:
    """X, W, offset, B, mask: a convolution whose taps lie elsewhere; ``offset_group`` blocks of X share offsets."""
    x = op.inputs[0]
    assert x is not None
    for position in (2, 4):
        op.keep_all(op.tensor(position), _WHERE)
    shared, layer = int(op.attrs.get("offset_group", 1)), x.along(1)
    if shared > 1 and layer is not None:
        op.say.intact(layer.labels.reshape(-1, x.shape[1])[0].reshape(shared, -1))
    return [convolution(op, x, op.inputs[1], op.tensor(3))]


blocks("DeformConv")(conv_blocks)
rewrite("DeformConv")(rewrite_group)
macs("DeformConv")(conv_macs)


@rule("Col2Im")
def col2im(op: Op) -> Sequence[Layers]:
    """X: [N, C * taps, L] -> [N, C, *S]: the taps of a channel, which stand together, go together."""
    x, y, block = op.inputs[0], op.outputs[0], op.value(2)
    assert x is not None
    layer = x.along(1)
    batch = hold_axes(
        op, Tensor(x.name, x.shape, x.full, tuple(la for la in x.layers if la is not layer)), (2,), _WHERE
    )
    if layer is None or block is None or layer.axes != (1,):
        op.keep_all(x, "is folded into space")
        return [()]
    rows = layer.labels.reshape(-1, math.prod(int(b) for b in block))
    op.say.equate(rows, rows[:, :1], "makes one channel with others")
    return [(*(line(la.labels, 0, y.rank) for la in batch), line(rows[:, 0], 1, y.rank))]
