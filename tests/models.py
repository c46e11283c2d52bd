"""Small models from onnx.parser text.

    (float[2,3,6,6] x) => (float y) <float[8,3,3,3] w, int64[2] s = {0, -1}> { y = Conv(x, w) }

A tensor that is declared and never computed is a weight, filled with seeded noise.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper, parser, shape_inference

from onnxprune.errors import ModelError
from onnxprune.model.dtypes import dtype_of, to_tensor
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model, from_proto
from onnxprune.running import seeded_inputs, tried_input_shapes
from onnxprune.running import session as runtime
from onnxprune.running.stand_in_nodes import QONNX
from onnxprune.running.unknown_operators import sever

#: Opset 23 and IR 11 came with this one.
TAKES_ALL = tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 22)


def build(text: str, opset: int = 17, ir: int = 8) -> ModelProto:
    """Parse, fill in weights, and declare every shape that can be inferred, so that a stale one is found."""
    domains = f'"" : {opset}, "com.microsoft" : 1, "custom" : 1, ' + ", ".join(f'"{d}" : 1' for d in QONNX)
    model = parser.parse_model(f"<ir_version: {ir}, opset_import: [{domains}]> g {text}")
    graph = model.graph
    made = {name for node in graph.node for name in node.output}
    for info in [v for v in graph.value_info if v.name not in made]:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        dtype = dtype_of(info.type.tensor_type.elem_type)
        values = noise(info.name, shape) * (1 if dtype.kind in "fV" else 20)
        graph.initializer.append(to_tensor(values.astype(dtype), info.name, info.type.tensor_type.elem_type))
        graph.value_info.remove(info)
    return declared(model)


def scaled(model: ModelProto, name: str, factor: float) -> ModelProto:
    """The model, a weight of which is so many times as large."""
    for tensor in (t for t in model.graph.initializer if t.name == name):
        tensor.CopyFrom(numpy_helper.from_array((factor * numpy_helper.to_array(tensor)).astype(np.float32), name))
    return model


def declared(model: ModelProto) -> ModelProto:
    """The model with every shape declared that onnx infers; outputs that declare none are left to inference too."""
    for out in model.graph.output:
        if not out.type.tensor_type.shape.dim:
            out.type.tensor_type.ClearField("shape")
    model = shape_inference.infer_shapes(model, data_prop=True)
    for info in model.graph.value_info:  # onnx gives sizes that it does not know one name in unlike parts of a sequence
        kind = info.type.sequence_type.elem_type if info.type.HasField("sequence_type") else info.type
        for dim in kind.tensor_type.shape.dim:
            if dim.dim_param.startswith("unk__"):
                dim.ClearField("dim_param")
    for out in model.graph.output:  # operators that onnx does not know, and a checker before 1.17 that wants a rank
        if not out.type.tensor_type.HasField("shape") and (rank := _rank(model, out.name)) is not None:
            out.type.tensor_type.shape.dim.extend(out.type.tensor_type.shape.Dimension() for _ in range(rank))
    return model


def _rank(model: ModelProto, name: str) -> int | None:
    part = sever(Model(model)).part
    shapes = {i.name: tuple(d or 2 for d in i.dims or ()) for i in part.graph.inputs}
    try:
        with runtime.session(part, "test") as active:
            found = runtime.run(active, seeded_inputs.seeded_feeds(part.graph.inputs, shapes, 0), "test")
    except ModelError:
        return None
    return int(found[name].ndim) if name in found else None


def too_new(model: ModelProto, shapes: Mapping[str, Shape] | None = None) -> str | None:
    """Why onnx or onnxruntime, where they are those of the lower bounds, do not take the model even as it is."""
    if TAKES_ALL:
        return None
    try:
        loaded = sever(from_proto(model)).part
        feeds = seeded_inputs.seeded_feeds(
            loaded.graph.inputs, tried_input_shapes.choose_shapes(loaded, shapes or {}), 0
        )
        for optimize in (True, False):
            with runtime.session(loaded, "as it is", optimize=optimize) as active:
                runtime.run(active, feeds, "as it is")
    except ModelError as error:
        return str(error)[:200]
    return None


def noise(name: str, shape: list[int]) -> NDArray[np.float64]:
    """Seeded by ``name``, of a size that keeps activations near 1; positive where the name says 'var'."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.startswith("var"):
        return rng.uniform(0.5, 2, shape)
    return np.asarray(rng.standard_normal(shape) / max(1.0, float(np.prod(shape[1:])) ** 0.5))


def sandwich(middle: str, *weights: str, reads: int = 8, h: str = "h = Conv(x, w0)", inputs: str = "") -> str:
    """x [2,3,8,8] -> Conv -> h [2,8,6,6] -> ``middle`` -> g [2,reads,?,?] -> Conv -> y."""
    named = ", ".join(["float[8,3,3,3] w0", f"float[5,{reads},1,1] w9", *weights])
    return f"(float[2,3,8,8] x{inputs}) => (float y) <{named}> {{\n{h}\n{middle}\ny = Conv(g, w9)\n}}"


def pair(middle: str, *weights: str, reads: int = 8, second: int = 8) -> str:
    """As `sandwich`, with a second tensor h2 [2,second,6,6] made of x."""
    return sandwich(f"h2 = Conv(x, w1)\n{middle}", f"float[{second},3,3,3] w1", *weights, reads=reads)


def mlp(middle: str, *weights: str, reads: int = 8, rows: str = "2") -> str:
    """x [rows,6] -> MatMul -> h [rows,8] -> ``middle`` -> g [...,reads] -> MatMul -> y."""
    named = ", ".join(["float[6,8] w0", f"float[{reads},5] w9", *weights])
    return f"(float[{rows},6] x) => (float y) <{named}> {{\nh = MatMul(x, w0)\n{middle}\ny = MatMul(g, w9)\n}}"


def flat(middle: str, *weights: str, reads: int, inputs: str = "", x: str = "2,3,8,8") -> str:
    """x -> Conv -> h [2,8,6,6] -> ``middle`` -> g [?,reads] -> MatMul -> y."""
    named = ", ".join(["float[8,3,3,3] w0", f"float[{reads},5] w9", *weights])
    return f"(float[{x}] x{inputs}) => (float y) <{named}> {{\nh = Conv(x, w0)\n{middle}\ny = MatMul(g, w9)\n}}"
