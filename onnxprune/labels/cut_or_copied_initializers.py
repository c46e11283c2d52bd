"""What stays of each constant, as edits of the model: it is cut in place, or copied where readers keep other parts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.labels.label_propagation import Use, use_of
from onnxprune.model.edits import Edits, NodeCopy
from onnxprune.model.mapped_weights import Value as Constant
from onnxprune.model.onnx_model import Model
from onnxprune.running.moved_sizes import Settled


@dataclass(frozen=True)
class Kept:
    """Positions of one axis of a constant that stay: [n], or [rows, n] where each row of axis 0 keeps its own."""

    axis: int
    positions: NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True)
class Changes:
    """What the run on kept labels found out: of each use of a constant, of inputs, attributes and tensor sizes.

    ``given``: new values by (node, input). ``sizes``: {tensor: {axis: size}} where they change. ``carried``: the copies
    of shape arithmetic, and who reads them.
    """

    model: Model = field(repr=False)
    kept: Mapping[Use, tuple[Kept, ...]] = field(repr=False)
    given: Mapping[tuple[int, int], NDArray[Any]] = field(repr=False)
    attrs: Mapping[int, Mapping[str, Any]] = field(repr=False)
    sizes: Mapping[str, Mapping[int, int]] = field(repr=False)
    elem_type: Mapping[str, int] = field(repr=False)
    carried: Settled = field(default_factory=Settled, repr=False)


def edits_of(found: Changes) -> tuple[Edits, Mapping[str, tuple[Kept, ...]]]:
    """The edits that make these changes, and by name what each constant keeps."""
    writer = _Writer(found)
    return writer.edits(), writer.report


def cut_array(array: NDArray[Any], kept: Sequence[Kept]) -> NDArray[Any]:
    """``array`` with only the kept positions; per-row positions refer to the rows that stay."""
    for part in sorted(kept, key=lambda k: k.positions.ndim):
        if part.positions.ndim == 1:
            array = array.take(part.positions, part.axis)
        else:
            shape = part.positions.shape + (1,) * (array.ndim - 2)
            array = np.take_along_axis(array, part.positions.reshape(shape), part.axis)
    return array


class _Writer:
    """Turns changes into edits: constants cut in place, or cloned where their uses differ."""

    def __init__(self, found: Changes) -> None:
        self.found, self.graph = found, found.model.graph
        self.constants: dict[str, Constant] = {}
        self.added: dict[str, Constant] = {}
        self.types: dict[str, int] = {}
        self.inputs: dict[int, dict[int, str]] = {}
        self.report: dict[str, tuple[Kept, ...]] = {}
        self.names = {*self.graph.constants, *self.graph.producer, *(i.name for i in self.graph.inputs)}

    def edits(self) -> Edits:
        found = self.found
        for name in dict.fromkeys(use[0] for use in found.kept if use[0] in self.graph.constants):
            self._constant(name)
        for (node, position), value in found.given.items():
            self._given(node, position, value)
        nodes = self._copies()
        removed = self._unread({n for copies in nodes.values() for c in copies for n in c.inputs})
        return Edits(self.constants, self.added, self.types, found.attrs, self.inputs, {}, removed, found.sizes, nodes)

    def _copies(self) -> dict[int, list[NodeCopy]]:
        """Copies of shape arithmetic, by the node that they stand before, and what they read."""
        names: dict[str, str] = {}
        nodes: dict[int, list[NodeCopy]] = {}
        for reader, copies in self.found.carried.copies.items():
            for copy in copies:
                names[copy.name] = self._free_name(copy.node.outputs[copy.at])
                outputs = [self._free_name(o) if o else "" for o in copy.node.outputs]
                outputs[copy.at] = names[copy.name]
                inputs = {}
                for position, given in copy.inputs.items():
                    inputs[position] = names[given] if isinstance(given, str) else self._free_name(names[copy.name])
                    if not isinstance(given, str):
                        self.added[inputs[position]] = given
                read = tuple(inputs.get(i, n) for i, n in enumerate(copy.node.inputs))
                nodes.setdefault(reader, []).append(NodeCopy(copy.node.index, read, tuple(outputs)))
        for (node, position), name in self.found.carried.renamed.items():
            self.inputs.setdefault(node, {})[position] = names[name]
        return nodes

    def _free_name(self, stem: str) -> str:
        number = 1
        while f"{stem}_{number}" in self.names:
            number += 1
        self.names.add(f"{stem}_{number}")
        return f"{stem}_{number}"

    def _constant(self, name: str) -> None:
        """Cut ``name``: in place where all its uses agree, else a copy for each way of cutting it."""
        ways: dict[tuple[tuple[int, bytes], ...], list[tuple[int, int]]] = {}
        parts: dict[tuple[tuple[int, bytes], ...], tuple[Kept, ...]] = {}
        readers = self.graph.consumers.get(name, [])
        for node, position in readers:
            if (node.index, position) in self.found.given and len(readers) > 1:
                continue  # it has a value of its own
            own = self.found.kept.get(use_of(self.found.model, name, node.index, position), ())
            key = tuple((k.axis, k.positions.tobytes()) for k in own)
            ways.setdefault(key, []).append((node.index, position))
            parts[key] = own
        if not any(ways):
            return
        outputs = any(o.name == name for o in self.graph.outputs)
        if len(ways) == 1 and not outputs:
            (own,) = parts.values()
            self.constants[name] = self._cut(name, own)
            self.report[name] = own
            return
        for key, places in ways.items():
            if key:
                clone = self._free_name(name)
                self.added[clone] = self._cut(name, parts[key])
                self.types[clone] = self.graph.constants[name][0]
                self.report[clone] = parts[key]
                for node_index, position in places:
                    self.inputs.setdefault(node_index, {})[position] = clone

    def _cut(self, name: str, kept: tuple[Kept, ...]) -> Constant:
        """What stays of ``name``; of a large constant, to be cut when it is read."""
        sizes = {part.axis: part.positions.shape[-1] for part in kept}
        shape = tuple(sizes.get(axis, size) for axis, size in enumerate(self.graph.constants[name][1]))
        return self.found.model.changed(name, shape, lambda array: cut_array(array, kept))

    def _given(self, node: int, position: int, value: NDArray[Any]) -> None:
        """A new value for one input: in place where it is a constant that only this input reads."""
        names = self.graph.nodes[node].inputs
        name = names[position] if position < len(names) else ""
        alone = name in self.graph.constants and len(self.graph.consumers[name]) == 1
        if alone and not any(o.name == name for o in self.graph.outputs):
            self.constants[name] = value
            return
        clone = self._free_name(name or f"{self.graph.nodes[node].label}_input{position}")
        self.added[clone] = value
        made = self.graph.nodes[node].outputs[0]
        kind = self.graph.constants[name][0] if name in self.graph.constants else 0
        if not kind and value.dtype.kind not in "iub":  # a bias where there was none
            kind = self.found.elem_type.get(made, 0)
        self.types[clone] = kind
        self.inputs.setdefault(node, {})[position] = clone

    def _unread(self, read: Collection[str]) -> frozenset[int]:
        """Nodes that nobody reads any more, now that some inputs come from elsewhere; ``read``: by new nodes."""
        rewired = {(n, p) for n, positions in self.inputs.items() for p in positions}
        sources = {
            self.graph.producer[self.graph.nodes[n].inputs[p]].index
            for n, p in rewired
            if p < len(self.graph.nodes[n].inputs) and self.graph.nodes[n].inputs[p] in self.graph.producer
        }
        return frozenset(self.graph.unread(sources, rewired, read)) if sources else frozenset()
