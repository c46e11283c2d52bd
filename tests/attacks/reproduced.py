"""Attacks, each the smallest that shows it, and what is right: found by the fuzzer, in reports, or in onnx's CVEs.

``python -m tests.attacks.reproduced`` judges all of them, a line of JSON each.
"""

from __future__ import annotations

import json
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, TensorProto, helper

from tests.attacks.judge import LIMITS, imported, judged
from tests.commands import CHAIN
from tests.models import build, mlp, sandwich

PRUNE = ("prune", "m.onnx", "-o", "out.onnx", "--check-n", "1")


@dataclass(frozen=True)
class Attack:
    """Files, what is run on them, the exit code, and what the one line says."""

    name: str
    files: Mapping[str, bytes] = field(repr=False)
    says: Sequence[str]
    code: int = 2
    args: Sequence[str] = PRUNE
    prepare: Callable[[Path], object] = field(default=lambda _: None, repr=False)


Change = Callable[[ModelProto], object]


def _chain(change: Change, text: str = CHAIN) -> dict[str, bytes]:
    model = build(text)
    change(model)
    return {"m.onnx": bytes(model.SerializeToString())}


def _weight(**fields: Any) -> Change:
    """Fields of the first weight, [16, 3, 1, 1] of float, set to something else."""

    def change(model: ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == "w0")
        for name, value in fields.items():
            if name == "dims":
                del tensor.dims[:]
                tensor.dims.extend(value)
            elif name == "cut":
                tensor.raw_data = tensor.raw_data[:value]
            else:
                setattr(tensor, name, value)

    return change


def _tensors() -> Iterator[Attack]:
    """Dims, type and data that do not agree."""
    none = "its shape"
    yield Attack("dims changed", _chain(_weight(dims=(6, 1, 5, 5))), ["w0", "192 bytes of data", "[6, 1, 5, 5]"])
    yield Attack("dims of nothing", _chain(_weight(dims=(0,))), ["w0", none])
    yield Attack("data cut in half", _chain(_weight(cut=96)), ["w0", "96 bytes", "192"])
    yield Attack("no data", _chain(lambda m: m.graph.initializer[0].ClearField("raw_data")), ["0 elements", none])
    yield Attack("another type", _chain(_weight(data_type=TensorProto.DOUBLE)), ["w0", none])
    yield Attack("text", _chain(_weight(data_type=TensorProto.STRING)), ["w0"])
    for number in (0, 99, 255, -1, 2**31 - 1):
        yield Attack(f"type {number}", _chain(_weight(data_type=number)), ["w0", f"does not know: {number}"])
    for dims in ((2**31, 2), (2**62, 4), (0, 2**62), (65536, 65536, 16)):
        yield Attack(f"dims {dims}", _chain(_weight(dims=dims)), ["w0", "shape"])
    yield Attack("negative dims", _chain(_weight(dims=(-16, 3, -1, 1))), ["w0", "negative"])
    yield Attack("70 dims", _chain(_weight(dims=(1,) * 70)), ["w0", "70 dimensions"])


def _input(**fields: Any) -> Change:
    def change(model: ModelProto) -> None:
        kind = model.graph.input[0].type.tensor_type
        if "dim" in fields:
            kind.shape.dim[0].dim_value = fields["dim"]
        else:
            kind.elem_type = fields["elem_type"]

    return change


def _times(count: int) -> Change:
    """The constant n."""

    def change(model: ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == "n")
        tensor.raw_data, tensor.int64_data[:] = struct.pack("<q", count), []

    return change


