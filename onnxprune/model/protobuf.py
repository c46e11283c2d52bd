"""ModelProto as bytes, with the data of large constants left where it is.

Parsing a model whole makes a copy of its weights, and writing it whole makes another. Here only what is around them
is parsed: `split` takes their raw_data out of a serialized model, and `join` puts it into one, piece by piece. Both
follow protobuf's wire format: a message is a row of fields, each a tag (number and wire type), a length where it is
one of bytes, and a payload; and messages that follow each other merge.

What `join` makes is what protobuf's own serializer makes of the whole message.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnx import TensorProto

#: From a message, by field number, to those inside it that constants are found in.
_INSIDE = {
    "model": {7: "graph"},
    "graph": {1: "node", 5: "tensor"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor"},
}
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14

#: NodeProto.op_type of a Constant, as it is serialized.
_CONSTANT = b"\x22\x08Constant"

#: The entry of external_data that names the constant whose data is elsewhere.
_REFERENCE = "onnxprune"

#: The location of data that is in the file of the model itself.
OWN = "<model>"

#: (field number, where it begins, where its payload begins, where it ends)
_Field = tuple[int, int, int, int]


def refer(tensor: TensorProto, name: str) -> None:
    """Let ``tensor`` have no data of its own, but that of ``name``."""
    for field in ("raw_data", "external_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key=_REFERENCE, value=name)


def reference(tensor: TensorProto) -> str | None:
    """Whose data ``tensor`` has; None where it has its own."""
    external = tensor.data_location == TensorProto.EXTERNAL
    return next((e.value for e in tensor.external_data if e.key == _REFERENCE), None) if external else None


def split(data: memoryview, least: int) -> bytes:
    """A serialized model without the raw_data of constants over ``least`` bytes: external data at `OWN`.

    Raises ValueError for what is no protobuf message.
    """
    return b"".join(_split(data, 0, len(data), "model", least))


def join(data: bytes, sizes: Mapping[str, int]) -> list[bytes | str]:
    """A serialized model with the data of its references: pieces, where a name stands for ``sizes[name]`` bytes."""
    return list(_join(data, 0, len(data), "model", sizes))


def _split(data: memoryview, start: int, stop: int, kind: str, least: int) -> Iterator[bytes | memoryview]:
    for number, begin, payload, end in _fields(data, start, stop):
        inside = _INSIDE[kind].get(number)
        if inside is None or end - payload <= least or (inside == "node" and not _is_constant(data, payload, end)):
            continue
        pieces = list(
            _take_out(data, payload, end, least) if inside == "tensor" else _split(data, payload, end, inside, least)
        )
        yield data[start:begin]
        yield _head(number, sum(map(len, pieces)))
        yield from pieces
        start = end
    yield data[start:stop]


def _take_out(data: memoryview, start: int, stop: int, least: int) -> Iterator[bytes | memoryview]:
    """A TensorProto, and where its raw_data is in the file."""
    fields = list(_fields(data, start, stop))
    numbers = {number for number, *_ in fields}
    where = [(begin, at, end) for n, begin, at, end in fields if n == _RAW_DATA]
    if len(where) != 1 or _EXTERNAL_DATA in numbers or where[0][2] - where[0][1] <= least:  # of several the last counts
        yield data[start:stop]
        return
    begin, at, end = where[0]
    yield data[start:begin]
    yield data[end:stop]
    elsewhere = TensorProto(data_location=TensorProto.EXTERNAL)
    elsewhere.external_data.add(key="location", value=OWN)
    elsewhere.external_data.add(key="offset", value=str(at))
    elsewhere.external_data.add(key="length", value=str(end - at))
    yield elsewhere.SerializeToString()


def _join(data: bytes, start: int, stop: int, kind: str, sizes: Mapping[str, int]) -> Iterator[bytes | str]:
    view = memoryview(data)
    for number, begin, payload, end in _fields(view, start, stop):
        inside = _INSIDE[kind].get(number)
        if inside is None or (inside == "node" and not _is_constant(view, payload, end)):
            continue
        if inside == "tensor":
            pieces = _put_in(data[payload:end], sizes)
        else:
            pieces = list(_join(data, payload, end, inside, sizes))
        if not any(isinstance(p, str) for p in pieces):
            continue
        yield data[start:begin]
        yield _head(number, sum(sizes[p] if isinstance(p, str) else len(p) for p in pieces))
        yield from pieces
        start = end
    yield data[start:stop]


def _put_in(data: bytes, sizes: Mapping[str, int]) -> list[bytes | str]:
    """A TensorProto with the data that it refers to."""
    if _REFERENCE.encode() not in data:
        return []
    tensor = TensorProto.FromString(data)
    name = reference(tensor)
    if name is None:
        return []
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    rest = tensor.SerializeToString()
    after = (begin for number, begin, *_ in _fields(memoryview(rest), 0, len(rest)) if number > _RAW_DATA)
    place = next(after, len(rest))
    return [rest[:place] + _head(_RAW_DATA, sizes[name]), name, rest[place:]]


def _is_constant(data: memoryview, start: int, stop: int) -> bool:
    return stop - start > len(_CONSTANT) and _CONSTANT in bytes(data[start : min(stop, start + 65536)])


def _fields(data: memoryview, start: int, stop: int) -> Iterator[_Field]:
    """The fields of the message at [start, stop)."""
    at = start
    while at < stop:
        begin = at
        tag, at = _varint(data, at, stop)
        if tag >> 3 == 0:
            raise ValueError("not a protobuf message")
        if tag & 7 == 0:
            payload = at
            _, at = _varint(data, at, stop)
        elif tag & 7 == 2:
            length, payload = _varint(data, at, stop)
            at = payload + length
        elif tag & 7 in (1, 5):
            payload, at = at, at + (8 if tag & 7 == 1 else 4)
        else:
            raise ValueError("not a protobuf message")
        if at > stop:
            raise ValueError("truncated")
        yield tag >> 3, begin, payload, at


def _varint(data: memoryview, at: int, stop: int) -> tuple[int, int]:
    """A number in groups of seven bits, lowest first, and where it ends."""
    value = shift = 0
    while at < stop and shift < 64:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("truncated")


def _head(number: int, length: int) -> bytes:
    """Tag and length of a field of bytes."""
    out = bytearray()
    for value in (number << 3 | 2, length):
        left = value
        while left > 127:
            out.append(left & 127 | 128)
            left >>= 7
        out.append(left)
    return bytes(out)
