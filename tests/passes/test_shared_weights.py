"""Layers of one weight stand together in an order of the graph, where there is one."""

from __future__ import annotations

from typing import Any

import networkx as nx
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.calibration.gram_matrices import Product
from onnxprune.model.graph import Graph, Node
from onnxprune.passes.shared_weights import Together, in_step

FORM: Any = None  # not asked for


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Graph, list[Together]]:
    """Up to 12 nodes that read tensors made before and one of four weights, and the nodes of each weight."""
    count = draw(st.integers(2, 12))
    nodes = []
    for index in range(count):
        made = [f"t{i}" for i in range(index)]
        read = draw(st.lists(st.sampled_from(["x", *made]), min_size=1, max_size=2))
        weight = f"w{draw(st.integers(0, 3))}"
        nodes.append(Node(index, "", "Conv", "", 17, (read[0], weight, *read[1:]), (f"t{index}",), {}))
    graph = Graph(tuple(nodes), (), (), {f"w{i}": (1, (1,)) for i in range(4)})
    products = [Product(n, FORM, 1, 1, 1, 1) for n in nodes]
    weights = dict.fromkeys(n.inputs[1] for n in nodes)
    return graph, [tuple(p for p in products if p.node.inputs[1] == w) for w in weights]


@given(graphs())
@settings(max_examples=100, deadline=None)
def test_nodes_follow_what_they_read_and_those_of_a_weight_each_other(made: tuple[Graph, list[Together]]) -> None:
    graph, every = made
    weights, order = in_step(graph, every)
    at = {index: place for place, index in enumerate(order)}
    assert sorted(order) == list(range(len(graph.nodes)))
    assert all(at[a] < at[b] for a, b in graph.network.edges)
    for together in every:
        places = sorted(at[p.node.index] for p in together)
        if together[0].node.inputs[1] in weights:
            assert places[-1] - places[0] == len(places) - 1
        else:
            assert len(together) > 1


@given(graphs())
@settings(max_examples=100, deadline=None)
def test_only_layers_that_feed_each_other_are_left_out_first(made: tuple[Graph, list[Together]]) -> None:
    graph, every = made
    weights, _ = in_step(graph, every)
    reached = nx.transitive_closure_dag(graph.network)
    first = next((t for t in every if len(t) > 1), None)
    if first is not None:
        own = [p.node.index for p in first]
        apart = not any(reached.has_edge(a, b) for a in own for b in own)
        assert (first[0].node.inputs[1] in weights) == apart
