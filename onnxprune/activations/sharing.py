"""Which tensors share a grid: an operator that only moves, picks or joins values gives them on the grid they had."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnxprune.labels import ops
from onnxprune.model.graph import Graph, Node

#: Operators that give on values of their first input, beside those that join, part or move tensors.
_PASSING = ("MaxPool", "GlobalMaxPool", "Identity", "Slice", "Gather", "DepthToSpace", "SpaceToDepth", "Pad", "Expand",
            "Tile", "Dropout", "ReduceMax")  # fmt: skip

#: Operators that average: what they read is on a grid of its own.
_AVERAGING = ("AveragePool", "GlobalAveragePool", "ReduceMean")


def shared(graph: Graph, sources: Iterable[str]) -> list[tuple[str, ...]]:
    """Sets of tensors that each need one grid: those of ``sources``, and the tensors that they are made of."""
    sets: dict[str, set[str]] = {}
    waiting, done = list(sources), set()
    while waiting:
        name = waiting.pop(0)
        if name in done or name in graph.constants:
            continue
        done.add(name)
        own = sets.setdefault(name, {name})
        node = graph.producer.get(name)
        if node is None:
            continue
        if ops.is_one_of(node, _AVERAGING):
            waiting.append(node.inputs[0])
        for other in _passed(graph, node):
            if other in graph.constants:
                continue
            waiting.append(other)
            own |= sets.get(other, {other})
            for each in own:
                sets[each] = own
    return list(dict.fromkeys(tuple(sorted(own)) for own in sets.values()))


def _passed(graph: Graph, node: Node) -> Iterator[str]:
    """Tensors that the node gives on as they are, and those that it makes of them."""
    how = ops.gathers_of(node)
    nearest = ops.is_one_of(node, ("Resize", "Upsample")) and node.attrs.get("mode", "nearest") == "nearest"
    if how == "joins":
        yield from (n for n in node.inputs if n)
    elif how == "parts":
        yield from (node.inputs[0], *(n for n in node.outputs if n and n in graph.consumers))
    elif how == "moves" or nearest or ops.is_one_of(node, _PASSING):
        yield node.inputs[0]
