"""The only door to files, ModelProto and onnx-graphsurgeon.

Reading goes through onnx-graphsurgeon: it gives nodes, tensors and attributes as Python values. Writing does not: an
onnx-graphsurgeon round trip loses metadata_props, the model's doc string and domain and quantization annotations, and
breaks models with nested subgraphs. So a rewrite is a set of `Edits` that are applied to a copy of the ModelProto,
and all that no edit names is byte for byte what it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, ValueInfoProto, external_data_helper, helper
from onnx import numpy_helper as nph

from onnxprune.errors import ModelError, OutputError
from onnxprune.graph import Graph, Node, Shape, TensorInfo

#: protobuf's limit for one message; larger models keep their weights in a file beside.
PROTO_LIMIT = 2**31 - 2**20

#: Up to how many elements a constant is kept in a `skeleton`, where shape inference may read its value.
_SMALL = 4096


@dataclass(frozen=True)
class Edits:
    """Changes to a model. Node positions are those of ``Graph.nodes``; names are those of the graph.

    ``constants`` replaces values (initializers or Constant nodes) and may change shapes; ``added`` are new
    initializers; ``attrs`` sets attributes of a node (None removes one); ``inputs`` and ``outputs`` rewire positions
    of a node; ``removed`` drops nodes; ``shapes`` corrects declared dims as {tensor: {axis: size}}.
    """

    constants: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    added: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    attrs: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    inputs: Mapping[int, Mapping[int, str]] = field(default_factory=dict)
    outputs: Mapping[int, Mapping[int, str]] = field(default_factory=dict)
    removed: frozenset[int] = frozenset()
    shapes: Mapping[str, Mapping[int, int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any((self.constants, self.added, self.attrs, self.inputs, self.outputs, self.removed, self.shapes))


@dataclass(frozen=True)
class Model:
    """An ONNX model in memory, external data included; never changed in place."""

    proto: ModelProto = field(repr=False)
    path: Path | None = None

    @cached_property
    def constant_protos(self) -> dict[str, TensorProto]:
        """Initializers and the tensors of Constant nodes, by the name that the graph reads them under."""
        found = {t.name: t for t in self.proto.graph.initializer}
        for node in self.proto.graph.node:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                for attr in node.attribute:
                    if attr.name == "value":
                        found[node.output[0]] = attr.t
                    elif attr.name in ("value_int", "value_ints", "value_float", "value_floats"):
                        value = helper.get_attribute_value(attr)
                        dtype = np.int64 if "int" in attr.name else np.float32
                        found[node.output[0]] = nph.from_array(np.asarray(value, dtype))
        return found

    def array(self, name: str) -> NDArray[Any]:
        """The value of constant ``name``."""
        return nph.to_array(self.constant_protos[name])

    @cached_property
    def graph(self) -> Graph:
        """The graph as plain values."""
        return _read_graph(self)

    @cached_property
    def sha256(self) -> str:
        """Hash of the file, or of the serialized model where there is no file."""
        digest = hashlib.sha256()
        if self.path is None:
            digest.update(self.proto.SerializeToString(deterministic=True))
        else:
            with self.path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return next((o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx")), 0)

    def byte_size(self) -> int:
        """Bytes of the model with all its weights."""
        return int(self.proto.ByteSize())

    def apply(self, edits: Edits) -> Model:
        """The model with ``edits``; this one stays as it is."""
        return Model(_apply(self.proto, edits)) if edits else self

    def gated(self, gates: Mapping[str, NDArray[Any]], reads: Mapping[int, Sequence[int]]) -> ModelProto:
        """A copy in which tensors are multiplied with 0/1 masks where they are read.

        ``gates``: mask by tensor name, of the tensor's type; ``reads``: {node: input positions} to gate.
        """
        out = ModelProto()
        out.CopyFrom(self.proto)
        names = {name: f"{name}__gated" for name in gates}
        nodes = []
        done: set[str] = set()
        for index, node in enumerate(out.graph.node):
            for position in reads.get(index, ()):
                name = node.input[position]
                if name in gates and name not in done:
                    done.add(name)
                    out.graph.initializer.append(nph.from_array(np.ascontiguousarray(gates[name]), f"{name}__gate"))
                    nodes.append(helper.make_node("Mul", [name, f"{name}__gate"], [names[name]]))
                node.input[position] = names.get(name, name)
            nodes.append(node)
        copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
        del out.graph.node[:]
        out.graph.node.extend(copies)
        return out

    def skeleton(self, input_shapes: Mapping[str, Shape]) -> ModelProto:
        """A copy for shape inference: large weights became graph inputs, ``input_shapes`` are filled in.

        Declared shapes of intermediate tensors and outputs are left out: they may hold symbols.
        """
        source = self.proto.graph
        out = ModelProto(ir_version=self.proto.ir_version, functions=self.proto.functions)
        out.opset_import.extend(self.proto.opset_import)
        out.graph.name = source.name or "graph"
        for info in self.graph.inputs:
            dims = input_shapes.get(info.name, info.dims)
            out.graph.input.append(helper.make_tensor_value_info(info.name, info.elem_type, dims))
        large = {n for n, t in self.constant_protos.items() if element_count(t) > _SMALL}
        for name in large:
            tensor = self.constant_protos[name]
            out.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
        out.graph.initializer.extend(t for t in source.initializer if t.name not in large)
        out.graph.node.extend(n for n in source.node if not (n.op_type == "Constant" and n.output[0] in large))
        for tensor_info in self.graph.outputs:
            out.graph.output.append(helper.make_tensor_value_info(tensor_info.name, tensor_info.elem_type, None))
        return out


def element_count(tensor: TensorProto) -> int:
    """Number of elements that ``tensor`` declares."""
    return int(np.prod(tensor.dims, dtype=np.int64))


def load(path: str | os.PathLike[str]) -> Model:
    """Read and check a model, external data included.

    Raises ModelError where the file is missing, is not ONNX, fails onnx.checker, or names external data that is
    missing, too short, or outside the model's folder.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the model: {error.strerror}", where=str(path)) from None
    proto = ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception:  # noqa: BLE001 (protobuf's DecodeError has no public home in all versions)
        raise ModelError("not an ONNX file, or truncated", where=str(path), hint="export or copy it again") from None
    del data
    if not proto.graph.node and not proto.graph.output:
        raise ModelError("not an ONNX model: it has no graph", where=str(path), hint="export or copy it again")
    _load_external(proto, path)
    check(proto, str(path))
    return Model(proto, path)


