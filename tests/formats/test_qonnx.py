"""QONNX: what Quant nodes say is the grids; and its customers, qonnx and hls4ml, give what they say."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxprune.constraints.grids import Grids
from onnxprune.errors import CheckError
from onnxprune.formats import qdq, qonnx
from onnxprune.model.onnx_model import Model
from onnxprune.running import session as runtime
from onnxprune.running.seeded_inputs import seeded_feeds
from tests.commands import Run
from tests.formats.grids import quantized
from tests.formats.test_qdq import NET
from tests.models import build

LENET = """(float[1,1,28,28] x) => (float[1,10] y)
<float[6,1,5,5] w1, float[6] b1, float[16,6,5,5] w2, float[16] b2, float[256,120] w3, float[120] b3,
 float[120,84] w4, float[84] b4, float[84,10] w5, float[10] b5, int64[2] s = {1,256}> {
    c1 = Conv<kernel_shape=[5,5], strides=[1,1], pads=[0,0,0,0], dilations=[1,1], group=1>(x, w1, b1)
    r1 = Relu(c1)
    p1 = MaxPool<kernel_shape=[2,2], strides=[2,2], pads=[0,0,0,0]>(r1)
    c2 = Conv<kernel_shape=[5,5], strides=[1,1], pads=[0,0,0,0], dilations=[1,1], group=1>(p1, w2, b2)
    r2 = Relu(c2)
    p2 = MaxPool<kernel_shape=[2,2], strides=[2,2], pads=[0,0,0,0]>(r2)
    f = Reshape(p2, s)
    m3 = MatMul(f, w3)
    a3 = Add(m3, b3)
    r3 = Relu(a3)
    m4 = MatMul(r3, w4)
    a4 = Add(m4, b4)
    r4 = Relu(a4)
    m5 = MatMul(r4, w5)
    y = Add(m5, b5)
}"""


def made(text: str, weights: int = 8, activations: int = 8, **how: bool) -> tuple[Model, Grids, runtime.Feeds]:
    model = Model(build(text))
    shape = tuple(d or 1 for d in model.graph.inputs[0].dims or ())
    feeds = seeded_feeds(model.graph.inputs, {"x": shape}, 1)
    return *quantized(model, feeds, weights, activations, **how), feeds


@pytest.mark.parametrize("how", [{}, {"symmetric": False}, {"signed": True}])
@pytest.mark.parametrize(("weights", "activations"), [(8, 8), (4, 8), (3, 5), (2, 2), (16, 11)])
def test_quant_is_the_grid(weights: int, activations: int, how: dict[str, bool]) -> None:
    model, grids, _ = made(NET, weights, activations, **how)
    qonnx.verify(model, grids, qonnx.write(model, grids))


@pytest.mark.parametrize("part", ["weights", "activations"])
def test_another_grid_is_found_out(part: str) -> None:
    model, grids, _ = made(NET)
    own = dict(getattr(grids, part))
    name = list(own)[-1]
    own[name] = replace(own[name], scale=own[name].scale * np.float32(1.5))
    with pytest.raises(CheckError, match="not what they were"):
        qonnx.verify(model, grids, qonnx.write(model, replace(grids, **{part: own})))


def in_qonnx(written: Model, feeds: runtime.Feeds) -> dict[str, NDArray[Any]]:
    """What qonnx's own execution gives."""
    wrapper = import_module("qonnx.core.modelwrapper").ModelWrapper(written.proto)
    wrapper = wrapper.transform(import_module("qonnx.transformation.infer_shapes").InferShapes())
    return dict(import_module("qonnx.core.onnx_exec").execute_onnx(wrapper, feeds))


RESIDUAL = """(float[1,3,8,8] x) => (float[1,5] y)
<float[8,3,3,3] w1, float[8] b1, float[8,1,3,3] w2, float[8] b2, float[5,8] w3, float[5] b3> {
    c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w1, b1)
    r = Relu(c)
    d = Conv<kernel_shape=[3,3], pads=[1,1,1,1], group=8>(r, w2, b2)
    a = Add(d, r)
    g = GlobalAveragePool(a)
    f = Flatten(g)
    y = Gemm<transB=1>(f, w3, b3)
}"""

DECODER = """(float[1,4,8,8] x) => (float[1,2,16,16] y)
<float[8,4,3,3] w1, float[8] b1, float[8,4,2,2] w2, float[2,4,1,1] w3> {
    c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(x, w1, b1)
    r = Relu(c)
    u = ConvTranspose<kernel_shape=[2,2], strides=[2,2]>(r, w2)
    y = Conv<kernel_shape=[1,1]>(u, w3)
}"""


@pytest.mark.qonnx
@pytest.mark.parametrize("text", [LENET, RESIDUAL, DECODER], ids=["LeNet-5", "residual", "decoder"])
def test_qonnx_executes_it(text: str) -> None:
    model, grids, feeds = made(text, 4, 8)
    wanted = runtime.results(qdq.write(model, grids), feeds)["y"]
    found = in_qonnx(qonnx.write(model, grids), feeds)["y"]
    assert np.abs(found - wanted).max() <= 1.001 * grids.activations["y"].scale.item()
    assert np.isclose(found, wanted, atol=1e-6).mean() > 0.95


@pytest.mark.qonnx
@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("zeros", [(), ("--sparsity", 0.9)], ids=["bits", "zeros and bits"])
def test_hls4ml_compiles_what_the_command_line_writes(tmp_path: Path, run: Run, zeros: tuple[str, float]) -> None:
    """C++ for an FPGA, compiled with g++, gives what qonnx gives."""
    hls4ml = import_module("hls4ml")
    rng = np.random.default_rng(0)
    onnx.save(build(LENET), tmp_path / "lenet.onnx")
    np.save(tmp_path / "images.npy", rng.standard_normal((96, 1, 28, 28)).astype(np.float32))
    shifts = ("--symmetric", "--weights-per", "tensor", "--power-of-two", "--format", "qonnx")
    data = ("--data", tmp_path / "images.npy", "-o", tmp_path / "lenet.qonnx.onnx")
    assert run("quantize", tmp_path / "lenet.onnx", *zeros, *shifts, *data).code == 0
    written = Model(onnx.load(tmp_path / "lenet.qonnx.onnx"))
    clean = import_module("qonnx.util.cleanup").cleanup_model
    wrapper = clean(import_module("qonnx.core.modelwrapper").ModelWrapper(written.proto))
    last = import_module("qonnx.transformation.channels_last").ConvertToChannelsLastAndClean()
    wrapper = clean(wrapper.transform(last))
    config = hls4ml.utils.config_from_onnx_model(
        wrapper, granularity="name", backend="Vitis", default_precision="fixed<48,20>"
    )
    converted = hls4ml.converters.convert_from_onnx_model(
        wrapper, output_dir=str(tmp_path / "hls"), io_type="io_stream", backend="Vitis", hls_config=config
    )
    converted.compile()
    images = rng.standard_normal((20, 1, 28, 28)).astype(np.float32)
    fast = np.asarray(converted.predict(np.ascontiguousarray(images.transpose(0, 2, 3, 1)))).reshape(20, 10)
    slow = np.concatenate([in_qonnx(written, {"x": image[None]})["y"] for image in images])
    assert np.array_equal(fast, slow)
