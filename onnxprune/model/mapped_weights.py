"""Large constants, kept out of the ModelProto: they stay in a mapped file, or are computed when they are read.

Pages of a mapped file enter memory when they are read, and may leave it again. A `Later` is in memory only while it is
used. So neither reading a model nor cutting it copies its weights.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, helper

from onnxprune.errors import ModelError
from onnxprune.file_system.regular_file import ensure_regular
from onnxprune.model.door.external_data import below, is_external, place_of
from onnxprune.model.dtypes import BITS
from onnxprune.model.nested import all_nodes, graphs_of
from onnxprune.model.protobuf import OWN, refer, reference

#: Constants of more bytes are kept out of the message.
INLINE = 1024

#: Where the data of a constant begins in a file of weights: at a multiple of this.
ALIGNMENT = 64

_NOT_NUMPY = ("BFLOAT16", "FLOAT8", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2", "STRING", "UNDEFINED")

#: Element types that numpy has: their bytes are an array.
_NUMPY = {v for n, v in TensorProto.DataType.items() if not n.startswith(_NOT_NUMPY)}

_HINT = "copy it again"


@dataclass(frozen=True)
class Stored:
    """A constant where it lies in a file. ``array`` is a view of the mapped file."""

    array: NDArray[Any] = field(repr=False)
    path: Path
    offset: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """Its element type."""
        return self.array.dtype

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.array.nbytes


@dataclass(frozen=True)
class Later:
    """A constant that ``make`` computes each time it is read: an array of ``shape`` and ``dtype``."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    make: Callable[[], NDArray[Any]] = field(repr=False)

    @property
    def array(self) -> NDArray[Any]:
        """The value, computed."""
        return self.make()

    @property
    def nbytes(self) -> int:
        """Its size."""
        return prod(self.shape) * self.dtype.itemsize


Weight = Stored | Later

#: What constants are replaced by.
Value = NDArray[Any] | Later


def value_of(value: Value) -> NDArray[Any]:
    """The array."""
    return value.array if isinstance(value, Later) else value


def as_later(value: Value) -> Later:
    """An array, as one that is computed already."""
    return value if isinstance(value, Later) else Later(value.shape, value.dtype, lambda: value)


def own_data(tensor: TensorProto) -> Later:
    """The raw_data of ``tensor``."""
    return Later((len(tensor.raw_data),), np.dtype(np.uint8), lambda: np.frombuffer(tensor.raw_data, np.uint8))


def is_held(tensor: TensorProto, nbytes: int) -> bool:
    """Whether a constant like ``tensor``, of ``nbytes``, is kept out of the message."""
    return nbytes > INLINE and tensor.data_type in _NUMPY


def raw(array: NDArray[Any]) -> memoryview:
    """The bytes of ``array`` as raw_data holds them, little-endian; a contiguous array is not copied."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return little.reshape(-1).view(np.uint8).data


def map_file(path: Path) -> NDArray[np.uint8]:
    """Map a file into memory. Raises OSError."""
    ensure_regular(path)
    if path.stat().st_size == 0:
        path.read_bytes()
        return np.zeros(0, np.uint8)
    return np.memmap(path, np.uint8, "r").view(np.ndarray)


def release(weights: Iterable[Weight]) -> None:
    """Let the pages of mapped files leave memory; they come back when they are read."""
    advice = getattr(mmap, "MADV_DONTNEED", None)
    for memory in {id(m): m for w in weights if isinstance(w, Stored) and (m := _mapping(w.array))}.values():
        if advice is not None:
            memory.madvise(advice)


def _mapping(array: Any) -> mmap.mmap | None:
    """What a view looks into."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array if isinstance(array, mmap.mmap) else None