def from_proto(proto: ModelProto) -> Model:
    """A checked model from a ModelProto, which is copied. Raises ModelError where it is not valid."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    check(copy, "model")
    return Model(copy)


def check(proto: ModelProto, where: str, *, full: bool = False) -> None:
    """onnx.checker's verdict, as a ModelError."""
    try:
        if proto.ByteSize() < PROTO_LIMIT:
            onnx.checker.check_model(proto, full_check=full)
    except Exception as error:  # noqa: BLE001 (the checker raises several types)
        reason = str(error).split("==> Context")[0]
        raise ModelError(
            f"onnx.checker refuses the model: {reason}", where=where, hint="export it again or repair it first"
        ) from None


def save(model: Model, path: Path, *, external: bool) -> None:
    """Write ``model`` to ``path`` whole or not at all: beside it first, then renamed.

    With ``external``, or over protobuf's limit, weights go to ``<name>.data`` beside it. Raises OutputError.
    """
    external = external or model.byte_size() >= PROTO_LIMIT
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            staged = Path(folder) / path.name
            proto = model.proto
            if external:
                proto = ModelProto()
                proto.CopyFrom(model.proto)
                onnx.save(proto, staged, save_as_external_data=True, location=f"{path.name}.data")
                data = staged.with_name(f"{path.name}.data")
                if data.exists():  # no tensor was large enough to leave the file
                    data.replace(path.with_name(data.name))
            else:
                onnx.save(proto, staged)
            staged.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from None


def write_text(path: Path, text: str) -> None:
    """Write a small file whole or not at all. Raises OutputError."""
    try:
        staged = path.with_name(f".{path.name}.tmp")
        try:
            staged.write_text(text, encoding="utf-8")
            staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from None


def ensure_writable(path: Path, *, keep: Path) -> None:
    """Raise OutputError now, not after minutes of work, where ``path`` cannot be written or is ``keep``."""
    if path.resolve() == keep.resolve():
        raise OutputError("is the model itself, which stays as it is", where=str(path), hint="name another file")
    try:
        with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent):
            pass
    except OSError as error:
        raise _cannot_write(path, error) from None
    if path.is_dir():
        raise OutputError("is a folder", where=str(path), hint="name a file")


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"cannot write: {error.strerror or error}", where=str(path), hint="choose another path or free space"
    )


def _load_external(proto: ModelProto, path: Path) -> None:
    folder = path.parent.resolve()
    for tensor in external_data_helper._get_all_tensors(proto):  # noqa: SLF001 (the library offers no public walk)
        if not external_data_helper.uses_external_data(tensor):
            continue
        location = external_data_helper.ExternalDataInfo(tensor).location
        file = (folder / location).resolve()
        if not file.is_relative_to(folder):
            hint = "move the data beside the model"
            raise ModelError(
                f"external data outside the model's folder: {location}",
                where=f"{path}, tensor '{tensor.name}'",
                hint=hint,
            )
        if not file.is_file():
            raise ModelError(
                f"external data is missing: {location}",
                where=f"{path}, tensor '{tensor.name}'",
                hint="copy it beside the model",
            )
        external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        tensor.data_location = TensorProto.DEFAULT
        del tensor.external_data[:]
        expected = element_count(tensor) * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        if len(tensor.raw_data) < expected and tensor.data_type not in _PACKED:
            raise ModelError(
                f"external data is too short: {location}", where=f"{path}, tensor '{tensor.name}'", hint="copy it again"
            )


