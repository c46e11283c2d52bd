"""Operators as matrix products: rows and columns give what onnxruntime gives."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.labels import ops
from onnxprune.labels.labels import Tensor
from onnxprune.model.onnx_model import from_proto
from onnxprune.running import seeded_inputs
from onnxprune.running import session as runtime
from tests.models import build

CONV = {
    "plain": ("float[2,6,9,8] x", "float[4,6,3,3] w, float[4] b", "Conv(x, w, b)"),
    "padded, strided and dilated": (
        "float[2,6,9,8] x",
        "float[4,6,3,2] w",
        "Conv<pads=[1,0,2,1], strides=[2,1], dilations=[1,2]>(x, w)",
    ),
    "same upper": ("float[2,6,9,8] x", "float[4,6,3,4] w", 'Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)'),
    "same lower": ("float[2,6,9,8] x", "float[4,6,4,4] w", 'Conv<auto_pad="SAME_LOWER">(x, w)'),
    "groups": ("float[2,6,9,8] x", "float[4,3,3,3] w, float[4] b", "Conv<group=2, pads=[1,1,1,1]>(x, w, b)"),
    "depthwise": ("float[2,6,9,8] x", "float[12,1,3,3] w", "Conv<group=6>(x, w)"),
    "one spatial axis": ("float[2,6,9] x", "float[4,6,3] w", "Conv<pads=[1,1]>(x, w)"),
    "three spatial axes": ("float[2,3,4,5,6] x", "float[4,3,2,3,1] w", "Conv(x, w)"),
    "transposed": ("float[2,6,5,4] x", "float[6,4,2,2] w, float[4] b", "ConvTranspose<strides=[2,2]>(x, w, b)"),
    "transposed, overlapping, padded": (
        "float[2,6,5,4] x",
        "float[6,4,3,4] w",
        "ConvTranspose<strides=[2,3], pads=[1,0,0,2], output_padding=[1,0]>(x, w)",
    ),
    "transposed, dilated, in groups": (
        "float[2,6,5,4] x",
        "float[6,2,3,3] w",
        "ConvTranspose<group=3, dilations=[2,1], strides=[1,2]>(x, w)",
    ),
    "transposed to a shape": (
        "float[2,6,5,4] x",
        "float[6,4,3,3] w",
        "ConvTranspose<strides=[2,2], output_shape=[10,7]>(x, w)",
    ),
    "transposed same upper": (
        "float[2,6,5,4] x",
        "float[6,4,3,3] w",
        'ConvTranspose<strides=[2,2], auto_pad="SAME_UPPER">(x, w)',
    ),
    "MatMul": ("float[2,3,6] x", "float[6,4] w", "MatMul(x, w)"),
    "Gemm": ("float[5,6] x", "float[6,4] w, float[4] b", "Gemm(x, w, b)"),
    "Gemm of a transposed X": ("float[6,5] x", "float[6,4] w", "Gemm<transA=1>(x, w)"),
    "Gemm, transposed": ("float[5,6] x", "float[4,6] w, float[4] b", "Gemm<transB=1>(x, w, b)"),
}


@pytest.mark.parametrize("case", CONV.values(), ids=CONV.keys())
def test_rows_times_columns_is_what_the_operator_gives(case: tuple[str, str, str]) -> None:
    inputs, weights, call = case
    model = from_proto(build(f"({inputs}) => (float y) <{weights}> {{ y = {call} }}"))
    node = model.graph.nodes[0]
    feeds = seeded_inputs.seeded_feeds(
        model.graph.inputs, {"x": tuple(d or 1 for d in model.graph.inputs[0].dims or ())}, 0
    )
    with runtime.session(model, "test") as active:
        y = np.asarray(runtime.run(active, feeds, "test")["y"])
    w = model.array("w")
    rule = ops.find(node)
    assert rule is not None
    assert rule.linear is not None
    form = rule.linear(node, [Tensor(n, a.shape, a.shape) for n, a in (("x", feeds["x"]), ("w", w))])
    assert form is not None
    last = np.moveaxis(y, form.made, -1)
    rows = np.random.default_rng(0).permutation(last.size // last.shape[-1])

    patches = form.patches(feeds["x"], y.shape, rows)
    for few in (rows[:1], rows[-2:]):  # what is read of little of a map is picked out of it
        own = form.patches(feeds["x"], y.shape, few)
        np.testing.assert_array_equal(own, patches[[rows.tolist().index(r) for r in few.tolist()]])
    made = np.einsum("rgct,goct->rgo", patches, form.matrix(w)).reshape(len(rows), -1)
    bias = model.array("b") if "b" in model.graph.constants else 0

    np.testing.assert_allclose(made + bias, last.reshape(-1, last.shape[-1])[rows], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(form.weight(form.matrix(w)), w)
