"""Tensor shapes, and with them costs, as functions of how many channels each block keeps, or of which units go.

The size of an axis is the number of its positions that stay. For a block, it is the number of its positions times the
share that is kept. A node that costs nothing at the original's widths costs nothing at any.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxprune.cost.macs_and_bytes import CostModel
from onnxprune.labels.label_propagation import Trace
from onnxprune.labels.labels import Tensor
from onnxprune.model.graph import Node, Shape

Units = NDArray[np.int64]


@dataclass(frozen=True)
class _Row:
    """Units that stand along axes. ``blocks``: which of them can be cut, and their ``counts`` of its positions."""

    units: Units = field(repr=False)
    fixed: int
    blocks: tuple[int, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class _Axis:
    """As long as what stays of row ``row``, divided by ``rows``."""

    axis: int
    row: int
    rows: int


class _Layout:
    """Where units stand in the tensors of ``trace``, and which of them ``blocks`` can take.

    ``rows``: of units, each once; ``axes``: by tensor, its shape and the axes that rows lie along; ``holds``: by block,
    the rows that it is part of.
    """

    def __init__(self, trace: Trace, blocks: Sequence[Units]) -> None:
        self.rows: list[_Row] = []
        self.axes: dict[str, tuple[Shape, tuple[_Axis, ...]]] = {}
        self.holds: dict[int, list[int]] = {}
        self._trace = trace
        self._row_of: dict[int | bytes, int] = {}  # by the array of labels, and by its units
        self._block = np.full(trace.units, -1, np.int64)
        for index, units in enumerate(blocks):
            self._block[units] = index
        for use, tensor in trace.uses.items():
            self.axes.setdefault(use[0], (tensor.shape, self._along(tensor)))
        for name, tensor in trace.tensors.items():
            self.axes[name] = (tensor.shape, self._along(tensor))
        for name, (_, shape) in trace.model.graph.constants.items():
            self.axes.setdefault(name, (shape, ()))
        for index, row in enumerate(self.rows):
            for block in row.blocks:
                self.holds.setdefault(block, []).append(index)

    def seen_by(self, node: Node) -> tuple[list[int], list[int]]:
        """The rows that the cost of ``node`` may depend on, and the blocks that hold those along its own tensors."""
        producer = self._trace.model.graph.producer
        own = self._rows_of(*node.inputs, *node.outputs)
        blocks = {b for r in own for b in self.rows[r].blocks}
        before = self._rows_of(*(n for i in node.inputs if (p := producer.get(i)) for n in p.inputs))
        parts = (r for r in before if r not in own and blocks.issuperset(self.rows[r].blocks))
        return [*own, *parts], sorted(blocks)

    def _rows_of(self, *names: str) -> list[int]:
        """Rows along some tensors, each once."""
        return list(dict.fromkeys(a.row for n in names for a in self.axes.get(n, ((), ()))[1]))

    def _along(self, tensor: Tensor) -> tuple[_Axis, ...]:
        """Most tensors hand on the labels of another: each array of these is looked at once."""
        found = []
        for layer in tensor.layers:
            if id(layer.labels) not in self._row_of:
                self._row_of[id(layer.labels)] = self._row(self._trace.unit[layer.labels.reshape(-1)])
            rows = math.prod(tensor.shape[a] for a in layer.axes if a != layer.columns)
            found.append(_Axis(layer.columns, self._row_of[id(layer.labels)], rows))
        return tuple(found)

    def _row(self, units: Units) -> int:
        key = units.tobytes()
        if key not in self._row_of:
            index, counts = np.unique(self._block[units], return_counts=True)
            own = index >= 0
            fixed = int(counts[~own].sum())
            self._row_of[key] = len(self.rows)
            self.rows.append(_Row(units, fixed, tuple(index[own].tolist()), tuple(counts[own].tolist())))
        return self._row_of[key]


@dataclass
class Sizes(Mapping[str, Shape]):
    """Shapes and costs of ``trace`` when block b keeps ``kept[b]`` units a row; ``blocks``: their units [rows, n]."""

    trace: Trace = field(repr=False)
    blocks: Sequence[Units] = field(repr=False)
    model: CostModel
    kept: list[int] = field(init=False)

    def __post_init__(self) -> None:
        """Everything is kept."""
        layout, graph = _Layout(self.trace, self.blocks), self.trace.model.graph
        self._rows, self._axes, self._holds = layout.rows, layout.axes, layout.holds
        self.kept = [b.shape[1] for b in self.blocks]
        self._width = tuple(self.kept)
        self._count: list[float] = [len(r.units) for r in self._rows]
        self._cost = {n.index: cost for n in graph.nodes if (cost := self.model.node(graph, n, self))}
        self._whole = dict(self._cost)
        self._seen: dict[tuple[float, ...], float] = {}
        self._sees: dict[int, list[int]] = {}  # by node, the rows along its tensors, and their parts
        self._reads: dict[int, list[int]] = {}  # by node, the blocks that these hold
        self._touched: dict[int, list[int]] = {}  # by block, the nodes that read it
        for index in self._cost:
            self._sees[index], self._reads[index] = layout.seen_by(graph.nodes[index])
            for block in self._reads[index]:
                self._touched.setdefault(block, []).append(index)

    def whole(self) -> Sizes:
        """A copy with everything kept, which shares the known costs of nodes."""
        found = copy.copy(self)
        found.kept, found._cost = list(self._width), dict(self._whole)  # noqa: SLF001 (its own)
        found._count = [len(r.units) for r in self._rows]  # noqa: SLF001
        return found

    # --- the mapping that cost models see -----------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Shape:
        shape, axes = self._axes[name]
        if not axes:
            return shape
        sizes = list(shape)
        for form in axes:
            sizes[form.axis] = round(self._count[form.row] / form.rows)
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

    def without(self, dead: Units) -> float:
        """The cost of the whole model without the units ``dead``, whatever blocks keep."""
        alive = np.ones(self.trace.units, np.int64)
        alive[dead] = 0
        some = [i for i, r in enumerate(self._rows) if len(r.units)]
        counts: list[float] = [0] * len(self._rows)
        if some:
            starts = np.cumsum([0, *(len(self._rows[i].units) for i in some[:-1])])
            left = np.add.reduceat(alive[np.concatenate([self._rows[i].units for i in some])], starts)
            for index, count in zip(some, left.tolist(), strict=True):
                counts[index] = count
        before, self._count = self._count, counts
        found = sum(self._node(node) for node in self._cost)
        self._count = before
        return found

    @property
    def nodes(self) -> Sequence[int]:
        """The nodes that cost anything."""
        return list(self._cost)

    def reads(self, node: int) -> Sequence[int]:
        """The blocks that the cost of a node depends on."""
        return self._reads.get(node, [])

    def at(self, node: int, kept: Mapping[int, int]) -> float:
        """The cost of a node when some blocks keep these counts; 0 for a node that costs nothing."""
        if node not in self._cost:
            return 0.0
        before = {block: self.kept[block] for block in kept}
        counts = self._set(kept)
        found = self._node(node)
        for block, had in before.items():
            self.kept[block] = had
        for row, count in counts.items():
            self._count[row] = count
        return found

    def counts(self, block: int) -> bool:
        """Whether any node whose cost is known depends on ``block``."""
        return block in self._touched

    def beside(self, block: int) -> list[int]:
        """The other blocks that share a node with ``block``: how much it saves depends on them."""
        found = {b for node in self._touched.get(block, ()) for b in self._reads[node]}
        return sorted(found - {block})

    def change(self, kept: Mapping[int, int]) -> float:
        """The change of the cost when some blocks keep these counts."""
        before = {block: self.kept[block] for block in kept}
        counts = self._set(kept)
        nodes = dict.fromkeys(node for block in kept for node in self._touched.get(block, ()))
        found = sum(self._node(node) - self._cost[node] for node in nodes)
        for block, had in before.items():
            self.kept[block] = had
        for row, count in counts.items():
            self._count[row] = count
        return found

    def keep(self, block: int, kept: int) -> None:
        """Set how many units of each row ``block`` keeps."""
        self._set({block: kept})
        self._cost.update((node, self._node(node)) for node in self._touched.get(block, ()))

    def _set(self, kept: Mapping[int, int]) -> dict[int, float]:
        """Let blocks keep so many; how many of each row that they are part of stayed before."""
        for block, count in kept.items():
            self.kept[block] = count
        rows = dict.fromkeys(row for block in kept for row in self._holds.get(block, ()))
        before = {row: self._count[row] for row in rows}
        for index in rows:
            row = self._rows[index]
            self._count[index] = row.fixed + sum(
                c * self.kept[b] / self._width[b] for b, c in zip(row.blocks, row.counts, strict=True)
            )
        return before

    def _node(self, index: int) -> float:
        """What a node costs now. It follows from what stays of the rows along its tensors: computed once for each."""
        key = (index, *[self._count[row] for row in self._sees[index]])
        if key not in self._seen:
            graph = self.trace.model.graph
            self._seen[key] = self.model.node(graph, graph.nodes[index], self)
        return self._seen[key]


def cost_of(trace: Trace, model: CostModel, dead: Units) -> float:
    """The cost of a traced model without the units ``dead``."""
    return Sizes(trace, (), model).without(dead)
