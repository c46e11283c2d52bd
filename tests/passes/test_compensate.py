"""Compensation: what other channels can take over, they do; what they cannot is never made worse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from onnxprune import prune
from onnxprune.calibration.gram_matrices import Observations, observe, products
from onnxprune.file_system.arrays_on_disk import Spill, spilling
from onnxprune.labels.analysis import Analysis, analyse
from onnxprune.labels.rewrite import Rewrite, rewrite
from onnxprune.model.edits import Edits
from onnxprune.model.onnx_model import Model, from_proto
from onnxprune.passes import RemoveChannels
from onnxprune.passes.compensate import RIDGES, Compensate
from onnxprune.proof.distance_over_outputs import measure
from onnxprune.running import session as runtime
from tests.models import build
from tests.samples import from_arrays

#: Readers of h, whose last two channels say what the first two say.
READERS = {
    "Conv": ("float[4,6,3,3] w1, float[4] b1", "y = Conv<pads=[1,1,1,1]>(h, w1, b1)"),
    "Conv without a bias": ("float[4,6,3,3] w1", "y = Conv(h, w1)"),
    "ConvTranspose": ("float[6,4,2,2] w1", "y = ConvTranspose<strides=[2,2]>(h, w1)"),
    "1x1 Conv behind a depthwise Conv": (
        "float[6,1,3,3] w1, float[4,6,1,1] w2",
        "d = Conv<group=6>(h, w1)\ny = Conv(d, w2)",
    ),
    "Gemm": ("float[4,6] w1, float[4] b1", "p = GlobalAveragePool(h)\nf = Flatten(p)\ny = Gemm<transB=1>(f, w1, b1)"),
    "MatMul": ("float[6,4] w1", "p = GlobalAveragePool(h)\nf = Flatten(p)\ny = MatMul(f, w1)"),
    "Add of two that share a weight": (
        "float[4,6,1,1] w2, float[4,6,3,3] w1",
        "a = Conv(h, w2)\nb = Conv(h, w2)\ns = Add(a, b)\nd = Conv<pads=[1,1,1,1]>(h, w1)\ny = Add(s, d)",
    ),
    "a head on two feature maps, one after the other": (
        "float[8,6,3,3] w1, float[8] b1, float[4,8,1,1] w2",
        (
            "p = AveragePool<kernel_shape=[2,2]>(h)\na = Conv(h, w1, b1)\nq = Relu(a)\ng = Conv(q, w2)\n"
            "e = Flatten(g)\nb = Conv(p, w1, b1)\nr = Relu(b)\nd = Conv(r, w2)\n"
            "f = Flatten(d)\ny = Concat<axis=1>(e, f)"
        ),
    ),
    "MatMul whose rows are the channels": ("float[6,4] w1, float[4,6,1,1] w2", "a = MatMul(h, w1)\ny = Conv(a, w2)"),
    "two layers": (
        "float[8,6,3,3] w1, float[4,8,1,1] w2",
        "a = Conv<pads=[1,1,1,1]>(h, w1)\nr = Relu(a)\ny = Conv(r, w2)",
    ),
}


def doubled(reader: str) -> ModelProto:
    """x -> Conv -> Relu -> h -> reader -> y, where channels 4 and 5 of h are sums of channels 0 to 3."""
    weights, nodes = READERS[reader]
    head = f"(float[N,3,8,8] x) => (float y) <float[6,3,3,3] w0, {weights}>"
    model = build(f"{head} {{ c = Conv(x, w0)\nh = Identity(c)\n{nodes} }}")
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if tensor.name == "w0":
            array[4], array[5] = array[0] + array[1], array[2] - array[3]
        elif array.shape == (6, 1, 3, 3):  # what one depthwise filter makes of a sum, another would not
            array[:] = array[0]
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def samples(count: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


class Case:
    """A model, what was seen of it, and what is left of it without some channels of its first weight."""

    def __init__(self, proto: ModelProto, gone: list[int], calibration: NDArray[np.float32], spill: Spill) -> None:
        self.model = from_proto(proto)
        self.analysis: Analysis = analyse(self.model, input_shapes={"x": (1, 3, 8, 8)})
        trace = self.analysis.trace
        shapes = trace.shapes.shape
        data = from_arrays({"x": calibration}, self.model, trace.shapes.inputs)
        self.seen: Observations = observe(self.model, products(self.model, shapes), data, shapes, spill)
        use = next(u for u in trace.uses if u[0] == "w0")
        units = trace.unit[trace.uses[use].layers[0].labels.reshape(-1)]
        self.dead = np.sort(units[gone])
        result = rewrite(trace, self.dead)
        assert isinstance(result, Rewrite)
        self.pruned = RemoveChannels(result).run(self.model).model
        self.compensate = Compensate(trace, self.dead, self.seen)


def output(model: Model, x: NDArray[np.float32]) -> NDArray[np.float32]:
    with runtime.session(model, "test") as active:
        return np.asarray(runtime.run(active, {"x": x}, "test")["y"])


@pytest.mark.parametrize("reader", READERS)
def test_channels_that_others_say_too_are_taken_over_on_inputs_never_seen(reader: str) -> None:
    with spilling() as spill:
        case = Case(doubled(reader), [4, 5], samples(40, 0), spill)
        compensated = case.compensate.run(case.pruned)
    fresh = samples(8, 1)
    wanted, plain, solved = (output(m, fresh) for m in (case.model, case.pruned, compensated.model))
    span = float(np.ptp(wanted))
    assert np.abs(plain - wanted).max() > 0.05 * span, "what was removed does not show"
    assert np.abs(solved - wanted).max() < 2e-3 * span
    assert compensated.changes


def test_held_out_error_of_no_layer_grows() -> None:
    noise = samples(5, 3)  # far too few to fit to
    with spilling() as spill:
        case = Case(doubled("two layers"), [0, 2], noise, spill)
        fits, compensated = case.compensate.fit(case.pruned)
        before, after = (measure(m, case.seen, "test").errors for m in (case.pruned, compensated))
    assert [f.weight for f in fits] == ["w0", "w1", "w2"]
    assert all(f.after <= f.before for f in fits)
    assert after[0].snr_db >= before[0].snr_db


@pytest.mark.parametrize(
    ("reader", "gone", "strong"), [("Conv", [0, 2], False), ("MatMul", [0, 1, 3], True), ("Gemm", [0, 1, 3], True)]
)
def test_the_ridge_that_is_found_is_the_nearest_of_all_to_held_out_samples(
    reader: str, gone: list[int], strong: bool
) -> None:
    with spilling() as spill:
        case = Case(doubled(reader), gone, samples(10, 3), spill)
        found = case.compensate.fit(case.pruned)[0][-1]
        each = [replace(case.compensate, ridges=(strength,)).fit(case.pruned)[0][-1] for strength in RIDGES]
    assert found.ridge is not None
    assert (found.ridge > RIDGES[len(RIDGES) // 2]) == strong
    assert found.after == min(fit.after for fit in each)


def test_model_from_which_nothing_was_removed_stays_as_it_is() -> None:
    with spilling() as spill:
        case = Case(doubled("two layers"), [], samples(20, 0), spill)
        result = case.compensate.run(case.pruned)
    assert not result.changes
    assert result.model.proto == case.pruned.proto


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Conv(h, w1)\nb = Mul(w1, w1)\nc = ReduceSum(b)\ny = Add(a, c)",
        "a = Conv(h, w1)\nb = Conv(k, w1, b1)\ny = Add(a, b)",
        "a = Conv<pads=[1,1,1,1]>(h, w2)\nb = Relu(a)\nc = Conv(b, w1)\nd = Relu(c)\ny = Conv(d, w1)",
    ],
    ids=["read by another operator", "with another bias", "one feeds the other"],
)
def test_shared_weights_that_cannot_change_stay_as_they_are(nodes: str) -> None:
    width = 6 if "w2" in nodes else 4
    declared = f"float[6,3,3,3] w0, float[{width},6,1,1] w1, float[6,6,3,3] w2, float[4] b1"
    proto = build(f"(float[N,3,8,8] x) => (float y) <{declared}> {{ h = Conv(x, w0)\nk = Relu(h)\n{nodes} }}")
    with spilling() as spill:
        case = Case(proto, [1], samples(20, 0), spill)
        compensated = case.compensate.run(case.pruned).model
    np.testing.assert_array_equal(compensated.array("w1"), case.pruned.array("w1"))


def test_a_new_bias_takes_no_name_that_is_there() -> None:
    text = "(float[N,3,8,8] x) => (float y) <float[6,3,3,3] w0, float[4,6,1,1] w1, float[1,4,1,1] w1_bias>"
    model = build(f"{text} {{ h = Conv(x, w0)\nc = Conv(h, w1)\ny = Mul(c, w1_bias) }}")
    with spilling() as spill:
        case = Case(model, [1], samples(20, 0), spill)
        compensated = case.compensate.run(case.pruned).model
    (conv,) = [n for n in compensated.graph.nodes if n.inputs[1] == "w1"]
    assert conv.inputs[2] == "w1_bias_"
    np.testing.assert_array_equal(compensated.array("w1_bias"), case.model.array("w1_bias"))


@pytest.mark.parametrize(("side", "used"), [(64, 64), (8, 70)])
def test_samples_that_nothing_needs_are_not_looked_at_and_that_is_said(side: int, used: int) -> None:
    head = f"(float[N,3,{side},{side}] x) => (float y) <float[4,3,1,1] a, float[2,4,1,1] b>"
    model = build(f"{head} {{ h = Conv(x, a)\ny = Conv(h, b) }}")
    data = np.random.default_rng(0).standard_normal((70, 3, side, side)).astype(np.float32)
    report = prune(model, ratio=0.5, data={"x": data}, input_shapes={"x": (1, 3, side, side)}).report
    assert report.recovered is not None
    assert report.recovered.samples == used
    assert any(note.startswith("64 of 70 calibration samples are used") for note in report.notes) == (used == 64)


@pytest.mark.parametrize("after", ["", "h = Mul(s, a)"], ids=["read once", "read again"])
def test_what_is_added_may_be_one_for_all_samples(after: str) -> None:
    """Computed from constants alone it does not grow with the batch, and at a batch of 1 it looks as if it did."""
    model = build(f"""(float[N,3,8,8] x) => (float[N,4,8,8] y)
