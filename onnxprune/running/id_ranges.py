"""What the integers of an input are, told by who reads them: rows of a table, or a number that they are compared with.

Ids that are drawn over the whole of their table make a network do what it does; 0 and 1 are two words of thousands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from onnxprune.model.graph import Graph, Node, Shape
from onnxprune.model.onnx_model import Model

#: Operators whose first output holds elements of input 0 and nothing else (of the data inputs of Concat and Where too).
_MOVES = {"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Expand"} | {
    *("Tile", "Concat", "Clip"),
}

#: Operators that take rows of input 0, along an axis, by input 1.
_TABLES = {"Gather": 0, "GatherElements": 0, "EmbedLayerNormalization": 0}

NO_SHAPES: Mapping[str, Shape] = {}

_COMPARES = {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}


def id_rows(model: Model, shapes: Mapping[str, Shape] = NO_SHAPES) -> dict[str, int]:
    """Rows of the smallest table that each integer input indexes: its ids are below.

    So is the depth of a OneHot, and where ids are compared with many numbers at once, as TensorFlow writes one, these.
    ``shapes``: of tables that are no constants, where they are known.
    """
    graph = model.graph
    found: dict[str, int] = {}
    for name, node, position in _reads(graph):
        rows = _rows(graph, node, position, shapes) or _one_hot(model, node, position)
        if rows is not None:
            found[name] = min(found.get(name, rows), rows)
    return {name: rows for name, rows in found.items() if rows > 0}


def _rows(graph: Graph, node: Node, position: int, shapes: Mapping[str, Shape]) -> int | None:
    if node.op == "EmbedLayerNormalization":  # ids and segments, and behind them the tables of words and of segments
        table, axis = (node.inputs[{0: 2, 1: 4}[position]] if position in (0, 1) else ""), 0
    elif node.op in _TABLES and position == 1:
        table, axis = node.inputs[0], int(node.attrs.get("axis", _TABLES[node.op]))
    else:
        return None
    shape = graph.constants[table][1] if table in graph.constants else shapes.get(table)
    return shape[axis] if shape else None


def _one_hot(model: Model, node: Node, position: int) -> int | None:
    """How many ids a OneHot tells apart, or an Equal with whole numbers from 0 on."""
    if node.op == "OneHot" and position == 0:
        depth = model.array(node.inputs[1]) if node.inputs[1] in model.graph.constants else np.zeros(1)
        return int(depth.reshape(-1)[0])
    other = node.inputs[1 - position] if node.op == "Equal" else ""
    if other not in model.graph.constants:
        return None
    numbers = np.unique(model.array(other))
    return len(numbers) if len(numbers) > 2 and np.array_equal(numbers, np.arange(len(numbers))) else None


def compared_with(model: Model) -> dict[str, tuple[Any, ...]]:
    """The numbers that each input of one element is compared with, in the order of the graph."""
    graph = model.graph
    single = {i.name for i in graph.inputs if i.dims is not None and all(d == 1 for d in i.dims)}
    found: dict[str, dict[Any, None]] = {}
    for name, node, position in _reads(graph):
        if name not in single or node.op not in _COMPARES or len(node.inputs) != 2:
            continue
        other = node.inputs[1 - position]
        if other in graph.constants and int(np.prod(graph.constants[other][1])) == 1:
            found.setdefault(name, {})[model.array(other).reshape(-1)[0].item()] = None
    return {name: tuple(values) for name, values in found.items()}


def _reads(graph: Graph) -> Iterator[tuple[str, Node, int]]:
    """(graph input, node, position) of every node that reads elements of an input, as they are."""
    source: dict[str, str] = {i.name: i.name for i in graph.inputs}
    for node in graph.nodes:
        for position, name in enumerate(node.inputs):
            if name in source:
                yield source[name], node, position
        moved = node.op in _MOVES and not node.domain
        names = node.inputs if node.op == "Concat" else node.inputs[:1]
        held = {source[n] for n in names if n in source}
        if moved and len(held) == 1:
            source.update(dict.fromkeys(filter(None, node.outputs), *held))


def depends_on(graph: Graph, node: Node) -> list[str]:
    """The graph inputs that ``node`` depends on, nearest first."""
    inputs = {i.name for i in graph.inputs}
    found: dict[str, None] = {}
    seen: set[int] = set()
    front = [node]
    while front:
        after: list[Node] = []
        for one in front:
            for name in (*one.inputs, *one.captured):
                if name in inputs:
                    found[name] = None
                maker: Mapping[str, Node] = graph.producer
                if name in maker and maker[name].index not in seen:
                    seen.add(maker[name].index)
                    after.append(maker[name])
        front = after
    return list(found)
