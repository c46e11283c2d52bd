"""What strangers do to files: bytes changed, and fields of what was parsed. Every case follows from its number."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import ModelProto, TensorProto

from fixtures.skeleton import load_skeleton
from tests.models import build
from tests.rows import ROWS

#: Numbers at the edges of what a field can hold, and a few that are merely wrong.
NUMBERS = (0, 1, -1, 2, 3, 7, 255, 2**31 - 1, 2**31, -(2**31), 2**32, 2**40, 2**62, -(2**63), 2**63 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e38, -1e38, 1e-45, float("nan"), float("inf"), float("-inf"))
TEXTS = ("", ".", "..", "/", "\0", "a\0b", "../x", "/etc/passwd", "x", "y", "h", "\n", "\x1b[2J", "€" * 40, "a" * 5000)

#: Stands for bytes that are not UTF-8, which Python's protobuf does not let anyone set.
_PLACEHOLDER = "!not-utf8!"

_INTEGERS = {
    FieldDescriptor.TYPE_INT32,
    FieldDescriptor.TYPE_INT64,
    FieldDescriptor.TYPE_UINT64,
    FieldDescriptor.TYPE_UINT32,
    FieldDescriptor.TYPE_ENUM,
}
_SMALL = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
}
_ZOO = ("own_espcn.ts11", "own_lenet5_view.ts17-dyn", "own_branch_if.ts13", "own_lenet5_view.ts17-qdq", "own_film.ts17")


@cache
def seeds() -> tuple[ModelProto, ...]:
    """The models that are spoilt: one for each form of each operator, and a few exported ones."""
    zoo = (load_skeleton(f"fixtures/zoo/{name}.onnx") for name in _ZOO)
    return (*(build(row.text, row.opset, row.ir) for row in ROWS if not row.shapes), *zoo)


def spoilt(number: int) -> bytes:
    """A model file that something is wrong with."""
    rng = random.Random(number)
    model = ModelProto()
    model.CopyFrom(rng.choice(seeds()))
    if rng.random() < 0.25:
        return bytes_changed(model.SerializeToString(), rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        _mutate(model, rng)
    return bytes(model.SerializeToString()).replace(_PLACEHOLDER.encode(), b"\xff\xfe not-utf")


def bytes_changed(data: bytes, rng: random.Random) -> bytes:
    """``data`` with bytes flipped, cut out, repeated or put in another place."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(max(1, len(out)))
        end = min(len(out), at + rng.choice((1, 2, 8, 64, 1024)))
        kind = rng.randrange(5)
        if kind == 0 and out:
            out[at] = rng.randrange(256)
        elif kind == 1:
            del out[at:end]
        elif kind == 2:
            out[at:at] = out[at:end]
        elif kind == 3:
            del out[at:]
        else:
            out[at:end] = rng.randbytes(end - at)
    return bytes(out)


def _mutate(model: ModelProto, rng: random.Random) -> None:
    if rng.random() < 0.15:
        rng.choice(_PURPOSEFUL)(model, rng)
        return
    places = list(_fields(model))
    owner, field = rng.choice(places)
    with suppress(DecodeError):  # copying is parsing: what is nested beyond protobuf's limit is left alone
        _change(owner, field, rng, places)


