"""Layers of one weight stand together in an order of the graph, where there is one."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxprune
from onnxprune.calibration.gram_matrices import Product
from onnxprune.model.graph import Graph, Node
from onnxprune.passes.shared_weights import Together, in_step
from tests.models import build

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


def test_zeros_and_bits_of_a_head_on_two_feature_maps_are_solved_for_both() -> None:
    proto = build(
        "(float[1,3,12,12] x) => (float y, float z) <float[8,3,3,3] w0, float[8,8,3,3] w1, float[8] b1,"
        " float[4,8,1,1] w2> { h = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w0)\nk = MaxPool<kernel_shape=[2,2],"
        " strides=[2,2]>(h)\na = Conv<pads=[1,1,1,1]>(h, w1, b1)\nb = Relu(a)\ny = Conv(b, w2)\n"
        "c = Conv<pads=[1,1,1,1]>(k, w1, b1)\nd = Relu(c)\nz = Conv(d, w2) }"
    )
    x = np.random.default_rng(0).standard_normal((64, 3, 12, 12)).astype(np.float32)
    result = onnxprune.prune(proto, ratio=0.0, sparsity=0.5, weights=4, data={"x": x})
    report = result.report
    assert not [note for note in report.notes if "to the nearest" in note]
    assert report.zeros is not None
    assert report.grids is not None
    assert (report.zeros.missed, report.grids.missed) == (0, 0)
    assert "w1" in result.plan.masks
    assert {"w1", "w2"} <= set(result.plan.grids)
    plain = onnxprune.prune(proto, ratio=0.0, sparsity=0.5, weights=4, data={"x": x}, compensate=False).report
    assert report.recovered is not None
    assert plain.recovered is not None
    for solved, rounded in zip(report.recovered.final, plain.recovered.final, strict=True):
        assert solved.snr_db > rounded.snr_db + 3
