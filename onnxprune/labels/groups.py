"""Units and groups: what goes together, and what is chosen together.

A *unit* is one channel with every weight slice that it touches: it goes or stays as a whole. Units that share a
dimension of a weight's output form a *group* (a component of a networkx graph over these dimensions): a Conv's
outputs, a whole residual stage. Within a group, units that occur in the same dimensions are interchangeable as far as
widths go: they form a *block*, and what is chosen is how many of each block stay. Rows that must keep equal counts
(group convolution, heads) are the rows of one block. Rows that may go as a whole, with rows of other blocks, are heads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from onnxprune.labels.attention_heads import Constraint, Heads, find_heads
from onnxprune.labels.label_propagation import ROLES, Pinned, Trace, Use, is_taken_apart
from onnxprune.labels.labels import Labels, Layer
from onnxprune.model.graph import Node
from onnxprune.running.shape_arithmetic import is_shape_source

Units = NDArray[np.int64]


@dataclass(frozen=True)
class Slice:
    """One axis of a constant, and the unit at each of its positions.

    ``rows``: [rows, n] where blocks of axis 0 differ; otherwise ``units`` is [n]. ``role``: 'out', 'in', 'scale' or ''.
    """

    use: Use
    axis: int
    units: Units = field(repr=False)
    role: str

    @property
    def constant(self) -> str:
        """The name of the constant."""
        return self.use[0]


@dataclass(frozen=True)
class Block:
    """Units [rows, n] of which each row keeps the same number, and at least one."""

    units: Units = field(repr=False)

    @property
    def rows(self) -> int:
        """How many rows."""
        return int(self.units.shape[0])

    @property
    def width(self) -> int:
        """Units in a row."""
        return int(self.units.shape[1])


@dataclass(frozen=True)
class Group:
    """Units that share dimensions; the group has the name of the first node that makes them."""

    index: int
    name: str
    units: Units = field(repr=False)
    blocks: tuple[Block, ...] = field(repr=False)
    slices: tuple[Slice, ...] = field(repr=False)
    nodes: tuple[str, ...] = field(repr=False)
    heads: tuple[Heads, ...] = ()

    @property
    def width(self) -> int:
        """Number of units."""
        return len(self.units)

    @property
    def places(self) -> Units:
        """The places of all heads: units that are no channels, and are not counted as such."""
        return np.concatenate([np.zeros(0, np.int64), *(p for h in self.heads for p in h.places)])


@dataclass(frozen=True)
class Held:
    """Output channels of a weight that cannot be pruned, with the reasons; ``units``: these channels, each once."""

    node: str
    constant: str
    width: int
    held: int
    reasons: tuple[Pinned, ...]
    units: Units = field(repr=False)


@dataclass(frozen=True)
class Groups:
    """All groups in execution order, what is held, and which units are `lossless` (as in `.lossless_removal`)."""

    groups: tuple[Group, ...]
    held: tuple[Held, ...]
    lossless: Units = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def width(self) -> int:
        """Prunable channels: the units of all groups."""
        return sum(g.width for g in self.groups)

    def lost(self, scores: Sequence[NDArray[np.float64]], dead: Units) -> float:
        """The score that is lost with ``dead``, not counting lossless units; ``scores``: by group, [width]."""
        gone = np.setdiff1d(dead, self.lossless)
        return sum(float(s[np.isin(g.units, gone)].sum()) for g, s in zip(self.groups, scores, strict=True))


def group(trace: Trace, extra: Mapping[int, Pinned] | None = None) -> Groups:
    """Group the units of ``trace``; ``extra`` pins further units, for options or for nodes that could not follow."""
    pins: dict[int, tuple[Pinned, ...]] = dict(trace.pinned)
    for unit, reason in (extra or {}).items():
        pins[unit] = (*pins.get(unit, ()), reason)
    free = np.ones(trace.units, np.bool_)
    free[0] = False
    free[list(pins)] = False
    slices = _slices(trace)
    made = np.zeros(trace.units, np.bool_)
    for s in slices:
        made[s.units] |= s.role != "in" and s.constant in trace.model.graph.constants
    free &= made  # a channel that no weight makes has nothing to prune
    free &= _carried(trace)  # nor has one that nobody reads: the rest of a vector of which a part is taken
    free &= ~trace.heads.place  # these go with their heads
    blocks = _blocks(trace, slices, free, pins)
    lossless = trace.lossless[free[trace.lossless]]
    constraints = [Constraint(trace.unit[r.labels], r.whole) for r in trace.intact]
    heads = find_heads(trace.heads, constraints, [b.units for b in blocks], pins)
    for places in (p for h in heads for p in h.places):
        free[places] = True
    for place in np.flatnonzero(trace.heads.place & ~free):
        pins.setdefault(int(place), (Pinned("", "stands for heads that stay"),))
    return Groups(_groups(trace, slices, blocks, heads, free), _held(trace, slices, free, pins), lossless)


def _carried(trace: Trace) -> NDArray[np.bool_]:
    """Which units are in any tensor that is computed, or in a constant that a node reads whole."""
    found = np.zeros(trace.units, np.bool_)
    whole = (t for use, t in trace.uses.items() if not is_taken_apart(trace.model, use))
    for tensor in (*trace.tensors.values(), *whole):
        for layer in tensor.layers:
            found[trace.unit[layer.labels].reshape(-1)] = True
    return found


def _slices(trace: Trace) -> list[Slice]:
    """Every labelled axis of every constant, in the order of first use."""
    found = []
    for use, tensor in trace.uses.items():
        for layer in tensor.layers:
            if layer.columns == layer.axes[0] or len(layer.axes) > 1:
                labels = _rows(layer)
                role = ROLES[int(trace.role[labels].max(initial=0))] if labels.size else ""
                found.append(Slice(use, layer.columns, trace.unit[labels], role))
    return found


def _rows(layer: Layer) -> Labels:
    """The labels along the columns: [n], or [rows, n] where rows differ."""
    if len(layer.axes) == 1:
        return layer.labels.reshape(-1)
    return layer.labels.reshape(layer.labels.shape[0], -1)


def _blocks(
    trace: Trace, slices: list[Slice], free: NDArray[np.bool_], pins: dict[int, tuple[Pinned, ...]]
) -> list[Block]:
    """Interchangeable units, tied across rows that must keep equal counts. Rows that cannot be tied are pinned."""
    rows = [(trace.unit[r.flat], r.reason) for r in trace.intact]
    while True:
        cell = _cells(trace, slices, [r for r, _ in rows], free)
        ties = nx.Graph()
        ties.add_nodes_from(int(c) for c in np.unique(cell[free]))
        refused = False
        for constraint, reason in rows:
            tied = _tie(constraint, cell, free)
            if tied is None:
                for unit in np.unique(constraint[free[constraint]]):
                    pins[int(unit)] = (*pins.get(int(unit), ()), reason)
                free[constraint] = False
                refused = True
            else:
                ties.add_edges_from(tied)
        if not refused:
            break
    members: dict[int, list[int]] = {}
    for unit in np.flatnonzero(free):
        members.setdefault(int(cell[unit]), []).append(int(unit))
    tied_cells = sorted(
        (sorted(c, key=lambda i: members[i][0]) for c in nx.connected_components(ties)), key=lambda c: members[c[0]][0]
    )
    return [Block(np.asarray([members[c] for c in cells], np.int64)) for cells in tied_cells]


def _cells(trace: Trace, slices: list[Slice], rows: list[Units], free: NDArray[np.bool_]) -> NDArray[np.int64]:
    """A number for each unit: equal where two units occur equally often in the same dimensions and the same rows."""
    places = [s.units.reshape(-1) for s in slices if s.role in ("out", "in")]
    places += [row for constraint in rows for row in constraint]
    cell = np.zeros(trace.units, np.int64)
    if not places:
        return cell
    unit = np.concatenate(places)
    place = np.repeat(np.arange(len(places)), [len(p) for p in places])
    keep = free[unit]
    unit, place = unit[keep], place[keep]
    # A random 64-bit number for each place; a unit's signature is their sum over its occurrences.
    numbers = np.random.default_rng(0).integers(1, 2**62, size=len(places), dtype=np.int64)
    with np.errstate(over="ignore"):
        np.add.at(cell, unit, numbers[place])
    _, inverse = np.unique(cell, return_inverse=True)
    return np.asarray(inverse.reshape(-1), np.int64)


def _tie(rows: Units, cell: NDArray[np.int64], free: NDArray[np.bool_]) -> list[tuple[int, int]] | None:
    """Pairs of cells that must keep equal counts so that all rows do; None where no such pairing is seen.

    A pair has as many units, and they stand in their rows equally often.
    """
    if (rows == rows[:1]).all():
        return []
    size = np.bincount(cell[free], minlength=1)
    found: list[dict[int, int]] = []
    for row in rows:
        counts: dict[int, int] = {}
        for unit in row[free[row]]:
            counts[int(cell[unit])] = counts.get(int(cell[unit]), 0) + 1
        found.append(counts)
    shared = {c for c in found[0] if all(c in f and f[c] == found[0][c] for f in found)}
    left = [[(c, n) for c, n in f.items() if c not in shared] for f in found]
    alike = [[(n, int(size[c])) for c, n in f] for f in left]
    if any(counts != alike[0] for counts in alike):
        return None
    return [(a, b) for f in left[1:] for (a, _), (b, _) in zip(left[0], f, strict=True)]


def _groups(
    trace: Trace, slices: list[Slice], blocks: list[Block], heads: list[Heads], free: NDArray[np.bool_]
) -> tuple[Group, ...]:
    block_of = np.full(trace.units, -1, np.int64)
    for index, block in enumerate(blocks):
        block_of[block.units] = index
    linked = _linked(slices, block_of, free & ~trace.heads.place)
    for family in heads:
        linked.add_edges_from(pairwise(family.blocks))
    components = sorted((sorted(c) for c in nx.connected_components(linked)), key=lambda c: c[0])
    group_of = np.full(trace.units, -1, np.int64)
    members = []
    for index, component in enumerate(components):
        units = np.unique(np.concatenate([blocks[b].units.reshape(-1) for b in component]))
        group_of[units] = index
        members.append(units)
    position = {block: (index, at) for index, c in enumerate(components) for at, block in enumerate(c)}
    within: list[list[Heads]] = [[] for _ in components]
    for family in heads:
        index = position[family.blocks[0]][0]
        within[index].append(replace(family, blocks=tuple(position[b][1] for b in family.blocks)))
        group_of[np.concatenate(family.places)] = index
    own: list[list[Slice]] = [[] for _ in components]
    for place, index in _met([s.units for s in slices], group_of):
        own[index].append(slices[place])
    nodes = _nodes(trace, group_of, len(components))
    return tuple(
        Group(
            i,
            _name(trace, own[i]),
            members[i],
            tuple(blocks[b] for b in component),
            tuple(own[i]),
            nodes[i],
            tuple(within[i]),
        )
        for i, component in enumerate(components)
    )


def _linked(slices: list[Slice], block_of: NDArray[np.int64], free: NDArray[np.bool_]) -> nx.Graph:
    """Blocks, with an edge where two share a dimension: of a weight's output, or, where none makes them, any other."""
    linked = nx.Graph()
    linked.add_nodes_from(range(int(block_of.max(initial=-1)) + 1))
    seen = np.zeros(len(free), np.bool_)
    for roles in (("out",), ("", "scale")):
        parts = [s.units for s in slices if s.role in roles]
        met = _met(parts, np.where(free & ~seen, block_of, -1))
        linked.add_edges_from((a, b) for (here, a), (there, b) in pairwise(met) if here == there)
        for units in parts:
            seen[units] = True
    return linked


