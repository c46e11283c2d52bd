"""The only door to files, ModelProto and onnx-graphsurgeon.

Reading goes through onnx-graphsurgeon: it gives nodes, tensors and attributes as Python values. Writing does not: an
onnx-graphsurgeon round trip loses metadata_props, the model's doc string and domain and quantization annotations, and
breaks models with nested subgraphs. So a rewrite is a set of `Edits` that are applied to a copy of the ModelProto,
and all that no edit names is byte for byte what it was.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
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
from onnx import ModelProto, TensorProto, ValueInfoProto, external_data_helper, helper
from onnx import numpy_helper as nph

from onnxprune.edits import Edits, apply, captured
from onnxprune.elements import dtype_of, item_bytes, to_tensor
from onnxprune.errors import ModelError, OutputError
from onnxprune.graph import Graph, Node, Shape, TensorInfo

#: protobuf's limit for one message; larger models keep their weights in a file beside.
PROTO_LIMIT = 2**31 - 2**20

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}

#: What is not whole yet has a name of this prefix.
_STAGE = ".onnxprune."

#: Up to how many elements a constant is kept in a `skeleton`, where shape inference may read its value.
_SMALL = 4096


@dataclass(frozen=True)
class Gate:
    """What zeroes channels where ``mask`` is false: a factor of type ``elem_type``, or the name of a zero point."""

    mask: NDArray[np.bool_] = field(repr=False)
    elem_type: int
    zero: str = ""


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

    def not_a_number(self) -> str | None:
        """The first constant that holds a NaN. Infinity is no error: masks are made of it."""
        floats = {n: self.array(n) for n, t in self.constant_protos.items() if t.data_type in _FLOATS}
        return next((n for n, a in floats.items() if a.size and np.isnan(a.max())), None)

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

    @cached_property
    def byte_size(self) -> int:
        """Bytes of the model with all its weights, as one message."""
        if weight_bytes(self.proto) >= PROTO_LIMIT:
            return int(self.proto.ByteSize())
        return len(self.proto.SerializeToString())  # several times faster than ByteSize

    def apply(self, edits: Edits) -> Model:
        """The model with ``edits``; this one stays as it is."""
        return Model(apply(self.proto, edits)) if edits else self

    def gated(self, gates: Mapping[str, Gate], reads: Mapping[int, Sequence[int]]) -> ModelProto:
        """A copy in which tensors go through their gate where they are read, at {node: input positions}."""
        out = ModelProto()
        out.CopyFrom(self.proto)
        del out.graph.node[:]
        done: set[str] = set()
        for index, node in enumerate(self.proto.graph.node):
            names = [node.input[p] for p in reads.get(index, ())]
            for name in names:
                if name not in done:
                    done.add(name)
                    zero = gates[name].zero
                    kind = TensorProto.BOOL if zero else gates[name].elem_type
                    mask = gates[name].mask.astype(dtype_of(kind))
                    out.graph.initializer.append(to_tensor(mask, f"{name}__gate", kind))
                    op, inputs = ("Where", [f"{name}__gate", name, zero]) if zero else ("Mul", [name, f"{name}__gate"])
                    out.graph.node.append(helper.make_node(op, inputs, [f"{name}__gated"]))
            copy = out.graph.node.add()
            copy.CopyFrom(node)
            for position, name in zip(reads.get(index, ()), names, strict=True):
                copy.input[position] = f"{name}__gated"
        return out

    def skeleton(self, input_shapes: Mapping[str, Shape] | None = None) -> ModelProto:
        """A copy without weights, for inference and checks: large ones became graph inputs.

        With ``input_shapes``, these are filled in, and declared shapes of intermediate tensors and outputs left out, as
        they may hold symbols; without, all declarations are as they are.
        """
        source = self.proto.graph
        # Before IR 4 every initializer had to be a graph input too, which large ones are here and others need not be.
        out = ModelProto(ir_version=max(self.proto.ir_version, 4), functions=self.proto.functions)
        out.opset_import.extend(self.proto.opset_import)
        out.graph.name = source.name or "graph"
        large = [n for n, t in self.constant_protos.items() if element_count(t) > _SMALL]
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
        left = set(large)
        out.graph.initializer.extend(t for t in source.initializer if t.name not in left)
        out.graph.sparse_initializer.extend(source.sparse_initializer)
        out.graph.node.extend(n for n in source.node if not (n.op_type == "Constant" and n.output[0] in left))
        return out


def weight_bytes(proto: ModelProto) -> int:
    """Bytes of the initializers by their dims: unlike ByteSize, this does not serialize the model."""
    return sum(item_bytes(t.data_type) * element_count(t) for t in proto.graph.initializer)


def element_count(tensor: TensorProto) -> int:
    """Number of elements that ``tensor`` declares."""
    return math.prod(tensor.dims)


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
    if not proto.graph.node and not proto.graph.output:
        raise ModelError("not an ONNX model: it has no graph", where=str(path), hint="export or copy it again")
    external = _load_external(proto, path)
    check(proto if external else data, str(path))
    return Model(proto, path)


def from_proto(proto: ModelProto) -> Model:
    """A checked model from a ModelProto, which is copied. Raises ModelError where it is not valid."""
    copy = ModelProto()
    copy.CopyFrom(proto)
    check(copy, "model")
    return Model(copy)


def check(proto: ModelProto | bytes, where: str, *, full: bool = False) -> None:
    """onnx.checker's verdict on a model, or on one that is serialized already, as a ModelError."""
    try:
        if isinstance(proto, bytes) or weight_bytes(proto) < PROTO_LIMIT:
            onnx.checker.check_model(proto, full_check=full)
    except Exception as error:  # noqa: BLE001 (the checker raises several types)
        reason = str(error).split("==> Context")[0]
        raise ModelError(
            f"onnx.checker refuses the model: {reason}", where=where, hint="export it again or repair it first"
        ) from None


