"""Gather and scatter by computed positions, and Einsum: indexed axes are held, summed ones read, others go through."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxprune.labels.labels import Layer, Op, Tensor, line, merge
from onnxprune.labels.ops.reduction import hold_axes
from onnxprune.labels.ops.table import Layers, macs, rule
from onnxprune.model.graph import Node, Shape

_INDEXED = "is indexed by positions computed at run time"


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
    equation = op.attrs["equation"]
    equation = (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "")
    left, arrow, output = equation.partition("->")
    terms = left.split(",")
    plain = arrow and "." not in equation and all(len(set(t)) == len(t) for t in terms)
    if not plain or any(len(la.axes) > 1 for t in tensors for la in t.layers):
        for tensor in tensors:
            op.keep_all(tensor, "goes through an Einsum that is not a product of plain axes")
        return [()]
    found = []
    for letter in dict.fromkeys("".join(terms)):
        layer = _letter(op, letter, terms, tensors, summed=letter not in output)
        if layer is not None and letter in output:
            found.append(line(layer.labels, output.index(letter), len(output)))
    return [tuple(found)]


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
    if summed and len(places) == 1:
        op.pin(first, "is summed over its channels")
    return first


@macs("Einsum")
def einsum_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """One for each combination of all letters; none where there is but one operand."""
    equation = node.attrs["equation"]
    terms = (
        (equation.decode() if isinstance(equation, bytes) else equation).replace(" ", "").partition("->")[0].split(",")
    )
    if len(terms) == 1 or "." in equation:
        return 0
    sizes = {
        letter: size
        for term, shape in zip(terms, inputs, strict=True)
        for letter, size in zip(term, shape, strict=True)
    }
    del outputs
    return math.prod(sizes.values())
