"""What a file claims of itself, checked once, before anything trusts it.

A model may come from a stranger, and the libraries behind this trust what they read: dims that no data backs make
arrays of the size that the dims say, a name that is no text ends in a traceback, a function that calls itself in a
crash. Behind the door it holds that names are text, element types are known, dims are not negative and fit both the
data and memory, graphs are not nested beyond reason, functions do not call themselves, and every node has what its
operator cannot do without. onnx.checker's verdict is another matter, and comes after.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from graphlib import CycleError, TopologicalSorter

import onnx
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    ValueInfoProto,
)

from onnxprune.errors import ModelError
from onnxprune.memory_and_threads import size_text, total_memory
from onnxprune.model.door.external_data import is_external
from onnxprune.model.dtypes import BITS
from onnxprune.model.nested import Key, all_nodes, call_of, key_of, plain_domain
from onnxprune.model.protobuf import reference

#: How deep graphs may be nested in graphs, and functions in functions; no exporter comes near.
MAX_DEPTH = 24

#: How many nodes a model may have when all calls of its functions are written out.
MAX_NODES = 1_000_000

#: How many dimensions a tensor may have: numpy has no more.
MAX_RANK = 32

_HINT = "export it again"

#: Attributes that are 0 or 1, and the domains where they are: onnx and onnxruntime read other numbers differently.
_FLAGS, _OF_ONNX = frozenset(("transA", "transB")), frozenset(("", "com.microsoft"))

#: The field that holds data that is not raw, by type; int32_data of all others.
_FIELDS = {
    "FLOAT": "float_data",
    "COMPLEX64": "float_data",
    "DOUBLE": "double_data",
    "COMPLEX128": "double_data",
    "INT64": "int64_data",
    "UINT32": "uint64_data",
    "UINT64": "uint64_data",
    "STRING": "string_data",
}


def check_claims(proto: ModelProto, where: str) -> None:
    """Raise ModelError for the first claim of ``proto`` that cannot be true, or is beyond reason."""
    _Door(where).model(proto)


class _Door:
    def __init__(self, where: str) -> None:
        self.where = where

    def _refuse(self, what: str, of: str = "") -> ModelError:
        return ModelError(what, where=f"{self.where}, {of}" if of else self.where, hint=_HINT)

    def model(self, proto: ModelProto) -> None:
        """All of a model."""
        self._names("the model", proto.domain, *(o.domain for o in proto.opset_import))
        versions = {plain_domain(o.domain): o.version for o in proto.opset_import}
        self._graph(proto.graph, 0, versions)
        for function in proto.functions:
            self._function(function)
        self._calls(proto)
        for info in proto.graph.input:
            self._fits_memory(info)

    def _names(self, of: str, *names: str | bytes) -> None:
        for name in names:
            if not isinstance(name, str) or "\0" in name:
                raise self._refuse(f"holds a name that is no text: {name!r:.60}", of)

    # --- graphs -----------------------------------------------------------------------------------------------------

    def _graph(self, graph: GraphProto, depth: int, versions: dict[str, int]) -> None:
        if depth > MAX_DEPTH:
            raise self._refuse(f"has graphs nested more than {MAX_DEPTH} deep")
        self._names("the graph", graph.name)
        for info in (*graph.input, *graph.output, *graph.value_info):
            self._info(info)
        for tensor in graph.initializer:
            self._tensor(tensor, tensor.name)
        for sparse in graph.sparse_initializer:
            self._sparse(sparse, sparse.values.name)
        for node in graph.node:
            self._node(node, depth, versions)

    def _function(self, function: FunctionProto) -> None:
        names = (function.name, function.domain, *function.input, *function.output, *function.attribute)
        self._names("a function", *names, *(o.domain for o in function.opset_import))
        versions = {plain_domain(o.domain): o.version for o in function.opset_import}
        for attribute in function.attribute_proto:
            self._attribute(attribute, f"function '{function.name}'", 0, versions)
        for node in function.node:
            self._node(node, 0, versions)

    def _node(self, node: NodeProto, depth: int, versions: dict[str, int]) -> None:
        self._names("a node", node.name, node.op_type, node.domain, *node.input, *node.output)
        of = f"node '{node.name or next(iter(node.output), node.op_type)}'"
        for attribute in node.attribute:
            self._attribute(attribute, of, depth, versions)
        domain = plain_domain(node.domain)
        for attribute in node.attribute if domain in _OF_ONNX else ():
            if attribute.name in _FLAGS and attribute.i not in (0, 1):
                raise self._refuse(f"{node.op_type} has {attribute.i} as '{attribute.name}', which is 0 or 1", of)
        needed, given = _required(node.op_type, versions.get(domain, 1), domain)
        for kind, positions, names in (("input", needed, node.input), ("output", given, node.output)):
            for position in positions:
                if position >= len(names) or not names[position]:
                    raise self._refuse(f"{node.op_type} has no {kind} {position}, which it needs", of)

    def _attribute(self, attribute: AttributeProto, of: str, depth: int, versions: dict[str, int]) -> None:
        self._names(of, attribute.name, attribute.ref_attr_name)
        for field, value in attribute.ListFields():
            if field.name in ("g", "graphs"):
                for graph in [value] if field.name == "g" else value:
                    self._graph(graph, depth + 1, versions)
            elif field.name in ("t", "tensors"):
                for tensor in [value] if field.name == "t" else value:
                    self._tensor(tensor, tensor.name or of)
            elif field.name in ("sparse_tensor", "sparse_tensors"):
                for sparse in [value] if field.name == "sparse_tensor" else value:
                    self._sparse(sparse, of)

    # --- tensors ----------------------------------------------------------------------------------------------------

    def _info(self, info: ValueInfoProto) -> None:
        self._names("the graph", info.name)
        kind = info.type.tensor_type
        of = f"tensor '{info.name}'"
        if kind.elem_type and kind.elem_type not in BITS:
            raise self._refuse(f"is of a type that onnx {onnx.__version__} does not know: {kind.elem_type}", of)
        if len(kind.shape.dim) > MAX_RANK:
            raise self._refuse(f"has {len(kind.shape.dim)} dimensions, more than {MAX_RANK}", of)
        self._names(of, *(d.dim_param for d in kind.shape.dim))

    def _fits_memory(self, info: ValueInfoProto) -> None:
        kind = info.type.tensor_type
        needed = math.prod(max(d.dim_value, 1) for d in kind.shape.dim) * BITS.get(kind.elem_type, 8) // 8
        self._within(needed, f"input '{info.name}'")

    def _within(self, needed: int, of: str) -> None:
        if needed > total_memory():
            there = size_text(total_memory())
            raise self._refuse(f"has a shape that takes {size_text(needed)}, and there are {there} of memory", of)

    def _tensor(self, tensor: TensorProto, name: str) -> None:
        """Its dims, its type and its data agree. Where data is in a file, that is checked when it is opened."""
        self._names("a tensor", tensor.name)
        of = f"tensor '{name}'"
        bits = BITS.get(tensor.data_type)
        if bits is None:
            raise self._refuse(f"is of a type that onnx {onnx.__version__} does not know: {tensor.data_type}", of)
        if len(tensor.dims) > MAX_RANK:
            raise self._refuse(f"has {len(tensor.dims)} dimensions, more than {MAX_RANK}", of)
        if any(d < 0 for d in tensor.dims):
            raise self._refuse(f"has a negative dimension: {_listed(tensor.dims)}", of)
        self._within(math.prod(max(d, 1) for d in tensor.dims) * max(bits, 8) // 8, of)
        if is_external(tensor):
            if reference(tensor) is not None:
                raise self._refuse("has data of a kind that only onnxprune itself gives", of)
            if tensor.data_type == TensorProto.STRING:
                raise self._refuse("is text, and has its data in a file", of)
            return
        count = math.prod(tensor.dims)
        has, wanted, unit = _held(tensor, bits, count)
        if has != wanted:
            raise self._refuse(f"has {has} {unit} of data, and its shape {_listed(tensor.dims)} asks for {wanted}", of)

    def _sparse(self, sparse: SparseTensorProto, name: str) -> None:
        self._tensor(sparse.values, name)
        self._tensor(sparse.indices, name)
        if any(d < 0 for d in sparse.dims) or len(sparse.dims) > MAX_RANK:
            raise self._refuse(f"has a shape that no tensor has: {_listed(sparse.dims)}", f"tensor '{name}'")
        self._within(math.prod(max(d, 1) for d in sparse.dims) * max(BITS[sparse.values.data_type], 8) // 8, name)

    # --- functions --------------------------------------------------------------------------------------------------

    def _calls(self, proto: ModelProto) -> None:
        """Functions do not call themselves, and written out they are of a size that can be looked at."""
        if not proto.functions:
            return
        own = {key_of(f): [call_of(n) for n in all_nodes(f.node)] for f in proto.functions}
        try:
            order = list(
                TopologicalSorter({k: [c for c in calls if c in own] for k, calls in own.items()}).static_order()
            )
        except CycleError as circle:
            raise self._refuse("calls itself", f"function '{circle.args[1][0][1]}'") from None
        size: dict[Key, int] = {}
        depth: dict[Key, int] = {}
        for key in order:
            size[key] = sum(size.get(c, 1) for c in own[key])
            depth[key] = 1 + max((depth[c] for c in own[key] if c in depth), default=0)
            if depth[key] > MAX_DEPTH:
                raise self._refuse(f"calls functions more than {MAX_DEPTH} deep", f"function '{key[1]}'")
        total = sum(size.get(call_of(n), 1) for n in all_nodes(proto.graph.node))
        if total > MAX_NODES:
            raise self._refuse(f"has {total:.3g} nodes with its functions written out, more than {MAX_NODES}")


def _held(tensor: TensorProto, bits: int, count: int) -> tuple[int, int, str]:
    """How much data there is, how much ``count`` elements of ``bits`` bits are, and in what that is counted."""
    if tensor.HasField("raw_data"):
        has = len(tensor.raw_data)
        return has, -(-count * bits // 8) if bits else has, "bytes"
    kind = TensorProto.DataType.Name(tensor.data_type)
    field = _FIELDS.get(kind, "int32_data")
    has = len(getattr(tensor, field))
    if field != "int32_data":
        return has, 2 * count if kind.startswith("COMPLEX") else count, "elements"
    packed = -(-count * bits // 8) if bits < 8 else count
    return has, packed if bits else has, "elements"


@cache
def _required(op: str, version: int, domain: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The positions of inputs and of outputs that an operator cannot do without; none of one that onnx knows not."""
    try:
        schema = onnx.defs.get_schema(op, version, domain)
    except (onnx.defs.SchemaError, TypeError, OverflowError):  # not a standard operator; a version out of all range
        return (), ()
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    inputs = tuple(i for i, formal in enumerate(schema.inputs) if formal.option == single)
    return inputs, (0,) if schema.outputs and schema.outputs[0].option == single else ()


def _listed(dims: Sequence[int]) -> str:
    return f"[{', '.join(map(str, dims))}]"
