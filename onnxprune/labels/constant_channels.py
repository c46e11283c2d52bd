"""Constants in activations: what is known of a tensor's channels before the model has seen an input.

A filter of zeros gives its bias at every position and for every input, and BatchNormalization, activations and
pooling make another constant of it. `Known` holds such constants in the tensor's own layout, with size 1 along every
axis along which they do not change: a [N, C, H, W] feature map takes an array [1, C, 1, 1].

How an operator carries constants is its rule's facet ``known`` (`onnxprune.labels.ops.table`): a function from `Facts`
to what is known of the outputs. Here is what several families share. A product with a known 0 is 0: that the other
factor could be infinite or NaN is left out of account, as it is wherever a channel is taken for dead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.labels.labels import FIXED, Layer, Tensor
from onnxprune.model.graph import Node

Array = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Known:
    """Where ``mask`` holds, every element is ``value``. Both are laid out as the tensor, or have size 1 on an axis."""

    value: Array = field(repr=False)
    mask: Mask = field(repr=False)

    @property
    def zero(self) -> Mask:
        """Where every element is known to be 0."""
        return np.asarray(self.mask & (self.value == 0))

    def where(self, mask: Mask) -> Known:
        """What is known, restricted to positions where ``mask`` holds."""
        return Known(self.value, self.mask & mask)


@dataclass(frozen=True)
class Facts:
    """One node as a ``known`` facet sees it: tensors with their labels, and what is known of its inputs.

    ``known``: of the input at a position; None where it is absent, or nothing of it is known. ``evaluate``: the node's
    own results on other arrays; None where they cannot be computed.
    """

    node: Node
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    known: Callable[[int], Known | None]
    evaluate: Callable[[Sequence[Array | None]], list[Array] | None]

    def has(self, position: int) -> bool:
        """Whether input ``position`` is given at all."""
        return self.node.input(position) != ""


KnownFunction = Callable[[Facts], Sequence[Known | None]]


def uniform(known: Known, axes: Sequence[int]) -> Known:
    """The same with size 1 along ``axes``: known where it does not change along them."""
    shape = np.broadcast_shapes(known.value.shape, known.mask.shape)
    along = tuple(a for a in axes if shape[a] > 1)
    if not along:
        return known
    value, mask = np.broadcast_to(known.value, shape), np.broadcast_to(known.mask, shape)
    first = value[tuple(slice(0, 1) if a in along else slice(None) for a in range(len(shape)))]
    same = mask & (value == first)
    return Known(first, np.asarray(same.all(axis=along, keepdims=True)))


def settled(known: Known | None, tensor: Tensor) -> Known | None:
    """What is known of ``tensor``, with size 1 along axes without labels; None where it is nothing."""
    if known is None or known.value.ndim != tensor.rank:
        return None
    known = uniform(known, [a for a in range(tensor.rank) if tensor.along(a) is None])
    finite = np.isfinite(known.value) if known.value.dtype.kind == "f" else np.ones_like(known.mask)
    known = known.where(finite)
    return known if known.mask.any() else None


def placed(vector: Array, axis: int, rank: int) -> Array:
    """A vector along ``axis`` of a tensor of ``rank``; anything but a vector as it is."""
    return vector.reshape([-1 if a == axis else 1 for a in range(rank)]) if vector.ndim == 1 else vector


# --- what families share --------------------------------------------------------------------------------------------


def pointwise(facts: Facts) -> list[Known | None]:
    """The operator itself on the constants, where all inputs are known. For continuous functions of each position.

    Not for others: what is computed here may differ from the run in its last bits.
    """
    found = []
    for position in range(len(facts.node.inputs)):
        if facts.has(position):
            known = facts.known(position)
            if known is None:
                return [None]
            found.append(known)
    given = iter(found)
    one = np.ones((), found[0].value.dtype)
    arrays = [
        np.where(k.mask, k.value, one) if facts.has(p) and (k := next(given)) else None
        for p in range(len(facts.node.inputs))
    ]
    results = facts.evaluate(arrays)
    if not results:
        return [None]
    mask = reduce(np.logical_and, [k.mask for k in found])
    return [Known(results[0], np.broadcast_to(mask, results[0].shape))]


def moved(facts: Facts) -> list[Known | None]:
    """Constants go with their labels from the first input to all outputs.

    For whatever makes each position of an output of elements with its own labels, and of equal ones a constant.
    """
    tensor, known = facts.inputs[0], facts.known(0)
    if tensor is None or known is None:
        return [None for _ in facts.outputs]
    parts = [_extremes(known, layer) for layer in tensor.layers]
    if not parts:
        return [None for _ in facts.outputs]
    label, least, most, whole = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(label, kind="stable")
    keys, starts = np.unique(label[order], return_index=True)
    low, high = np.minimum.reduceat(least[order], starts), np.maximum.reduceat(most[order], starts)
    sure = np.logical_and.reduceat(whole[order], starts) & (low == high) & (keys != FIXED)
    return [_looked_up(out, keys, low, sure) for out in facts.outputs]


def _extremes(known: Known, layer: Layer) -> tuple[Array, Array, Array, Array]:
    """Each label of a layer, the least and the most that its positions hold, and whether all of them are known.

    Taken along the other axes first: a table of words has millions of elements and few labels.
    """
    rank = layer.labels.ndim
    other = tuple(a for a in range(rank) if layer.labels.shape[a] == 1)
    value, mask = (a.reshape((1,) * (rank - a.ndim) + a.shape) for a in (known.value, known.mask))
    found = value.min(other, keepdims=True), value.max(other, keepdims=True), mask.all(other, keepdims=True)
    low, high, sure = (np.broadcast_to(a, layer.labels.shape).reshape(-1) for a in found)
    return layer.labels.reshape(-1), low, high, sure


def _looked_up(out: Tensor, keys: NDArray[np.int64], values: Array, sure: Mask) -> Known:
    found = Known(np.zeros((1,) * out.rank, values.dtype), np.zeros((1,) * out.rank, np.bool_))
    for layer in out.layers:
        place = np.minimum(np.searchsorted(keys, layer.labels), len(keys) - 1)
        hit = sure[place] & (keys[place] == layer.labels)
        found = Known(np.where(hit, values[place], found.value), hit | found.mask)
    return found


def zeros_moved(facts: Facts) -> list[Known | None]:
    """As `moved`, of zeros alone."""
    return [k and k.where(k.zero) for k in moved(facts)]
