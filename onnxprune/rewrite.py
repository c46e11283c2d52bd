"""The second run: the graph on the labels that are kept, checking, and writing down what changes in the model.

Every rule runs again, on cut inputs and rewritten attributes. What it records is now checked: labels that meet must
be of one unit, and every output must carry exactly its kept labels in their order. A node that does not accept its
kept labels is a `Refusal`; its channels are then pinned and the choice made again. So a rule that is wrong about
sizes costs coverage, and never writes a broken model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from onnxprune import ops
from onnxprune.edits import Edits
from onnxprune.graph import Node, Shape
from onnxprune.labels import FIXED, Alive, Labels, Layer, Op, Tensor, cut_layer, cut_shape, line, settle
from onnxprune.ops.table import Change, Cut
from onnxprune.shapes import Value, evaluate, is_shape_source, shape_value
from onnxprune.trace import Fold, Pinned, Trace, Use, is_data, known_values, use_of
from onnxprune.weights import Value as Constant


class _RefusedError(Exception):
    """Inside this module: a node does not accept its kept labels."""


@dataclass(frozen=True)
class Refusal:
    """A node that cannot follow, why, and the units that must stay for it."""

    reason: Pinned
    units: NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True)
class Kept:
    """Positions of one axis of a constant that stay: [n], or [rows, n] where each row of axis 0 keeps its own."""

    axis: int
    positions: NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True)
class Rewrite:
    """The edits that remove units, what is kept of each constant, and the shapes of tensors afterwards."""

    edits: Edits
    kept: Mapping[str, tuple[Kept, ...]] = field(repr=False)
    shapes: Mapping[str, Shape] = field(repr=False)


def alive_of(trace: Trace, dead: NDArray[np.int64]) -> Alive:
    """Which labels stay when the units ``dead`` go."""
    stays = np.ones(trace.units, np.bool_)
    stays[dead] = False
    by_label = stays[trace.unit]
    return lambda labels: by_label[labels]


def rewrite(trace: Trace, dead: NDArray[np.int64]) -> Rewrite | Refusal:
    """Remove the units ``dead``, or say which node cannot follow."""
    if len(torn := trace.heads.torn(dead)):
        return Refusal(Pinned("", "would go without the rest of its head"), torn)
    run = _Run(trace, dead)
    for node in trace.model.graph.nodes:
        refusal = run.refusal_of(node)
        if refusal is not None:
            return refusal
    for out in trace.model.graph.outputs:
        if out.name in run.value and not run.value[out.name].same_as(trace.shapes.value[out.name]):
            node = trace.model.graph.producer[out.name]
            return Refusal(Pinned(node.label, "gives a size that changes as a graph output"), run.blame(node))
    return run.result()


def cut_array(array: NDArray[Any], kept: Sequence[Kept]) -> NDArray[Any]:
    """``array`` with only the kept positions; per-row positions refer to the rows that stay."""
    for part in sorted(kept, key=lambda k: k.positions.ndim):
        if part.positions.ndim == 1:
            array = array.take(part.positions, part.axis)
        else:
            shape = part.positions.shape + (1,) * (array.ndim - 2)
            array = np.take_along_axis(array, part.positions.reshape(shape), part.axis)
    return array


class _Run:
    def __init__(self, trace: Trace, dead: NDArray[np.int64]) -> None:
        self.trace, self.dead, self.alive = trace, dead, alive_of(trace, dead)
        self.model, self.graph = trace.model, trace.model.graph
        self.tensors = {i.name: trace.tensors[i.name] for i in self.graph.inputs if i.name in trace.tensors}
        self.uses: dict[Use, Tensor] = {}
        self.value: dict[str, Value] = {}
        self.attrs: dict[int, Mapping[str, Any]] = {}
        self.given: dict[tuple[int, int], NDArray[Any]] = {}  # inputs with a new value
        self.touched: set[str] = set()  # tensors whose shape changes

    # --- the recorder, checking -------------------------------------------------------------------------------------

    def equate(self, a: Labels, b: Labels, why: str) -> None:
        unit = self.trace.unit
        if not ((unit[a] == unit[b]) | (a == FIXED) | (b == FIXED)).all():
            raise _RefusedError(f"channels meet that are not the same ({why})")

    def pin(self, labels: Labels, why: str) -> None:
        if not self.alive(labels).all():
            raise _RefusedError(why)

    def intact(self, rows: Labels) -> None:
        if rows.size == 0:
            raise _RefusedError("nothing would be left")

    def split(self, blocks: Labels) -> None:
        """Shapes that fit are all that is asked."""

    def together(self, a: Labels, b: Labels) -> None:
        if not self.trace.heads.meet(self.trace.unit[np.concatenate([a, b], axis=1)]):
            raise _RefusedError("rows meet that do not go together")

    def fresh(self, out: Tensor, axis: int) -> Layer:
        layer = out.along(axis)  # None: the first run pinned them
        return cut_layer(layer, self.alive) if layer else line(np.full(out.shape[axis], FIXED), axis, out.rank)

    def read(self, position: int, zero: int | None = None) -> None:
        """Where channels end is known from the first run."""

    def role(self, labels: Labels, role: str) -> None:
        """Known from the first run."""

    # --- the run ----------------------------------------------------------------------------------------------------

    def _dies(self, tensor: Tensor | None) -> bool:
        """Whether anything of a tensor of the first run goes."""
        return tensor is not None and not all(self.alive(layer.labels).all() for layer in tensor.layers)

    def _cut(self, tensor: Tensor) -> Tensor:
        if not self._dies(tensor):
            return tensor
        layers = tuple(self._cut_layer(layer, tensor) for layer in tensor.layers)
        shape = list(tensor.shape)
        for before, after in zip(tensor.layers, layers, strict=True):
            shape[before.columns] = after.labels.shape[before.columns]
        if 0 in shape:
            raise _RefusedError(f"nothing would be left of '{tensor.name}'")
        return replace(tensor, shape=tuple(shape), layers=layers)

    def _cut_layer(self, layer: Layer, tensor: Tensor) -> Layer:
        """Rows of a weight's blocks go with the layer that labels these rows alone."""
        for axis in layer.axes:
            alone = next((la for la in tensor.layers if la.axes == (axis,) and la is not layer), None)
            if alone is not None:
                layer = layer.picked(axis, np.flatnonzero(self.alive(alone.labels.reshape(-1))))
        return cut_layer(layer, self.alive)

    def _input(self, node: Node, position: int) -> Tensor | None:
        name = node.inputs[position]
        use = use_of(self.model, name, node.index, position)
        if use not in self.trace.uses:
            return self.tensors.get(name)
        if use not in self.uses:
            self.uses[use] = self._cut(self.trace.uses[use])
        return self.uses[use]

    def refusal_of(self, node: Node) -> Refusal | None:
        """Run one node; None where it accepts its kept labels."""
        try:
            self.visit(node)
        except (_RefusedError, LookupError, ValueError) as reason:
            return Refusal(Pinned(node.label, f"cannot follow: {reason}"), self.blame(node))
        return None

    def visit(self, node: Node) -> None:
        """Run one node. Raises _RefusedError, or what numpy and the rules raise where sizes do not fit."""
        if node.op == "Constant" and not node.domain:
            return
        if node.outputs and all(name in self.trace.shapes.value for name in node.outputs):
            self._arithmetic(node)
            return
        before = tuple(self.trace.input(node, i) for i in range(len(node.inputs)))
        inputs = tuple(self._input(node, i) for i in range(len(node.inputs)))
        expected = tuple(self.trace.tensors[n] for n in node.outputs if n in self.trace.tensors)
        sizes = [i for i, n in enumerate(node.inputs) if n in self.value and not is_data(self.trace.shapes, n)]
        moved = [i for i in sizes if self._moved(node.inputs[i])]
        followed = any(n in self.value and self._moved(n) for n in node.inputs)
        cut = followed or any(self._dies(t) for t in (*before, *expected))
        if not cut and not moved:
            for tensor in expected:
                self.tensors[tensor.name] = tensor
            return
        rule = ops.find(node)
        if rule is None or any(t is None for t, n in zip(before, node.inputs, strict=True) if n):
            if moved or any(n in self.value and self._moved(n) for n in node.captured):
                self._freeze(node, moved)
            if cut:
                raise _RefusedError(f"{node.op} has no rule" if rule is None else "has an input of unknown shape")
            self.tensors.update({t.name: t for t in expected})
            return
        self._apply(node, rule, before, inputs, expected, moved)

    def _apply(
        self,
        node: Node,
        rule: ops.Rule,
        before: tuple[Tensor | None, ...],
        inputs: tuple[Tensor | None, ...],
        expected: tuple[Tensor, ...],
        moved: list[int],
    ) -> None:
        values = known_values(self.model, self.trace.shapes, node)
        first = Op(node, node.attrs, before, expected, tuple(values), self)
        change = rule.rewrite(Cut(first, inputs, expected, self.alive)) if rule.rewrite else Change()
        for position in sorted({*change.inputs, *moved}):
            self._set(node, position, change.inputs.get(position))
        for position, name in enumerate(node.inputs):
            use = use_of(self.model, name, node.index, position)
            if name in self.value and use in self.trace.uses:
                kept = self._kept(use, self.trace.uses[use])
                self._set(node, position, cut_array(self.trace.shapes.value[name].array, kept))
        if change.attrs:
            self.attrs[node.index] = change.attrs
        for position, array in change.inputs.items():
            values += [None] * (position + 1 - len(values))
            values[position] = array
        attrs = {k: v for k, v in {**node.attrs, **change.attrs}.items() if v is not None}
        outputs = tuple(replace(t, shape=cut_shape(t, self.alive)) for t in expected)
        layers = rule.trace(Op(node, attrs, inputs, outputs, tuple(values), self))
        for position, (out, tensor) in enumerate(zip(outputs, expected, strict=True)):
            own = settle(self, layers[position], tensor) if position < len(layers) else ()
            self._accept(tensor, out, own)

    def _accept(self, before: Tensor, after: Tensor, layers: Sequence[Layer]) -> None:
        """The rule's answer must be the first run's labels without the dead ones, in their order."""
        wanted = tuple(self._cut_layer(layer, before) for layer in before.layers)
        if len(wanted) != len(layers):
            raise _RefusedError(f"the channels of '{before.name}' come out in another layout")
        for want, have in zip(wanted, layers, strict=True):
            unit = self.trace.unit
            same = want.axes == have.axes and want.labels.shape == have.labels.shape
            if not same or not (unit[want.labels] == unit[have.labels]).all():
                raise _RefusedError(f"the channels of '{before.name}' come out in another order")
        if 0 in after.shape and 0 not in before.shape:
            raise _RefusedError(f"nothing would be left of '{before.name}'")
        self.tensors[before.name] = replace(before, shape=after.shape, layers=tuple(layers))
        if before.shape != after.shape:
            self.touched.add(before.name)

    def blame(self, node: Node) -> NDArray[np.int64]:
        """The units that pass through ``node`` and would go: places of heads first, whose channels may still go."""
        names = [n for n in (*node.inputs, *node.outputs, *node.captured) if n in self.trace.tensors]
        tensors = [self.trace.tensors[n] for n in names]
        tensors += [t for i in range(len(node.inputs)) if (t := self.trace.input(node, i)) is not None]
        for name in names:  # sizes that reach the node through shape arithmetic
            if name in self.trace.shapes.value:
                tensors += self._behind(name)
        found = [self.trace.unit[la.labels].reshape(-1) for t in tensors if self._dies(t) for la in t.layers]
        units = np.unique(np.concatenate([*found, self.dead[:0]]))
        places = np.intersect1d(units[self.trace.heads.place[units]], self.dead)
        return places if len(places) else units

    # --- shape arithmetic -------------------------------------------------------------------------------------------

    def _behind(self, name: str) -> list[Tensor]:
        """The tensors whose shapes a known value comes from."""
        found, stack, seen = [], [name], set()
        while stack:
            current = stack.pop()
            node = self.graph.producer.get(current)
            if node is None or current in seen:
                continue
            seen.add(current)
            if is_shape_source(node):
                found += [self.trace.tensors[n] for n in node.inputs if n in self.trace.tensors]
            else:
                stack += node.inputs
        return found

    def _moved(self, name: str) -> bool:
        return not self.value[name].same_as(self.trace.shapes.value[name])

    def _arithmetic(self, node: Node) -> None:
        """Compute anew what follows from sizes that changed."""
        known = self.trace.shapes.value
        results = [known[n] for n in node.outputs]
        if is_shape_source(node):
            name = node.inputs[0]
            current = self.tensors.get(name) or self._input(node, 0)
            shape = current.shape if current else self.trace.shapes.shape[name]
            if shape != self.trace.shapes.shape[name]:
                dynamic = known[node.outputs[0]].dynamic
                whole = shape_value(node, shape, (False,) * len(shape))
                results = [Value(whole.array, dynamic)]
        elif any(n in self.value and self._moved(n) for n in node.inputs):
            inputs = [self._known(n) if n else None for n in node.inputs]
            computed = evaluate(node, self.model, inputs)
            if computed is None:
                raise _RefusedError("its shape arithmetic does not follow")
            results = computed
        for name, value in zip(node.outputs, results, strict=False):
            self.value[name] = value
            self.tensors[name] = replace(self.trace.tensors[name], shape=value.array.shape)
            if value.array.shape != self.trace.tensors[name].shape:
                self.touched.add(name)

    def _known(self, name: str) -> Value:
        if name in self.value:
            return self.value[name]
        array = self.model.array(name)
        return Value(array, np.zeros(array.shape, np.bool_))

    def _freeze(self, node: Node, positions: Sequence[int]) -> None:
        for position in positions:
            self._set(node, position, None)
        if any(n in self.value and self._moved(n) for n in node.captured):
            raise _RefusedError("a size that changes is read inside it")

    def _set(self, node: Node, position: int, wanted: NDArray[Any] | None) -> None:
        """Give ``node`` the value ``wanted`` at ``position``; None: the value of the original model."""
        name = node.inputs[position] if position < len(node.inputs) else ""
        if name not in self.value:
            if wanted is not None and (not name or not np.array_equal(self.model.array(name), wanted)):
                self.given[node.index, position] = wanted
            return
        wanted = self.trace.shapes.value[name].array if wanted is None else wanted
        now = self.value[name]
        if now.array.shape == wanted.shape and np.array_equal(now.array, wanted):
            return  # it follows by itself
        if not now.dynamic.any():
            self.given[node.index, position] = wanted
            return
        self._set_pieces(name, wanted)

    def _set_pieces(self, name: str, wanted: NDArray[Any]) -> None:
        """Where a Concat puts together what is wanted, give it the pieces that differ."""
        producer = self.graph.producer[name]
        if producer.op != "Concat" or wanted.ndim != 1 or len(self.graph.consumers[name]) > 1:
            raise _RefusedError("a size in it changes with the input's and with the channels")
        start = 0
        for position, piece in enumerate(producer.inputs):
            known = self._known(piece)
            part = slice(start, start + len(known.array))
            start = part.stop
            if not np.array_equal(wanted[part], known.array):
                if known.dynamic.any():
                    raise _RefusedError("a size in it changes with the input's and with the channels")
                self.given[producer.index, position] = wanted[part].astype(known.array.dtype)

    # --- what to write ----------------------------------------------------------------------------------------------

    def result(self) -> Rewrite:
        for read in self.trace.reads:
            if read.fold is not None:
                self._fold(self.graph.nodes[read.node], read.fold)
        kept = {use: parts for use, t in self.trace.uses.items() if (parts := self._kept(use, t))}
        writer = _Writer(self, kept)
        return Rewrite(writer.edits(), writer.report, {n: t.shape for n, t in self.tensors.items()})

    def _fold(self, node: Node, fold: Fold) -> None:
        """The bias takes what the constant channels that go would have added."""
        gone = ~self._alive_along(self.trace.input(node, 0), fold.summed)[fold.positions]
        if not gone.any():
            return
        name = node.inputs[2] if len(node.inputs) > 2 else ""
        weight = helper.tensor_dtype_to_np_dtype(self.trace.shapes.elem_type[node.outputs[0]])
        bias = self.model.array(name) if name else np.zeros(fold.added.shape[1], weight)
        whole = (bias.astype(np.float64) + fold.added[gone].sum(axis=0)).astype(bias.dtype)
        stays = self._alive_along(self.trace.tensors[node.outputs[0]], fold.made)
        self.given[node.index, 2] = whole[..., stays]

    def _alive_along(self, tensor: Tensor | None, axis: int) -> NDArray[np.bool_]:
        """Which positions of ``axis`` keep anything; all of them where it has no labels."""
        assert tensor is not None
        layer = tensor.along(axis)
        if layer is None:
            return np.ones(tensor.shape[axis], np.bool_)
        rows = np.moveaxis(layer.labels, axis, 0).reshape(layer.labels.shape[axis], -1)
        return np.asarray(self.alive(rows).any(axis=1))

    def _kept(self, use: Use, before: Tensor) -> tuple[Kept, ...]:
        """What stays of a constant; nothing where all of it does."""
        after = self.uses.get(use, before)
        if after.shape == before.shape:
            return ()
        parts = []
        for layer in before.layers:
            if len(layer.axes) == 1:
                mask = self.alive(layer.labels.reshape(-1))
                if not mask.all():
                    parts.append(Kept(layer.columns, np.flatnonzero(mask)))
        for layer in before.layers:
            if len(layer.axes) > 1 and not self.alive(layer.labels).all():
                rows = next((k.positions for k in parts if k.axis == 0), slice(None))
                mask = self.alive(layer.labels.reshape(layer.labels.shape[:2]))[rows]
                if not mask.all():
                    parts.append(Kept(layer.columns, np.nonzero(mask)[1].reshape(mask.shape[0], -1)))
        return tuple(parts)


