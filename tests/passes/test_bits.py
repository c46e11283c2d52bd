"""Few bits that a run asks for: every number on its grid in the file, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

import onnxprune
from onnxprune import OptionError, PlanError
from onnxprune.activations.sharing import shared
from onnxprune.activations.simulated import simulated
from onnxprune.constraints.grids import Grid, Grids
from onnxprune.model.onnx_model import from_proto
from onnxprune.passes.bits import grids_of
from onnxprune.plans.plan_file import load_plan
from onnxprune.proof.weights import prove_grids
from tests.models import build
from tests.passes.test_zeros import WEIGHTS, net, samples, weights

ACTIVATIONS = {"x", "r", "c", "q", "f"}


def on_grid(result: onnxprune.Result) -> Grids:
    found = grids_of(result.plan)
    for name, grid in found.weights.items():
        weight = weights(result.model)[name]
        assert np.array_equal(grid.values(grid.codes(weight)), weight), name
    assert result.report.grids is not None
    assert result.report.grids.missed == 0
    return found


def snr(result: onnxprune.Result) -> float:
    assert result.report.recovered is not None
    return result.report.recovered.final[0].snr_db


@pytest.mark.parametrize("given", ["samples", "none"])
@pytest.mark.parametrize("symmetric", [None, True, False])
@pytest.mark.parametrize("per", ["tensor", "channel", "group:4"])
def test_every_weight_is_on_its_grid(given: str, symmetric: bool | None, per: str) -> None:
    data = samples() if given == "samples" else "none"
    result = onnxprune.prune(net(), weights=4, symmetric=symmetric, weights_per=per, data=data)
    found = on_grid(result)
    assert found.weights.keys() == set(WEIGHTS)
    assert {g.bits for g in found.weights.values()} == {4}
    assert result.report.channels.ratio == 1
    if symmetric:
        assert not any(g.zero_point.any() for g in found.weights.values())
    scales = {n: g.scale.size for n, g in found.weights.items()}
    assert scales["w1"] == {"tensor": 1, "channel": 16, "group:4": 64}[per]
    if per == "group:4":  # of one input there are no groups of four
        assert (scales["w0"], scales["w2"]) == (32, 16)
        assert any("a scale for each output" in note for note in result.report.notes)


def test_weights_that_are_inputs_too_are_left_and_that_is_said() -> None:
    model = net()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    result = onnxprune.prune(model, ratio=0.0, weights=4, format="qonnx", data="none")
    assert not result.plan.grids
    assert any("weights are inputs too" in note for note in result.report.notes)
    again = onnxprune.prune(model, ratio=0.0, data="none")
    assert not any("weights are inputs too" in note for note in again.report.notes)


def test_zeros_have_no_sign() -> None:
    result = onnxprune.prune(net(), ratio=0.0, weights=3, data=samples())
    zeros = np.concatenate([weight[weight == 0] for weight in weights(result.model).values()])
    assert zeros.size
    assert not np.signbit(zeros).any()


def test_of_five_bits_or_more_zero_is_in_the_middle() -> None:
    for bits, signed in ((4, False), (5, True)):
        grids = on_grid(onnxprune.prune(net(), weights=bits, data="none")).weights.values()
        assert {g.signed for g in grids} == {signed}


def test_solving_is_worth_it_and_more_bits_are_nearer() -> None:
    found = {b: snr(onnxprune.prune(net(), weights=b, data=samples(256))) for b in (2, 4, 8)}
    assert found[2] < found[4] < found[8]
    plain = snr(onnxprune.prune(net(), weights=4, compensate=False, data=samples(256)))
    assert found[4] > plain + 3


def test_bits_of_their_own_for_some_layers() -> None:
    result = onnxprune.prune(net(), weights=4, bits_for={"w0": 8, "w4": 0}, data="none")
    found = on_grid(result)
    assert {n: g.bits for n, g in found.weights.items()} == {"w0": 8, "w1": 4, "w2": 4, "w3": 4}
    assert result.report.grids is not None
    size = sum(weights(result.model)[n].size for n in ("w1", "w2", "w3"))
    assert result.report.grids.bytes == weights(result.model)["w0"].size + size // 2
    alone = onnxprune.prune(net(), bits_for={"w1": 3}, data="none")
    assert on_grid(alone).weights.keys() == {"w1"}


def test_channels_zeros_and_bits_at_once() -> None:
    result = onnxprune.prune(net(), ratio=0.25, sparsity=0.5, weights=4, activations=8, data=samples())
    found = on_grid(result)
    assert result.report.achieved >= 0.25
    assert result.report.zeros is not None
    assert result.report.zeros.missed == 0
    for name, mask in result.plan.masks.items():
        assert (weights(result.model)[name][~mask] == 0).all()
    assert found.activations.keys() == ACTIVATIONS | {"t", "p"}


def test_tensors_that_feed_layers_are_on_grids() -> None:
    result = onnxprune.prune(net(), weights=8, activations=4, data=samples())
    found = on_grid(result).activations
    assert found.keys() == ACTIVATIONS | {"t", "p"}  # p is what f is moved from, t what is averaged on the way
    assert {n: g.bits for n, g in found.items()} == dict.fromkeys(found, 4) | {"x": 8}
    assert (found["r"].zero_point == 0).all()  # behind Relu
    assert (found["x"].zero_point > 0).all()
    assert np.array_equal(found["p"].scale.reshape(-1), found["f"].scale.reshape(-1))
    flat = onnxprune.prune(net(), weights=8, activations=4, symmetric=True, data=samples())
    assert {n: g.signed for n, g in on_grid(flat).activations.items() if n in ("r", "c")} == {"r": False, "c": True}
    for ranges in ("minmax", "percentile:99"):
        other = onnxprune.prune(net(), weights=8, activations=4, ranges=ranges, data=samples())
        assert not np.array_equal(on_grid(other).activations["r"].scale, found["r"].scale)


@pytest.mark.parametrize("symmetric", [None, True])
@pytest.mark.parametrize("given", ["samples", "none"])
def test_all_scales_are_powers_of_two(given: str, symmetric: bool | None) -> None:
    options: dict[str, Any] = {"power_of_two": True, "symmetric": symmetric, "weights": 4}
    options |= {"data": samples(), "activations": 6} if given == "samples" else {"data": "none"}
    found = on_grid(onnxprune.prune(net(), **options))
    scales = [g.scale for g in (*found.weights.values(), *found.activations.values())]
    assert all((np.frexp(s)[0] == 0.5).all() for s in scales)
    with pytest.raises(OptionError, match="--power-of-two: says nothing of how many bits"):
        onnxprune.prune(net(), power_of_two=True)


def test_channels_along_two_axes_have_a_range() -> None:
    text = """(float[1,3,6,6] x) => (float y)
        <float[8,3,1,1] w0, float[36,5] w1, float[4,8,1] w2,
         int64[4] pairs = {1, 4, 2, 36}, int64[3] flat = {1, 8, 5}> {
        a = Conv(x, w0)
        b = Relu(a)
        c = Reshape(b, pairs)
        d = MatMul(c, w1)
        e = Reshape(d, flat)
        y = Conv(e, w2) }"""
    data = {"x": np.random.default_rng(0).standard_normal((70, 3, 6, 6)).astype(np.float32)}
    result = onnxprune.prune(build(text), ratio=0.5, weights=8, activations=8, data=data)
    assert "c" in result.plan.activations
    assert result.report.channels.ratio < 1


def test_weights_make_up_for_rounded_activations() -> None:
    data = samples(256)
    solved = onnxprune.prune(net(), activations=3, data=data)
    left = onnxprune.prune(net(), activations=3, compensate=False, data=data)
    assert snr(solved) > snr(left)
    assert (weights(left.model)["w1"] == weights(net())["w1"]).all()


def run(model: ModelProto, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


@pytest.mark.parametrize("opset", [10, 17])
def test_the_simulation_rounds_what_nodes_read(opset: int) -> None:
    model = build("(float[2,3] x) => (float[2,3] y) { a = Relu(x)\ny = Add(a, a) }")
    model.opset_import[0].version = opset
    grids = {
        "x": Grid(np.full((1, 1), 0.3, np.float32), np.full((1, 1), 3, np.int64), 3, signed=False),
        "a": Grid(np.full((1, 1), 0.7, np.float32), np.zeros((1, 1), np.int64), 2, signed=False),
    }
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    found = run(simulated(from_proto(model), grids).proto, {"x": x})
    a = grids["a"].rounded(np.maximum(grids["x"].rounded(x), 0))
    assert np.array_equal(found, a + a)


def test_who_shares_a_grid() -> None:
    model = from_proto(
        build("""(float[1,4,8,8] x) => (float[1,4,4,4] y) <float[4,8,1,1] w, float[4,4,1,1] v, int64[2] s = {2, 2}>
        { a = Relu(x)
          b = Sigmoid(x)
          c = Concat<axis=1>(a, b)
          m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(c)
          d = Conv(m, w)
          p, q = Split<axis=1>(d, s)
          g = Concat<axis=1>(q, p)
          e = AveragePool<kernel_shape=[1,1]>(g)
          y = Conv(e, v) }""")
    )
    found = {frozenset(own) for own in shared(model.graph, ["m", "e"])}
    assert found == {frozenset("abcm"), frozenset("e"), frozenset("dgpq")}


def test_all_that_read_a_weight_read_grids() -> None:
    """As the levels of a detector's head do."""
    model = build("""(float[N,8,8,8] x) => (float y, float z) <float[8,8,3,3] w0, float[8,8,3,3] w1>
        { a = Conv<pads=[1,1,1,1]>(x, w0)
          b = Relu(a)
          p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(b)
          q = AveragePool<kernel_shape=[2,2], strides=[2,2]>(b)
          y = Conv(p, w1)
          z = Conv(q, w1) }""")
    result = onnxprune.prune(model, ratio=0.0, weights=8, activations=8, data=samples())
    assert {"x", "p", "q"} <= on_grid(result).activations.keys()


