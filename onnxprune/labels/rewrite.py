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

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from onnx import helper

from onnxprune.labels import ops
from onnxprune.labels.cut_or_copied_initializers import Changes, Kept, cut_array, edits_of
from onnxprune.labels.label_propagation import Fold, Pinned, Trace, Use, is_data, known_values, use_of
from onnxprune.labels.labels import FIXED, Alive, Labels, Layer, Op, Tensor, cut_layer, cut_shape, line, settle
from onnxprune.labels.ops.table import Change, Cut
from onnxprune.model.edits import Edits
from onnxprune.model.graph import Naming, Node, Shape
from onnxprune.running.moved_sizes import Settled, Sizes, UnsettledError
from onnxprune.running.shape_arithmetic import Value, evaluate, is_shape_source, shape_value


class _RefusedError(Exception):
    """Inside this module: a node does not accept its kept labels."""


@dataclass(frozen=True)
class Refusal:
    """A node that cannot follow the removal, the reason, and the units that must stay because of it."""

    reason: Pinned
    units: NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True)
class Rewrite:
    """The edits that remove units, what each constant keeps, and the shapes of tensors afterwards."""

    edits: Edits
    kept: Mapping[str, tuple[Kept, ...]] = field(repr=False)
    shapes: Mapping[str, Shape] = field(repr=False)


def alive_of(trace: Trace, dead: NDArray[np.int64]) -> Alive:
    """A function that tells which labels stay when the units ``dead`` are removed."""
    stays = np.ones(trace.units, np.bool_)
    stays[dead] = False
    by_label = stays[trace.unit]
    return lambda labels: by_label[labels]


def rewrite(trace: Trace, dead: NDArray[np.int64]) -> Rewrite | Refusal:
    """Remove the units ``dead``, or tell which node cannot follow."""
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
    return run.settle() or run.result()


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
        self.sizes, self.carried = Sizes(self.model, self.value, self._known), Settled()

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

    def positions(self, out: Tensor, size: int) -> None:
        """Known from the first run."""

    def role(self, labels: Labels, role: str) -> None:
        """Known from the first run."""

    # --- the run ----------------------------------------------------------------------------------------------------

    def _dies(self, tensor: Tensor | None) -> bool:  # whether anything of a tensor of the first run goes
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
        with Naming(node, self.model.path or ""):
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
        units = self._units_of(tensors)
        if not len(units):  # nobody is to blame: all that the node's inputs come from
            tensors = [self.trace.tensors[n] for n in self._upstream(node) if n in self.trace.tensors]
            units = self._units_of(tensors)
        if not len(units):
            return self.dead
        places = np.intersect1d(units[self.trace.heads.place[units]], self.dead)
        return places if len(places) else units

    def _units_of(self, tensors: Sequence[Tensor]) -> NDArray[np.int64]:
        """The units of all layers of those of ``tensors`` that would lose something."""
        found = [self.trace.unit[la.labels].reshape(-1) for t in tensors if self._dies(t) for la in t.layers]
        return np.unique(np.concatenate([*found, self.dead[:0]]))

    def _upstream(self, node: Node) -> list[str]:
        """All tensors that ``node`` depends on."""
        before = nx.ancestors(self.graph.network, node.index)
        return [n for i in sorted(before) for n in (*self.graph.nodes[i].inputs, *self.graph.nodes[i].outputs)]

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
        name = node.input(position)
        if name in self.value:
            self.sizes.want(node, position, self.trace.shapes.value[name].array if wanted is None else wanted)
        elif name and name not in self.graph.constants:
            raise _RefusedError(f"its size '{name}' is computed in a way that is not known before running")
        elif wanted is not None and (not name or not np.array_equal(self.model.array(name), wanted)):
            self.given[node.index, position] = wanted

    def settle(self) -> Refusal | None:
        """Write down the sizes that do not follow by themselves, once all that is wanted of them is known."""
        try:
            self.carried = self.sizes.settled()
        except UnsettledError as reason:
            return Refusal(Pinned(reason.node.label, f"cannot follow: {reason}"), self.blame(reason.node))
        self.given.update(self.carried.given)
        return None

    # --- what to write ----------------------------------------------------------------------------------------------

    def result(self) -> Rewrite:
        for read in self.trace.reads:
            if read.fold is not None:
                with Naming(self.graph.nodes[read.node], self.model.path or ""):
                    self._fold(self.graph.nodes[read.node], read.fold)
        kept = {use: parts for use, t in self.trace.uses.items() if (parts := self._kept(use, t))}
        sizes = {n: _resized(self.trace.tensors[n], self.tensors[n]) for n in self.touched}
        edits, cut = edits_of(
            Changes(self.model, kept, self.given, self.attrs, sizes, self.trace.shapes.elem_type, self.carried)
        )
        return Rewrite(edits, cut, {n: t.shape for n, t in self.tensors.items()})

    def _fold(self, node: Node, fold: Fold) -> None:
        """The bias takes what the constant channels that go would have added."""
        gone = ~self._alive_along(self.trace.input(node, 0), fold.summed)[fold.positions]
        if not gone.any():
            return
        name = node.input(2)
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


def _resized(before: Tensor, after: Tensor) -> dict[int, int]:
    """New sizes by axis."""
    pairs = enumerate(zip(after.shape, before.shape, strict=True))
    return {axis: size for axis, (size, old) in pairs if size != old}
