"""The graph of gradients, made quicker: the same numbers by other nodes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import parser

from onnxprune.calibration.reverse_mode.reverse_graph import quick


def built(text: str) -> onnx.ModelProto:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> agraph {text}')


def outputs(proto: onnx.ModelProto, **given: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """Of inputs that are ``given``, and of random ones."""
    run = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    drawn = {i.name: rng.standard_normal(i.shape).astype(np.float32) for i in run.get_inputs() if i.name not in given}
    return list(run.run(None, {**drawn, **given}))


def operators(proto: onnx.ModelProto) -> Counter[str]:
    return Counter(n.op_type for n in proto.graph.node)


def turned(group: int, strides: int) -> str:
    numbers = ", ".join(str(0.01 * i - 0.3) for i in range(4 * (6 // group) * 6))
    return f"""(float[2,4,7,6] x) => (float[2,6,h,w] y) <float[4,{6 // group},3,2] w = {{{numbers}}}>
    {{ y = ConvTranspose<group={group}, strides=[{strides},{strides}], pads=[1,0,1,0]>(x, w) }}"""


@pytest.mark.parametrize("group", [1, 2])
def test_a_transposed_convolution_of_stride_1_is_a_convolution(group: int) -> None:
    proto = built(turned(group, 1))
    (before,) = outputs(proto)
    (after,) = outputs(quick(proto))
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert operators(proto) == {"Conv": 1}


def test_one_that_spreads_its_input_stays() -> None:
    assert operators(quick(built(turned(1, 2)))) == {"ConvTranspose": 1}


@pytest.mark.parametrize("pads", [(0, 0, 1, 1), (1, 0, 0, 1), (0, 0, 2, 2), (1, 1, 1, 1)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_convolution_that_is_padded_unlike_on_its_sides_has_its_own_adjoint(
    pads: tuple[int, ...], stride: int
) -> None:
    """<conv(x), g> = <x, adjoint(g)>: TensorFlow pads by 0 before and 1 behind."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((4, 3, 3, 3)).astype(np.float32)
    how = f"strides=[{stride},{stride}], pads=[{','.join(map(str, pads))}]"
    forward = built(f"(float[2,3,8,9] x, float[4,3,3,3] w) => (float[2,4,h,v] y) {{ y = Conv<{how}>(x, w) }}")
    x = rng.standard_normal((2, 3, 8, 9)).astype(np.float32)
    (y,) = outputs(forward, x=x, w=weight)
    g = rng.standard_normal(y.shape).astype(np.float32)
    sizes = ",".join(map(str, y.shape))
    adjoint = built(
        f"(float[{sizes}] g, float[4,3,3,3] w) => (float[2,3,8,9] x) "
        f"{{ x = ConvTranspose<{how}, output_shape=[8,9]>(g, w) }}"
    )
    (found,) = outputs(quick(adjoint), g=g, w=weight)
    assert float(np.sum(x * found)) == pytest.approx(float(np.sum(y * g)), rel=1e-3)


def test_choices_against_zero_are_products_and_what_nobody_reads_goes() -> None:
    proto = built("""(float[1,5] x) => (float[1,5] y, float[1,5] z)
    <float zero = {0}, float one = {1}, int64[1] first = {0}, int64[1] last = {1}>
    { more = Greater(x, zero)
      y = Where(more, x, zero)
      unread = Exp(x)
      same = ReduceSum<keepdims=1>(x, first)
      sum = ReduceSum<keepdims=1>(x, last)
      either = Where(more, same, one)
      z = Add(either, sum) }""")
    before = outputs(proto)
    for one, other in zip(outputs(quick(proto)), before, strict=True):
        np.testing.assert_array_equal(one, other)
    found = operators(proto)
    assert "Exp" not in found
    assert found["Where"] == 1
    assert found["ReduceSum"] == 1
