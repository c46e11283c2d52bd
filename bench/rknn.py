"""Predicted cycles against the RKNN compiler's, layer by layer, as a Markdown table.

    python -m bench.rknn [--python PATH] [--models unet,...] [--targets rk3588,...] [--dtypes fp16,int8] [-v]

Needs rknn-toolkit2 in this environment or in that of PATH, and for nudenet and PP-OCR a package index.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from fixtures import build as built
from fixtures import trained
from fixtures.skeleton import load_skeleton
from onnxprune.cost.chips import Cycles, find
from onnxprune.cost.rknn import Job, build
from onnxprune.cost.rknn.convert import charged
from onnxprune.model import files
from onnxprune.running import seeded_inputs, tried_input_shapes

ZOO = Path(__file__).parents[1] / "fixtures" / "zoo"


def resnet50(size: int = 224) -> ModelProto:
    """ResNet-50 with folded BatchNormalization and random weights: [1, 3, size, size] -> [1, 1000]."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    weights: list[TensorProto] = []

    def weight(name: str, shape: tuple[int, ...]) -> str:
        scale = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
        weights.append(numpy_helper.from_array((rng.standard_normal(shape) * scale).astype(np.float32), name))
        return name

    def op(kind: str, *inputs: str, **attrs: object) -> str:
        name = f"{kind.lower()}{len(nodes)}"
        nodes.append(helper.make_node(kind, list(inputs), [f"{name}_y"], name=name, **attrs))
        return f"{name}_y"

    def conv(x: str, into: int, out: int, kernel: int, stride: int = 1) -> str:
        name = f"w{len(weights)}"
        attrs = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        return op("Conv", x, weight(name, (out, into, kernel, kernel)), weight(f"{name}.b", (out,)), **attrs)

    x = op("Relu", conv("x", 3, 64, 7, 2))
    x = op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    into = 64
    for width, count, first in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for index in range(count):
            stride = first if index == 0 else 1
            y = op("Relu", conv(op("Relu", conv(x, into, width, 1)), width, width, 3, stride))
            y = conv(y, width, 4 * width, 1)
            x = op("Relu", op("Add", y, conv(x, into, 4 * width, 1, stride) if index == 0 else x))
            into = 4 * width
    x = op("Flatten", op("GlobalAveragePool", x))
    x = op("Gemm", x, weight("fc", (1000, 2048)), weight("fc.b", (1000,)), transB=1)
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, size, size))
    made = helper.make_tensor_value_info(x, TensorProto.FLOAT, (1, 1000))
    graph = helper.make_graph(nodes, "resnet50", [given], [made], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


#: By name: the model, and the shapes of its dynamic inputs.
MODELS: Mapping[str, tuple[Callable[[], ModelProto], dict[str, tuple[int, ...]]]] = {
    "unet": (lambda: built.unet(fold_bn=True), {}),
    "nudenet": (lambda: onnx.load(trained.path("nudenet")), {"images": (1, 3, 320, 320)}),
    "resnet50": (resnet50, {}),
    "mobilenet_v2": (lambda: load_skeleton(ZOO / "tv_mobilenet_v2.ts17.onnx"), {}),
    "yolov4_like": (lambda: load_skeleton(ZOO / "own_yolov4_like.ts17.onnx"), {}),
    "ppocr-det": (lambda: onnx.load(trained.path("ppocr-det")), {"x": (1, 3, 320, 320)}),
}


def row(name: str, target: str, dtype: str, python: Path | None, *, verbose: bool) -> str:
    """One line of the table; with ``verbose``, the layers that differ below it."""
    make, given = MODELS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.onnx")
        onnx.save(make(), path)
        model = files.load(path)
        inputs = tried_input_shapes.choose_shapes(model, given)
        feeds = seeded_inputs.seeded_feeds(model.graph.inputs, inputs, 0)
        (compiled,) = build([Job(path, feeds, simulate=False)], target, dtype, python)
    shapes = tried_input_shapes.shapes_at(model, inputs).shape
    layers = charged(model.graph, compiled.layers, Cycles.of(find(target), dtype), shapes)
    total, predicted = sum(x.cycles for x in layers), sum(x.predicted for x in layers)
    off = [abs(x.cycles - x.predicted) for x in layers]
    cells = [name, target, dtype, f"{predicted:,}", f"{total:,}", f"{100 * (predicted / total - 1):+.3f} %"]
    cells += [f"{np.median(off):.0f}", f"{sum(e == 0 for e in off)} of {len(off)}"]
    lines = ["| " + " | ".join(cells) + " |"]
    if verbose:
        lines += [f"    {x.node}: {x.predicted} for {x.cycles}" for x in layers if x.predicted != x.cycles]
    return "\n".join(lines).replace(",", " ")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", type=Path)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--targets", default="rk3588,rk3576,rk3566")
    parser.add_argument("--dtypes", default="fp16,int8")
    parser.add_argument("-v", "--verbose", action="store_true")
    given = parser.parse_args()
    print("| model | target | type | predicted | compiler | difference | median layer | layers exact |")
    print("|---|---|---|---|---|---|---|---|")
    for name in given.models.split(","):
        for target in given.targets.split(","):
            for dtype in given.dtypes.split(","):
                print(row(name, target, dtype, given.python, verbose=given.verbose), flush=True)


if __name__ == "__main__":
    main()
