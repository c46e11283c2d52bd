"""Training on the original's outputs: nearer to them on samples held out, or nothing changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from onnxprune.activations.simulated import scale_of, simulated
from onnxprune.calibration.reverse_mode.weight_gradients import weight_gradients
from onnxprune.constraints.grids import Grid, Grids
from onnxprune.errors import OptionError
from onnxprune.file_system.arrays_on_disk import spilling
from onnxprune.model.edits import Edits
from onnxprune.model.onnx_model import Model, from_proto
from onnxprune.passes import Distill
from onnxprune.passes.base import Constrained
from onnxprune.proof import distance_over_outputs
from tests.models import build
from tests.passes.test_compensate import Case, doubled, output, samples

DEEP = """(float[N,3,8,8] x) => (float y)
    <float[6,3,3,3] w0, float[6] b0, float[6,1,3,3] d0, float[4,6,1,1] w1, float[4,5] w2, float[5] b2>
    { a = Conv<pads=[1,1,1,1]>(x, w0, b0)
      h = Relu(a)
      d = Conv<group=6>(h, d0)
      c = Conv(d, w1)
      s = Sigmoid(c)
      p = GlobalAveragePool(s)
      f = Flatten(p)
      y = Gemm(f, w2, b2) }"""


def distance(model: Model, case: Case) -> float:
    return distance_over_outputs.distance(model, case.seen, "test")


def test_held_out_samples_come_nearer_and_so_do_others() -> None:
    with spilling() as spill:
        case = Case(build(DEEP), [0, 3], samples(160, 0), spill)
        found = Distill(case.analysis.trace, case.seen, 60).fit(case.pruned)
        trained = found.model
        before, after = distance(case.pruned, case), distance(trained, case)
    assert 0 < found.step <= 60
    assert after < 0.8 * before
    fresh = samples(32, 1)
    wanted, plain, learnt = (output(m, fresh) for m in (case.model, case.pruned, trained))
    assert np.square(learnt - wanted).mean() < 0.9 * np.square(plain - wanted).mean()


def test_the_original_is_at_no_distance_from_itself() -> None:
    with spilling() as spill:
        case = Case(build(DEEP), [0, 3], samples(40, 0), spill)
        assert distance(case.model, case) < 1e-9 < distance(case.pruned, case)


def test_all_weights_are_trained_and_everything_else_stays() -> None:
    with spilling() as spill:
        case = Case(build(DEEP), [0], samples(40, 0), spill)
        trained = Distill(case.analysis.trace, case.seen, 4).fit(case.pruned).model
    changed = {n for n in trained.graph.constants if not np.array_equal(trained.array(n), case.pruned.array(n))}
    assert changed == {"w0", "b0", "d0", "w1", "w2", "b2"}
    assert [n.op for n in trained.graph.nodes] == [n.op for n in case.pruned.graph.nodes]


def test_a_model_that_gives_what_the_original_gives_stays_as_it_is() -> None:
    with spilling() as spill:
        case = Case(build(DEEP), [0], samples(20, 0), spill)
        distill = Distill(case.analysis.trace, case.seen, 8)
        trained = distill.fit(case.model)
        assert trained.step == 0
        assert trained.model is case.model
        assert distill.run(case.model).changes == ()


def test_the_same_seed_trains_the_same_weights() -> None:
    with spilling() as spill:
        case = Case(build(DEEP), [0], samples(40, 0), spill)
        first, second = (Distill(case.analysis.trace, case.seen, 8, seed=3).fit(case.pruned).model for _ in range(2))
    assert first.proto == second.proto != case.pruned.proto


#: Groups of several channels in and out, twice, with all that moves positions; a kernel that does not reach the end.
GROUPED = """(float[N,3,8,8] x) => (float y)
    <float[12,3,3,3] w0, float[6,4,3,2] g0, float[4,3,4,4] g1, float[4,2,1,1] g2, float[4,5] w2>
    { a = Conv<pads=[1,1,1,1]>(x, w0)
      h = Sigmoid(a)
      b = Conv<group=3, strides=[2,1], dilations=[1,2], pads=[1,0,2,1]>(h, g0)
      c = Conv<group=2, strides=[3,2]>(b, g1)
      d = Conv<group=2>(c, g2)
      e = Conv<group=2>(d, g2)
      p = GlobalAveragePool(e)
      f = Flatten(p)
      y = Gemm(f, w2) }"""
TRANSPOSED = """(float[N,3,8,8] x) => (float y)
    <float[6,3,3,3] w0, float[6,2,4,3] t0, float[6] b0, float[6,2,2,2] t1, float[4,5] w2>
    { a = Conv(x, w0)
      h = Sigmoid(a)
      b = ConvTranspose<group=3, strides=[2,1], dilations=[1,2], pads=[1,0,2,1], output_padding=[1,0]>(h, t0, b0)
      c = ConvTranspose<group=2, strides=[2,2]>(b, t1)
      p = GlobalAveragePool(c)
      f = Flatten(p)
      y = Gemm(f, w2) }"""
MOVED = """(float[N,3,8,8] x) => (float y)
    <float[6,3,3,3] w0, float[3,6,3,3] w1, int64[8] edge = {0,0,1,0,0,0,2,1}, int64[2] wide = {3,2},
     int64[1] last = {3}, int64[2] from = {-1,0}, int64[2] to = {-100,7}, int64[2] along = {2,-1}, int64[2] by = {-2,3}>
    { e = Pad<mode="edge">(x, edge)
      a = Conv(e, w0)
      h = Sigmoid(a)
      r = Pad<mode="reflect">(h, edge)
      p = Pad<mode="wrap">(r, wide, , last)
      c = Conv(p, w1)
      s = Slice(c, from, to, along, by)
      y = Flatten(s) }"""
ALONG = """(float[N,3,8,8] x) => (float y) <int64[3] flat = {0, 3, 64}, float[6,1,5] w0, float[5,64] w2>
    { a = Reshape(x, flat)
      b = Conv<group=3, strides=[2], pads=[2,2]>(a, w0)
      c = ReduceMean<axes=[1], keepdims=0>(b)
      y = Identity(c) }"""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (DEEP.replace("Relu", "Sigmoid"), ("w0", "b0", "d0", "w1", "w2", "b2")),  # a kink has no difference
        (GROUPED, ("w0", "g0", "g1", "g2", "w2")),
        (TRANSPOSED, ("w0", "t0", "b0", "t1", "w2")),
        (MOVED, ("w0", "w1")),
        (ALONG, ("w0",)),
    ],
    ids=["deep", "grouped", "transposed", "moved", "one axis"],
)
def test_gradients_of_weights_agree_with_finite_differences(text: str, names: tuple[str, ...]) -> None:
    model = from_proto(build(text, 19 if "wrap" in text else 17))
    feeds, rng = {"x": samples(5, 0)}, np.random.default_rng(1)
    weights = {n: model.array(n) for n in names}
    direction = rng.standard_normal(output(model, feeds["x"]).shape)
    with weight_gradients(model, weights, feeds, {"y": np.dtype(np.float32)}) as step:
        found = step(feeds, weights, lambda _: {"y": direction})
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        way = rng.standard_normal(weight.shape)
        ends = [weight.astype(np.float64) + sign * 1e-2 * way for sign in (1, -1)]
        moved = [model.apply(Edits(constants={name: end.astype(np.float32)})) for end in ends]
        high, low = (float(np.sum(direction * output(m, feeds["x"]))) for m in moved)
        assert float(np.sum(found[name] * way)) == pytest.approx((high - low) / 2e-2, rel=0.02, abs=0.02), name


def test_rounding_lets_gradients_through_and_scales_learn_from_what_it_leaves() -> None:
    """Esser et al. 2020, equation 3: round(x / s) - x / s within the range, and its end beyond."""
    model = from_proto(build("(float[N,6] x) => (float y) <float[6] b0> { a = Add(x, b0)\ny = Identity(a) }"))
    grid = Grid(np.full((1, 1), 0.3, np.float32), np.full((1, 1), 2, np.int64), 3, signed=False)
    rounded = simulated(model, {"a": grid})
    x, direction = np.random.default_rng(0).standard_normal((2, 8, 6)).astype(np.float32)
    weights = {"b0": np.zeros(6, np.float32), scale_of("a"): np.full((), 0.3, np.float32)}
    with weight_gradients(rounded, weights, {"x": x}, {"y": x.dtype}) as step:
        found = step({"x": x}, weights, lambda _: {"y": direction})
    steps = x / np.float32(0.3)
    inside = (steps >= grid.low - 2) & (steps <= grid.high - 2)
    assert 0 < inside.sum() < inside.size
    learnt = np.where(inside, np.rint(steps) - steps, np.clip(steps, grid.low - 2, grid.high - 2))
    np.testing.assert_allclose(found["b0"], (direction * inside).sum(axis=0), rtol=1e-4)
    np.testing.assert_allclose(found[scale_of("a")], (direction * learnt).sum(), rtol=1e-4)


def test_gradients_of_old_opsets_are_those_of_the_same_model_at_16() -> None:
    text = """(float[N,3,8,8] x) => (float[N,6] y) <float[6,3,1,1] w0, float low = {0}, float high = {2}>
    { a = Conv(x, w0)
      b = Clip(a, low, high)
      p = MaxPool<kernel_shape=[3,3], strides=[2,2]>(b)
      s = ReduceMean<axes=[2,3], keepdims=0>(p)
      y = Softmax<axis=1>(s) }"""
    feeds, found = {"x": samples(5, 0)}, []
    for opset in (11, 13, 16):
        model = from_proto(build(text, opset))
        weights = {"w0": model.array("w0")}
        with weight_gradients(model, weights, feeds, {"y": np.dtype(np.float32)}) as step:
            found.append(step(feeds, weights, lambda y: {"y": np.arange(30.0).reshape(5, 6) + y["y"]})["w0"])
    assert np.abs(found[2]).max() > 0
    for gradient in found[:2]:
        np.testing.assert_allclose(gradient, found[2], rtol=1e-5)


def test_shapes_that_inference_does_not_tell_are_looked_at() -> None:
    text = """(float[N,3,8,8] x) => (float[N,5] y) <float[8,3,3,3] w0, float[8,6] w1, float[6,5] w9> {
      h = Conv(x, w0)
      n = Shape(h)
      b, c, d, e = Split<axis=0>(n)
      f = Mul(d, e)
      s = Concat<axis=0>(b, c, f)
      r = Reshape(h, s)
      t = Transpose<perm=[0,2,1]>(r)
      m = MatMul(t, w1)
      g = ReduceMean<axes=[1], keepdims=0>(m)
      y = MatMul(g, w9) }"""
    model = from_proto(build(text, 13))
    feeds, weights = {"x": samples(2, 0)}, {n: model.array(n) for n in ("w0", "w1", "w9")}
    with weight_gradients(model, weights, feeds, {"y": np.dtype(np.float32)}) as step:
        found = step(feeds, weights, lambda y: {"y": y["y"]})
    assert {n: g.shape for n, g in found.items()} == {n: w.shape for n, w in weights.items()}
    assert all(np.abs(g).max() > 0 for g in found.values())


def test_an_operator_without_gradient_is_named_with_the_way_out() -> None:
    text = "(float[N,4] x) => (float y) <float[4,6] w0> { a = MatMul(x, w0)\ny = com.microsoft.Gelu(a) }"
    model = from_proto(build(text))
    weights = {"w0": model.array("w0")}
    feeds, outputs = {"x": np.zeros((2, 4), np.float32)}, {"y": np.dtype(np.float32)}
    with (
        pytest.raises(OptionError, match=r"com\.microsoft\.Gelu has no gradient.*leave --recover out"),
        weight_gradients(model, weights, feeds, outputs),
    ):
        pass


def test_where_nothing_can_be_trained_it_is_said() -> None:
    with spilling() as spill:
        case = Case(doubled("MatMul"), [4], samples(20, 0), spill)
        rounded = from_proto(build("(float[N,3,8,8] x) => (float y) { y = Relu(x) }"))
        with pytest.raises(OptionError, match="nothing to train"):
            Distill(case.analysis.trace, case.seen, 2).fit(rounded)


#: Tensors that are only joined and pooled share a grid.
SHARING = """(float[N,3,8,8] x) => (float[N,5] y)
    <float[8,3,3,3] w0, float[8] b0, float[8,3,3,3] v0, float[16,1,3,3] d0, float[16] b1, float[16,5] w2, float[5] b2>
    { a = Conv<pads=[1,1,1,1]>(x, w0, b0)
      r = Relu(a)
      b = Conv<pads=[1,1,1,1]>(x, v0)
      s = Sigmoid(b)
      c = Concat<axis=1>(r, s)
      d = Conv<group=16>(c, d0, b1)
      e = Relu(d)
      p = GlobalAveragePool(e)
      f = Flatten(p)
      y = Gemm(f, w2, b2) }"""


@pytest.mark.parametrize("options", [{}, {"power_of_two": True}, {"sparsity": 0.5, "ratio": 0.25}], ids=str)
def test_with_few_bits_the_network_comes_nearer_and_stays_on_its_grids(options: dict[str, Any]) -> None:
    given: dict[str, Any] = {"ratio": 0.0, "weights": 3, "activations": 3, "data": {"x": samples(256, 0)}, **options}
    plain, trained = (onnxprune.prune(build(SHARING), **given, recover=steps) for steps in (0, 64))
    assert trained.report.recovered is not None
    assert plain.report.recovered is not None
    assert trained.report.recovered.best_step > 0
    assert trained.report.recovered.final[0].snr_db > plain.report.recovered.final[0].snr_db
    assert trained.report.grids is not None
    assert trained.report.grids.missed == 0
    assert {n: g.scale.tolist() for n, g in trained.plan.grids.items()} == {
        n: g.scale.tolist() for n, g in plain.plan.grids.items()
    }
    scales = {n: float(g.scale.flat[0]) for n, g in trained.plan.activations.items()}
    assert scales["r"] == scales["s"] == scales["c"]
    before = {n: float(g.scale.flat[0]) for n, g in plain.plan.activations.items()}
    if "power_of_two" in options:
        assert scales == before
    else:
        assert all(scales[n] != before[n] for n in ("c", "e"))
    if "sparsity" in options:
        assert trained.report.zeros is not None
        assert trained.report.zeros.missed == 0


def test_a_tensor_that_nothing_reads_keeps_the_scale_of_those_it_is_joined_with() -> None:
    """Of a set that shares a grid, tensors that no node reads are not rounded, and stay on the same one."""
    grid = Grid(np.full((1, 1, 1, 1), 0.3, np.float32), np.zeros((1, 1, 1, 1), np.int64), 3, signed=False)
    with spilling() as spill:
        case = Case(build(DEEP), [0, 3], samples(160, 0), spill)
        held = Constrained(grids=Grids({}, {"unread": grid, "h": grid}))
        trained = Distill(case.analysis.trace, case.seen, 40, held=held).fit(case.pruned)
    assert trained.step > 0
    scales = {n: float(g.scale.flat[0]) for n, g in trained.activations.items()}
    assert scales["unread"] == scales["h"] != float(np.float32(0.3))


@pytest.mark.parametrize("form", ["qdq", "integer"])
def test_formats_hold_the_scales_that_were_trained(form: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"ratio": 0.0, "weights": 3, "activations": 3, "data": {"x": samples(256, 0)}}
    result = onnxprune.prune(build(SHARING), **given, recover=64, format=form)
    result.save(tmp_path / "m.onnx")
    assert result.report.recovered is not None
    assert result.report.recovered.best_step > 0
    if form == "qdq":
        stored = [numpy_helper.to_array(t) for t in onnx.load(tmp_path / "m.onnx").graph.initializer]
        scales = {float(a.item()) for a in stored if a.dtype == np.float32 and a.size == 1}
        assert {float(result.plan.activations[n].scale.flat[0]) for n in ("c", "f")} <= scales
