"""What each width should be a multiple of: a number, or what a target computes in at that place.

A place is a width that somebody reads or writes. Without a target these are the axes of weights, and all are multiples
of one number. A target's blocks differ: an output of one convolution, an input of the next, a depthwise convolution
between them, a part of a Concat.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxprune.cost.chips import Cycles
from onnxprune.cost.macs_and_bytes import CostModel
from onnxprune.cost.sizes import Sizes
from onnxprune.labels import ops
from onnxprune.labels.groups import Block, Group, Groups, reader_of
from onnxprune.labels.label_propagation import Trace
from onnxprune.labels.labels import Tensor

Units = NDArray[np.int64]

#: Of what a narrow layer saves of another cost, this share is to be saved in cycles too.
_NEARLY = 0.75


@dataclass(frozen=True)
class Place:
    """A width: the unit at each of its positions, and what it should be a multiple of."""

    units: Units = field(repr=False)
    align: int


class Alignment(Protocol):
    """Says of every group what the widths that it is part of should be multiples of."""

    def places(self, group: Group) -> Sequence[Place]:
        """The widths that a group is part of; none where any will do."""

    def __str__(self) -> str:
        """What widths are, as in 'cannot be narrower and ...'."""


@dataclass(frozen=True)
class Multiple:
    """Every width of a weight's outputs and inputs is a multiple of ``number``."""

    number: int

    def places(self, group: Group) -> Sequence[Place]:
        """The axes of weights; none where the number is 1."""
        parts = [p.units for p in group.slices if p.role in ("out", "in") and p.units.ndim == 1]
        return [Place(units, self.number) for units in parts] if self.number > 1 else []

    def __str__(self) -> str:
        return f"a multiple of {self.number}"