<float[8,3,3,3] w0, float[1,8,8,8] c, float[4,8,1,1] w1>
{{ a = Conv<pads=[1,1,1,1]>(x, w0)
  k = Exp(c)
  s = Add(a, k)
  {after}
  y = Conv({"h" if after else "s"}, w1) }}""")
    result = prune(model, ratio=0.25, data={"x": samples(80, 0)})
    assert result.report.recovered is not None
    assert result.report.recovered.solved


def test_a_sequence_may_be_read_on_both_sides_of_a_layer() -> None:
    text = """(float[1,4,6,6] x) => (float y)
        <float[8,2,3,3] w0, float[3,8,1,1] w1, float[3,2,3,3] w2,
         int64[2] parts = {2, 2}, int64 i = {0}, int64 k = {1}> {
        s = SplitToSequence<axis=1>(x, parts)
        first = SequenceAt(s, i)
        a = Conv(first, w0)
        b = Relu(a)
        c = Conv(b, w1)
        second = SequenceAt(s, k)
        d = Conv(second, w2)
        y = Add(c, d) }"""
    data = {"x": np.random.default_rng(0).standard_normal((80, 4, 6, 6)).astype(np.float32)}
    result = prune(build(text), ratio=0.5, data=data)
    assert result.report.recovered is not None
    assert result.report.recovered.solved


_IN = {"weights": 8, "activations": 8}


@pytest.mark.parametrize(
    "asked", [{}, {"weights": 8}, {"sparsity": 0.5}, {**_IN, "format": "qdq"}, {**_IN, "format": "qonnx"}], ids=str
)
def test_before_ir_4_weights_had_to_be_inputs_and_are_solved_for(asked: dict[str, Any]) -> None:
    proto = build(
        """(float[N,3,8,8] x) => (float[N,4,6,6] y) <float[16,3,3,3] w0, float[16,16,1,1] w1, float[4,16,1,1] w2>
        { a = Conv(x, w0) b = Relu(a) c = Conv(b, w1) d = Relu(c) y = Conv(d, w2) }"""
    )
    proto.ir_version = 3
    del proto.opset_import[:]
    proto.opset_import.add(domain="", version=9)
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    images = np.random.default_rng(0).random((128, 3, 8, 8), np.float32)
    result = prune(proto, ratio=0.3, data={"x": images}, **asked)
    assert result.report.recovered is not None
    assert result.report.recovered.solved >= 2
    assert result.report.revalued is not None
    assert result.report.revalued.added >= 2  # biases, beside the names and positions of all nodes
    if "format" not in asked:
        assert [i.name for i in result.model.graph.input] == ["x", "w0", "w1", "w2"]
    assert not any("inputs too" in note for note in result.report.notes)


@pytest.mark.parametrize(("off", "ridge", "stays"), [(0.05, 1e3, True), (0.05, 1e-4, False), (0.5, 1e3, False)])
def test_the_wary_leave_a_layer_that_misses_little_unless_half_of_that_is_won(
    off: float, ridge: float, stays: bool
) -> None:
    with spilling() as spill:
        case = Case(doubled("two layers"), [], samples(40, 0), spill)
        moved = case.model.apply(Edits(constants={"w1": case.model.array("w1") * np.float32(1 + off)}))
        walk = replace(case.compensate, ridges=(ridge,))
        plain, wary = (replace(walk, wary=w).fit(moved)[0][1] for w in (False, True))
    assert plain.weight == "w1"
    assert plain.ridge == ridge, "solving does not help"
    assert wary.ridge == (None if stays else ridge)
    assert wary.after == (wary.before if stays else plain.after)


@pytest.mark.parametrize(
    "asked", [{"ratio": 0.5}, {"ratio": 0.0, "weights": 4}, {"ratio": 0.0, "sparsity": 0.5}], ids=str
)
@pytest.mark.parametrize("shape", [(1, 5), (), (1,), (1, 1)], ids=str)
def test_a_bias_of_any_shape_is_solved_like_one_of_a_number_for_each_output(
    shape: tuple[int, ...], asked: dict[str, Any]
) -> None:
    data = {"x": np.random.default_rng(0).random((128, 3, 8, 8), np.float32)}
    numbers = np.full(5, 0.25, np.float32)
    plain, other = (
        prune(_with_bias(b), data=data, importance="l1", **{"ratio": 0.0, **asked})
        for b in (numbers, np.resize(numbers, shape))
    )
    assert plain.report.recovered is not None
    assert plain.report.recovered.solved
    assert other.report.recovered == plain.report.recovered
    written, wanted = ({t.name: numpy_helper.to_array(t) for t in r.model.graph.initializer} for r in (other, plain))
    assert written["w1"].tobytes() == wanted["w1"].tobytes()
    assert written.get("b", written.get("w1_bias", numbers)).reshape(-1) == pytest.approx(wanted["b"])
    assert other.report.parameters.after + (other.report.revalued.parameters if other.report.revalued else 0) == sum(
        a.size for a in written.values()
    )


@pytest.mark.parametrize(
    "asked", [{"ratio": 0.5}, {"ratio": 0.0, "weights": 4}, {"ratio": 0.0, "sparsity": 0.5}], ids=str
)
@pytest.mark.parametrize("shape", [(2, 1), (2, 5)], ids=str)
def test_a_bias_by_rows_leaves_its_layer_as_it_is(shape: tuple[int, ...], asked: dict[str, Any]) -> None:
    bias = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    result = prune(_with_bias(bias), data={"x": np.ones((128, 2, 3, 8, 8), np.float32)}, **{"ratio": 0.0, **asked})
    assert result.report.recovered is not None
    assert result.report.recovered.layers == 1  # the convolution
    written = {t.name: numpy_helper.to_array(t) for t in result.model.graph.initializer}
    assert written["b"] == pytest.approx(bias)


def _with_bias(bias: NDArray[np.float32]) -> ModelProto:
    model = build(f"""(float[{len(bias) if bias.ndim == 2 and len(bias) > 1 else 1},3,8,8] x) => (float y)
        <float[8,3,3,3] w0, float[8,5] w1, float b>
        {{ c = Conv(x, w0)
          r = Relu(c)
          p = GlobalAveragePool(r)
          f = Flatten(p)
          y = Gemm(f, w1, b) }}""")
    for tensor in model.graph.initializer:
        if tensor.name == "b":
            tensor.CopyFrom(numpy_helper.from_array(bias, "b"))
    return model