def _declarations() -> Iterator[Attack]:
    for size in (2**40, 2**62):
        yield Attack(f"an input of {size}", _chain(_input(dim=size)), ["input 'x'", "of memory"])
    yield Attack("an input of no type", _chain(_input(elem_type=2**31 - 1)), ["x", "does not know"])
    for node in ("ConstantOfShape(n)", "Expand(o, n)", "Tile(o, n)"):
        text = sandwich(f"t = {node}\ns = ReduceSum(t)\ng = Add(h, s)", "int64[1] n = {1}", "float[1] o = {1}")
        yield Attack(f"{node} that asks for all memory", _chain(_times(2**34), text), ["memory"])
    loop = (
        "t = Loop(n, , o)<body = l (int64 i, bool c, float[1] a) => (bool d, float[1] b) "
        "{ d = Identity(c)\nb = Add(a, a) }>\ng = Mul(h, t)"
    )
    endless = _chain(_times(2**62), sandwich(loop, "int64 n = {1}", "float[1] o = {1}"))
    yield Attack("a loop without end", endless, ["--timeout"], args=(*PRUNE, "--timeout", "5"))


def _spoilt(old: bytes, new: bytes) -> dict[str, bytes]:
    data = _chain(lambda _: None)["m.onnx"]
    assert old in data
    return {"m.onnx": data.replace(old, new)}


#: onnx and onnxruntime of the lower bounds take a bias of any rank, and compute with its first elements.
_CHECKS_BIAS = tuple(map(int, onnx.__version__.split(".")[:2])) >= (1, 17)


def attribute_of(name: str, value: Any, node: int = 0) -> Change:
    """An attribute more."""
    return lambda m: m.graph.node[node].attribute.append(helper.make_attribute(name, value))


def _names() -> Iterator[Attack]:
    yield Attack("a name that is not UTF-8", _spoilt(b"w0", b"\xff\xfe"), [])
    yield Attack("an operator that is not UTF-8", _spoilt(b"Relu", b"\xffelu"), [])
    padded = _chain(attribute_of("auto_pad", b"\xff\xfe"))
    yield Attack("an attribute that is not UTF-8", padded, ["'auto_pad'"])
    yield Attack("a name with a NUL", _spoilt(b"w0", b"w\0"), ["no text"])
    yield Attack("an escape in a name", _chain(lambda m: m.graph.node[0].input.__setitem__(1, "\x1b[2J")), ["\\x1b[2J"])
    long = _chain(lambda m: m.graph.node[0].input.__setitem__(1, "a" * 10**6))
    yield Attack("CVE-2024-27319: a very long name", long, ["..."])


def _nodes() -> Iterator[Attack]:
    """Operators whose inputs or attributes do not fit."""

    big = 2**31
    yield Attack("no weight", _chain(lambda m: m.graph.node[0].input.__delitem__(slice(1, 3))), ["Conv has no input 1"])
    yield Attack("an empty weight", _chain(lambda m: m.graph.node[0].input.__setitem__(1, "")), ["Conv has no input 1"])
    if _CHECKS_BIAS:
        yield Attack("inputs swapped", _chain(lambda m: m.graph.node[0].input.__setitem__(2, "w1")), ["Conv"])
    for group in (0, -1, big, -(2**63)):
        yield Attack(f"group {group}", _chain(attribute_of("group", group)), [])
    yield Attack("group of text", _chain(attribute_of("group", "two")), ["onnx.checker"])
    for axis in (4, big, -(2**63)):
        text = sandwich(f"g = Concat<axis={axis}>(h, h)", reads=16)
        yield Attack(f"axis {axis}", _chain(lambda _: None, text), [])
    turned = mlp("g = Gemm(h, w1)", "float[8,8] w1")
    yield Attack("transA 2^40", _chain(attribute_of("transA", 2**40, 1), turned), ["which is 0 or 1"])
    yield Attack("kernel of nothing", _chain(attribute_of("kernel_shape", [0, 0])), [])
    yield Attack("a stride of nothing", _chain(attribute_of("strides", [0, 0])), [])
    yield Attack("many pads", _chain(attribute_of("pads", [2**62] * 4)), [])

    def no_output(model: ModelProto) -> None:
        model.graph.node.append(helper.make_node("Constant", [], [], value_int=1))

    yield Attack("a Constant without output", _chain(no_output), [])