#: Element types that take less than a byte each.
_PACKED = {getattr(TensorProto, n) for n in ("INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2") if hasattr(TensorProto, n)}


@contextlib.contextmanager
def _quiet_graphsurgeon() -> Iterator[Any]:
    """onnx-graphsurgeon, without its log lines."""
    import onnx_graphsurgeon as gs  # noqa: PLC0415 (heavy: only where it is used)
    from onnx_graphsurgeon.logger import G_LOGGER  # noqa: PLC0415

    before = G_LOGGER.severity
    G_LOGGER.severity = G_LOGGER.CRITICAL
    try:
        yield gs
    finally:
        G_LOGGER.severity = before


def _read_graph(model: Model) -> Graph:
    proto = model.proto
    with _quiet_graphsurgeon() as gs:
        parsed = gs.import_onnx(proto)
    versions = {o.domain or "ai.onnx": o.version for o in proto.opset_import}
    nodes = tuple(
        Node(
            index=index,
            name=node.name,
            op=node.op,
            domain="" if node.domain in (None, "ai.onnx") else node.domain,
            version=versions.get(node.domain or "ai.onnx", 1),
            inputs=tuple(t.name for t in node.inputs),
            outputs=tuple(t.name for t in node.outputs),
            attrs=node.attrs,
            captured=_captured(proto.graph.node[index]),
        )
        for index, node in enumerate(parsed.nodes)
    )
    constants = {n: (t.data_type, tuple(t.dims)) for n, t in model.constant_protos.items()}
    return Graph(
        nodes=nodes,
        inputs=tuple(_tensor_info(i) for i in proto.graph.input if i.name not in constants),
        outputs=tuple(_tensor_info(o) for o in proto.graph.output),
        constants=constants,
    )


def _tensor_info(info: ValueInfoProto) -> TensorInfo:
    kind = info.type.tensor_type
    if not info.type.HasField("tensor_type"):
        return TensorInfo(info.name, 0, None)
    dims = tuple(
        d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim
    )  # exporters write -1 or 0 for dynamic
    return TensorInfo(info.name, kind.elem_type, dims if kind.HasField("shape") else None)


def _captured(node: onnx.NodeProto) -> tuple[str, ...]:
    """Names that the node's subgraphs read from outside of themselves, in order of first use."""
    found: dict[str, None] = {}
    for attr in node.attribute:
        for graph in (*([attr.g] if attr.type == AttributeProto.GRAPH else []), *attr.graphs):
            found.update(dict.fromkeys(_free_names(graph)))
    return tuple(found)


def _free_names(graph: GraphProto) -> Iterator[str]:
    bound = {i.name for i in graph.input} | {t.name for t in graph.initializer}
    for node in graph.node:
        yield from (n for n in (*node.input, *_captured(node)) if n and n not in bound)
        bound.update(node.output)
    yield from (o.name for o in graph.output if o.name not in bound)


def _apply(source: ModelProto, edits: Edits) -> ModelProto:
    out = ModelProto()
    _copy_fields(source, out, {"graph"})
    graph = out.graph
    _copy_fields(source.graph, graph, {"initializer", "node"})
    for index, node in enumerate(source.graph.node):
        if index not in edits.removed:
            copy = graph.node.add()
            copy.CopyFrom(node)
            _edit_node(copy, index, edits)
    unread = _read_names(source.graph) - _read_names(graph)  # the edits took their last reader
    for tensor in source.graph.initializer:
        if tensor.name in edits.constants and tensor.name not in unread:
            _fill(graph.initializer.add(), tensor, edits.constants[tensor.name])
        elif tensor.name not in unread:
            graph.initializer.add().CopyFrom(tensor)
    graph.initializer.extend(nph.from_array(np.ascontiguousarray(v), n) for n, v in edits.added.items())
    _edit_declarations(graph, source.graph, edits)
    return out


def _copy_fields(source: Any, target: Any, leave: set[str]) -> None:
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
    return {n for node in graph.node for n in (*node.input, *_captured(node))} | {o.name for o in graph.output}


def _fill(target: TensorProto, like: TensorProto, value: NDArray[Any]) -> None:
    """``target`` := ``value``, with the name, doc string and data type of ``like``."""
    target.CopyFrom(nph.from_array(np.ascontiguousarray(value), like.name))
    if like.doc_string:
        target.doc_string = like.doc_string
    target.data_type = like.data_type


def _edit_node(node: onnx.NodeProto, index: int, edits: Edits) -> None:
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
        _fill(tensor, like if like is not None else nph.from_array(value), value)
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
