"""Sequences of tensors: written out for the analysis, and put back after pruning.

    s = SplitToSequence(x, n)    is analysed as    s_0, s_1, ... = Split(x, n)
    y = SequenceAt(s, 1)                           y = Identity(s_1)
    z = ConcatFromSequence(s)                      z = Concat(s_0, s_1, ...)

where sizes and positions are constants. A sequence that anything else reads stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, shape_inference
from onnx import numpy_helper as nph

from onnxprune.model.graph import Graph, Node
from onnxprune.model.onnx_model import Model

Outputs = tuple[str, ...]

_MAKE = ("SplitToSequence", "SequenceConstruct", "SequenceInsert", "SequenceErase")
_TAKE = ("SequenceAt", "ConcatFromSequence", "SequenceInsert", "SequenceErase")

#: All that makes a sequence, written out here or not.
_MAKES = (*_MAKE, "SequenceEmpty", "SequenceMap")

#: From this opset on sizes and axes are inputs.
_SIZES_ARE_INPUTS = 13


@dataclass(frozen=True)
class Spread:
    """``model`` with its sequences written out: ``written``. ``parts``: by outputs of a split there, its sequence's."""

    model: Model = field(repr=False)
    written: Model = field(repr=False)
    parts: Mapping[Outputs, Outputs] = field(default_factory=dict, repr=False)
    gone: frozenset[Outputs] = frozenset()  # nodes that only the model has
    more: frozenset[Outputs] = frozenset()  # and those that only the other has

    def restore(self, changed: Model) -> Model:
        """``changed``, which ``written`` became, with its sequences."""
        if self.written is self.model:
            return changed
        out = ModelProto()
        out.CopyFrom(changed.proto)
        del out.graph.node[:], out.graph.initializer[:]
        out.graph.node.extend(self._nodes(changed))
        kept = {i for n in out.graph.node for i in n.input} | {o.name for o in out.graph.output}
        own = {t.name for t in self.model.proto.graph.initializer}
        before = {i for n in self.model.proto.graph.node for i in n.input}
        for tensor in changed.proto.graph.initializer:
            if tensor.name in kept or (tensor.name in own and tensor.name not in before):
                out.graph.initializer.append(tensor)
        for node in changed.proto.graph.node:
            name = f"{next(iter(self.parts.get(tuple(node.output), ())), '')}__sizes"
            if name in kept - {t.name for t in out.graph.initializer}:
                out.graph.initializer.append(nph.from_array(_sizes(node, changed).astype(np.int64), name))
        if changed.proto != self.written.proto:
            for info in out.graph.value_info:  # what a sequence holds is no longer of one shape
                if info.type.HasField("sequence_type"):
                    info.type.sequence_type.elem_type.tensor_type.ClearField("shape")
        return Model(out, changed.path, changed.weights)

    def _nodes(self, changed: Model) -> list[NodeProto]:
        place = {tuple(n.output): i for i, n in enumerate(self.model.proto.graph.node)}
        present = {tuple(n.output) for n in changed.proto.graph.node}
        missing = self.gone - present  # they are there in a model that was restored before
        waiting = [n for n in self.model.proto.graph.node if tuple(n.output) in missing]
        nodes: list[NodeProto] = []
        for node in changed.proto.graph.node:
            outputs = tuple(node.output)
            if outputs in self.more:
                continue
            at = place.get(self.parts.get(outputs, outputs))
            while at is not None and waiting and place[tuple(waiting[0].output)] < at:
                nodes.append(waiting.pop(0))
            original = None if at is None else self.model.proto.graph.node[at]
            if outputs in self.parts and original is not None:
                nodes.append(self._split(original, node, changed))
            elif original is not None and original.op_type in _TAKE:
                nodes.append(original)
            else:
                nodes.append(node)
        read = {i for n in nodes for i in n.input}
        return [n for n in nodes if tuple(n.output) not in self.gone or read & set(n.output)]

    def _split(self, original: NodeProto, now: NodeProto, changed: Model) -> NodeProto:
        """The SplitToSequence that a Split stands for, with its new sizes where they changed."""
        node = NodeProto()
        node.CopyFrom(original)
        node.input[0] = now.input[0]
        sizes = _sizes(now, changed)
        before = next(n for n in self.written.proto.graph.node if list(n.output) == list(now.output))
        if not np.array_equal(sizes, _sizes(before, self.written)):
            node.input[1] = f"{original.output[0]}__sizes"
        return node


def _sizes(split: NodeProto, model: Model) -> NDArray[Any]:
    """Sizes of a Split, which are an attribute up to opset 12."""
    if len(split.input) > 1:
        return model.array(split.input[1])
    return np.asarray(next(a.ints for a in split.attribute if a.name == "split"), np.int64)


def spread(model: Model) -> Spread:
    """Write out the sequences of the graph itself whose sizes and positions are constants."""
    if not any(_is(n, _MAKE) for n in model.proto.graph.node):
        return Spread(model, model)
    run = _Spreader(model)
    while (left := run.attempt()) is not None:
        run.refused.add(left)
    if not run.lists:
        return Spread(model, model)
    out = ModelProto()
    out.CopyFrom(model.proto)
    del out.graph.node[:]
    out.graph.node.extend(run.nodes)
    out.graph.initializer.extend(nph.from_array(a, n) for n, a in run.added.items())
    return Spread(model, Model(out, model.path, model.weights), run.parts, frozenset(run.gone), frozenset(run.more))


