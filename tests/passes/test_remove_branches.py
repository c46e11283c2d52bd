"""Branches of which nothing is left go whole, exactly; what only looks like one stays."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import onnxprune
from fixtures import CASES
from onnxprune.model.files import load
from onnxprune.running import session as runtime
from tests.models import build, sandwich

#: h -> two convolutions, the first of which makes nothing -> added to h.
BRANCH = "a = Conv(h, w1)\nr = Relu(a)\nb = Conv(r, w2, b2)\n"
WEIGHTS = ("float[4,8,1,1] w1", "float[8,4,1,1] w2", "float[8] b2")


def silenced(text: str, *names: str) -> ModelProto:
    """The model with zeros in these weights."""
    model = build(text)
    for tensor in model.graph.initializer:
        if tensor.name in names:
            tensor.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(tensor), tensor.name))
    return model


def operators(model: ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


@pytest.mark.parametrize(
    ("middle", "left"),
    [
        ("g = Add(h, b)", ["Conv", "Conv"]),
        ("g = Add(b, h)", ["Conv", "Conv"]),
        ("s = Sigmoid(h)\ng = Add(s, b)", ["Conv", "Sigmoid", "Add", "Conv"]),
        ("s = Sigmoid(b)\ng = Mul(h, s)", ["Conv", "Mul", "Conv"]),
        ("n = Neg(h)\nt = Add(h, b)\ng = Add(n, t)", ["Conv", "Neg", "Add", "Add", "Conv"]),
        ("g = Concat<axis=1>(h, b)", ["Conv", "Conv", "Relu", "Conv", "Concat", "Conv"]),
        (
            "p = GlobalAveragePool(h)\ng = Add(p, b)",
            ["Conv", "Conv", "Relu", "Conv", "GlobalAveragePool", "Add", "Conv"],
        ),
    ],
)
def test_branch_goes_where_its_reader_can_do_without(middle: str, left: list[str]) -> None:
    reads = 16 if "Concat" in middle else 8
    model = silenced(sandwich(BRANCH + middle, *WEIGHTS, reads=reads), "w1")
    result = onnxprune.prune(model, lossless=True)

    assert operators(result.model) == left
    assert result.report.proof is not None
    assert max(e.relative for e in result.report.proof.pruning) < 1e-6  # against the original


def test_branch_that_is_a_graph_output_stays() -> None:
    text = sandwich(BRANCH + "g = Add(h, b)", *WEIGHTS).replace("(float y)", "(float y, float b)")
    assert "Add" in operators(onnxprune.prune(silenced(text, "w1"), lossless=True).model)


def test_branch_stays_unless_lossless_is_asked_for() -> None:
    model = silenced(sandwich(BRANCH + "g = Add(h, b)", *WEIGHTS), "w1")
    assert "Add" in operators(onnxprune.prune(model, ratio=0.2).model)


def test_plan_removes_the_branch_again() -> None:
    model = silenced(sandwich(BRANCH + "g = Add(h, b)", *WEIGHTS), "w1")
    result = onnxprune.prune(model, lossless=True)
    assert onnxprune.apply(model, result.plan).model == result.model
    assert any("branch" in change for change in result.report.changes)


def test_residual_branch_of_zeroed_filters() -> None:
    """17 nodes become 13, and a folded BatchNormalization fewer."""
    path = CASES / "zeroed_filters.onnx"
    model = load(path).proto
    result = onnxprune.prune(path, lossless=True, fuse_bn=False)
    assert (len(model.graph.node), len(result.model.graph.node)) == (17, 13)
    x = {"x": np.random.default_rng(1).standard_normal((1, 3, 20, 20)).astype(np.float32)}
    found = []
    for each in (load(path), onnxprune.model.onnx_model.from_proto(result.model)):
        with runtime.session(each, "test") as active:
            found.append(runtime.run(active, x, "test")["logits"])
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)


def test_lossless_channels_that_stay_are_told() -> None:
    notes = onnxprune.prune(CASES / "zeroed_filters.onnx", lossless=True, align=8).report.notes
    assert "c1: 6 of its 6 lossless channels stay: 10 would be left, and the next multiple of 8 is 16" in notes