def write(files: Mapping[Path, Model | str], *, external: bool = False) -> None:
    """Write models and texts, all of them or none: beside their places first, then renamed.

    With ``external``, or over protobuf's limit, the weights of ``<name>`` go to ``<name>.data`` beside it. Raises
    OutputError.
    """
    with contextlib.ExitStack() as folders:
        staged: list[tuple[Path, Path]] = []
        for path, content in files.items():
            with _writing(path):
                folder = Path(folders.enter_context(tempfile.TemporaryDirectory(prefix=_STAGE, dir=path.parent)))
                _stage(content, folder / path.name, external=external)
                staged += [(file, path.with_name(file.name)) for file in sorted(folder.iterdir(), reverse=True)]
        for source, target in staged:
            with _writing(target):
                source.replace(target)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "choose another path or free space"
        raise OutputError(f"cannot write: {error.strerror or error}", where=str(path), hint=hint) from None


def _stage(content: Model | str, path: Path, *, external: bool) -> None:
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif external or weight_bytes(content.proto) >= PROTO_LIMIT:
        proto = ModelProto()
        proto.CopyFrom(content.proto)
        onnx.save(proto, path, save_as_external_data=True, location=f"{path.name}.data")
    else:
        onnx.save(content.proto, path)


def ensure_writable(paths: Sequence[Path], *, keep: Path) -> None:
    """Raise OutputError now, not after minutes of work, where a path cannot be written, or is ``keep`` or another."""
    for index, path in enumerate(paths):
        if path.resolve() == keep.resolve():
            raise OutputError("is the model itself, which stays as it is", where=str(path), hint="name another file")
        if path.resolve() in [p.resolve() for p in paths[:index]]:
            raise OutputError("is named twice as an output", where=str(path), hint="name another file")
        with _writing(path), tempfile.NamedTemporaryFile(prefix=_STAGE, dir=path.parent):
            pass
        if path.is_dir():
            raise OutputError("is a folder", where=str(path), hint="name a file")


def _load_external(proto: ModelProto, path: Path) -> bool:
    """Take external data into the message. Returns whether there is any."""
    folder = path.parent.resolve()
    found = False
    for tensor in external_data_helper._get_all_tensors(proto):  # noqa: SLF001 (the library offers no public walk)
        if not external_data_helper.uses_external_data(tensor):
            continue
        found = True
        location = external_data_helper.ExternalDataInfo(tensor).location
        file = (folder / location).resolve()
        where = f"{path}, tensor '{tensor.name}'"
        if not file.is_relative_to(folder):
            hint = "move the data beside the model"
            raise ModelError(f"external data outside the model's folder: {location}", where=where, hint=hint)
        if not file.is_file():
            raise ModelError(f"external data is missing: {location}", where=where, hint="copy it beside the model")
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except Exception as error:  # noqa: BLE001 (onnx raises several types)
            raise ModelError(f"cannot read external data: {location}: {error}", where=where, hint=_AGAIN) from None
        tensor.ClearField("data_location")
        del tensor.external_data[:]
        expected = element_count(tensor) * item_bytes(tensor.data_type)
        if len(tensor.raw_data) < expected and tensor.data_type not in _PACKED:
            raise ModelError(f"external data is too short: {location}", where=where, hint=_AGAIN)
    return found


_AGAIN = "copy it again"

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
            captured=captured(proto.graph.node[index]),
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
