"""Training on the original's outputs: nearer to them on samples held out, or nothing changes."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.calibration.reverse_mode.gradients import weight_gradients
from onnxprune.errors import OptionError
from onnxprune.file_system.arrays_on_disk import spilling
from onnxprune.model.edits import Edits
from onnxprune.model.onnx_model import Model, from_proto
from onnxprune.passes import Distill
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
        best, trained = Distill(case.analysis.trace, case.seen, 60).fit(case.pruned)
        before, after = distance(case.pruned, case), distance(trained, case)
    assert 0 < best <= 60
    assert after < 0.8 * before
    fresh = samples(32, 1)
    wanted, plain, found = (output(m, fresh) for m in (case.model, case.pruned, trained))
    assert np.square(found - wanted).mean() < 0.9 * np.square(plain - wanted).mean()


def test_the_original_is_at_no_distance_from_itself() -> None:
    with spilling() as spill:
        case = Case(build(DEEP), [0, 3], samples(40, 0), spill)
        assert distance(case.model, case) < 1e-9 < distance(case.pruned, case)


def test_weights_of_grouped_convolutions_and_everything_else_stay() -> None:
    with spilling() as spill:
        case = Case(build(DEEP), [0], samples(40, 0), spill)
        _, trained = Distill(case.analysis.trace, case.seen, 4).fit(case.pruned)
    changed = {n for n in trained.graph.constants if not np.array_equal(trained.array(n), case.pruned.array(n))}
    assert changed == {"w0", "b0", "w1", "w2", "b2"}
    assert [n.op for n in trained.graph.nodes] == [n.op for n in case.pruned.graph.nodes]


def test_a_model_that_gives_what_the_original_gives_stays_as_it_is() -> None:
    with spilling() as spill:
        case = Case(build(DEEP), [0], samples(20, 0), spill)
        distill = Distill(case.analysis.trace, case.seen, 8)
        best, trained = distill.fit(case.model)
        assert best == 0
        assert trained is case.model
        assert distill.run(case.model).changes == ()


def test_the_same_seed_trains_the_same_weights() -> None:
    with spilling() as spill:
        case = Case(build(DEEP), [0], samples(40, 0), spill)
        first, second = (Distill(case.analysis.trace, case.seen, 8, seed=3).fit(case.pruned)[1] for _ in range(2))
    assert first.proto == second.proto != case.pruned.proto


def test_gradients_of_weights_agree_with_finite_differences() -> None:
    model = from_proto(build(DEEP.replace("Relu", "Sigmoid")))  # a kink has no difference to agree with
    feeds, rng = {"x": samples(5, 0)}, np.random.default_rng(1)
    weights = {n: model.array(n) for n in ("w0", "b0", "w1", "w2", "b2")}
    direction = rng.standard_normal((5, 5))
    with weight_gradients(model, weights, feeds, {"y": np.dtype(np.float32)}) as step:
        found = step(feeds, weights, lambda _: {"y": direction})
    for name, weight in weights.items():
        way = rng.standard_normal(weight.shape)
        ends = [weight.astype(np.float64) + sign * 1e-2 * way for sign in (1, -1)]
        moved = [model.apply(Edits(constants={name: end.astype(np.float32)})) for end in ends]
        high, low = (float(np.sum(direction * output(m, feeds["x"]))) for m in moved)
        assert float(np.sum(found[name] * way)) == pytest.approx((high - low) / 2e-2, rel=0.02, abs=0.02), name


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
