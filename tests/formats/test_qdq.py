"""QDQ: the same bits as the grids, run by onnxruntime as written and as it optimizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

import onnxprune
from onnxprune.constraints.grids import Grid, Grids
from onnxprune.errors import CheckError, ModelError
from onnxprune.formats import qdq
from onnxprune.formats.inserted_nodes import at_opset
from onnxprune.model.edits import Edits
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model
from onnxprune.running import session as runtime
from onnxprune.running.seeded_inputs import seeded_feeds
from tests.formats.grids import outputs_of, quantized, shapes_of
from tests.models import TAKES_ALL, build

NET = """(float[N,3,8,8] x) => (float[N,5] y)
<float[8,3,3,3] w1, float[8] b1, float[8,1,3,3] w2, float[8] b2, float[5,8] w3, float[5] b3> {
    c = Conv<pads=[1,1,1,1]>(x, w1, b1)
    r = Relu(c)
    p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
    d = Conv<pads=[1,1,1,1], group=8>(p, w2, b2)
    a = Add(d, p)
    g = GlobalAveragePool(a)
    f = Flatten(g)
    y = Gemm<transB=1>(f, w3, b3)
}"""

BITS = [(8, 8), (4, 8), (3, 5), (2, 4), (8, 16), (7, 2)]


def made(weights: int, activations: int, opset: int = 17, **how: bool) -> tuple[Model, Grids, runtime.Feeds]:
    model = Model(build(NET, opset=opset))
    feeds = seeded_feeds(model.graph.inputs, {"x": (16, 3, 8, 8)}, 1)
    return *quantized(model, feeds, weights, activations, **how), feeds


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("weights", "activations"), BITS)
def test_every_number_is_the_grids(weights: int, activations: int, *, symmetric: bool) -> None:
    if activations == 16 and not TAKES_ALL:
        pytest.skip("16 bits came with opset 21")
    model, grids, _ = made(weights, activations, symmetric=symmetric)
    qdq.verify(model, grids, qdq.write(model, grids), shapes_of(model))


@pytest.mark.parametrize("part", ["weights", "activations"])
def test_another_grid_is_found_out(part: str) -> None:
    model, grids, _ = made(8, 8)
    own = dict(getattr(grids, part))
    name = list(own)[-1]
    own[name] = replace(own[name], scale=own[name].scale * np.float32(1.5))
    with pytest.raises(CheckError, match="not what they were"):
        qdq.verify(model, grids, qdq.write(model, replace(grids, **{part: own})), shapes_of(model))


def test_what_onnxruntime_makes_of_it_is_within_a_step() -> None:
    model, grids, feeds = made(8, 8)
    written = qdq.write(model, grids)
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.x64quantprecision", "1")
    active = onnxruntime.InferenceSession(b"".join(written.pieces()), options, providers=["CPUExecutionProvider"])
    (fast,) = active.run(None, feeds)
    apart = np.abs(fast - runtime.results(written, feeds)["y"]).max()
    assert apart <= 1.001 * grids.activations["y"].scale.item()


def test_a_bias_is_in_the_units_of_its_sums() -> None:
    model, grids, _ = made(8, 8)
    written = qdq.write(model, grids)
    codes = written.array("b1__bias0__codes")
    assert codes.dtype == np.int32
    wanted = grids.activations["x"].scale.item() * grids.weights["w1"].scale.reshape(-1)
    assert np.allclose(written.array("b1__bias0__scale"), wanted)
    assert np.abs(codes * wanted - model.array("b1")).max() <= wanted.max() / 2


@pytest.mark.skipif(not TAKES_ALL, reason="blocks came with opset 21")
@pytest.mark.parametrize("shape", [(8, 2, 1, 1), (4, 1, 1, 1), (2, 4, 1, 3)])
def test_scales_of_blocks(shape: tuple[int, ...]) -> None:
    model = Model(
        build("(float[1,4,6,6] x) => (float[N,8,6,6] y) <float[8,4,3,3] w> { y = Conv<pads=[1,1,1,1]>(x, w) }")
    )
    rng = np.random.default_rng(0)
    grid = Grid(rng.uniform(0.1, 1, shape).astype(np.float32), rng.integers(0, 16, shape), 4, signed=False)
    model = model.apply(Edits(constants={"w": grid.values(grid.codes(model.array("w")))}))
    grids = Grids({"w": grid})
    written = qdq.write(model, grids)
    assert written.opset == 21
    assert written.graph.constants["w__codes"] == (TensorProto.UINT4, (8, 4, 3, 3))
    qdq.verify(model, grids, written, shapes_of(model))


@pytest.mark.skipif(not TAKES_ALL, reason="4 bits came with opset 21")
def test_few_bits_lie_in_eight_where_the_opset_cannot_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    model, grids, _ = made(4, 8)

    def refused(model: Model, version: int, shapes: Mapping[str, Shape] | None) -> Model:
        if version > 13:
            raise ModelError("cannot")
        return at_opset(model, version, shapes)

    monkeypatch.setattr(qdq, "at_opset", refused)
    written = qdq.write(model, grids)
    assert written.graph.constants["w1__codes"][0] == TensorProto.INT8
    qdq.verify(model, grids, written, shapes_of(model))


def test_an_old_model_is_raised() -> None:
    model, grids, feeds = made(8, 8, opset=11)
    written = qdq.write(model, grids)
    assert (model.opset, written.opset) == (11, 13)
    qdq.verify(model, grids, written, shapes_of(model))
    assert outputs_of(written, feeds, ["y"])["y"].shape == (16, 5)


def test_an_old_model_is_raised_at_the_shapes_that_were_given() -> None:
    text = "(float[N,4] x) => (float y) <float[4,3] w, float[2,3] c> { a = MatMul(x, w)\ny = Concat<axis=1>(a, c) }"
    model, grid = Model(build(text, 11)), Grid(np.ones((1, 1), np.float32), np.zeros((1, 1), np.int64), 8, signed=True)
    assert qdq.write(model, Grids({"w": grid}), {"x": (2, 4)}).opset == 13


def test_weights_that_are_half_precision_are_refused() -> None:
    model = Model(build("(float16[1,4] x) => (float16[N,2] y) <float16[4,2] w> { y = MatMul(x, w) }"))
    grid = Grid(np.ones((1, 1), np.float32), np.zeros((1, 1), np.int64), 8, signed=True)
    with pytest.raises(ModelError, match="is float16"):
        qdq.write(model, Grids({"w": grid}))


@pytest.mark.parametrize(("weights", "activations"), [(2, 8), (4, 8), (8, 8), (16, 16)])
def test_what_is_written_runs_as_users_run_it(weights: int, activations: int) -> None:
    if not TAKES_ALL:
        pytest.skip("few bits and 16 came with later opsets")
    model, grids, feeds = made(weights, activations)
    written, said = qdq.written_to_run(model, grids, shapes_of(model))
    qdq.verify(model, grids, written, shapes_of(model))
    assert "session" not in said
    wanted, found = runtime.results(written, feeds)["y"], runtime.as_users_run(written, feeds)["y"]
    if weights != 8:  # those saturate on some processors
        assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    assert weights not in (4, 8) or written.proto == qdq.write(model, grids).proto  # nothing is added without need


def test_weights_that_are_reshaped_are_the_same() -> None:
    if not TAKES_ALL:
        pytest.skip("4 bits came with later opsets")
    model, grids, feeds = made(4, 8)
    plain, apart = (qdq.write(model, grids, apart=a) for a in (False, True))
    qdq.verify(model, grids, apart, shapes_of(model))
    assert sum(n.op_type == "Reshape" for n in apart.proto.graph.node) == 3
    assert np.array_equal(runtime.results(plain, feeds)["y"], runtime.results(apart, feeds)["y"])


def test_what_onnxruntime_refuses_either_way_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model, grids, _ = made(4, 8)
    plain = qdq.write(model, grids)

    def refuses(*_: object) -> runtime.Feeds:
        raise ModelError("onnxruntime refuses the model: no")

    monkeypatch.setattr(runtime, "as_users_run", refuses)
    written, said = qdq.written_to_run(model, grids, shapes_of(model))
    assert written.proto == plain.proto
    assert "session.disable_quant_qdq" in said


def test_a_model_of_other_floats_is_refused_before_its_samples_are_read() -> None:
    proto = build("(float16[1,4] x) => (float16[1,2] y) <float16[4,2] w> { y = MatMul(x, w) }")
    with pytest.raises(ModelError, match="is float16, and grids are of float32"):
        onnxprune.prune(proto, weights=8, format="qdq", data="nowhere.npz")