def constants_of(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """Initializers, and the tensors of Constant nodes, by the name that the graph reads them under."""
    yield from ((t.name, t) for t in graph.initializer)
    for node in graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            yield from ((node.output[0], a.t) for a in node.attribute if a.name == "value")


def tensors_of(proto: ModelProto) -> Iterator[TensorProto]:
    """Every tensor of a model: of its graphs, of the nodes in them and of its functions."""
    nodes = [proto.graph.node, *(f.node for f in proto.functions)]
    found = [proto.graph, *(g for n in nodes for node in all_nodes(n) for g in graphs_of(node))]
    for graph in found:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    attributes = [a for n in nodes for node in all_nodes(n) for a in node.attribute]
    attributes += [a for f in proto.functions for a in f.attribute_proto]
    for attribute in attributes:
        yield from attribute.tensors
        if attribute.HasField("t"):
            yield attribute.t
        for sparse in (
            *([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else ()),
            *attribute.sparse_tensors,
        ):
            yield from (sparse.values, sparse.indices)


def hold(proto: ModelProto, path: Path, own: NDArray[np.uint8]) -> dict[str, Weight]:
    """Take large constants whose data is in files out of ``proto``, and leave references to them there.

    ``own``: the file at ``path``, where `onnxprune.model.protobuf.split` left data. Small constants, constants of types
    that numpy does not have, and those of subgraphs are loaded into the message.

    Raises ModelError for external data that is missing, too short, or not below the model's folder.
    """
    files = _Files(path, own)
    held: dict[str, Weight] = {}
    for name, tensor in constants_of(proto.graph):
        if is_external(tensor) and name not in held:
            stored = files.find(tensor)
            if stored is not None:
                held[name] = stored
                refer(tensor, name)
    for tensor in tensors_of(proto):
        if is_external(tensor) and reference(tensor) is None:
            files.take_in(tensor)
    return held


class _Files:
    """The files that a model's constants are in, mapped once each."""

    def __init__(self, path: Path, own: NDArray[np.uint8]) -> None:
        self.path, self.folder = path, path.parent.resolve()
        self.maps = {OWN: (path.resolve(), own)}

    def find(self, tensor: TensorProto) -> Stored | None:
        """Where ``tensor`` lies, if it is large and numpy has its type."""
        file, offset, data = self._data(tensor)
        if not is_held(tensor, len(data)):
            return None
        shape, dtype = tuple(tensor.dims), np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
        return Stored(data.view(dtype.newbyteorder("<")).reshape(shape), file, offset)

    def take_in(self, tensor: TensorProto) -> None:
        """Load the data of ``tensor``."""
        tensor.raw_data = self._data(tensor)[2].tobytes()
        tensor.ClearField("data_location")
        tensor.ClearField("external_data")

    def _data(self, tensor: TensorProto) -> tuple[Path, int, NDArray[np.uint8]]:
        """File, offset, and the bytes there, as many as its shape asks for."""
        try:
            place = place_of(tensor)
        except ValueError as reason:
            raise self._error(tensor, str(reason), "export it again") from None
        file, data = self._map(tensor, place.location)
        end = len(data) if place.length is None else place.offset + place.length
        found = data[place.offset : end]
        bits = BITS[tensor.data_type]
        expected = -(-prod(tensor.dims) * bits // 8)
        if len(found) < (expected if bits else end - place.offset) or max(place.offset, end) > len(data):
            own = place.location == OWN
            what = "its data is too short" if own else f"external data is too short: {place.location}"
            raise self._error(tensor, what, _HINT)
        if bits and place.length is not None and len(found) > expected:
            what = f"has {len(found)} bytes of data, and {expected} by its shape"
            raise self._error(tensor, what, "export it again")
        return file, place.offset, found[:expected] if bits else found

    def _map(self, tensor: TensorProto, location: str) -> tuple[Path, NDArray[np.uint8]]:
        if location not in self.maps:
            try:
                file = below(self.folder, location)
                self.maps[location] = file, map_file(file)
            except FileNotFoundError:
                raise self._error(tensor, f"external data is missing: {location}", "copy it beside the model") from None
            except ValueError as reason:
                hint = "move the data, and no link to it, into the folder of the model"
                raise self._error(tensor, f"external data is {reason}: {location}", hint) from None
            except OSError as error:
                what = f"cannot read external data: {location}: {error.strerror}"
                raise self._error(tensor, what, _HINT) from None
        return self.maps[location]

    def _error(self, tensor: TensorProto, what: str, hint: str) -> ModelError:
        return ModelError(what, where=f"{self.path}, tensor '{tensor.name}'", hint=hint)


def pour(weights: Mapping[str, Weight], path: Path) -> dict[str, tuple[int, int]]:
    """Write weights to a new file, one after another; returns (offset, length) of each. Raises OSError."""
    places = {}
    with path.open("wb") as file:
        for name, weight in weights.items():
            _align(file)
            places[name] = file.tell(), weight.nbytes
            file.write(raw(weight.array))
    return places


def _align(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % ALIGNMENT))


def place(tensor: TensorProto, location: str, offset: int, length: int) -> None:
    """Let ``tensor`` refer to its data at ``location``."""
    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def emptied(proto: ModelProto) -> ModelProto:
    """A copy in which constants that are kept elsewhere have no elements, for readers that would look for them."""
    out = ModelProto()
    out.CopyFrom(proto)
    for _, tensor in constants_of(out.graph):
        if reference(tensor) is not None:
            for name in ("data_location", "external_data", "dims"):
                tensor.ClearField(name)
            tensor.dims.append(0)
    return out
