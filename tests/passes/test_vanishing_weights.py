"""Weights that have decayed to nothing in training, in a branch, an output or a whole network; and huge numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import onnxprune
from tests.models import build

BRANCH = """(float[N,3,8,8] x) => (float y)
    <float[8,3,3,3] w, float[8,8,3,3] w0, float[8] b0, float[8,8,3,3] w1, float[8] b1, float[4,8,1,1] w2>
    { s = Conv<pads=[1,1,1,1]>(x, w)
      t = Relu(s)
      a = Conv<pads=[1,1,1,1]>(t, w0, b0)
      r = Relu(a)
      c = Conv<pads=[1,1,1,1]>(r, w1, b1)
      d = Add(c, t)
      q = Relu(d)
      y = Conv(q, w2) }"""
CHAIN = """(float[N,3,8,8] x) => (float y) <float[8,3,3,3] w0, float[8] b0, float[8,8,3,3] w1, float[4,8,1,1] w2>
    { a = Conv(x, w0, b0)
      r = Relu(a)
      c = Conv(r, w1)
      q = Relu(c)
      y = Conv(q, w2) }"""

ASKED: dict[str, dict[str, Any]] = {
    "bits": {"weights": 4, "activations": 8},
    "zeros": {"sparsity": 0.5},
    "both": {"sparsity": 0.5, "weights": 4},
    "2:4": {"pattern": "2:4"},
    "mixed": {"weights": "mean:3"},
    "integer": {"weights": 8, "activations": 8, "format": "integer"},
    "channels": {"ratio": 0.3},
}


def scaled(text: str, factors: dict[str, float], output: int | None = None) -> ModelProto:
    model = build(text)
    for tensor in model.graph.initializer:
        if (factor := factors.get(tensor.name)) is not None:
            array = numpy_helper.to_array(tensor).copy()
            array[slice(None) if output is None else output] *= np.float32(factor)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model


def run(model: ModelProto, asked: dict[str, Any]) -> onnxprune.Result:
    samples = np.random.default_rng(0).standard_normal((80, 3, 8, 8)).astype(np.float32)
    result = onnxprune.prune(model, **{"ratio": 0.0, "data": {"x": samples}, **asked})
    told = result.report
    assert told.grids is None or told.grids.missed == 0
    assert told.zeros is None or told.zeros.missed == 0
    for tensor in result.model.graph.initializer:
        assert np.isfinite(numpy_helper.to_array(tensor)).all(), tensor.name
    return result


def snr(result: onnxprune.Result) -> float:
    assert result.report.recovered is not None
    return result.report.recovered.final[0].snr_db


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("factor", [0.0, 1e-20, 1e-42])
def test_a_branch_that_is_gone_does_no_harm(factor: float, asked: str) -> None:
    """Where it is nothing beside what it is added to, the others are as near as without it."""
    whole = run(scaled(BRANCH, {"w0": factor, "b0": factor}), ASKED[asked])
    alone = run(scaled(BRANCH, {"w0": 0.0, "b0": 0.0}), ASKED[asked])
    if asked != "channels":  # there the branch is what goes, and how much of it is for the choice
        assert snr(whole) > snr(alone) - 3


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("asked", ["bits", "both", "integer"])
def test_an_output_whose_weights_have_vanished_has_room_for_its_bias(asked: str) -> None:
    whole = run(scaled(BRANCH, {"w1": 1e-20}, output=3), ASKED[asked])
    usual = run(scaled(BRANCH, {}), ASKED[asked])
    assert snr(whole) > snr(usual) - 3


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("asked", ["bits", "zeros", "both", "mixed", "channels"])
@pytest.mark.parametrize("factors", [(1e25, 1e-30, 1.0), (1e-30, 1e25, 1.0), (1e-38, 1.0, 1.0), (1.0, 1e-44, 1e30)])
def test_numbers_of_any_size_end_in_a_model(factors: tuple[float, ...], asked: str) -> None:
    run(scaled(CHAIN, dict(zip(("w0", "w1", "w2"), factors, strict=True))), ASKED[asked])
