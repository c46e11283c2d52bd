"""Bits that layers get by what they cost: as many together as was asked, and nearer than as many in each."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto

import onnxprune
from onnxprune import OptionError
from tests.models import build, scaled
from tests.passes.test_bits import on_grid, snr
from tests.passes.test_zeros import WEIGHTS, net, samples, weights

RESIDUAL = """(float[N,8,8,8] x) => (float[N,4,8,8] y)
<float[16,8,3,3] w0, float[16] b0, float[16,16,3,3] w1, float[16,16,1,1] w2, float[4,16,1,1] w4>
{ a = Conv<pads=[1,1,1,1]>(x, w0, b0)
  r = Relu(a)
  c = Conv<pads=[1,1,1,1]>(r, w1)
  d = Conv(r, w2)
  q = Add(c, d)
  y = Conv(q, w4) }"""


def residual() -> ModelProto:
    """Most weights are in a branch that adds little."""
    return scaled(build(RESIDUAL), "w1", 0.05)


def mean(result: onnxprune.Result, but: tuple[str, ...] = ()) -> float:
    """Bits of a weight, of all that have some."""
    sizes = {n: w.size for n, w in weights(result.model).items() if n not in but}
    grids = on_grid(result).weights
    return sum(grids[n].bits * size for n, size in sizes.items()) / sum(sizes.values())


def packed(result: onnxprune.Result) -> float:
    """The share that ``--require packed`` limits."""
    report = result.report
    assert report.grids is not None
    left = 4 * (report.parameters.after - report.grids.weights) + report.grids.bytes
    return left / (4 * report.parameters.before)


@pytest.mark.parametrize("per", ["channel", "tensor", "group:4"])
def test_so_many_on_average_and_nearer_than_as_many_in_each(per: str) -> None:
    data = {"x": np.random.default_rng(0).standard_normal((64, 8, 8, 8)).astype(np.float32)}
    found = onnxprune.prune(residual(), weights="mean:4", weights_per=per, data=data)
    assert 3.8 <= mean(found) <= 4.01
    bits = {n: g.bits for n, g in on_grid(found).weights.items()}
    assert bits["w1"] < 4 < min(bits["w0"], bits["w2"], bits["w4"])
    assert snr(found) > snr(onnxprune.prune(residual(), weights=4, weights_per=per, data=data)) + 6
    assert found.plan.options["weights"] == "mean:4"


@pytest.mark.parametrize("limit", [0.08, 0.11, 0.2])
def test_a_budget_of_bytes_is_met_as_the_gate_counts_them(limit: float) -> None:
    result = onnxprune.prune(net(), weights="auto", budget=f"bytes={limit}", data=samples())
    assert limit - 0.02 < packed(result) <= limit
    assert result.report.channels.ratio == 1
    assert {n: result.plan.options[n] for n in ("weights", "weights_budget", "budget")} == {
        "weights": "auto", "weights_budget": f"bytes={limit:g}", "budget": None,
    }  # fmt: skip
    number = limit * 4 * result.report.parameters.before
    again = onnxprune.prune(net(), weights="auto", budget=f"bytes={number}", data=samples())
    assert again.model == result.model


def test_beside_channels_and_zeros_the_budget_is_of_what_is_left() -> None:
    result = onnxprune.prune(net(), ratio=0.25, sparsity=0.5, weights="auto", budget="bytes=0.07", data=samples())
    on_grid(result)
    assert result.report.achieved >= 0.25
    assert result.report.zeros is not None
    assert result.report.zeros.missed == 0
    assert packed(result) <= 0.07


def test_channels_by_a_budget_of_their_own_and_bits_on_average() -> None:
    result = onnxprune.prune(net(), budget="macs=0.6", weights="mean:4", activations=8, data=samples())
    assert result.report.macs.ratio <= 0.6
    assert mean(result) <= 4.01


def test_layers_with_bits_of_their_own_are_left_at_these() -> None:
    result = onnxprune.prune(net(), weights="mean:3", bits_for={"w1": 7, "w4": 0}, data=samples())
    found = on_grid(result).weights
    assert found["w1"].bits == 7
    assert "w4" not in found
    assert mean(result, ("w1", "w4")) <= 3.02
    small = onnxprune.prune(net(), weights="auto", budget="bytes=0.2", bits_for={"w1": 2}, data=samples())
    assert on_grid(small).weights["w1"].bits == 2
    assert packed(small) <= 0.2


def test_a_plan_gives_the_bits_again() -> None:
    first = onnxprune.prune(net(), weights="mean:3", data=samples())
    again = onnxprune.apply(net(), first.plan, data=samples())
    assert again.plan.to_json() == first.plan.to_json()
    for name, array in weights(first.model).items():
        assert np.array_equal(array, weights(again.model)[name]), name


def test_weights_that_two_layers_share_have_eight_bits() -> None:
    text = """(float[N,8,8,8] x) => (float[N,8,8,8] y) <float[8,8,1,1] w, float[8,8,3,3] v>
    { a = Conv(x, w)
      b = Relu(a)
      c = Conv(b, w)
      y = Conv<pads=[1,1,1,1]>(c, v) }"""
    result = onnxprune.prune(build(text), weights="mean:4", data=samples())
    grids = result.report.grids
    assert grids is not None
    assert grids.layers["w"] == (8, 64)
    assert grids.layers["v"][0] <= 4
    assert any("8 bits, as nothing tells" in note for note in result.report.notes)


def test_qdq_has_bits_that_its_types_have() -> None:
    result = onnxprune.prune(net(), weights="mean:3", activations=8, format="qdq", data=samples())
    assert {b for b, _ in (result.report.grids.layers if result.report.grids else {}).values()} <= {2, 4, 8}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"weights": "auto"}, "--weights: auto says nothing of how many bytes may be left"),
        ({"weights": "auto", "budget": "macs=0.5"}, "--weights: auto says nothing of how many bytes may be left"),
        ({"weights": "mean:9"}, "--weights: must be a whole number, mean:BITS of 2 to 8, or auto, not mean:9"),
        ({"weights": "2.5"}, "not 2.5"),
        ({"weights": "some"}, "not some"),
        ({"weights": "17"}, "--weights: must be 2 to 16, not 17"),
        ({"weights": "mean:3", "data": "none"}, "--weights: chooses bits by what they cost on samples"),
        ({"weights": "auto", "budget": "bytes=0.05"}, "--budget: cannot be met: the least that layers can have are"),
        ({"weights": "mean:2", "bits_for": {"w": 2}}, "--bits-for"),
    ],
)
def test_what_cannot_be_had_is_refused(given: dict[str, object], says: str) -> None:
    with pytest.raises(OptionError) as caught:
        onnxprune.prune(net(), **{"data": samples(), **given})  # type: ignore[arg-type]
    assert says in str(caught.value)


def test_two_bits_on_average_are_two_in_each() -> None:
    found = on_grid(onnxprune.prune(net(), weights="mean:2", data=samples())).weights
    assert found.keys() == set(WEIGHTS)
    assert {g.bits for g in found.values()} == {2}
