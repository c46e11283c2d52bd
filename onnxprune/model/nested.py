"""Graphs in nodes, the nodes in these, and which function a node calls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto

#: (domain, name, overload)
Key = tuple[str, str, str]


def graphs_of(node: NodeProto) -> list[GraphProto]:
    """The graphs in the attributes of a node."""
    return [g for a in node.attribute for g in (*([a.g] if a.type == AttributeProto.GRAPH else []), *a.graphs)]


def all_nodes(nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
    """Nodes, and those in their subgraphs."""
    for node in nodes:
        yield node
        for graph in graphs_of(node):
            yield from all_nodes(graph.node)


def call_of(node: NodeProto) -> Key:
    """What ``node`` calls: an operator, or a function of the model."""
    return (plain_domain(node.domain), node.op_type, getattr(node, "overload", ""))


def key_of(function: FunctionProto) -> Key:
    """What calls ``function``."""
    return (plain_domain(function.domain), function.name, getattr(function, "overload", ""))


def plain_domain(name: str) -> str:
    """The domain, of which the standard one has two names."""
    return "" if name == "ai.onnx" else name