def _declared(batch: int, c: Sequence[int]) -> Change:
    """The batch of the input, and the shape of the tensor c."""

    def change(model: ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
        model.graph.value_info.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, c))

    return change


def _contradictions() -> Iterator[Attack]:
    """Types and shapes that the plain checker does not compare."""
    quantized = (
        "q = onnx.brevitas.IntQuant(w1, one, zero, bits)\nc = Conv(h, q)\n"
        "g = onnx.brevitas.IntQuant(c, one, zero, bits)"
    )
    weights = ("float[8,8,1,1] w1", "float one = {1}", "float zero = {0}", "float bits = {8}")
    text = sandwich(quantized, *weights)
    yield Attack("a negative declared shape", _chain(_declared(2, (2, 8, -(2**63), 6)), text), [], code=0)
    for batch, shape in ((4, (2, 8, 6, 6)), (2, (2, 8, 6, 6, 8)), (2, (2, 9, 6, 6))):
        yield Attack(f"another declared shape {batch} {shape}", _chain(_declared(batch, shape), text), [], code=0)
    drawn = (*PRUNE, "--samples", "8")
    fused = mlp("g = com.microsoft.FusedMatMul(h, w1)", "float[8,4] w1", reads=4)

    def of_six(model: ModelProto) -> None:
        model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 6]))

    yield Attack("an output of another declared shape", _chain(of_six, fused), [], code=0, args=drawn)
    for width in (8, 9):
        branches = (
            f"g = If(c)<then_branch = t () => (float[2,{width},6,6] a) {{ a = Conv(h, w1) }}, "
            f"else_branch = e () => (float[2,{width},6,6] b) {{ b = Abs(h) }}>"
        )
        inner = _chain(lambda _: None, sandwich(branches, "float[8,8,1,1] w1", inputs=", bool c"))
        said = [] if width == 8 else ["g"]
        yield Attack(f"branches of {width} channels", inner, said, code=0 if width == 8 else 2, args=drawn)
    swapped = mlp(
        "q, s, z = DynamicQuantizeLinear(h)\ng = com.microsoft.MatMulIntegerToFloat(q, w1, s, v, z, b)",
        *("int8[8,4] w1", "float[4] v", "float[4] b", "uint8[2,8] g"),
        reads=4,
    )
    scaled = sandwich("g = finn.custom_op.general.BipolarQuant(h, one)", "float one = {1}")
    alone = _chain(lambda m: m.graph.node[1].input.pop(), scaled)
    yield Attack("a quantizer without a scale", alone, ["BipolarQuant", "does not fit"])
    rounded = (
        "q = QuantizeLinear(h, s, z)\np = com.microsoft.QLinearSigmoid(q, s, z, s, z)\ng = DequantizeLinear(p, s, z)"
    )
    text = sandwich(rounded, "float s = {0.05}", "uint8 z = {120}", "uint8[2,8,6,6] p")

    def wider(model: ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 9

    yield Attack("codes of another declared shape", _chain(wider, text), [], code=0)
    shaped = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 5])
    yield Attack(
        "a zero point of floats", _chain(lambda m: m.graph.output[0].CopyFrom(shaped), swapped), ["onnxruntime refuses"]
    )
    branch = (
        "g = If(c)<then_branch = t () => (float[2,8,6,6] a) { a = Relu(h) }, "
        "else_branch = e () => (float[2,8,6,6] b) { b = Abs(h) }>"
    )

    def output_of_the_condition(model: ModelProto) -> None:
        model.graph.output[0].name = "c"

    text = sandwich(branch, inputs=", bool c")
    yield Attack("an output of another type", _chain(output_of_the_condition, text), ["onnx.checker", "If"])


