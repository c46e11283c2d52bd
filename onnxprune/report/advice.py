"""Where a model wastes a target, without pruning it.

    padding     cycles of a layer beyond those of its real share of the blocks it fills
    edges       a group's width just above an edge: what dropping its last few channels would save
    copies      parts of a Concat or Split that no block boundary separates
    elsewhere   operators that the target's compiler places on the CPU

Nothing is scored here: which channels would go is another question, and `prune` answers it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from onnxprune.cost.chips import Cycles
from onnxprune.labels import ops
from onnxprune.labels.groups import Group, Groups
from onnxprune.labels.label_propagation import Trace
from onnxprune.labels.labels import Alive, cut_shape
from onnxprune.model.graph import Node, Shape

FORMAT, VERSION = "onnxprune-advice", 1

#: How many channels of a group are tried to be dropped: an edge that is further away is not "just above".
_REACH = 0.34


@dataclass(frozen=True)
class Padding:
    """A layer's cycles, and those of them that go to channels that do not exist."""

    node: str
    cycles: int
    wasted: int
    into: int
    out: int


@dataclass(frozen=True)
class Edge:
    """What a group would save at ``width`` - ``drop`` channels. ``share``: of its channels in all prunable ones."""

    group: str
    width: int
    drop: int
    saved: int
    share: float


@dataclass(frozen=True)
class Copied:
    """A Concat or Split whose parts have numbers of channels that are no multiples of the target's block."""

    node: str
    parts: tuple[int, ...]


@dataclass(frozen=True)
class Advice:
    """All findings, each list in descending order of cost. ``align``: what widths should be multiples of."""

    model: str
    target: str
    measured: str
    input_shapes: Mapping[str, Shape]
    align: int
    join_block: int
    cycles: int
    channels: int
    padding: tuple[Padding, ...]
    edges: tuple[Edge, ...]
    copies: tuple[Copied, ...]
    elsewhere: tuple[str, ...]

    @property
    def wasted(self) -> int:
        """The cycles that go to channels which do not exist."""
        return sum(p.wasted for p in self.padding)

    def to_json(self) -> str:
        """The advice as JSON."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1) + "\n"


def advise(trace: Trace, groups: Groups, costs: Cycles) -> Advice:
    """Look at every layer, group, Concat and Split of a traced model."""
    graph, shapes = trace.model.graph, trace.shapes.shape
    padding = [p for n in graph.nodes if (p := _padding(trace, n, costs)) is not None]
    edges = [e for g in groups if (e := _edge(trace, g, costs, groups.width)) is not None]
    return Advice(
        model=str(trace.model.path or ""),
        target=f"{costs.chip.name} {costs.dtype}",
        measured=costs.chip.measured,
        input_shapes=trace.shapes.inputs,
        align=costs.precision.align,
        join_block=costs.precision.join_block,
        cycles=round(sum(costs.node(graph, n, shapes) for n in graph.nodes)),
        channels=groups.width,
        padding=tuple(sorted((p for p in padding if p.wasted), key=lambda p: -p.wasted)),
        edges=tuple(sorted(edges, key=lambda e: -e.saved)),
        copies=tuple(_copies(trace, costs.precision.join_block)),
        elsewhere=tuple(n.label for n in graph.nodes if costs.chip.is_elsewhere(n)),
    )


def _padding(trace: Trace, node: Node, costs: Cycles) -> Padding | None:
    """What the layer would cost if blocks could be filled in part: linear in its channels."""
    graph, shapes = trace.model.graph, trace.shapes.shape
    kernel = ops.kernel_of(node, shapes)
    if kernel is None:
        return None
    cycles, wasted = costs.node(graph, node, shapes), costs.padding(graph, node, shapes)
    return Padding(node.label, round(cycles), round(wasted), kernel.into, kernel.out)


def _edge(trace: Trace, group: Group, costs: Cycles, width: int) -> Edge | None:
    """The best of the widths below: where most cycles go per channel dropped, compared with the average of them."""
    now = _touched_cycles(trace, group, costs, None)
    best: Edge | None = None
    rows = sum(b.rows for b in group.blocks)
    narrow = min(b.width for b in group.blocks)
    for drop in range(1, max(2, int(narrow * _REACH) + 1)):
        if drop >= narrow:
            break
        dead = np.concatenate([b.units[:, b.width - drop :].reshape(-1) for b in group.blocks])
        try:
            saved = round(now - _touched_cycles(trace, group, costs, dead))
        except LookupError:
            continue
        edge = Edge(group.name, group.width, drop * rows, saved, drop * rows / width)
        if saved > 0 and (best is None or saved / edge.drop > best.saved / best.drop):
            best = edge
    fair = now / group.width
    return best if best is not None and best.saved > 2 * fair * best.drop else None


def _touched_cycles(trace: Trace, group: Group, costs: Cycles, dead: np.ndarray | None) -> float:
    """Cycles of the nodes that a group passes through, and of those behind them, without its ``dead`` units."""
    graph = trace.model.graph
    names = set(group.nodes)
    nodes = [n for n in graph.nodes if n.label in names]
    shapes: Mapping[str, Shape] = trace.shapes.shape
    if dead is not None:
        gone = np.zeros(trace.units, np.bool_)
        gone[dead] = True
        shapes = {**shapes, **dict(_cut(trace, nodes, lambda labels: ~gone[trace.unit[labels]]))}
    near = {n.index: n for n in nodes}
    for node in nodes:
        near.update((r.index, r) for o in node.outputs for r, _ in graph.consumers.get(o, []))
    return sum(costs.node(graph, n, shapes) for n in near.values())


def _cut(trace: Trace, nodes: list[Node], alive: Alive) -> Iterator[tuple[str, Shape]]:
    for node in nodes:
        for position, name in enumerate(node.inputs):
            tensor = trace.input(node, position) if name else None
            if tensor is not None and tensor.layers:
                yield name, cut_shape(tensor, alive)
        for name in node.outputs:
            if name in trace.tensors and trace.tensors[name].layers:
                yield name, cut_shape(trace.tensors[name], alive)


def _copies(trace: Trace, block: int) -> Iterator[Copied]:
    """Concats and Splits of channels with a part, but for the last, that is no multiple of ``block``."""
    for node in trace.model.graph.nodes:
        tensors = {"joins": node.inputs, "parts": node.outputs}.get(ops.gathers_of(node), ())
        shapes = [trace.shapes.shape.get(n, ()) for n in tensors if n]
        if len(shapes) > 1 and all(len(s) == 4 for s in shapes):
            parts = tuple(s[1] for s in shapes)
            if any(p % block for p in parts[:-1]) and len({s[2:] for s in shapes}) == 1:
                yield Copied(node.label, parts)
