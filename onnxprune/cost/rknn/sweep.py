"""Models whose layers sweep widths, for reading off what a compiler charges for each."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper
from onnx import numpy_helper as nph

_OPSET, _IR_VERSION = 17, 8


class _Chain:
    """Convolutions with bias and Relu, one after the other."""

    def __init__(self, channels: int, size: int) -> None:
        self.rng = np.random.default_rng(0)
        self.shape, self.name, self.channels = (1, channels, size, size), "x", channels
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def conv(self, out: int, kernel: int, *, depthwise: bool = False) -> None:
        """Append a convolution of ``out`` channels; a depthwise one keeps the channels there are."""
        into = 1 if depthwise else self.channels
        name = f"conv{len(self.nodes) // 2}"
        spread = (2 / (into * kernel * kernel)) ** 0.5
        weight = self.rng.standard_normal((out, into, kernel, kernel)) * spread
        self.weights.append(nph.from_array(weight.astype(np.float32), f"{name}.w"))
        self.weights.append(nph.from_array(np.full(out, 0.1, np.float32), f"{name}.b"))
        attrs: dict[str, Any] = {"kernel_shape": [kernel] * 2, "pads": [kernel // 2] * 4}
        group = self.channels if depthwise else 1
        inputs = [self.name, f"{name}.w", f"{name}.b"]
        self.nodes.append(helper.make_node("Conv", inputs, [f"{name}.y"], name=name, group=group, **attrs))
        self.nodes.append(helper.make_node("Relu", [f"{name}.y"], [f"{name}.r"], name=f"{name}.relu"))
        self.name, self.channels = f"{name}.r", out

    def model(self) -> ModelProto:
        """The chain as a model of one input and one output."""
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, self.shape)
        y = helper.make_tensor_value_info(self.name, TensorProto.FLOAT, (1, self.channels, *self.shape[2:]))
        graph = helper.make_graph(self.nodes, "sweep", [x], [y], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)


def models() -> dict[str, ModelProto]:
    """By name: widths of 1x1 and 3x3 kernels, depthwise widths, wide inputs that are tiled, first convolutions."""
    narrow = (2, 4, 7, 8, 9, 16, 17, 24, 32, 33, 40, 48, 49, 64, 65, 96)
    wide = (128, 160, 176, 208, 224, 256, 288, 336, 352, 384, 480)
    pointwise = [w for n in narrow for w in (n, 64)]
    tiled = [w for n in wide for w in (n, 16)]
    return {
        "pointwise": _chain(64, 8, pointwise, (1,)),
        "square": _chain(48, 15, (48, 40, 17, 24, 31, 32, 33, 64, 80, 24, 56, 96, 16), (3,)),
        "depthwise": _depthwise((8, 16, 24, 32, 33, 48, 56, 64, 65, 72, 96, 128, 144)),
        "tiled": _chain(16, 4, tiled, (3,)),
        "kernels": _chain(16, 8, (48, 16, 64, 16, 112, 16, 128, 16, 144, 16), (5, 7)),
        "large": _chain(16, 256, (32, 48), (1,)),
        "grey": _chain(1, 56, (32, 16), (3,)),
        "colour": _chain(3, 56, (32, 16), (3,)),
    }


def _chain(first: int, size: int, widths: Iterable[int], kernels: Iterable[int]) -> ModelProto:
    chain = _Chain(first, size)
    for kernel in kernels:
        for width in widths:
            chain.conv(width, kernel)
    chain.conv(32, 1)
    return chain.model()


def _depthwise(widths: tuple[int, ...]) -> ModelProto:
    chain = _Chain(16, 28)
    for width, after in pairwise((*widths, 32)):
        chain.conv(width, 1)
        chain.conv(width, 3 if width != after - 8 else 5, depthwise=True)
    chain.conv(32, 1)
    return chain.model()