def _met(parts: Sequence[Units], owner: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Every (part, owner of a unit in it) once, ascending; units of owner -1 do not count."""
    if not parts:
        return []
    owners = owner[np.concatenate([units.reshape(-1) for units in parts])]
    place = np.repeat(np.arange(len(parts)), [units.size for units in parts])
    some = owners >= 0
    stride = int(owner.max(initial=0)) + 1
    return [divmod(key, stride) for key in np.unique(place[some] * stride + owners[some]).tolist()]


def _nodes(trace: Trace, group_of: NDArray[np.int64], count: int) -> list[tuple[str, ...]]:
    """For each group the nodes that it passes through."""
    found: list[dict[str, None]] = [{} for _ in range(count)]
    by_tensor: dict[int, list[int]] = {}
    for node in trace.model.graph.nodes:
        touched: set[int] = set()
        tensors = [trace.input(node, i) for i in range(len(node.inputs))] + [trace.tensors.get(o) for o in node.outputs]
        for tensor in tensors:
            if tensor is not None and tensor.layers:
                if id(tensor) not in by_tensor:
                    groups = np.unique(
                        np.concatenate([group_of[trace.unit[la.labels]].reshape(-1) for la in tensor.layers])
                    )
                    by_tensor[id(tensor)] = groups.tolist()
                touched.update(by_tensor[id(tensor)])
        for index in touched - {-1}:
            found[index][node.label] = None
    return [tuple(f) for f in found]


def _name(trace: Trace, slices: list[Slice]) -> str:
    """The node that makes the channels, else the first that touches them."""
    makers = [s for s in slices if s.role == "out"] or slices
    return reader_of(trace, makers[0]).label if makers else "?"


def reader_of(trace: Trace, part: Slice) -> Node:
    """The first node that reads a slice's constant, and not only its shape if there is one."""
    name, index, _ = part.use
    if index >= 0:
        return trace.model.graph.nodes[index]
    readers = [reader for reader, _ in trace.model.graph.consumers[name]]
    return next((r for r in readers if not is_shape_source(r)), readers[0])


def _held(
    trace: Trace, slices: list[Slice], free: NDArray[np.bool_], pins: Mapping[int, tuple[Pinned, ...]]
) -> tuple[Held, ...]:
    found = []
    for s in slices:
        if s.role != "out":
            continue
        units = (s.units if s.units.ndim == 1 else np.unique(s.units, axis=0)).reshape(-1)
        held = units[~free[units]]
        if len(held):
            own = np.unique(held)
            reasons = dict.fromkeys(r for u in own for r in pins.get(int(u), ()) if r.why)
            found.append(Held(reader_of(trace, s).label, s.constant, len(units), len(held), tuple(reasons), own))
    return tuple(found)
