"""Tensor shapes, and with them costs, as functions of how many channels each block keeps.

The size of an axis is what always stays of it, and of each block its positions there times the share that is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxprune.cost import CostModel
from onnxprune.graph import Node, Shape
from onnxprune.labels import Tensor
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
        self._axes: dict[str, tuple[Shape, tuple[_Axis, ...]]] = {}
        for use, tensor in trace.uses.items():
            self._axes.setdefault(use[0], (tensor.shape, self._forms(tensor)))
        for name, tensor in trace.tensors.items():
            self._axes[name] = (tensor.shape, self._forms(tensor))
        for name, (_, shape) in graph.constants.items():
            self._axes.setdefault(name, (shape, ()))
        self._touched: dict[int, list[Node]] = {}
        for node in graph.nodes:
            names = [n for n in (*node.inputs, *node.outputs) if n in self._axes]
            for index in dict.fromkeys(b for n in names for a in self._axes[n][1] for b in a.blocks):
                self._touched.setdefault(index, []).append(node)
        self._cost = {n.index: self.model.node(graph, n, self) for n in graph.nodes}

    def _forms(self, tensor: Tensor) -> tuple[_Axis, ...]:
        found = []
        for layer in tensor.layers:
            block = self._block[self.trace.unit[layer.labels.reshape(-1)]]
            index, counts = np.unique(block, return_counts=True)
            own = index >= 0
            if own.any():
                rows = int(np.prod([tensor.shape[a] for a in layer.axes if a != layer.columns], dtype=np.int64))
                fixed = int(counts[~own].sum())
                found.append(_Axis(layer.columns, fixed, tuple(index[own].tolist()), tuple(counts[own].tolist()), rows))
        return tuple(found)

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

    def change(self, block: int, kept: int) -> float:
        """By how much the cost changes if ``block`` keeps so many."""
        now, self.kept[block] = self.kept[block], kept
        graph = self.trace.model.graph
        found = sum(self.model.node(graph, n, self) - self._cost[n.index] for n in self._touched.get(block, ()))
        self.kept[block] = now
        return found

    def keep(self, block: int, kept: int) -> None:
        """Let ``block`` keep so many."""
        self.kept[block] = kept
        graph = self.trace.model.graph
        for node in self._touched.get(block, ()):
            self._cost[node.index] = self.model.node(graph, node, self)
