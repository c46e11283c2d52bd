"""Tensor shapes, and with them costs, as functions of how many channels each block keeps.

The size of an axis is what always stays of it, and of each block its positions there times the share that is kept. A
node that costs nothing at the original's widths costs nothing at any.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxprune.cost import CostModel
from onnxprune.graph import Shape
from onnxprune.labels import Layer, Tensor
from onnxprune.trace import Trace


@dataclass(frozen=True)
class _Axis:
    """``fixed`` + sum over blocks of ``counts`` * share kept, divided by ``rows``."""

    axis: int
    fixed: int
    blocks: tuple[int, ...]
    counts: tuple[int, ...]
    rows: int


@dataclass
class Sizes(Mapping[str, Shape]):
    """``trace`` at ``kept[block]`` of ``width[block]`` units a row; ``blocks`` [rows, n]: their units."""

    trace: Trace = field(repr=False)
    blocks: Sequence[NDArray[np.int64]] = field(repr=False)
    model: CostModel
    kept: list[int] = field(init=False)

    def __post_init__(self) -> None:
        """Everything is kept."""
        trace, graph = self.trace, self.trace.model.graph
        self.kept = [b.shape[1] for b in self.blocks]
        self._width = list(self.kept)
        self._block = np.full(trace.units, -1, np.int64)
        for index, units in enumerate(self.blocks):
            self._block[units] = index
        self._shared: dict[tuple[int, int], _Axis | None] = {}
        self._axes: dict[str, tuple[Shape, tuple[_Axis, ...]]] = {}
        for use, tensor in trace.uses.items():
            self._axes.setdefault(use[0], (tensor.shape, self._forms(tensor)))
        for name, tensor in trace.tensors.items():
            self._axes[name] = (tensor.shape, self._forms(tensor))
        for name, (_, shape) in graph.constants.items():
            self._axes.setdefault(name, (shape, ()))
        self._cost = {n.index: cost for n in graph.nodes if (cost := self.model.node(graph, n, self))}
        self._seen: dict[tuple[int, ...], float] = {}
        self._reads: dict[int, list[int]] = {}
        self._touched: dict[int, list[int]] = {}
        for node in (graph.nodes[index] for index in self._cost):
            names = [n for n in (*node.inputs, *node.outputs) if n in self._axes]
            self._reads[node.index] = sorted({b for n in names for a in self._axes[n][1] for b in a.blocks})
            for block in self._reads[node.index]:
                self._touched.setdefault(block, []).append(node.index)

    def _forms(self, tensor: Tensor) -> tuple[_Axis, ...]:
        """Most tensors hand on the labels of another: each array of these is looked at once."""
        found = []
        for layer in tensor.layers:
            key = (id(layer.labels), layer.columns)
            if key not in self._shared:
                self._shared[key] = self._form(layer, _rows(tensor, layer))
            found.append(self._shared[key])
        return tuple(form for form in found if form is not None)

    def _form(self, layer: Layer, rows: int) -> _Axis | None:
        block = self._block[self.trace.unit[layer.labels.reshape(-1)]]
        index, counts = np.unique(block, return_counts=True)
        own = index >= 0
        fixed = int(counts[~own].sum())
        return (
            _Axis(layer.columns, fixed, tuple(index[own].tolist()), tuple(counts[own].tolist()), rows)
            if own.any()
            else None
        )

    # --- the mapping that cost models see -----------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Shape:
        shape, axes = self._axes[name]
        if not axes:
            return shape
        sizes = list(shape)
        for form in axes:
            total = form.fixed + sum(
                c * self.kept[b] / self._width[b] for b, c in zip(form.blocks, form.counts, strict=True)
            )
            sizes[form.axis] = round(total / form.rows)
        return tuple(sizes)

    def __contains__(self, name: object) -> bool:
        return name in self._axes

    def __iter__(self) -> Iterator[str]:
        return iter(self._axes)

    def __len__(self) -> int:
        return len(self._axes)

    # --- costs --------------------------------------------------------------------------------------------------------

    @property
    def cost(self) -> float:
        """The cost of the whole model."""
        return sum(self._cost.values())

    def counts(self, block: int) -> bool:
        """Whether any node whose cost is known depends on ``block``."""
        return block in self._touched

    def beside(self, block: int) -> list[int]:
        """The other blocks that share a node with ``block``: how much it saves depends on them."""
        found = {b for node in self._touched.get(block, ()) for b in self._reads[node]}
        return sorted(found - {block})

    def change(self, kept: Mapping[int, int]) -> float:
        """By how much the cost changes if some blocks keep so many."""
        before = {block: self.kept[block] for block in kept}
        for block, count in kept.items():
            self.kept[block] = count
        found = sum(self._node(node) - self._cost[node] for node in self._nodes(kept))
        for block, count in before.items():
            self.kept[block] = count
        return found

    def keep(self, block: int, kept: int) -> None:
        """Let ``block`` keep so many."""
        self.kept[block] = kept
        self._cost.update((node, self._node(node)) for node in self._touched.get(block, ()))

    def _nodes(self, blocks: Iterable[int]) -> Iterable[int]:
        return dict.fromkeys(node for block in blocks for node in self._touched.get(block, ()))

    def _node(self, index: int) -> float:
        """What a node costs now. It follows from what the blocks around it keep, and is computed once for each."""
        key = (index, *[self.kept[b] for b in self._reads[index]])
        if key not in self._seen:
            graph = self.trace.model.graph
            self._seen[key] = self.model.node(graph, graph.nodes[index], self)
        return self._seen[key]


def cost_of(trace: Trace, model: CostModel, dead: NDArray[np.int64]) -> float:
    """What a traced model costs without the units ``dead``."""
    alive = np.ones(trace.units, np.bool_)
    alive[dead] = False
    counts: dict[int, int] = {}

    def cut(tensor: Tensor) -> Shape:
        sizes = list(tensor.shape)
        for layer in tensor.layers:
            key = id(layer.labels)
            if key not in counts:
                counts[key] = int(alive[trace.unit[layer.labels]].sum())
            sizes[layer.columns] = round(counts[key] / _rows(tensor, layer))
        return tuple(sizes)

    graph = trace.model.graph
    shapes = {name: shape for name, (_, shape) in graph.constants.items()}
    shapes.update((use[0], cut(tensor)) for use, tensor in reversed(trace.uses.items()))
    shapes.update((name, cut(tensor)) for name, tensor in trace.tensors.items())
    return sum(model.node(graph, node, shapes) for node in graph.nodes)


def _rows(tensor: Tensor, layer: Layer) -> int:
    return math.prod(tensor.shape[a] for a in layer.axes if a != layer.columns)