def _nesting() -> Iterator[Attack]:
    def calling(levels: int, circle: bool) -> Change:
        def change(model: ModelProto) -> None:
            for level in range(levels):
                last = level == levels - 1
                inner = helper.make_node("Relu", ["a"], ["t"])
                if not last or circle:
                    inner = helper.make_node(f"F{(level + 1) % levels}", ["a"], ["t"], domain="f")
                nodes = [inner, helper.make_node(inner.op_type, ["t"], ["b"], domain=inner.domain)]
                opsets = [helper.make_opsetid("f", 1), helper.make_opsetid("", 17)]
                model.functions.append(helper.make_function("f", f"F{level}", ["a"], ["b"], nodes, opsets))
            model.opset_import.append(helper.make_opsetid("f", 1))
            model.graph.node[1].op_type, model.graph.node[1].domain = "F0", "f"

        return change

    def called_with_nothing(model: ModelProto) -> None:
        node = helper.make_node("Clip", ["a"], ["b"])
        model.functions.append(helper.make_function("f", "F", ["a"], ["b"], [node], [helper.make_opsetid("", 17)]))
        model.opset_import.append(helper.make_opsetid("f", 1))
        call = model.graph.node[1]
        call.op_type, call.domain = "F", "f"
        del call.input[:], call.attribute[:]

    def without_its_output(model: ModelProto) -> None:
        node = helper.make_node("Relu", ["a"], ["c"])
        model.functions.append(helper.make_function("f", "F", ["a"], ["b"], [node], [helper.make_opsetid("", 17)]))
        model.opset_import.append(helper.make_opsetid("f", 1))
        model.graph.node[1].op_type, model.graph.node[1].domain = "F", "f"

    yield Attack("a function without its output", _chain(without_its_output), ["functions written out", "onnx.checker"])
    yield Attack("a call of nothing", _chain(called_with_nothing), ["functions written out", "onnx.checker"])
    yield Attack("a function that calls itself", _chain(calling(1, circle=True)), ["calls itself"])
    yield Attack("functions that call each other", _chain(calling(3, circle=True)), ["calls itself"])
    yield Attack("functions that double", _chain(calling(22, circle=False)), ["functions written out"])
    yield Attack("functions that call deep", _chain(calling(30, circle=False)), ["more than 24 deep"])

    def nested(model: ModelProto) -> None:
        graph = model.graph
        for _ in range(30):
            node = graph.node.add(op_type="If", input=["x"], output=["n"])
            graph = node.attribute.add(name="then_branch", type=5).g

    yield Attack("graphs in graphs", _chain(nested), [])

    def uneven(model: ModelProto) -> None:
        node = next(n for n in model.graph.node if n.op_type == "If")
        del node.attribute[0].g.output[:]

    branches = (
        "g = If(c)<then_branch = t () => (float[2,8,6,6] a) { a = Relu(h) }, "
        "else_branch = e () => (float[2,8,6,6] b) { b = Abs(h) }>"
    )
    text = sandwich(branches, "float[2,8,6,6] g", inputs=", bool c")
    yield Attack("a branch that gives nothing", _chain(uneven, text), [])


# --- external data --------------------------------------------------------------------------------------------------


def _outside(location: str | None, **other: str) -> dict[str, bytes]:
    """The first weight's data in a file."""

    def change(model: ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == "w0")
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in ({} if location is None else {"location": location} | other).items():
            tensor.external_data.add(key=key, value=value)

    return {**_chain(change), "w.data": bytes(192)}


def _linked(make: Callable[[Path, Path], object]) -> Callable[[Path], object]:
    """In the place of the data something that leads to a file outside of the folder."""

    def prepare(folder: Path) -> None:
        secret = folder.parent / "secret"
        secret.write_bytes(bytes(192))
        (folder / "w.data").unlink()
        make(folder / "w.data", secret)

    return prepare