class _Writer:
    """Turns the run's findings into edits: constants cut in place, or cloned where their uses differ."""

    def __init__(self, run: _Run, kept: Mapping[Use, tuple[Kept, ...]]) -> None:
        self.run, self.kept, self.graph = run, kept, run.graph
        self.constants: dict[str, Constant] = {}
        self.added: dict[str, Constant] = {}
        self.types: dict[str, int] = {}
        self.inputs: dict[int, dict[int, str]] = {}
        self.report: dict[str, tuple[Kept, ...]] = {}
        self.names = {*self.graph.constants, *self.graph.producer, *(i.name for i in self.graph.inputs)}

    def edits(self) -> Edits:
        run = self.run
        for name in dict.fromkeys(use[0] for use in self.kept if use[0] in self.graph.constants):
            self._constant(name)
        for (node, position), value in run.given.items():
            self._given(node, position, value)
        shapes = {
            n: {
                a: s
                for a, (s, old) in enumerate(zip(run.tensors[n].shape, run.trace.tensors[n].shape, strict=True))
                if s != old
            }
            for n in run.touched
        }
        removed = self._unread()
        return Edits(self.constants, self.added, self.types, run.attrs, self.inputs, {}, removed, shapes)

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
            if (node.index, position) in self.run.given and len(readers) > 1:
                continue  # it has a value of its own
            own = self.kept.get(use_of(self.run.model, name, node.index, position), ())
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
        return self.run.model.changed(name, shape, lambda array: cut_array(array, kept))

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
            kind = self.run.trace.shapes.elem_type.get(made, 0)
        self.types[clone] = kind
        self.inputs.setdefault(node, {})[position] = clone

    def _unread(self) -> frozenset[int]:
        """Nodes that nobody reads any more, now that some inputs come from constants."""
        rewired = {(n, p) for n, positions in self.inputs.items() for p in positions}
        sources = {
            self.graph.producer[self.graph.nodes[n].inputs[p]].index
            for n, p in rewired
            if p < len(self.graph.nodes[n].inputs) and self.graph.nodes[n].inputs[p] in self.graph.producer
        }
        return frozenset(self.graph.unread(sources, rewired)) if sources else frozenset()
