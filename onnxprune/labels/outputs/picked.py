"""Outputs that are picked out of others by rank: the k largest, the boxes that no better one overlaps.

Rounding puts two equal scores in another order, and then every row behind is another one. What such outputs are picked
from is compared instead, in front of a Sigmoid too, which writes scores near 0 that are all rounding. The picking is
the same nodes in both models.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from onnxprune.labels import ops
from onnxprune.labels.label_propagation import Trace
from onnxprune.labels.rewrite import alive_of
from onnxprune.model.dtypes import FLOATS
from onnxprune.model.graph import Graph, Node

_PICKS = ("TopK", "NonMaxSuppression")
#: Operators that say the same of each element as their input 0 does, or take some of these.
_SAME = ("Sigmoid", "Softmax", "LogSoftmax", "ReduceMax", "Identity", "Slice", "Gather")


def picked_from(graph: Graph, elem_type: Mapping[str, int] | None = None) -> dict[str, tuple[str, ...]]:
    """For each graph output that is picked: the computed floats that it is picked from, and that go with it.

    Without ``elem_type`` of tensors, integers too.
    """
    picks = [n.index for n in graph.nodes if ops.is_one_of(n, _PICKS)]
    behind = set(picks).union(*(nx.descendants(graph.network, p) for p in picks))
    found = {}
    for output in graph.outputs:
        maker = graph.producer.get(output.name)
        if maker is None or maker.index not in behind:
            continue
        own = behind & {maker.index, *nx.ancestors(graph.network, maker.index)}
        names = dict.fromkeys(n for index in sorted(own) for n in graph.nodes[index].inputs)
        sources = [n for n in names if n in graph.producer and graph.producer[n].index not in behind]
        floats = [n for n in sources if elem_type is None or elem_type.get(n) in FLOATS]
        if floats:
            found[output.name] = tuple(dict.fromkeys(made for n in floats for made in _made_of(graph, n)))
    return found


def _made_of(graph: Graph, name: str) -> Iterator[str]:
    """What a tensor joins, rearranges or squashes, as it was computed."""
    node = graph.producer[name]
    what = ops.gathers_of(node)
    if what == "joins":
        read = [n for n in node.inputs if n in graph.producer]
    elif what in ("moves", "parts") or ops.is_one_of(node, _SAME):
        read = [n for n in node.inputs[:1] if n in graph.producer]
    else:
        read = []
    if read:
        for one in read:
            yield from _made_of(graph, one)
    else:
        yield name


def behind(graph: Graph, output: str, sources: Iterable[str]) -> list[Node]:
    """The nodes that make ``output`` of what it is picked from, in order."""
    front = {graph.producer[n].index for n in sources}
    last = graph.producer[output].index
    inner = {last, *nx.ancestors(graph.network, last)}
    return [graph.nodes[i] for i in sorted(inner - front.union(*(nx.ancestors(graph.network, f) for f in front)))]


def weighed_behind(graph: Graph, outputs: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Which of ``outputs`` weights are behind the picking of: what they are picked from says nothing of these."""
    return {o for o, own in outputs.items() if any(_weighs(n) for n in behind(graph, o, own))}


def _weighs(node: Node) -> bool:
    rule = ops.find(node)
    return rule is not None and rule.linear is not None


def cut_behind(trace: Trace, dead: NDArray[np.int64], outputs: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Which of ``outputs`` come from weights that are cut behind the picking: they must be compared themselves."""
    graph, alive = trace.model.graph, alive_of(trace, dead)
    found = set()
    for output, sources in outputs.items():
        uses = [trace.input(n, p) for n in behind(graph, output, sources) for p in range(len(n.inputs))]
        if any(not alive(layer.labels).all() for t in uses if t is not None for layer in t.layers):
            found.add(output)
    return found
