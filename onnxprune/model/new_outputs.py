"""A model with other outputs: the part of it that ends at given tensors, or rows of an output in its place."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from onnx import ModelProto, TensorProto, ValueInfoProto, helper, shape_inference

from onnxprune.errors import OptionError
from onnxprune.model.edits import IR_INITIALIZERS, captured, names_read
from onnxprune.model.mapped_weights import constants_of
from onnxprune.model.onnx_model import Model
from onnxprune.model.protobuf import reference


def declared(model: Model, names: Sequence[str]) -> dict[str, ValueInfoProto]:
    """Type and shape of those of ``names`` of which the file or inference says them."""
    try:
        graph = shape_inference.infer_shapes(model.skeleton(), data_prop=True).graph
    except Exception:  # noqa: BLE001 (several types)
        graph = model.proto.graph
    found = {v.name: v for v in (*graph.value_info, *graph.output)}
    kinds = {n: v.type.tensor_type for n, v in found.items()}
    return {n: _named(found[n]) for n in names if n in found and kinds[n].elem_type and kinds[n].HasField("shape")}


def _named(info: ValueInfoProto) -> ValueInfoProto:
    """A declaration without the names that inference makes up for unknown sizes."""
    found = ValueInfoProto()
    found.CopyFrom(info)
    for dim in found.type.tensor_type.shape.dim:
        if dim.dim_param.startswith("unk__"):
            dim.Clear()
    return found


def part(model: Model, stay: Collection[int], outputs: Iterable[ValueInfoProto]) -> Model:
    """The nodes ``stay``, with what they read; an input that nobody read before is kept as well."""
    out = ModelProto()
    out.CopyFrom(model.proto)
    graph, source = out.graph, model.proto.graph
    read_before, nodes = names_read(source), [n for i, n in enumerate(source.node) if i in stay]
    del graph.node[:], graph.output[:]
    graph.node.extend(nodes)
    graph.output.extend(outputs)
    unread = read_before - names_read(graph)
    there = {o for n in nodes for o in n.output} | {i.name for i in source.input}
    _retain(graph.input, lambda i: i.name not in unread)
    _retain(graph.initializer, lambda t: t.name not in unread)
    _retain(graph.sparse_initializer, lambda s: s.values.name not in unread)
    _retain(graph.value_info, lambda v: v.name in there)
    _retain(graph.quantization_annotation, lambda a: a.tensor_name in there)
    left = {reference(tensor) for _, tensor in constants_of(graph)}
    return Model(out, model.path, {n: w for n, w in model.weights.items() if n in left})


def _retain(messages: Any, stays: Callable[[Any], bool]) -> None:
    """Drop what does not stay of a repeated field."""
    for index in reversed([i for i, m in enumerate(messages) if not stays(m)]):
        del messages[index]


def whole_of(output: str) -> str:
    """What an output is called before its rows are taken."""
    return f"{output}_all"


def with_rows(model: Model, output: str, axis: int, positions: tuple[int, ...]) -> tuple[Model, str]:
    """Put y = Gather(y_all, positions) behind what was y; and what that means. Raises OptionError."""
    out = ModelProto()
    out.CopyFrom(model.proto)
    graph, whole, rows = out.graph, whole_of(output), f"{output}_rows"
    inner = [n.name or n.op_type for n in graph.node if output in captured(n)]
    if inner or not any(output in n.output for n in graph.node):
        what = f"output '{output}' is read inside '{inner[0]}'" if inner else f"output '{output}' is computed by nobody"
        raise OptionError(f"{what}: its rows cannot be left out", where="--keep-outputs")
    for node in graph.node:
        for names in (node.input, node.output):
            for at, name in enumerate(names):
                if name == output:
                    names[at] = whole
    index = helper.make_tensor(rows, TensorProto.INT64, [len(positions)], positions)
    if out.ir_version < IR_INITIALIZERS:
        graph.node.append(helper.make_node("Constant", [], [rows], value=index))
    else:
        graph.initializer.append(index)
    graph.node.append(helper.make_node("Gather", [whole, rows], [output], name=rows, axis=axis))
    info = next(o for o in graph.output if o.name == output)
    declared = graph.value_info.add()
    declared.CopyFrom(info)
    declared.name = whole
    dims = info.type.tensor_type.shape.dim
    before = "?"
    if axis < len(dims):
        before = str(dims[axis].dim_value or "?")
        dims[axis].dim_value = len(positions)
    change = f"output '{output}' keeps {len(positions)} of {before} rows along axis {axis}"
    return Model(out, model.path, model.weights), change