def test_a_bias_that_is_one_number_is_written_in_qdq(tmp_path: Path) -> None:
    model = build("(float[N,6] x) => (float y) <float[6,5] w, float[1] b> { m = MatMul(x, w) y = Add(m, b) }")
    data = {"x": np.random.default_rng(1).random((64, 6), np.float32)}
    onnxprune.prune(model, ratio=0.0, weights=8, activations=8, format="qdq", data=data).save(tmp_path / "q.onnx")
    feeds = {"x": np.random.default_rng(0).random((4, 6), np.float32)}
    files = ((tmp_path / "q.onnx").read_bytes(), model.SerializeToString())
    found, wanted = (ort.InferenceSession(f).run(None, feeds)[0] for f in files)
    assert found == pytest.approx(wanted, abs=0.02 * float(np.abs(wanted).max()))


def test_a_plan_makes_the_same_numbers_again(tmp_path: Path) -> None:
    options: dict[str, Any] = {"ratio": 0.25, "sparsity": 0.5, "weights": 3, "activations": 6, "symmetric": False}
    first = onnxprune.prune(net(), **options, data=samples())
    first.save(tmp_path / "a.onnx", plan=tmp_path / "p.json")
    again = onnxprune.apply(net(), tmp_path / "p.json", data=samples())
    assert again.plan.to_json() == first.plan.to_json()
    for name, array in weights(first.model).items():
        assert np.array_equal(array, weights(again.model)[name]), name
    assert on_grid(onnxprune.apply(net(), tmp_path / "p.json", data="none")).weights.keys() == set(WEIGHTS)
    trained = on_grid(onnxprune.apply(net(), tmp_path / "p.json", data=samples(), recover=8))
    for name, grid in grids_of(first.plan).weights.items():
        assert np.array_equal(trained.weights[name].scale, grid.scale), name
    text = (tmp_path / "p.json").read_text(encoding="utf-8")
    for old, new in (('"bits": 3', '"bits": 99'), ('"scale": "e', '"scale": "x'), ('"signed": false', '"signed": 0')):
        assert old in text
        (tmp_path / "p.json").write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(PlanError):
            load_plan(tmp_path / "p.json")