@dataclass(frozen=True)
class TargetBlocks:
    """Every width fills whole blocks of a target: of output and input channels, of what a depthwise convolution takes.

    A group that is too narrow for that takes the largest share of the blocks, a half, a quarter ..., at which being
    narrower still saves cycles; where another cost is to be saved, of the two nearly as large a share. ``stored``:
    widths fill only what activations are stored and joined in, where it is the cost that tells where blocks end.
    """

    trace: Trace = field(repr=False)
    groups: Groups = field(repr=False)
    costs: Cycles
    beside: CostModel | None = None
    stored: bool = False
    sized: Callable[[CostModel], Sizes] | None = field(default=None, repr=False)  # everything kept
    _known: dict[int, Sequence[Place]] = field(default_factory=dict, init=False, repr=False)

    def __str__(self) -> str:
        return f"save cycles on {self.costs}"

    def places(self, group: Group) -> Sequence[Place]:
        """The widths that nodes read and write, with what is left of their blocks where the group is narrow."""
        if group.index not in self._known:
            self._known[group.index] = self._fitting(group)
        return self._known[group.index]

    def _fitting(self, group: Group) -> Sequence[Place]:
        whole = self._places[group.index]
        share, widest = 1, max((p.align for p in whole), default=1)
        while share <= widest:
            found = [replace(p, align=p.align // math.gcd(p.align, share)) for p in whole]
            steps = [step_of(block, found) for block in group.blocks]
            if can_shrink([b.width for b in group.blocks], steps) and self._saves(group, steps):
                return found
            share *= 2
        return whole

    def _saves(self, group: Group, steps: Sequence[int]) -> bool:
        """Whether the next narrower widths cost less, or it is not known what they cost."""
        first = self._first[group.index]
        narrower = {
            first + at: (block.width - 1) // by * by
            for at, (block, by) in enumerate(zip(group.blocks, steps, strict=True))
        }
        if not any(self._sizes[0].counts(block) for block in narrower):
            return True
        shares = [-z.change({b: k for b, k in narrower.items() if k}) / (z.cost or 1) for z in self._sizes]
        return shares[0] > _NEARLY * sum(shares[1:])

    @cached_property
    def _sizes(self) -> list[Sizes]:
        """Of the target's cycles, and of the other cost, if any."""
        sized = self.sized or partial(sizes_of, self.trace, self.groups)
        return [sized(model) for model in (self.costs, self.beside) if model]

    @cached_property
    def _first(self) -> list[int]:
        """By group, the number of its first block."""
        return [0, *np.cumsum([len(g.blocks) for g in self.groups]).tolist()]

    @cached_property
    def _places(self) -> list[list[Place]]:
        """By group, every place that holds some of its units, once."""
        owner = np.full(self.trace.units, -1, np.int64)
        for group in self.groups:
            owner[group.units] = owner[group.places] = group.index
        found: list[dict[bytes, Place]] = [{} for _ in self.groups]
        for place in self._all():
            for index in np.unique(owner[place.units]):
                if index >= 0:
                    known = found[index].setdefault(place.units.tobytes(), place)
                    found[index][place.units.tobytes()] = replace(known, align=math.lcm(known.align, place.align))
        return [list(places.values()) for places in found]

    def _all(self) -> Iterator[Place]:
        """What convolutions read and write, what is joined and parted, and weights that other operators read."""
        trace, p = self.trace, self.costs.precision
        for node in trace.model.graph.nodes:
            inputs = [trace.input(node, i) for i, name in enumerate(node.inputs) if name]
            outputs = [trace.tensors.get(name) for name in node.outputs if name]
            kernel = ops.kernel_of(node, trace.shapes.shape)
            if kernel is not None:
                both = p.depthwise_block if kernel.depthwise else 0
                yield from self._channels(inputs[:1], p.store_block if self.stored else both or p.in_block)
                yield from self._channels(outputs, p.store_block if self.stored else both or p.out_block)
            joined = {"joins": inputs, "parts": outputs}.get(ops.gathers_of(node), [])
            yield from self._channels(joined, p.join_block)
        blocks = {"out": p.out_block, "in": p.in_block}
        for part in (part for group in self.groups for part in group.slices):
            reader = reader_of(trace, part)
            if part.role in blocks and part.units.ndim == 1 and ops.kernel_of(reader, trace.shapes.shape) is None:
                yield Place(part.units, blocks[part.role])

    def _channels(self, tensors: Sequence[Tensor | None], align: int) -> Iterator[Place]:
        """The axis of channels of each tensor."""
        for tensor in tensors:
            layer = tensor.along(1) if tensor is not None else None
            if layer is not None and align > 1:
                yield Place(self.trace.unit[layer.labels.reshape(-1)], align)


def sizes_of(trace: Trace, groups: Groups, model: CostModel) -> Sizes:
    """A cost as a function of what each block of each group keeps, in their order."""
    return Sizes(trace, [b.units for g in groups for b in g.blocks], model)


def step_of(block: Block, places: Sequence[Place]) -> int:
    """The smallest count per row whose multiples make every width that the block is part of what it should be."""
    return step(uses(block.units[:, 0], places), aligns(places))


def step(used: NDArray[np.int64], wanted: NDArray[np.int64]) -> int:
    """The same, of [places, rows] how often a unit stands in each place, and [places] of what that is a multiple."""
    counts = used.sum(axis=1).tolist()
    return math.lcm(1, *(a // math.gcd(a, n) for a, n in zip(wanted.tolist(), counts, strict=True) if n))


def uses(units: Units, places: Sequence[Place]) -> NDArray[np.int64]:
    """[places, n]: how often each of ``units`` stands in each place."""
    order = np.argsort(units)
    ranked = units[order]
    found = np.zeros((len(places), len(units)), np.int64)
    if not len(units):  # a head that takes nothing with it
        return found
    for row, place in zip(found, places, strict=True):
        at = np.minimum(np.searchsorted(ranked, place.units), len(units) - 1)
        row[order] = np.bincount(at[ranked[at] == place.units], minlength=len(units))
    return found


def aligns(places: Sequence[Place]) -> NDArray[np.int64]:
    """[places]: what each is a multiple of."""
    return np.asarray([p.align for p in places], np.int64)


def can_shrink(widths: Sequence[int], steps: Sequence[int]) -> bool:
    """Whether a group can be narrower and all its widths multiples: blocks add up, so each of several must be one."""
    both = list(zip(widths, steps, strict=True))
    return any(w > s for w, s in both) and (len(both) == 1 or all(w % s == 0 for w, s in both))
