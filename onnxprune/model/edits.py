"""Changes to a ModelProto: everything that no edit names stays byte for byte as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper
from onnx import numpy_helper as nph

from onnxprune.model.dtypes import dtype_of, to_tensor
from onnxprune.model.mapped_weights import INLINE, Value, Weight, as_later, constants_of, is_held, value_of
from onnxprune.model.protobuf import refer, reference
from onnxprune.model.sparse import sparse

#: Before this IR version an initializer had to be a graph input too, and inputs stay as they are.
IR_INITIALIZERS = 4


@dataclass(frozen=True)
class NodeCopy:
    """A copy of the node at index ``node`` that reads and writes other tensors; it is named after its output."""

    node: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Edits:
    """Changes to a model. Node positions are those of ``Graph.nodes``; names are those of the graph.

    ``constants`` replaces values (initializers or Constant nodes) and may change shapes; ``added`` are new
    initializers, of an element type in ``types`` where numpy's is not it; ``attrs`` sets attributes of a node (None
    removes one); ``inputs`` and ``outputs`` rewire positions of a node; ``removed`` drops nodes; ``shapes`` corrects
    declared dims as {tensor: {axis: size}}; ``copies`` are put before the node that they are listed under.
    """

    constants: Mapping[str, Value] = field(default_factory=dict, repr=False)
    added: Mapping[str, Value] = field(default_factory=dict, repr=False)
    types: Mapping[str, int] = field(default_factory=dict, repr=False)
    attrs: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    inputs: Mapping[int, Mapping[int, str]] = field(default_factory=dict)
    outputs: Mapping[int, Mapping[int, str]] = field(default_factory=dict)
    removed: frozenset[int] = frozenset()
    shapes: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    copies: Mapping[int, Sequence[NodeCopy]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any((self.constants, self.added, self.attrs, self.inputs, self.outputs, self.removed, self.shapes))


def apply(source: ModelProto, weights: Mapping[str, Weight], edits: Edits) -> tuple[ModelProto, dict[str, Weight]]:
    """Apply ``edits`` to a copy of ``source``; returns it, and the constants that it only has references to.

    ``weights``: those of ``source``. Large constants that replace a reference, or that are added to a model with
    references, are kept out of the message too.
    """
    out = ModelProto()
    held = dict(weights)
    copy_fields(source, out, {"graph"})
    graph = out.graph
    copy_fields(source.graph, graph, {"initializer", "sparse_initializer", "node"})
    for index, node in enumerate(source.graph.node):
        for copied in edits.copies.get(index, ()):
            _add_copy(graph.node.add(), source.graph.node[copied.node], copied)
        if index not in edits.removed:
            copy = graph.node.add()
            copy.CopyFrom(node)
            _edit_node(copy, index, edits, held)
    unread = _read_names(source.graph) - _read_names(graph)  # the edits took their last reader
    unread -= {i.name for i in source.graph.input}  # without its default it would have to be given
    for tensor in source.graph.initializer:
        if tensor.name in edits.constants and tensor.name not in unread:
            _fill(graph.initializer.add(), tensor, edits.constants[tensor.name], held)
        elif tensor.name not in unread:
            graph.initializer.add().CopyFrom(tensor)
    for stored in source.graph.sparse_initializer:
        name = stored.values.name
        if name not in unread:
            changed = name in edits.constants
            graph.sparse_initializer.append(sparse(value_of(edits.constants[name]), stored) if changed else stored)
    added = [_added(n, v, edits.types.get(n) or _type_of(v), held) for n, v in edits.added.items()]
    if source.ir_version < IR_INITIALIZERS:
        nodes = [helper.make_node("Constant", [], [t.name], value=t) for t in added]
        nodes.extend(graph.node)
        del graph.node[:]
        graph.node.extend(nodes)
    else:
        graph.initializer.extend(added)
    _edit_declarations(graph, source.graph, edits)
    left = {reference(tensor) for _, tensor in constants_of(graph)}
    return out, {n: w for n, w in held.items() if n in left}


def _type_of(array: Value) -> int:
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


def copy_fields(source: Any, target: Any, leave: set[str]) -> None:
    """Copy all that is set in one message but the fields named."""
    for descriptor, value in source.ListFields():
        if descriptor.name in leave:
            continue
        if isinstance(value, (int, str, bytes)):
            setattr(target, descriptor.name, value)
        else:
            getattr(target, descriptor.name).extend(value)


def _read_names(graph: GraphProto) -> set[str]:
    """Names that nodes, subgraphs and graph outputs read."""
    return {n for node in graph.node for n in (*node.input, *captured(node))} | {o.name for o in graph.output}


def _fill(target: TensorProto, like: TensorProto, value: Value, held: dict[str, Weight]) -> None:
    """``target`` := ``value``, with the name, doc string and data type of ``like``."""
    name = reference(like)
    if name is not None and is_held(like, value.nbytes) and value.dtype == dtype_of(like.data_type):
        target.CopyFrom(like)
        del target.dims[:]
        target.dims.extend(value.shape)
        held[name] = as_later(value)
        return
    target.CopyFrom(to_tensor(value_of(value), like.name, like.data_type))
    if like.doc_string:
        target.doc_string = like.doc_string


def _added(name: str, value: Value, elem_type: int, held: dict[str, Weight]) -> TensorProto:
    """A new constant."""
    tensor = TensorProto(name=name, data_type=elem_type)
    if held and value.nbytes > INLINE:
        refer(tensor, name)
    _fill(tensor, TensorProto.FromString(tensor.SerializeToString()), value, held)
    return tensor


def _add_copy(target: NodeProto, node: NodeProto, copy: NodeCopy) -> None:
    target.CopyFrom(node)
    del target.input[:], target.output[:]
    target.input.extend(copy.inputs)
    target.output.extend(copy.outputs)
    target.name = next(filter(None, copy.outputs)) if node.name else ""


def _edit_node(node: NodeProto, index: int, edits: Edits, held: dict[str, Weight]) -> None:
    for name, value in edits.attrs.get(index, {}).items():
        kept = [a for a in node.attribute if a.name != name]
        if len(kept) < len(node.attribute):
            del node.attribute[:]
            node.attribute.extend(kept)
        if value is not None:
            node.attribute.append(helper.make_attribute(name, value))
    if node.op_type == "Constant" and node.output[0] in edits.constants:
        value = edits.constants[node.output[0]]
        like = next((a.t for a in node.attribute if a.name == "value"), None)
        tensor = TensorProto()
        _fill(tensor, like if like is not None else nph.from_array(value_of(value)), value, held)
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("value", tensor))
    for position, name in edits.inputs.get(index, {}).items():
        node.input.extend([""] * (position + 1 - len(node.input)))
        node.input[position] = name
    for position, name in edits.outputs.get(index, {}).items():
        node.output[position] = name


def _edit_declarations(graph: GraphProto, source: GraphProto, edits: Edits) -> None:
    """Bring declared shapes up to date; drop declarations of tensors that the edits removed."""
    before = {o for n in source.node for o in n.output}
    after = {o for n in graph.node for o in n.output}
    kept = [v for v in graph.value_info if v.name in after or v.name not in before]
    if len(kept) < len(graph.value_info):
        copies = [ValueInfoProto.FromString(v.SerializeToString()) for v in kept]
        del graph.value_info[:]
        graph.value_info.extend(copies)
    constants = {n: dict(enumerate(v.shape)) for n, v in edits.constants.items()}
    for info in (*graph.input, *graph.value_info):
        dims = info.type.tensor_type.shape.dim
        for axis, size in {**constants.get(info.name, {}), **edits.shapes.get(info.name, {})}.items():
            if axis < len(dims):
                dims[axis].dim_value = size


def captured(node: NodeProto) -> tuple[str, ...]:
    """Names that the node's subgraphs read from outside of themselves, in order of first use."""
    found: dict[str, None] = {}
    for attr in node.attribute:
        for graph in (*([attr.g] if attr.type == AttributeProto.GRAPH else []), *attr.graphs):
            found.update(dict.fromkeys(free_names(graph)))
    return tuple(found)


def names_read(graph: GraphProto) -> set[str]:
    """Names that nodes of ``graph`` read, themselves or inside of their subgraphs."""
    return {n for node in graph.node for n in (*node.input, *captured(node))}


def free_names(graph: GraphProto) -> Iterator[str]:
    """Names that ``graph`` reads from outside of itself."""
    bound = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    for node in graph.node:
        yield from (n for n in (*node.input, *captured(node)) if n and n not in bound)
        bound.update(node.output)
    yield from (o.name for o in graph.output if o.name not in bound)
