"""An ONNX model as a value: its ModelProto, and the large constants that are kept out of it.

Reading goes through onnx-graphsurgeon: it gives nodes, tensors and attributes as Python values. Writing does not: an
onnx-graphsurgeon round trip loses metadata_props, the model's doc string and domain and quantization annotations, and
breaks models with nested subgraphs. So a rewrite is a set of `Edits` that are applied to a copy of the ModelProto,
and all that no edit names is byte for byte what it was. Large constants of a file are not in the ModelProto: see
`onnxprune.model.mapped_weights`.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from onnx import numpy_helper as nph

from onnxprune.errors import ModelError
from onnxprune.model.door.claims import check_claims
from onnxprune.model.door.external_data import is_external
from onnxprune.model.dtypes import FLOATS, NUMPY_FLOATS, dtype_of, item_bytes, to_tensor
from onnxprune.model.edits import IR_INITIALIZERS, Edits, apply
from onnxprune.model.graph import Graph, Shape
from onnxprune.model.graph_reader import read_graph
from onnxprune.model.mapped_weights import (
    Later,
    Stored,
    Value,
    Weight,
    constants_of,
    place,
    pour,
    raw,
    release,
    tensors_of,
)
from onnxprune.model.protobuf import join, reference
from onnxprune.model.sparse import dense

#: protobuf's limit for one message; larger models keep their weights in a file beside.
PROTO_LIMIT = 2**31 - 2**20

#: Operators of onnx's domain that onnxruntime runs at these opsets, and onnx refuses.
_ONLY_RUN = {
    "SimplifiedLayerNormalization": range(1, 1000),
    "LayerNormalization": range(1, 17),
    "GroupNormalization": range(18, 21),
}

#: The opset that brought Where.
_WHERE_SINCE = 9

#: Up to how many elements a constant is kept in a `skeleton`, where shape inference may read its value.
_SMALL = 4096


@dataclass(frozen=True)
class Gate:
    """Multiplies channels of a tensor with zero where ``mask`` is false.

    ``elem_type``: that of the tensor; ``zero``: its zero point, or the name of the constant that holds it.
    """

    mask: NDArray[np.bool_] = field(repr=False)
    elem_type: int
    zero: str | NDArray[Any] = ""


@dataclass(frozen=True)
class Model:
    """An ONNX model, which is never changed in place.

    ``weights``: the constants to which ``proto`` has only references. In a model that was read from a file these are
    all large constants; in one that was made in memory there are none.
    """

    proto: ModelProto = field(repr=False)
    path: Path | None = None
    weights: Mapping[str, Weight] = field(default_factory=dict, repr=False)

    @cached_property
    def constant_protos(self) -> dict[str, TensorProto]:
        """Initializers and tensors of Constant nodes by the names that the graph reads; sparse ones are made dense."""
        found = dict(constants_of(self.proto.graph))
        found.update((s.values.name, dense(s)) for s in self.proto.graph.sparse_initializer)
        for node in self.proto.graph.node:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                for attr in node.attribute:
                    if attr.name in ("value_int", "value_ints", "value_float", "value_floats"):
                        value = helper.get_attribute_value(attr)
                        dtype = np.int64 if "int" in attr.name else np.float32
                        found[node.output[0]] = nph.from_array(np.asarray(value, dtype))
        return found

    def array(self, name: str) -> NDArray[Any]:
        """The value of constant ``name``."""
        return self.weights[name].array if name in self.weights else nph.to_array(self.constant_protos[name])

    def changed(self, name: str, shape: Shape, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Value:
        """Constant ``name``, an array of ``shape``, after ``change``; a large constant is changed when it is read."""
        if name in self.weights:
            return Later(shape, self.weights[name].dtype, lambda: change(self.array(name)))
        return change(self.array(name))

    def not_a_number(self) -> str | None:
        """The name of the first constant that holds a NaN. Infinity is no error: masks are made of it."""
        floats = ((n, self.array(n)) for n, t in self.constant_protos.items() if t.data_type in FLOATS)
        return next((n for n, a in floats if a.size and np.isnan(a.max())), None)

    @cached_property
    def graph(self) -> Graph:
        """The graph as plain values."""
        return read_graph(self.proto, self.constant_protos)

    @cached_property
    def defaults(self) -> set[str]:
        """The initializers that are graph inputs too."""
        return {i.name for i in self.proto.graph.input} & set(self.constant_protos)

    @property
    def overridable(self) -> set[str]:
        """The initializers that a caller may replace by feeding an input of that name.

        None before IR 4, where every initializer had to be an input too.
        """
        return self.defaults if self.proto.ir_version >= IR_INITIALIZERS else set()

    def at_free_initializers(self) -> Model:
        """The model at IR 4 or later, where a new initializer does not have to be an input."""
        if self.proto.ir_version >= IR_INITIALIZERS:
            return self
        out = ModelProto()
        out.CopyFrom(self.proto)
        out.ir_version = IR_INITIALIZERS
        return Model(out, self.path, self.weights)

    @cached_property
    def sha256(self) -> str:
        """Hash of the file, or, where there is none, of the serialized model."""
        digest = hashlib.sha256()
        if self.path is None:
            for piece in self.pieces():
                digest.update(piece)
        else:
            with self.path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()

    @property
    def opset(self) -> int:
        """The opset version of the standard domain, 1 where the file does not name it."""
        return next((int(o.version) for o in self.proto.opset_import if o.domain in ("", "ai.onnx")), 1)

    @cached_property
    def byte_size(self) -> int:
        """Bytes of the model with all its weights, as one message."""
        if not self.weights and weight_bytes(self.proto) >= PROTO_LIMIT:
            return int(self.proto.ByteSize())
        sizes = self._sizes
        return sum(sizes[p] if isinstance(p, str) else len(p) for p in join(self._serialized(), sizes))

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The serialized model with all its weights, one piece at a time."""
        for piece in join(self._serialized(), self._sizes):
            yield raw(self.weights[piece].array) if isinstance(piece, str) else piece

    def _serialized(self) -> bytes:
        return bytes(self.proto.SerializeToString(deterministic=True))

    @property
    def _sizes(self) -> dict[str, int]:
        return {n: w.nbytes for n, w in self.weights.items()}

    def apply(self, edits: Edits) -> Model:
        """The model with ``edits``; this one stays as it is."""
        if not edits:
            return self
        proto, weights = apply(self.proto, self.weights, edits)
        return Model(proto, None, weights)

    def reordered(self, order: Sequence[int]) -> Model:
        """A copy whose nodes are in another ``order``, given by their positions in this one."""
        out = ModelProto()
        out.CopyFrom(self.proto)
        del out.graph.node[:]
        out.graph.node.extend(self.proto.graph.node[index] for index in order)
        return Model(out, self.path, self.weights)

    def gated(self, gates: Mapping[str, Gate], reads: Mapping[int, Sequence[int]]) -> Model:
        """A copy in which tensors pass through their gate where the nodes in ``reads`` read them.

        ``reads``: {node: input positions}.
        """
        out = ModelProto()
        out.CopyFrom(self.proto)
        del out.graph.node[:]
        done: set[str] = set()
        chooses = self.opset >= _WHERE_SINCE
        for index, node in enumerate(self.proto.graph.node):
            names = [node.input[p] for p in reads.get(index, ())]
            for name in names:
                if name not in done:
                    done.add(name)
                    zero, kind = gates[name].zero, gates[name].elem_type
                    if isinstance(zero, str) and not zero and chooses and kind in NUMPY_FLOATS:
                        zero = np.zeros((), dtype_of(kind))  # infinity * 0 is no 0
                    if not isinstance(zero, str):
                        out.graph.initializer.append(to_tensor(zero, f"{name}__zero", kind))
                        zero = f"{name}__zero"
                    kind = TensorProto.BOOL if zero else kind
                    mask = gates[name].mask.astype(dtype_of(kind))
                    out.graph.initializer.append(to_tensor(mask, f"{name}__gate", kind))
                    op, inputs = ("Where", [f"{name}__gate", name, zero]) if zero else ("Mul", [name, f"{name}__gate"])
                    out.graph.node.append(helper.make_node(op, inputs, [f"{name}__gated"]))
            copy = out.graph.node.add()
            copy.CopyFrom(node)
            for position, name in zip(reads.get(index, ()), names, strict=True):
                copy.input[position] = f"{name}__gated"
        return Model(out, self.path, self.weights)

    def placed(self, spool: Path, root: Path) -> ModelProto:
        """A copy in which references are external data: in the files where they lie, or, if computed, in ``spool``.

        Locations are relative to ``root``. Raises OSError.
        """
        out = ModelProto()
        out.CopyFrom(self.proto)
        where = {n: (w.path, w.offset, w.nbytes) for n, w in self.weights.items() if isinstance(w, Stored)}
        later = {n: w for n, w in self.weights.items() if n not in where}
        where.update((n, (spool, *at)) for n, at in (pour(later, spool) if later else {}).items())
        release(self.weights.values())
        for _, tensor in constants_of(out.graph):
            name = reference(tensor)
            if name is not None:
                path, offset, length = where[name]
                place(tensor, Path(os.path.relpath(path, root)).as_posix(), offset, length)
        return out

    def skeleton(self, input_shapes: Mapping[str, Shape] | None = None) -> ModelProto:
        """A copy without weights, for inference and checks: large ones became graph inputs.

        With ``input_shapes``, these are filled in, and declared shapes of intermediate tensors and outputs left out, as
        they may hold symbols; without, all declarations are as they are.
        """
        source = self.proto.graph
        # Before IR 4 every initializer had to be a graph input too, which large ones are here and others need not be.
        out = ModelProto(ir_version=max(self.proto.ir_version, IR_INITIALIZERS), functions=self.proto.functions)
        out.opset_import.extend(self.proto.opset_import)
        out.graph.name = source.name or "graph"
        large = {n: None for n, t in self.constant_protos.items() if n in self.weights or element_count(t) > _SMALL}
        if input_shapes is None:
            out.graph.input.extend(i for i in source.input if i.name not in self.constant_protos)
            out.graph.output.extend(source.output)
            out.graph.value_info.extend(source.value_info)
        else:
            out.graph.input.extend(i for i in source.input if not i.type.HasField("tensor_type"))
            for info in self.graph.inputs:
                if info.elem_type:
                    dims = input_shapes.get(info.name, info.dims)
                    out.graph.input.append(helper.make_tensor_value_info(info.name, info.elem_type, dims))
            for info in self.graph.outputs:
                out.graph.output.append(helper.make_tensor_value_info(info.name, info.elem_type, None))
        for name in large:
            tensor = self.constant_protos[name]
            out.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
        out.graph.initializer.extend(t for t in source.initializer if t.name not in large)
        stored = (s.values.name for s in source.sparse_initializer if s.values.name not in large)
        out.graph.initializer.extend(self.constant_protos[n] for n in stored)
        out.graph.node.extend(n for n in source.node if not (n.op_type == "Constant" and n.output[0] in large))
        return out


