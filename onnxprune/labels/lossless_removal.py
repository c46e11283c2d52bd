"""Dead and dormant channels: which readers do not notice that a channel goes.

A channel is *dead* at a reader that multiplies it with zeros, or where it is 0 itself; it is *dormant* where it is
another constant: then the reader's bias can take what it adds, c * sum of W over the taps, and the removal is exact:

    Y = W . X + B = W' . X' + (B + W_c c)      with X = (X', c)

That needs a bias, and that every output position sees all taps: behind zero padding, the border sees fewer. A channel
that no reader notices is *lossless*.

One run over the graph, after the one on labels, in its order: what is known of a node's inputs gives what is known of
its outputs. Nothing that it finds depends on channels that could go and be missed, so that it stays true whatever
else is removed: of constants that are read, only those are used that the reader takes into its bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.labels import ops
from onnxprune.labels.constant_channels import Facts, Known, placed, settled, uniform
from onnxprune.labels.label_propagation import Fold, Read, Trace
from onnxprune.labels.labels import Alive, Tensor
from onnxprune.labels.ops.table import Linear
from onnxprune.model.dtypes import NUMPY_FLOATS, dtype_of
from onnxprune.model.graph import Naming, Node
from onnxprune.running.shape_arithmetic import Value, evaluate


def mark(trace: Trace) -> Trace:
    """``trace`` with its reads told which units they do not notice, and what they make of constants."""
    run = _Run(trace)
    with np.errstate(all="ignore"):
        for node in trace.model.graph.nodes:
            with Naming(node, trace.model.path or ""):
                run.visit(node)
    reads = [run.marked.get((r.node, r.position), r) for r in trace.reads]
    same = {n: k for n, k in run.known.items() if k.mask.all() and trace.shapes.elem_type.get(n) in NUMPY_FLOATS}
    return replace(trace, reads=reads, lossless=_lossless(trace, reads), same=same)


def same_after(trace: Trace, alive: Alive) -> dict[str, NDArray[Any]]:
    """The tensors that are the same for every input, as they are once labels that are not ``alive`` have gone.

    Each has size 1 along axes on which it does not change.
    """
    found = {}
    for name, known in trace.same.items():
        tensor, value = trace.tensors[name], known.value
        if any(len(layer.axes) > 1 for layer in tensor.layers):
            continue
        for layer in tensor.layers:
            if value.shape[layer.columns] > 1:
                value = value.compress(alive(layer.labels.reshape(-1)), layer.columns)
        found[name] = value.astype(dtype_of(trace.shapes.elem_type[name]))
    return found


def missed(trace: Trace) -> NDArray[np.bool_]:
    """Which units some reader notices."""
    return _read_and_missed(trace, trace.reads)[1]


def _lossless(trace: Trace, reads: Sequence[Read]) -> NDArray[np.int64]:
    """The units that no reader notices, sorted; those that nobody reads are not among them."""
    read, missed = _read_and_missed(trace, reads)
    return np.flatnonzero(read & ~missed)


def _read_and_missed(trace: Trace, reads: Sequence[Read]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """By unit."""
    read, missed = np.zeros(trace.units, np.bool_), np.zeros(trace.units, np.bool_)
    for place in reads:
        tensor = trace.input(trace.model.graph.nodes[place.node], place.position)
        for layer in tensor.layers if tensor else ():
            units = trace.unit[layer.labels].reshape(-1)
            read[units] = True
            missed[np.setdiff1d(units, place.silent) if len(place.silent) else units] = True
    return read, missed


class _Run:
    """What is known so far, and the reads that it settled."""

    def __init__(self, trace: Trace) -> None:
        self.trace, self.model, self.graph = trace, trace.model, trace.model.graph
        self.known: dict[str, Known] = {}
        self.computed: dict[str, NDArray[Any] | None] = {}
        self.reads: dict[int, list[Read]] = {}
        self.marked: dict[tuple[int, int], Read] = {}
        for read in trace.reads:
            self.reads.setdefault(read.node, []).append(read)

    def visit(self, node: Node) -> None:
        """Run one node. What is a constant as a whole is computed where it is asked for."""
        outputs = tuple(t for n in node.outputs if (t := self.trace.tensors.get(n)) is not None)
        rule = ops.find(node)
        if rule is None or not outputs or all(t.constant or t.name in self.trace.shapes.value for t in outputs):
            return
        inputs = tuple(self.trace.input(node, i) for i in range(len(node.inputs)))
        found: Sequence[Known | None] = ()
        linear = rule.linear(node, inputs) if rule.linear else None
        weight = self._constant(node.inputs[1]) if linear else None
        if linear is not None and weight is not None:
            found = [self._contract(node, linear, linear.matrix(weight))]
        else:
            for read in self.reads.get(node.index, ()):
                self._mark_zeros(node, read)
            if rule.known is not None:
                found = rule.known(
                    Facts(node, inputs, outputs, lambda p: self._of(node, p), lambda a: self._run(node, a))
                )
        for tensor, known in zip(outputs, found, strict=False):
            if (kept := settled(known, tensor)) is not None:
                self.known[tensor.name] = kept

    # --- values -----------------------------------------------------------------------------------------------------

    def _of(self, node: Node, position: int) -> Known | None:
        """What is known of an input."""
        name = node.input(position)
        if name in self.known:
            return self.known[name]
        array = self._constant(name) if name else None
        if array is None:
            return None
        finite = np.isfinite(array) if array.dtype.kind == "f" else np.ones((1,) * array.ndim, np.bool_)
        return Known(array, np.asarray(finite))

    def _constant(self, name: str) -> NDArray[Any] | None:
        """The value of a constant, or of what is computed from constants alone; None for anything else."""
        if name in self.graph.constants:
            return self.model.array(name)
        value = self.trace.shapes.value.get(name)
        if value is not None:
            return None if value.dynamic.any() else value.array
        tensor, node = self.trace.tensors.get(name), self.graph.producer.get(name)
        if tensor is None or node is None or not tensor.constant:
            return None
        if name not in self.computed:
            arrays = [self._constant(n) if n else None for n in node.inputs]
            known = all(a is not None for a, n in zip(arrays, node.inputs, strict=True) if n)
            results = self._run(node, arrays) if known else None
            self.computed[name] = results[node.outputs.index(name)] if results else None
        return self.computed[name]

    def _run(self, node: Node, arrays: Sequence[NDArray[Any] | None]) -> list[NDArray[Any]] | None:
        values = [None if a is None else Value(a, np.zeros(a.shape, np.bool_)) for a in arrays]
        results = evaluate(node, self.model, values)
        return None if results is None else [r.array for r in results]

    # --- reads ------------------------------------------------------------------------------------------------------

    def _units(self, tensor: Tensor, quiet: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Units of which all positions are ``quiet``, which is laid out as ``tensor``."""
        seen, loud = [np.zeros(0, np.int64)], [np.zeros(1, np.int64)]
        for layer in tensor.layers:
            labels, fine = np.broadcast_arrays(layer.labels, quiet)
            units = self.trace.unit[labels]
            seen.append(np.unique(units))
            loud.append(np.unique(units[~fine]))
        return np.setdiff1d(np.concatenate(seen), np.concatenate(loud))

    def _mark_zeros(self, node: Node, read: Read) -> None:
        """A reader of which no more is known does not notice zeros."""
        tensor, known = self.trace.input(node, read.position), self._of(node, read.position)
        if tensor is not None and known is not None and read.zero is None and known.zero.any():
            self.marked[read.node, read.position] = replace(read, silent=self._units(tensor, known.zero))

    def _contract(self, node: Node, linear: Linear, matrix: NDArray[Any]) -> Known | None:
        """Settle the read of X, and give what is known of Y. ``matrix``: [group, O/group, C/group, taps]."""
        x = self.trace.input(node, 0)
        if x is None:
            return None
        group, _, width, _ = matrix.shape
        value, mask = self._along(node, x, linear.summed)
        weighs = matrix != 0
        unread = ~weighs.any(axis=(1, 3)).reshape(-1)
        zero = mask & (value == 0)
        read = next((r for r in self.reads.get(node.index, ()) if r.position == 0), None)
        if read is None:
            usable = zero | (mask & linear.uniform)
        elif mask.any() or unread.any():
            takes = mask & self._takes(node, linear, group * matrix.shape[1])
            layout = [-1 if a == linear.summed else 1 for a in range(x.rank)]
            silent = self._units(x, (zero | unread | takes).reshape(layout))
            usable = zero | (takes & np.isin(self._unit_along(x, linear.summed), silent))
            folded = np.flatnonzero(usable & ~zero & ~unread)
            fold = Fold(linear.summed, linear.made, folded, self._added(linear, matrix, value, folded))
            self.marked[read.node, 0] = replace(read, silent=silent, fold=fold if len(folded) else None)
        else:
            usable = zero
        seen = weighs & ~usable.reshape(group, 1, width, 1) if usable.any() else weighs
        blind = ~seen.any(axis=(2, 3)).reshape(-1)
        return self._made(node, linear, matrix, np.where(usable, value, 0), blind) if blind.any() else None

    def _along(self, node: Node, x: Tensor, axis: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """[C] constants of X along ``axis``, and where they are known."""
        size, known = x.shape[axis], self._of(node, 0)
        if known is None:
            return np.zeros(size), np.zeros(size, np.bool_)
        flat = uniform(known, [a for a in range(x.rank) if a != axis])
        mask = np.broadcast_to(flat.mask.reshape(-1), size)
        return np.where(mask, flat.value.reshape(-1), 0).astype(np.float64), mask

    def _unit_along(self, x: Tensor, axis: int) -> NDArray[np.int64]:
        """[C] the unit at each position of ``axis``."""
        layer = x.along(axis)
        if layer is None:
            return np.zeros(x.shape[axis], np.int64)
        first = layer.labels[tuple(slice(None) if a == axis else slice(0, 1) for a in range(x.rank))]
        return self.trace.unit[first.reshape(-1)]

    def _takes(self, node: Node, linear: Linear, width: int) -> bool:
        """Whether the node's bias can take constants: there is one that is a plain vector, or there may be one."""
        if (
            not (linear.uniform and linear.bias and linear.beta)
            or self.trace.shapes.elem_type.get(node.outputs[0]) not in NUMPY_FLOATS
        ):
            return False
        name = node.input(2)
        return not name or (name in self.graph.constants and self.graph.constants[name][1] in ((width,), (1, width)))

    def _added(
        self, linear: Linear, matrix: NDArray[Any], value: NDArray[Any], positions: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """[n, O] what the constant channel at each of ``positions`` adds to B."""
        group, rows, width, _ = matrix.shape
        added = np.zeros((len(positions), group * rows))
        for row, position in zip(added, positions, strict=True):
            block, column = divmod(int(position), width)
            taps = matrix[block, :, column].astype(np.float64).sum(axis=1)
            row[block * rows : (block + 1) * rows] = taps * value[position] * linear.alpha / linear.beta
        return added

    def _made(
        self, node: Node, linear: Linear, matrix: NDArray[Any], value: NDArray[Any], blind: NDArray[np.bool_]
    ) -> Known | None:
        """Y where it is the same for every X: the constants that it sees, and B."""
        rank = self.trace.tensors[node.outputs[0]].rank
        group, _, width, _ = matrix.shape
        seen = np.zeros(len(blind))
        if value.any():
            sums = matrix.astype(np.float64).sum(axis=3)
            seen = np.einsum("gok,gk->go", sums, value.reshape(group, width)).reshape(-1)
        y = placed(linear.alpha * seen, linear.made, rank)
        if name := node.input(2):
            bias = self._constant(name) if linear.bias else None
            if bias is None:
                return None
            y = y + linear.beta * placed(bias.astype(np.float64), linear.made, rank)
        return Known(y.astype(matrix.dtype), np.broadcast_to(placed(blind, linear.made, rank), y.shape))
