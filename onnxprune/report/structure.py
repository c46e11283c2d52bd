"""What a report shows of the inside of a network: its parts and who feeds whom, its layers, and every slice that goes.

A *part* is a group, or channels that are held and meet one another. Parts are in execution order; one feeds another
where a node makes channels of the other from what it reads of the one, directly or through tensors that carry no
channels (an attention's weights, a gate).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.cost.chips import Cycles
from onnxprune.cost.macs_and_bytes import Macs, Params
from onnxprune.labels.groups import Groups
from onnxprune.labels.label_propagation import Trace
from onnxprune.labels.labels import Tensor
from onnxprune.model.graph import Graph, Node, Shape
from onnxprune.plans.plan_file import AxisKept, Plan
from onnxprune.report.run_report import LayerReport, PartReport, SizeReport, SliceReport

Found = frozenset[int]


@dataclass
class _Held:
    """Channels that stay and meet one another: the first node that makes some, the most that one makes, and why."""

    node: str
    width: int
    reasons: dict[str, None]


def parts(trace: Trace, groups: Groups, kept: Mapping[int, int]) -> tuple[PartReport, ...]:
    """The parts of a network in execution order. ``kept``: channels by group index."""
    part_of, held = _parts_of(trace, groups)
    feeds, first = _flow(trace, part_of)
    order = sorted([*kept, *held], key=lambda p: (first.get(p, len(trace.model.graph.nodes)), p))
    place = {p: at for at, p in enumerate(order)}
    found = []
    for p in order:
        to = tuple(sorted(place[q] for q in feeds.get(p, ())))
        if p in held:
            part = held[p]
            found.append(PartReport(part.node, None, part.width, part.width, tuple(part.reasons), to))
        else:
            group = groups.groups[p]
            found.append(PartReport(group.name, p, group.width, kept[p], (), to))
    return tuple(found)


def _parts_of(trace: Trace, groups: Groups) -> tuple[NDArray[np.int64], dict[int, _Held]]:
    """The part of each unit (-1: of none), and those that are held, by part."""
    part_of = np.full(trace.units, -1, np.int64)
    for group in groups:
        part_of[np.concatenate([group.units, group.places])] = group.index
    held: dict[int, _Held] = {}
    for index, found in enumerate(groups.held, len(groups)):
        units = found.units[found.units > 0]  # unit 0 is whatever always stays, and joins nothing
        if not len(units):
            continue
        into, *others = [p for p in np.unique(part_of[units]).tolist() if p in held] or [index]
        part = held.setdefault(into, _Held(found.node, 0, {}))
        for other in others:
            part_of[part_of == other] = into
            part.width, part.reasons = max(part.width, held[other].width), part.reasons | held.pop(other).reasons
        part.width = max(part.width, found.held)
        part.reasons.update(dict.fromkeys(map(str, found.reasons)))
        part_of[units] = into
    return part_of, held


def _flow(trace: Trace, part_of: NDArray[np.int64]) -> tuple[dict[int, set[int]], dict[int, int]]:
    """Which parts each part feeds, and the first node that makes each."""
    seen: dict[int, Found] = {}

    def own(names: Iterable[str]) -> Found:
        tensors = [t for n in names if n and (t := trace.tensors.get(n)) is not None and t.layers]
        for tensor in tensors:
            if id(tensor) not in seen:
                seen[id(tensor)] = _parts_in(trace, part_of, tensor)
        return frozenset().union(*(seen[id(t)] for t in tensors))

    feeds: dict[int, set[int]] = {}
    first: dict[int, int] = {}
    carried: dict[str, Found] = {}  # parts that a tensor depends on and does not show
    for node in trace.model.graph.nodes:
        names = [n for n in (*node.inputs, *node.captured) if n and n not in trace.shapes.value]
        read, made = own(names), own(node.outputs)
        behind = frozenset().union(*(carried.get(n, frozenset()) for n in names))
        for part in made - read:
            first.setdefault(part, node.index)
            for source in (read | behind) - {part}:
                feeds.setdefault(source, set()).add(part)
        if not made - read and (behind or not made):
            for name in node.outputs:
                carried[name] = behind | (frozenset() if made else read)
    return feeds, first


def _parts_in(trace: Trace, part_of: NDArray[np.int64], tensor: Tensor) -> Found:
    found = [part_of[trace.unit[layer.labels]].reshape(-1) for layer in tensor.layers]
    return frozenset(np.unique(np.concatenate(found)).tolist()) - {-1}


Priced = Callable[[Graph, Node, Mapping[str, Shape]], float]


def layers(
    graph: Graph, shapes: Mapping[str, Shape], after: Graph, later: Mapping[str, Shape], target: Cycles | None
) -> tuple[LayerReport, ...]:
    """Every node that has weights or costs something, in execution order, and the same in the network ``after``."""
    prices: list[Priced] = [Params().node, Macs().node, *((target.node, target.padding) if target else ())]
    same = {n.label: n for n in after.nodes}
    found = []
    for node in graph.nodes:
        weight = _weight(graph, node)
        now = same.get(node.label) or _reader(after, weight)  # a node without a name is called by its output
        sizes = [
            SizeReport(round(price(graph, node, shapes)), round(price(after, now, later)) if now else 0)
            for price in prices
        ]
        if any(s.before or s.after for s in sizes):
            other = _weight(after, now) if now else ""
            at = (graph.constants[weight][1] if weight else (), after.constants[other][1] if other else ())
            found.append(LayerReport(node.label, weight, *at, *sizes))
    return tuple(found)


def _weight(graph: Graph, node: Node) -> str:
    """The largest constant that the node reads, the first of equals."""
    names = [n for n in node.inputs if n in graph.constants]
    return max(names, key=lambda n: math.prod(graph.constants[n][1]), default="")


def _reader(graph: Graph, weight: str) -> Node | None:
    readers = graph.consumers.get(weight, [])
    return readers[0][0] if readers else None


def slices(trace: Trace, groups: Groups, plan: Plan) -> tuple[SliceReport, ...]:
    """Every axis that ``plan`` cuts, in the order of the graph."""
    graph = trace.model.graph
    owners: dict[tuple[str, int], dict[str, None]] = {}
    for group in groups:
        for part in group.slices:
            owners.setdefault((part.constant, part.axis), {})[group.name] = None
    found = sorted(_cuts(graph, plan), key=lambda cut: cut[0])
    return tuple(
        SliceReport(
            tuple(owners.get((source, axis.axis), ())),
            node,
            name,
            axis.axis,
            axis.size,
            int(axis.keep.shape[-1]),
            axis.removed,
            len(axis.keep) if axis.keep.ndim > 1 else 1,
        )
        for _, node, name, source, axes in found
        for axis in axes
    )


def _cuts(graph: Graph, plan: Plan) -> Iterator[tuple[int, str, str, str, Sequence[AxisKept]]]:
    """(node index, node, initializer, the initializer that it is a copy of, axes) of all that is cut."""
    for name, axes in plan.initializers.items():
        source, label, _ = plan.copies.get(name, (name, "", 0))
        readers = graph.consumers.get(source, [])
        node = next((n for n, _ in readers if n.label == label), None) or (readers[0][0] if readers else None)
        if node is not None:
            yield node.index, node.label, name, source, axes
