"""What a model's outputs are made of, where one of them joins results of different units.

A detector writes boxes in pixels and scores between 0 and 1 into one tensor. As an error of that tensor, scores
would not count beside boxes; so what is joined last counts each for itself. A classifier that is sure of its answer
writes 0 and 1, whatever its weights do within limits; so of a Softmax counts what goes into it.
"""

from __future__ import annotations

from onnxprune.labels import ops
from onnxprune.model.graph import Graph

_PROBABILITIES = ("Softmax", "LogSoftmax")


def ends(graph: Graph) -> tuple[str, ...]:
    """The tensors that graph outputs join, through rearrangements too, and what a Softmax takes; else the outputs."""
    return tuple(dict.fromkeys(end for output in graph.outputs for end in _ends(graph, output.name)))


def _ends(graph: Graph, name: str) -> list[str]:
    node = graph.producer.get(name)
    what = ops.gathers_of(node) if node is not None else ""
    if node is not None and what == "joins":
        return [end for part in node.inputs if part not in graph.constants for end in _ends(graph, part)]
    if node is not None and ops.is_one_of(node, _PROBABILITIES) and node.inputs[0] in graph.producer:
        return [node.inputs[0]]
    if node is not None and (what == "moves" or ops.is_one_of(node, ("Identity",))):
        behind = _ends(graph, node.inputs[0])
        return behind if behind != [node.inputs[0]] else [name]
    return [name]
