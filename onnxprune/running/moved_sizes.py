"""Sizes that a node must read, carried back through shape arithmetic to the constants that they come from.

Shape arithmetic follows the channels by itself, as it counts them. Where what it then gives is not what a reader
needs (a target of Reshape that was written down, in a list with the batch, say), the reader gets another value. One
that no dynamic size is part of is written down where it is read. Of others, every element is followed to where it comes
from, through what only moves elements: Concat, Cast, Slice, Where. All readers on the way must want the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.model.graph import Node
from onnxprune.model.onnx_model import Model
from onnxprune.running.shape_arithmetic import Value, evaluate, is_shape_source, moving, sources


class UnsettledError(Exception):
    """A size that cannot be what its reader ``node`` needs."""

    def __init__(self, node: Node, why: str) -> None:
        super().__init__(why)
        self.node = node


@dataclass(frozen=True)
class Wanted:
    """What a node wants to read: the elements of ``array`` that ``told`` says; any, elsewhere."""

    array: NDArray[Any]
    told: NDArray[np.bool_]
    reader: Node  # who wants it in the end


@dataclass(frozen=True)
class Copy:
    """A copy of ``node`` whose output ``at`` is to be called ``name``; ``inputs``: those that differ, by position."""

    node: Node
    at: int
    name: str
    inputs: Mapping[int, NDArray[Any] | str]


@dataclass
class Settled:
    """Constants and names to give to inputs, by (node, position), and ``copies`` of nodes by whom they are read."""

    given: dict[tuple[int, int], NDArray[Any]] = field(default_factory=dict)
    renamed: dict[tuple[int, int], str] = field(default_factory=dict)
    copies: dict[int, list[Copy]] = field(default_factory=dict)


class Sizes:
    """Collects what nodes want to read, and settles it. ``now``: what the sizes are when nothing is written."""

    def __init__(self, model: Model, now: Mapping[str, Value], known: Callable[[str], Value]) -> None:
        self.model, self.graph, self.now, self.known = model, model.graph, now, known
        self.wanted: dict[str, dict[tuple[int, int], Wanted]] = {}
        self.outputs = {o.name for o in model.graph.outputs}
        self.found = Settled()

    def want(self, node: Node, position: int, array: NDArray[Any]) -> None:
        """``node`` reads ``array`` at ``position``."""
        told = np.ones(array.shape, np.bool_)
        self.wanted.setdefault(node.inputs[position], {})[node.index, position] = Wanted(array, told, node)

    def settled(self) -> Settled:
        """What to write, readers before what they read. Raises UnsettledError."""
        for node in reversed(self.graph.nodes):
            for at, name in enumerate(node.outputs):
                if name in self.wanted:
                    self._settle(node, at, name)
        return self.found

    def _settle(self, node: Node, at: int, name: str) -> None:
        now = self.now[name]
        places = {place: w for place, w in self.wanted[name].items() if not _is_so(now.array, w)}
        if not places:
            return
        if not now.dynamic.any():
            self.found.given.update({place: _filled(wanted, now) for place, wanted in places.items()})
            return
        whole = self._agreed(name, now)
        if whole is not None:
            for position, own in self._pushed(node, at, whole):
                if node.inputs[position] in self.now:
                    self.wanted.setdefault(node.inputs[position], {})[node.index, position] = own
                else:
                    self.found.given[node.index, position] = own.array
            return
        made: dict[tuple[bytes, bytes], str] = {}
        for place, wanted in sorted(places.items()):
            key = (wanted.array.tobytes(), wanted.told.tobytes())
            if key not in made:
                made[key] = self._copied(name, wanted, place[0])
            self.found.renamed[place] = made[key]

    def _agreed(self, name: str, now: Value) -> Wanted | None:
        """What all readers want; None where they do not agree."""
        places = self.wanted[name]
        first = next(iter(places.values()))
        array, told = now.array.copy(), np.zeros(now.array.shape, np.bool_)
        for wanted in places.values():
            if wanted.array.shape != array.shape:
                raise UnsettledError(wanted.reader, f"its size '{name}' would get another length")
            if (array != wanted.array)[told & wanted.told].any():
                return None
            array, told = np.where(wanted.told, wanted.array, array), told | wanted.told
        array = array.astype(now.array.dtype)
        value = Value(array, now.dynamic)
        others = [(r, p) for r, p in self.graph.consumers.get(name, []) if (r.index, p) not in places]
        if name in self.outputs or not all(self._indifferent(reader, name, value) for reader, _ in others):
            return None
        return Wanted(array, told, first.reader)

    def _indifferent(self, reader: Node, name: str, value: Value) -> bool:
        """Whether a node that wants nothing of its own gives the same for another value."""
        if is_shape_source(reader):
            return True
        if not reader.outputs or not all(o in self.now for o in reader.outputs):
            return False
        inputs = [None if not n else value if n == name else self.known(n) for n in reader.inputs]
        found = evaluate(reader, self.model, inputs)
        return found is not None and all(f.same_as(self.now[o]) for f, o in zip(found, reader.outputs, strict=False))

    def _pushed(self, node: Node, at: int, wanted: Wanted) -> Iterator[tuple[int, Wanted]]:
        """What is wanted of an output, of the inputs that it comes from and that would have to change for it."""
        if is_shape_source(node):
            what = (
                f"its size '{node.outputs[at]}' is that of a tensor with other channels, and has a dynamic size in it"
            )
            raise UnsettledError(wanted.reader, what)
        inputs = [self.known(n) if n else None for n in node.inputs]
        places = sources(node, self.model, inputs, at)
        if places is None:
            raise UnsettledError(
                wanted.reader,
                f"'{node.label}' computes its size '{node.outputs[at]}' from channels and from a dynamic size of the "
                "input: export the model with that size fixed, or with -1 in this place",
            )
        start = 0
        for position in moving(node):
            value = inputs[position]
            assert value is not None
            size = value.array.size
            mine = wanted.told & (places >= start) & (places < start + size)
            flat, told = value.array.reshape(-1).copy(), np.zeros(size, np.bool_)
            index = places[mine] - start
            flat[index] = wanted.array[mine].astype(flat.dtype)
            told[index] = True
            start += size
            if (flat[index] != wanted.array[mine]).any():
                raise UnsettledError(wanted.reader, f"its size '{node.outputs[at]}' repeats one of which one changes")
            own = Wanted(flat.reshape(value.array.shape), told.reshape(value.array.shape), wanted.reader)
            if not _is_so(value.array, own):
                yield position, own

    def _copied(self, name: str, wanted: Wanted, reader: int) -> str:
        """The name of a tensor that is ``wanted`` where ``name`` is not, made before node ``reader``."""
        node = self.graph.producer[name]
        inputs: dict[int, NDArray[Any] | str] = {}
        for position, own in self._pushed(node, node.outputs.index(name), wanted):
            read = node.inputs[position]
            dynamic = read in self.now and self.now[read].dynamic.any()
            inputs[position] = self._copied(read, own, reader) if dynamic else own.array
        copies = self.found.copies.setdefault(reader, [])
        copy = Copy(node, node.outputs.index(name), f"{name}@{reader}.{len(copies)}", inputs)
        copies.append(copy)
        return copy.name


def _filled(wanted: Wanted, now: Value) -> NDArray[Any]:
    array = wanted.array if wanted.told.all() else np.where(wanted.told, wanted.array, now.array)
    return array.astype(now.array.dtype)


def _is_so(array: NDArray[Any], wanted: Wanted) -> bool:
    return array.shape == wanted.array.shape and bool((array == wanted.array)[wanted.told].all())
