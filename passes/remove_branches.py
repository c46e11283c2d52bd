"""Remove branches of which nothing is left: what they add is the same for every input.

    Y = P(X) + B        where B is computed of X, and is a constant b of each channel all the same

P's bias takes b, and gives Y itself; all that B was computed with goes. Where P has no bias that could, the sum stays
and reads b. A sum or product that B only fills up to its shape stays as it is, and so does B where others read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.labels import ops
from onnxprune.labels.labels import Tensor
from onnxprune.labels.ops.table import Linear
from onnxprune.model.edits import Edits
from onnxprune.model.graph import Graph, Node, Shape
from onnxprune.model.onnx_model import Model
from onnxprune.passes.base import PassResult

Array = NDArray[Any]


@dataclass(frozen=True)
class RemoveBranches:
    """Replace tensors that are the same for every input.

    ``constants``: these, by name, with size 1 along axes on which they do not change; ``shapes``: of tensors as they
    were; ``keep``: outputs of nodes that stay as they are.
    """

    constants: Mapping[str, Array] = field(repr=False)
    shapes: Mapping[str, Shape] = field(repr=False)
    keep: frozenset[tuple[str, ...]] = frozenset()
    name: str = "remove-branches"

    def run(self, model: Model) -> PassResult:
        """Model without the branches."""
        found = _Branches(self, model)
        for name in self.constants:
            found.release(name)
        return found.result()


class _Branches:
    """What to edit, so far."""

    def __init__(self, options: RemoveBranches, model: Model) -> None:
        self.options, self.model, self.graph = options, model, model.graph
        self.names = {*self.graph.constants, *self.graph.producer, *(i.name for i in self.graph.inputs)}
        self.added: dict[str, Array] = {}
        self.inputs: dict[int, dict[int, str]] = {}
        self.outputs: dict[int, dict[int, str]] = {}
        self.rewired: set[tuple[int, int]] = set()
        self.removed: set[int] = set()
        self.ends: set[int] = set()
        self.changes: list[str] = []

    def result(self) -> PassResult:
        if not self.changes:
            return PassResult(self.model)
        gone = self.graph.unread(self.ends, self.rewired)
        edits = Edits(
            added=self.added, inputs=self.inputs, outputs=self.outputs, removed=frozenset(gone | self.removed)
        )
        return PassResult(self.model.apply(edits), tuple(self.changes))

    def release(self, name: str) -> None:
        """Let all readers of a constant tensor do without it, if every one can, and one of them is no part of it."""
        maker = self.graph.producer.get(name)
        readers = [r for r in self.graph.consumers.get(name, []) if not self._inside(r[0])]
        output = any(o.name == name for o in self.graph.outputs)
        if maker is None or maker.outputs in self.options.keep or output or not readers:
            return
        if not all(self._takes(node, position) for node, position in readers):
            return
        self.ends.add(maker.index)
        for node, position in readers:
            self.rewired.add((node.index, position))
            self._give(name, node, position)

    def _inside(self, node: Node) -> bool:
        return all(o in self.options.constants for o in node.outputs if o)

    def _takes(self, node: Node, position: int) -> bool:
        """Whether ``node`` is a sum or product of two, as large without this input, that nothing was done to yet."""
        shapes = self.options.shapes
        if ops.gathers_of(node) not in ("adds", "multiplies") or len(node.inputs) != 2 or position < 0:
            return False
        other = node.inputs[1 - position]
        fits = other in self.graph.producer and shapes.get(other) == shapes.get(node.outputs[0]) is not None
        free = node.index not in self.inputs and node.index not in self.removed
        return fits and free and node.outputs not in self.options.keep and other not in self.options.constants

    def _give(self, name: str, node: Node, position: int) -> None:
        value, other = self.options.constants[name], node.inputs[1 - position]
        into = self.graph.producer[other]
        alone = all(r is node or self._inside(r) for r, _ in self.graph.consumers[other])
        alone = alone and not any(o.name == other for o in self.graph.outputs)
        free = alone and into.index not in self.outputs and into.outputs not in self.options.keep
        if free and ops.gathers_of(node) == "adds" and (not value.any() or self._into_bias(into, value)):
            self.outputs[into.index] = {into.outputs.index(other): node.outputs[0]}
            self.removed.add(node.index)
            self.changes.append(f"removed the branch to {node.label}; {into.label} takes what was left of it")
            return
        self.inputs[node.index] = {position: self._new(f"{name}_constant", value)}
        self.changes.append(f"removed the branch to {node.label}, which reads what was left of it")

    def _into_bias(self, node: Node, value: Array) -> bool:
        """Add ``value`` to the bias of ``node``; returns whether it can be."""
        linear = _linear(self.graph, node)
        if linear is None or node.index in self.inputs:
            return False
        rank = len(self.graph.constants[node.inputs[1]][1])
        if value.ndim != rank or any(s > 1 for a, s in enumerate(value.shape) if a != linear.made):
            return False
        name = node.input(2)
        matrix = linear.matrix(self.model.array(node.inputs[1]))
        width = matrix.shape[0] * matrix.shape[1]
        if name and (name not in self.graph.constants or self.graph.constants[name][1] not in ((width,), (1, width))):
            return False
        bias = self.model.array(name) if name else np.zeros(width, value.dtype)
        added = np.broadcast_to(value.reshape(-1), width).astype(np.float64) / linear.beta
        self.inputs[node.index] = {2: self._new(f"{name or node.label}_whole", (bias + added).astype(bias.dtype))}
        return True

    def _new(self, stem: str, value: Array) -> str:
        name = next(n for n in _numbered(stem) if n not in self.names)
        self.names.add(name)
        self.added[name] = value
        return name


def _numbered(stem: str) -> Iterator[str]:
    yield stem
    number = 1
    while True:
        yield f"{stem}_{number}"
        number += 1


def _linear(graph: Graph, node: Node) -> Linear | None:
    """``node`` as Y = W . X + B with a constant W, if it has a bias or could have one."""
    rule = ops.find(node)
    if rule is None or rule.linear is None or len(node.inputs) < 2 or node.inputs[1] not in graph.constants:
        return None
    shape = graph.constants[node.inputs[1]][1]
    found = rule.linear(node, [Tensor("", (1,) * len(shape), (1,) * len(shape)), Tensor("", shape, shape)])
    return found if found is not None and found.bias and found.beta else None