def _external() -> Iterator[Attack]:
    outside = "outside the model's folder"
    yield Attack("data beside the model", _outside("w.data"), [], code=0)
    yield Attack("CVE-2022-25882: data above", _outside("../secret"), [outside])
    yield Attack("CVE-2022-25882: an absolute path", _outside("/etc/passwd"), [outside])
    yield Attack("CVE-2024-27318: data below, then above", _outside("x/../../secret"), [outside])
    yield Attack("CVE-2024-27318: down and up again", _outside("x/../w.data"), [outside])
    yield Attack("CVE-2025-51480: a place to be written", _outside("..\\..\\x"), [outside])
    yield Attack("a drive", _outside("C:\\w.data"), [outside])
    soft = _linked(lambda link, target: link.symlink_to(target))
    yield Attack("CVE-2026-27489: a link", _outside("w.data"), [outside], prepare=soft)
    hard = _linked(lambda link, target: link.hardlink_to(target))
    yield Attack("CVE-2026-34446: a hard link", _outside("w.data"), ["hard link"], prepare=hard)
    two = Attack(
        "a hard link inside", _outside("w.data"), [], 0, prepare=lambda f: (f / "w2").hardlink_to(f / "w.data")
    )
    yield two
    circle = _linked(lambda link, _: link.symlink_to(link))
    yield Attack("a link in a circle", _outside("w.data"), ["w0"], prepare=circle)
    yield Attack("a pipe", _outside("w.data"), ["not a file"], prepare=_linked(lambda link, _: os.mkfifo(link)))
    yield Attack("a folder", _outside("."), ["not a file"])
    for key in ("__class__", "tensor", "file_path", "basepath"):
        yield Attack(f"CVE-2026-34445: {key}", _outside("w.data", **{key: "/etc"}), [], code=0)
    yield Attack("a name of ours", _outside("w.data", onnxprune="w1"), ["only onnxprune itself"])
    yield Attack("no place", _outside(None), ["no place"])
    yield Attack("an empty place", _outside(""), ["no place"])
    yield Attack("a place with a NUL", _outside("w\0.data"), ["no place"])
    for key in ("offset", "length"):
        for value in ("-1", "x", "1e3", "9" * 5000, "1_0", "٣"):
            yield Attack(f"{key} {value[:20]}", _outside("w.data", **{key: value}), [key])
    yield Attack("an offset behind the end", _outside("w.data", offset="9" * 18), ["too short"])
    yield Attack("a length behind the end", _outside("w.data", length="9" * 18), ["too short"])


# --- data, plans, targets and options -------------------------------------------------------------------------------


def _npy(shape: tuple[int, ...], descr: str = "<f4", data: bytes = b"") -> bytes:
    head = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


def _npz(**arrays: bytes) -> bytes:
    out = BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in arrays.items():
            archive.writestr(f"{name}.npy", data)
    return out.getvalue()


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def _data() -> Iterator[Attack]:
    model = _chain(lambda _: None)

    def data(name: str, file: str, content: bytes, *says: str) -> Attack:
        return Attack(name, {**model, file: content}, says, args=(*PRUNE, "--data", file))

    yield data("an .npz that claims terabytes", "d.npz", _npz(x=_npy((2**40, 3, 8, 8))), "cut off", "844.4 TB")
    labelled = _npz(x=_npy((1, 3, 8, 8), data=bytes(768)), labels=_npy((1, 2**40), "<i8"))
    yield data("an .npz of labels without end", "d.npz", labelled, "cut off")
    yield data("an .npz that unpacks to less", "d.npz", _npz(x=_npy((2**24, 3, 8, 8), data=bytes(2**26))), "cut off")
    yield data("an .npz with a negative shape", "d.npz", _npz(x=_npy((-4, 3, 8, 8))), "negative")
    yield data("a pickle in an .npz", "d.npz", _npz(x=_npy((1,), "|O", b"\x80\x04.")), "Python objects")
    yield data("no .npz", "d.npz", b"PK\x03\x04", "cannot be read")
    yield data("an .npy that claims terabytes", "d.npy", _npy((2**40, 3, 8, 8)), "cut off")
    yield data("an .npy that overflows", "d.npy", _npy((2**62, 3, 8, 8)), "cut off")
    yield data("an .npy with a negative shape", "d.npy", _npy((-4, 3, 8, 8)), "negative")
    yield data("a pickle", "d.npy", b"\x80\x04\x95\x05", "cannot be read")
    yield data("a picture of 10^5 x 10^5 pixels", "d.png", _png(10**5, 10**5), "10000000000 pixels")
    yield data("a large picture", "d.png", _png(12000, 10000), "truncated")
    yield data("a list of what no file is called", "d.txt", b"a" * 10**5, "no such file")
    yield data("a list with a NUL", "d.txt", b"a\0b", "no such file")