def _fields(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    """Every field that is set, with the message that it is in; of repeated numbers only the field itself."""
    for field, value in message.ListFields():
        yield message, field
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if _repeated(field) else [value]:
                yield from _fields(inner)


def _repeated(field: FieldDescriptor) -> bool:
    return bool(getattr(field, "is_repeated", None)) or getattr(field, "label", 0) == 3


def _change(owner: Message, field: FieldDescriptor, rng: random.Random, places: list[Any]) -> None:
    value = getattr(owner, field.name)
    if _repeated(field):
        _change_list(owner, field, rng)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        others = [getattr(o, f.name) for o, f in places if f.message_type is field.message_type and not _repeated(f)]
        if rng.random() < 0.5:
            owner.ClearField(field.name)
        else:
            copy = type(value)()
            copy.CopyFrom(rng.choice(others))
            value.CopyFrom(copy)
    elif rng.random() < 0.1:
        owner.ClearField(field.name)
    else:
        try:
            setattr(owner, field.name, _other(field, value, rng, places))
        except (ValueError, TypeError):  # an enumeration that has no such value
            owner.ClearField(field.name)


def _change_list(owner: Message, field: FieldDescriptor, rng: random.Random) -> None:
    items = getattr(owner, field.name)
    at = rng.randrange(len(items))
    kind = rng.randrange(5)
    if kind == 0:
        del items[at]
    elif kind == 1:
        owner.ClearField(field.name)
    elif kind == 2:
        items.append(items[at])
    elif kind == 3 and len(items) > 1:
        values = list(items)
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            values = [type(v).FromString(v.SerializeToString()) for v in values]
        rng.shuffle(values)
        del items[:]
        items.extend(values)
    elif field.type != FieldDescriptor.TYPE_MESSAGE:
        items[at] = _other(field, items[at], rng, [])
    else:
        items.append(items[rng.randrange(len(items))])


def _other(field: FieldDescriptor, value: Any, rng: random.Random, places: list[Any]) -> Any:
    if field.type in _INTEGERS:
        low, high = _SMALL.get(field.type, (0, 30))
        number = rng.choice((*NUMBERS, value + 1, value - 1, -value, value * 2))
        return max(low, min(high, number))
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return rng.choice(FLOATS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return rng.choice((b"", value[: len(value) // 2], value * 2, value[:-1], bytes_changed(value, rng), b"\0\xff"))
    names = [getattr(o, f.name) for o, f in places if f.type == FieldDescriptor.TYPE_STRING and not _repeated(f)]
    return rng.choice((*TEXTS, _PLACEHOLDER, *rng.sample(names, min(len(names), 8))))


# --- what a byte or a field at random does not find ---------------------------------------------------------------


def _external(model: ModelProto, rng: random.Random) -> None:
    """Data of a constant somewhere else."""
    if not model.graph.initializer:
        return
    tensor = rng.choice(model.graph.initializer)
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    places = (
        "",
        ".",
        "..",
        "/dev/zero",
        "/dev/stdin",
        "/etc/passwd",
        "../x",
        "a\0b",
        "model.onnx",
        "x/../model.onnx",
        "none",
    )
    for key, values in (
        ("location", places),
        ("offset", ("0", "-1", "9" * 20, "x", "1e3")),
        ("length", ("4", "-4", "0", "9" * 20)),
    ):
        if rng.random() < 0.8:
            tensor.external_data.add(key=key, value=rng.choice(values))


def _nested(model: ModelProto, rng: random.Random) -> None:
    """Subgraphs inside subgraphs."""
    inner = model.graph
    for _ in range(rng.choice((3, 40, 90))):
        node = inner.node.add(op_type="If", input=["x"], output=["n"])
        attribute = node.attribute.add(name="then_branch", type=5)
        attribute.g.name = "deep"
        inner = attribute.g


def _recursive(model: ModelProto, rng: random.Random) -> None:
    """A function that calls itself, or doubles at each of many levels."""
    levels = rng.choice((1, 2, 40))
    for level in range(levels):
        function = model.functions.add(name=f"F{level}", domain="loop", input=["a"], output=["b"])
        function.opset_import.add(domain="loop", version=1)
        following = f"F{(level + 1) % levels}" if levels < 40 or level < levels - 1 else "Relu"
        function.node.add(op_type=following, domain="loop", input=["a"], output=["t"])
        function.node.add(op_type=following, domain="loop", input=["t"], output=["b"])
    if not any(o.domain == "loop" for o in model.opset_import):
        model.opset_import.add(domain="loop", version=1)
    if model.graph.node:
        node = model.graph.node[0]
        node.op_type, node.domain = "F0", "loop"
        del node.attribute[:], node.input[1:], node.output[1:]


def _huge_input(model: ModelProto, rng: random.Random) -> None:
    if model.graph.input and (dims := rng.choice(model.graph.input).type.tensor_type.shape.dim):
        rng.choice(dims).dim_value = rng.choice((2**31, 2**40, 2**62, -(2**63), 65536))


def _huge_tensor(model: ModelProto, rng: random.Random) -> None:
    if model.graph.initializer:
        tensor = rng.choice(model.graph.initializer)
        del tensor.dims[:]
        tensor.dims.extend(rng.choice(((2**31, 2), (2**62, 4), (0, 2**62), (-1,), (65536, 65536), (1,) * 70)))
        if rng.random() < 0.5:
            tensor.ClearField("raw_data")


def _another_type(model: ModelProto, rng: random.Random) -> None:
    if model.graph.initializer:
        rng.choice(model.graph.initializer).data_type = rng.choice((*range(28), 99, -1))


def _swapped(model: ModelProto, rng: random.Random) -> None:
    """Two names at the places of each other."""
    readers = [n for n in model.graph.node if n.input]
    if readers:
        node, other = rng.choice(readers), rng.choice(readers)
        a, b = rng.randrange(len(node.input)), rng.randrange(len(other.input))
        node.input[a], other.input[b] = other.input[b], node.input[a]


def _fan_out(model: ModelProto, rng: random.Random) -> None:
    """Values that grow: a chain of Expand, Tile or ConstantOfShape."""
    size = rng.choice((2**20, 2**33))
    model.graph.initializer.append(TensorProto(name="much", data_type=7, dims=[1], int64_data=[size]))
    model.graph.node.add(op_type="ConstantOfShape", input=["much"], output=["more"])
    if model.graph.output:
        model.graph.output.add(name="more").type.tensor_type.elem_type = 1


_PURPOSEFUL: tuple[Callable[[ModelProto, random.Random], None], ...] = (
    _external,
    _nested,
    _recursive,
    _huge_input,
    _huge_tensor,
    _another_type,
    _swapped,
    _swapped,
    _fan_out,
)
