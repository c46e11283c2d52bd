"""Layers that are solved anew together, because they multiply with the same weight.

A head that runs on several feature maps, or two branches that are compared, have one weight for many layers. It is
solved once, for all that its layers see; so what they read has to be computed before any of them is run.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import networkx as nx
import numpy as np

from onnxprune.calibration.gram_matrices import Product, products
from onnxprune.labels.label_propagation import Trace
from onnxprune.model.graph import Graph
from onnxprune.model.onnx_model import Model

#: Products with one weight, in the order of the graph; most have a weight of their own.
Together = tuple[Product, ...]


def _free(model: Model, trace: Trace, together: Together) -> bool:
    """Whether nothing else reads their weight and bias, and each output has one label for each channel."""
    graph = model.graph
    outside = {o.name for o in graph.outputs} | model.overridable
    for position in (1, 2):
        names = {p.node.input(position) for p in together}
        name = names.pop()
        readers = {(p.node.index, position) for p in together} if name else set()
        if names or name in outside or (name and name not in graph.constants):
            return False
        if {(node.index, at) for node, at in graph.consumers.get(name, ())} != readers:
            return False
    return all(len(layer.axes) == 1 for p in together for layer in trace.tensors[p.target].layers)


def solved_together(model: Model, trace: Trace, seen: Collection[str]) -> tuple[list[Together], list[int]]:
    """The layers, of those labels ``seen``, whose weights may be solved anew; and the order of the nodes for that."""
    by_weight: dict[str, list[Product]] = {}
    for product in products(model, trace.shapes.shape):
        if product.node.label in seen:
            by_weight.setdefault(product.node.inputs[1], []).append(product)
    every = [t for t in map(tuple, by_weight.values()) if _alike(model, t) and _free(model, trace, t)]
    weights, order = in_step(model.graph, every)
    return [t for t in every if t[0].node.inputs[1] in weights], order


def solved_labels(model: Model, trace: Trace, seen: Collection[str]) -> set[str]:
    """The first layer of each weight of `solved_together`, by label."""
    return {together[0].node.label for together in solved_together(model, trace, seen)[0]} if seen else set()


def _alike(model: Model, together: Together) -> bool:
    """Whether all of them lay the weight out in the same matrices."""
    first, *others = together
    if not others:
        return True
    array = model.array(first.node.inputs[1])
    matrix = first.form.matrix(array)
    return all(p.form.bias == first.form.bias and np.array_equal(p.form.matrix(array), matrix) for p in others)


def _order_of(graph: Graph, every: Sequence[Together]) -> list[int] | None:
    """Node indices in an order in which the layers of each weight follow each other; None where there is none."""
    first = {p.node.index: together[0].node.index for together in every for p in together}
    after = nx.DiGraph()
    after.add_nodes_from(first.get(node.index, node.index) for node in graph.nodes)
    after.add_edges_from((first.get(a, a), first.get(b, b)) for a, b in graph.network.edges)
    if not nx.is_directed_acyclic_graph(after):
        return None
    members: dict[int, list[int]] = {}
    for node in graph.nodes:
        members.setdefault(first.get(node.index, node.index), []).append(node.index)
    return [index for at in nx.lexicographical_topological_sort(after) for index in members[at]]


def in_step(graph: Graph, every: Sequence[Together]) -> tuple[set[str], list[int]]:
    """The weights of ``every``, first come first served, that together have an order; and that order of the nodes.

    Layers of one weight that feed each other, as in a network that runs a block again on what it gave, have none.
    """
    shared: list[Together] = []
    order = [node.index for node in graph.nodes]
    for together in (t for t in every if len(t) > 1):
        if (found := _order_of(graph, [*shared, together])) is not None:
            shared, order = [*shared, together], found
    return {t[0].node.inputs[1] for t in every if len(t) == 1 or t in shared}, order