def test_weights_that_nobody_solves_for_are_rounded_to_the_nearest_and_said() -> None:
    model = build("(float[N,8,8,8] x) => (float y) <float[8,8,1,1] w> { a = Conv(x, w)\nb = Relu(a)\ny = Conv(b, w) }")
    result = onnxprune.prune(model, weights=4, data=samples())
    assert any("rounded to the nearest" in note for note in result.report.notes)
    (grid,) = grids_of(result.plan).weights.values()
    weight = numpy_helper.to_array(result.model.graph.initializer[0])
    assert np.array_equal(grid.values(grid.codes(weight)), weight)


def test_half_precision_weights() -> None:
    text = "(float16[N,8,8,8] x) => (float16 y) <float16[8,8,3,3] w> { a = Conv(x, w)\ny = Relu(a) }"
    result = onnxprune.prune(build(text), weights=6, data="none")
    assert result.report.grids is not None
    assert result.report.grids.missed == 0
    with pytest.raises(OptionError, match="11 binary digits"):
        onnxprune.prune(build(text), weights=12, data="none")


def test_the_proof_finds_a_weight_that_is_not_on_its_grid() -> None:
    model = from_proto(net())
    grid = Grid(np.full((1, 1, 1, 1), 0.1, np.float32), np.zeros((1, 1, 1, 1), np.int64), 8, signed=True)
    assert prove_grids(model, Grids({"w0": grid})).missed > 1000
    assert prove_grids(model, Grids({"gone": grid})).where == "gone"
    assert prove_grids(model, Grids()).missed == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"weights": 1}, "must be 2 to 16"),
        ({"activations": 17}, "must be 2 to 16"),
        ({"bits_for": {"w0": 40}}, "must be 2 to 16"),
        ({"weights": 4, "weights_per": "row"}, "must be tensor, channel or group:N"),
        ({"weights": 4, "ranges": "percentile:20"}, "must be mse, minmax or percentile:P"),
        ({"symmetric": True}, "says nothing of how many bits"),
        ({"activations": 8, "data": "none"}, "takes ranges from samples"),
        ({"weights": 4, "bits_for": {"nobody": 3}, "data": "none"}, "no node or tensor matches"),
    ],
    ids=str,
)
def test_options_that_cannot_be_met_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        onnxprune.prune(net(), **options)


@pytest.mark.drawn
@pytest.mark.parametrize("asked", [{"sparsity": 0.5}, {"weights": 4, "activations": 8}, {"weights": "mean:3"}])
def test_layers_before_an_if_are_solved_for_without_gradients(asked: dict[str, Any]) -> None:
    """Its branches are written out, and what merges them runs nowhere: no model of that is run."""
    text = """(float[N,3,8,8] x, bool c) => (float[N,4,8,8] y)
        <float[16,3,3,3] w0, float[16,16,1,1] w1, float[4,16,1,1] w2> {
        a = Conv<pads=[1,1,1,1]>(x, w0)
        r = Relu(a)
        b = Conv(r, w1)
        i = If(c) <then_branch = one () => (float[N,16,8,8] t) { t = Relu(b) },
                   else_branch = two () => (float[N,16,8,8] e) { e = Sigmoid(b) }>
        y = Conv(i, w2) }"""
    result = onnxprune.prune(build(text), ratio=0.0, **asked)
    assert result.report.recovered is not None
    assert result.report.recovered.solved > 0
    assert not any("did not serve" in note for note in result.report.notes)
