"""The graph that every stage reads: nodes, tensors and their connections as plain values, with a networkx view."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any

import networkx as nx
from onnx import TensorProto

from onnxprune.errors import ModelError, OnnxPruneError

Shape = tuple[int, ...]


def sizes_in_words(shapes: Mapping[str, Shape]) -> str:
    """Names with their sizes, as --input-shape takes them; of one number its name alone."""
    return ", ".join(f"{n}:{','.join(map(str, s))}" if s else n for n, s in shapes.items())


@dataclass(frozen=True)
class Node:
    """One operator call. ``version`` is the opset version of its domain; an absent input or output is ''."""

    index: int
    name: str
    op: str
    domain: str
    version: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(repr=False)
    captured: tuple[str, ...] = ()  # tensors of this graph that the node's subgraphs read
    has_graphs: bool = False  # whether running it runs a graph of its own, which may never end

    @property
    def label(self) -> str:
        """The node's name, or, where the exporter gave none, its operator and first output."""
        return self.name or f"{self.op}:{self.outputs[0] if self.outputs else self.index}"

    def input(self, position: int | None) -> str:
        """The tensor that the node reads at ``position``; '' where that is None, or nothing is given there."""
        return self.inputs[position] if position is not None and position < len(self.inputs) else ""


class Naming:
    """A block that handles one node: any exception in it becomes a ModelError that names the node.

    Rules trust that a node is what its operator asks for. A node that passes the checks on reading and onnx.checker may
    still not be, and the user is told of that in one line.
    """

    __slots__ = ("node", "where")

    def __init__(self, node: Node, where: object = "") -> None:
        self.node, self.where = node, where

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Raise ModelError for what is no error of ours yet."""
        if isinstance(error, Exception) and not isinstance(error, OnnxPruneError):
            reason = str(error).partition("\n")[0][:200] or type(error).__name__
            place = f"{self.where}, " if self.where else ""
            raise ModelError(
                f"{self.node.op} does not fit what it reads: {reason}",
                where=f"{place}node '{self.node.label}'",
                hint="export it again; if onnxruntime runs it, please report this",
            ) from error


@dataclass(frozen=True)
class TensorInfo:
    """A graph input or output: element type (TensorProto.DataType) and dims (None: dynamic)."""

    name: str
    elem_type: int
    dims: tuple[int | None, ...] | None


@dataclass(frozen=True)
class Graph:
    """Nodes in topological order, as ONNX demands of a file."""

    nodes: tuple[Node, ...]
    inputs: tuple[TensorInfo, ...]  # without those that are initializers
    outputs: tuple[TensorInfo, ...]
    constants: Mapping[str, tuple[int, Shape]] = field(repr=False)  # name -> element type, shape

    @cached_property
    def number_outputs(self) -> tuple[TensorInfo, ...]:
        """The outputs that are tensors of numbers: how far two texts or two sequences are apart, nobody can say."""
        return tuple(o for o in self.outputs if o.elem_type not in (TensorProto.UNDEFINED, TensorProto.STRING))

    @cached_property
    def producer(self) -> dict[str, Node]:
        """The node that writes each tensor."""
        return {out: node for node in self.nodes for out in node.outputs if out}

    @cached_property
    def consumers(self) -> dict[str, list[tuple[Node, int]]]:
        """Who reads each tensor, as (node, input position); -1 for a read from inside a subgraph."""
        readers: dict[str, list[tuple[Node, int]]] = {}
        for node in self.nodes:
            for position, name in enumerate(node.inputs):
                if name:
                    readers.setdefault(name, []).append((node, position))
            for name in node.captured:
                readers.setdefault(name, []).append((node, -1))
        return readers

    @cached_property
    def network(self) -> nx.DiGraph:
        """Node indices, with an edge from each producer to each of its consumers."""
        network = nx.DiGraph()
        network.add_nodes_from(node.index for node in self.nodes)
        for name, readers in self.consumers.items():
            if name in self.producer:
                source = self.producer[name].index
                network.add_edges_from((source, reader.index) for reader, _ in readers)
        return network

    def unread(self, candidates: set[int], rewired: set[tuple[int, int]], read: Collection[str] = ()) -> set[int]:
        """The nodes, among ``candidates`` and upstream of them, whose results nothing reads any more.

        ``rewired``: (node, input position) pairs that read something else now; ``read``: what new nodes read.
        """
        outputs = {o.name for o in self.outputs} | set(read)
        dead: set[int] = set()
        stack = sorted(candidates)
        while stack:
            node = self.nodes[stack.pop()]
            readers = [r for out in node.outputs for r in self.consumers.get(out, [])]
            live = any(r.index not in dead and (r.index, p) not in rewired for r, p in readers)
            if node.index in dead or live or outputs & set(node.outputs):
                continue
            dead.add(node.index)
            stack.extend(sorted(self.network.predecessors(node.index)))
        return dead
