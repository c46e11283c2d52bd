"""Grids by min-max for tests: what is quantized is what `onnxprune quantize` would quantize."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from onnxprune.constraints.grids import Grid, Grids
from onnxprune.model.edits import Edits
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model
from onnxprune.running import session as runtime
from onnxprune.running.session import Feeds

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

#: What is computed from other numbers, and so needs a grid of its own.
ROUNDED = {
    *LAYERS,
    *(
        "Add",
        "Mul",
        "Sub",
        "Div",
        "Sigmoid",
        "HardSwish",
        "HardSigmoid",
        "LeakyRelu",
        "PRelu",
        "Tanh",
        "Clip",
        "Exp",
        "Abs",
    ),
    *("Concat", "AveragePool", "GlobalAveragePool", "Resize", "ReduceMean", "Upsample", "BatchNormalization"),
}


def grid(
    values: NDArray[np.float32], bits: int, axes: tuple[int, ...] = (), *, symmetric: bool = False, signed: bool = True
) -> Grid:
    """By the range of ``values``, with a scale for each position of ``axes``."""
    rest = tuple(a for a in range(values.ndim) if a not in axes)
    low = np.minimum(values.min(axis=rest, keepdims=True), 0).astype(np.float64)
    high = np.maximum(values.max(axis=rest, keepdims=True), 0).astype(np.float64)
    if symmetric:
        top = np.maximum(-low, high)
        scale = np.maximum(top / (2 ** (bits - 1) - 1), 1e-6).astype(np.float32)
        return Grid(scale, np.zeros(scale.shape, np.int64), bits, signed=True)
    scale = np.maximum((high - low) / (2**bits - 1), 1e-6).astype(np.float32)
    first = -(2 ** (bits - 1)) if signed else 0
    zero = np.clip(np.rint(first - low / scale), first, first + 2**bits - 1).astype(np.int64)
    return Grid(scale, zero, bits, signed)


def quantized(
    model: Model, feeds: Feeds, weights: int = 8, activations: int = 8, *, symmetric: bool = True, signed: bool = False
) -> tuple[Model, Grids]:
    """The model with its weights on their grids, one scale an output; and all grids."""
    graph = model.graph
    of_weights: dict[str, Grid] = {}
    for node in graph.nodes:
        if node.op in LAYERS and len(node.inputs) > 1 and node.inputs[1] in graph.constants:
            axis = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gemm": 1 - node.attrs.get("transB", 0)}[node.op]
            array = model.array(node.inputs[1])
            axes = (axis % array.ndim,) if node.attrs.get("group", 1) == 1 or node.op == "Conv" else ()
            of_weights[node.inputs[1]] = grid(array, weights, axes, symmetric=symmetric)
    edits = Edits(constants={n: g.values(g.codes(model.array(n))) for n, g in of_weights.items()})
    solved = model.apply(edits)
    named = [i.name for i in graph.inputs]
    for node in graph.nodes:
        if node.op in ROUNDED and node.outputs[0] not in graph.constants:
            name = node.outputs[0]
            readers = graph.consumers.get(name, [])
            fused = len(readers) == 1 and readers[0][0].op in ("Relu", "Clip")
            named.append(readers[0][0].outputs[0] if fused and name not in {o.name for o in graph.outputs} else name)
    seen = outputs_of(solved, feeds, named)
    floats = [n for n in dict.fromkeys(named) if seen[n].dtype == np.float32]
    one = {n: grid(seen[n], activations, signed=signed) for n in floats}
    return solved, Grids(of_weights, one)


def outputs_of(model: Model, feeds: Feeds, names: list[str]) -> Mapping[str, NDArray[np.float32]]:
    """Values of tensors, inputs too."""
    extra = [n for n in names if n not in feeds and n not in {o.name for o in model.graph.outputs}]
    with runtime.session(model, "test", outputs=extra) as active:
        return {**feeds, **runtime.run(active, feeds, "test")}


def shapes_of(model: Model) -> dict[str, Shape]:
    """Of the inputs, with dynamic sizes as 2."""
    return {i.name: tuple(d or 2 for d in i.dims or ()) for i in model.graph.inputs}