def _is(node: NodeProto, names: Sequence[str]) -> bool:
    return node.op_type in names and node.domain in ("", "ai.onnx")


class _UnknownError(Exception):
    """Inside this module: a sequence that cannot be written out."""


class _Spreader:
    """One attempt after another, each with one more sequence that is left as it is."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.refused: set[str] = set()
        inferred = shape_inference.infer_shapes(model.skeleton()).graph
        infos = (*inferred.value_info, *inferred.input, *inferred.output)
        self.dims = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in infos}
        self.version = model.opset

    def attempt(self) -> str | None:
        """Write out all sequences but those refused; or the name of one more that cannot be."""
        self.lists: dict[str, list[str]] = {}
        self.nodes: list[NodeProto] = []
        self.added: dict[str, NDArray[np.int64]] = {}
        self.parts: dict[Outputs, Outputs] = {}
        self.gone: set[Outputs] = set()
        self.more: set[Outputs] = set()
        for node in self.model.proto.graph.node:
            mine: str | None = next((i for i in node.input if i in self.lists), None)
            makes = _is(node, _MAKE) and node.output[0] not in self.refused
            if mine is not None and not (_is(node, _TAKE[:2]) or makes):
                return mine
            if mine is None and not (makes and _is(node, _MAKE[:2])):
                self.nodes.append(node)
                continue
            try:
                self._write(node)
            except _UnknownError:
                return mine or str(node.output[0])
        outputs = {o.name for o in self.model.proto.graph.output}
        captured = {i for n in self.model.graph.nodes for i in n.captured}
        escaped = [name for name in self.lists if name in outputs | captured]
        return escaped[0] if escaped else None

    def _write(self, node: NodeProto) -> None:
        outputs, attrs = tuple(node.output), {a.name: helper.get_attribute_value(a) for a in node.attribute}
        items = list(self.lists.get(node.input[0], ()))
        if node.op_type == "SplitToSequence":
            self._split(node, attrs)
        elif node.op_type == "SequenceAt":
            item = items[self._position(node, 1, len(items))]
            self.nodes.append(helper.make_node("Identity", [item], outputs, node.name))
        elif node.op_type == "ConcatFromSequence":
            if attrs.get("new_axis", 0):
                items = [self._unsqueezed(i, f"{outputs[0]}__{n}", attrs["axis"]) for n, i in enumerate(items)]
            self.nodes.append(helper.make_node("Concat", items, outputs, node.name, axis=attrs["axis"]))
        else:
            if node.op_type == "SequenceConstruct":
                items = list(node.input)
            elif node.op_type == "SequenceInsert":
                at = self._position(node, 2, len(items) + 1) if len(node.input) > 2 else len(items)
                items.insert(at, node.input[1])
            else:
                del items[self._position(node, 1, len(items)) if len(node.input) > 1 else -1]
            self.lists[outputs[0]] = items
            self.gone.add(outputs)

    def _position(self, node: NodeProto, position: int, count: int) -> int:
        found = int(self._known(node, position).reshape(-1)[0])
        if not -count <= found < count:
            raise _UnknownError
        return found % count

    def _known(self, node: NodeProto, position: int) -> NDArray[Any]:
        name = node.input[position]
        if name not in self.model.constant_protos:
            raise _UnknownError
        return self.model.array(name)

    def _split(self, node: NodeProto, attrs: Mapping[str, Any]) -> None:
        if len(node.input) < 2 or not node.input[1]:
            raise _UnknownError
        axis, sizes, name = attrs.get("axis", 0), self._known(node, 1), node.output[0]
        if sizes.ndim == 0:
            dims = self.dims.get(node.input[0], [])
            size = dims[axis] if -len(dims) <= axis < len(dims) else 0
            step = int(sizes)
            if size < 1 or step < 1:
                raise _UnknownError
            sizes = np.diff([*range(0, size, step), size])
        parts = tuple(f"{name}__{i}" for i in range(len(sizes)))
        inputs = [node.input[0]]
        attribute: dict[str, Any] = {}
        if self.version < _SIZES_ARE_INPUTS:
            attribute = {"split": sizes.tolist()}
        else:
            self.added[f"{name}__sizes"] = sizes.astype(np.int64)
            inputs.append(f"{name}__sizes")
        self.nodes.append(helper.make_node("Split", inputs, parts, node.name, axis=axis, **attribute))
        self.lists[name] = list(parts)
        self.parts[parts] = tuple(node.output)

    def _unsqueezed(self, item: str, name: str, axis: int) -> str:
        inputs = [item]
        attribute: dict[str, Any] = {}
        if self.version < _SIZES_ARE_INPUTS:
            attribute = {"axes": [axis]}
        else:
            self.added[f"{name}_axis"] = np.asarray([axis], np.int64)
            inputs.append(f"{name}_axis")
        self.nodes.append(helper.make_node("Unsqueeze", inputs, [name], name, **attribute))
        self.more.add((name,))
        return name


def made_by(graph: Graph) -> dict[str, Node]:
    """The sequences of a graph, and the node that makes each."""
    found: dict[str, Node] = {}
    for node in graph.nodes:
        if node.op in _MAKES or (node.op == "Identity" and node.inputs[0] in found):
            found |= dict.fromkeys(node.outputs, node)
    return found