def weight_bytes(proto: ModelProto) -> int:
    """Bytes of the initializers by their dims: unlike ByteSize, this does not serialize the model."""
    return sum(item_bytes(t.data_type) * element_count(t) for t in proto.graph.initializer)


def element_count(tensor: TensorProto) -> int:
    """Number of elements that ``tensor`` declares."""
    return math.prod(tensor.dims)


def from_proto(proto: ModelProto) -> Model:
    """A checked model from a ModelProto, which is copied. Raises ModelError where it is not valid."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    check_claims(copy, "model")
    elsewhere = next((t.name for t in tensors_of(copy) if is_external(t)), None)
    if elsewhere is not None:
        hint = "give the path of the file, or load it with its data"
        raise ModelError(
            "has its data in a file, and the model has none", where=f"model, tensor '{elsewhere}'", hint=hint
        )
    check(copy, "model")
    return Model(copy)


def check(proto: ModelProto, where: str, *, full: bool = False) -> None:
    """onnx.checker's verdict on a model as a ModelError; of one over protobuf's limit, on its `skeleton`."""
    try:
        small = proto if weight_bytes(proto) < PROTO_LIMIT else Model(proto).skeleton()
        onnx.checker.check_model(_known_to_onnx(small), full_check=full)
    except Exception as error:  # noqa: BLE001 (the checker raises several types)
        reason = str(error).split("==> Context")[0]
        raise ModelError(
            f"onnx.checker refuses the model: {reason}", where=where, hint="export it again or repair it first"
        ) from None


def _known_to_onnx(proto: ModelProto) -> ModelProto:
    """The model with operators that onnxruntime runs, and onnx refuses in its own domain, in another one.

    onnxruntime's optimizer writes SimplifiedLayerNormalization and, before opset 17, LayerNormalization there. The
    first GroupNormalization was taken back.
    """
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    foreign = {op for op, versions in _ONLY_RUN.items() if opset in versions}
    places = [i for i, n in enumerate(proto.graph.node) if n.domain in ("", "ai.onnx") and n.op_type in foreign]
    if not places:
        return proto
    copy = ModelProto()
    copy.CopyFrom(proto)
    for index in places:
        copy.graph.node[index].domain = "com.microsoft"
    if "com.microsoft" not in {o.domain for o in copy.opset_import}:
        copy.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return copy