def _masks() -> Iterator[Attack]:
    model = _chain(lambda _: None)

    def mask(name: str, content: bytes, *says: str) -> Attack:
        args = ("sparsify", *PRUNE[1:], "--data", "none", "--mask", "m.npz")
        return Attack(name, {**model, "m.npz": content}, ["m.npz", *says], args=args)

    shape = (16, 3, 1, 1)
    yield mask("an .npy as masks", _npy(shape, data=bytes(192)), "cannot read masks")
    yield mask("an empty file of masks", b"", "cannot read masks")
    yield mask("masks that claim terabytes", _npz(w0=_npy((2**40, *shape))), "cut off", "211.1 TB")
    yield mask("masks that are no arrays", _npz(w0=b"hello"), "cannot read masks", "'w0'")
    whole = _npz(w0=_npy(shape, data=bytes(range(192))))
    yield mask("damaged masks", whole[:50] + b"x" * 20 + whole[70:], "cannot read masks")
    yield mask("masks of words", _npz(w0=_npy(shape, "<U1", bytes(192))), "'w0' is <U1, not numbers")


def _plans() -> Iterator[Attack]:
    model = _chain(lambda _: None)

    def plan(name: str, content: bytes, *says: str) -> Attack:
        return Attack(name, {**model, "p.json": content}, says or ["not a plan"], args=(*PRUNE, "--plan", "p.json"))

    def edited(**axis: Any) -> bytes:
        one = {"axis": 0, "size": 16, "keep": [0, 1]} | axis
        head = {"format": "onnxprune-plan", "version": 1, "model": {"name": "m", "sha256": "0" * 64}, "options": {}}
        return json.dumps({**head, "initializers": {"w0": [one]}, "copies": {}}).encode()

    yield plan("deep lists", b"[" * 10**5 + b"]" * 10**5)
    yield plan("deep objects", b'{"a":' * 10**5 + b"1" + b"}" * 10**5)
    yield plan("a long number", b"9" * 10**5)
    yield plan("positions out of range", edited(keep=[0, 99]), "[16, 3, 1, 1]")
    for keep in ([0, 0, 1], [-1, 2], [], [0.5], [2**70], None, [[0, 1], [1]], [True]):
        yield plan(f"positions {keep}", edited(keep=keep))
    for size in (16.0, "16", None, True):
        yield plan(f"size {size!r}", edited(size=size))
    for key in ("outputs", "keep_outputs", "gone_branches"):
        for given in (5, "y", [5], [["y"]], {"y": "0"}, {"y": [-1]}, {"y": [2**70]}, {"y": [0, 0.5]}, None):
            head = {"format": "onnxprune-plan", "version": 1, "model": {"name": "m", "sha256": "0" * 64}}
            text = json.dumps({**head, "options": {key: given}, "initializers": {}, "copies": {}})
            said = "" if given == {"y": [2**70]} and key == "keep_outputs" else "not a plan"
            yield plan(f"{key} {given}", text.encode(), said)
    yield plan("an axis that is none", edited(axis=99), "along axis 99")


_TARGET = 'name = "a"\ntitle = "a"\nsource = "a"\n[fp16]\nout_block = 16\nin_block = 32\n'


def _tables() -> Iterator[Attack]:
    model = _chain(lambda _: None)
    bad = {
        "deep lists": "a = " + "[" * 10**5,
        "a key of many parts": "a" + ".a" * 50000 + " = 1",
        "a long number": "a = " + "9" * 5000,
        "a number of many digits": "a = 0x" + "f" * 4000,
    }
    for name, text in bad.items():
        files = {**model, "t.toml": text.encode()}
        yield Attack(f"target: {name}", files, ["t.toml", "cannot read"], args=(*PRUNE, "--target", "t.toml"))
        files = {**model, "onnxprune.toml": text.encode()}
        yield Attack(f"options: {name}", files, ["onnxprune.toml", "cannot read"])
    for line in (
        "store_block = 0",
        "tile_block = 0",
        "cycles_per_byte = inf",
        "cycles_per_byte = nan",
        "pool_side = true",
    ):
        files = {**model, "t.toml": f"{_TARGET}{line}\n".encode()}
        yield Attack(f"target: {line}", files, [line.split()[0]], args=(*PRUNE, "--target", "t.toml"))
    files = {**model, "t.toml": f"elsewhere = 5\n{_TARGET}".encode()}
    yield Attack("target: elsewhere = 5", files, ["elsewhere"], args=(*PRUNE, "--target", "t.toml"))


def _without_end() -> Iterator[Attack]:
    """What every argument that names a file may lead to: a folder, a pipe that nobody writes into, a device."""
    model = _chain(lambda _: None)
    bare, metric = (*PRUNE, "--data", "none"), (*PRUNE, "--metric", "kl", "--max-drop", "1")
    doors = {
        "the model": ("inspect", "it.onnx"),
        "a model to compare with": ("diff", "m.onnx", "it.onnx"),
        "--plan": (*bare, "--plan", "it.json"),
        "--data": (*PRUNE, "--data", "it.npy"),
        "a list of samples": (*PRUNE, "--data", "it.txt"),
        "--config": (*bare, "--config", "it.toml"),
        "--target": (*bare, "--target", "it.toml"),
        "--mask": ("sparsify", "m.onnx", "-o", "out.onnx", "--data", "none", "--mask", "it.npz"),
        "--metric": (*PRUNE, "--metric", "kl@it.npy", "--max-drop", "1"),
        "--trials": (*metric, "--data", "x.npy", "--trials", "it.jsonl", "--resume"),
        "a table": ("trials", "it.jsonl"),
    }
    files = {**model, "x.npy": _npy((8, 3, 8, 8), data=bytes(4 * 8 * 3 * 64))}
    makers: dict[str, Callable[[Path], object]] = {
        "a folder": Path.mkdir,
        "a pipe": os.mkfifo,
        "a device": lambda it: it.symlink_to("/dev/zero"),
    }
    for door, args in doors.items():
        (it,) = (a.partition("it.")[2] for a in args if "it." in a)
        for kind, make in makers.items():
            prepare = partial(_made, make, f"it.{it}")
            yield Attack(f"{kind} as {door}", files, [], args=args, prepare=prepare)


def _made(make: Callable[[Path], object], name: str, folder: Path) -> None:
    make(folder / name)


ATTACKS: tuple[Attack, ...] = tuple(
    attack
    for family in (
        _tensors,
        _declarations,
        _names,
        _nodes,
        _contradictions,
        _nesting,
        _external,
        _data,
        _masks,
        _plans,
        _tables,
        _without_end,
    )
    for attack in family()
)


def main() -> None:
    """Judge all attacks, or those whose names hold an argument."""
    imported()
    for attack in ATTACKS:
        bounded = "--timeout" in attack.args or attack.args[0] == "trials"
        args = attack.args if bounded else (*attack.args, *LIMITS)
        if sys.argv[1:] and not any(a in attack.name for a in sys.argv[1:]):
            continue
        found = judged(attack.files, args, ("out.onnx",), attack.prepare)
        sys.stdout.write(json.dumps([attack.name, found.fault, found.code, found.err, found.seconds]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
