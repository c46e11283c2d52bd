"""With a budget and data a residual branch may go whole, as one width more: plan, proof and report say so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import onnxprune
from onnxprune.errors import OptionError, PlanError
from onnxprune.labels.analysis import analyse
from onnxprune.model.onnx_model import from_proto
from onnxprune.planning.branch_removal import WithoutBranches, branches
from onnxprune.plans.plan_file import Plan
from tests.models import build, scaled

#: Two blocks of 16 channels, which --align 16 leaves as they are; the second adds next to nothing, and a gate is in it.
TEXT = """(float[N,3,8,8] x) => (float[N,5,1,1] y)
<float[16,3,3,3] w0, float[16] b0, float[16,16,3,3] w1, float[16,16,3,3] w2, float[16] b2, float[16,16,3,3] w3,
 float[16,16,3,3] w4, float[16] b4, float[16,16,1,1] w5, float[5,16,1,1] w9>
{ a = Conv<pads=[1,1,1,1]>(x, w0, b0)
  c = Conv<pads=[1,1,1,1]>(a, w1)
  d = Relu(c)
  e = Conv<pads=[1,1,1,1]>(d, w2, b2)
  f = Add(a, e)
  g = Conv<pads=[1,1,1,1]>(f, w3)
  h = Relu(g)
  i = Conv<pads=[1,1,1,1]>(h, w4, b4)
  p = GlobalAveragePool(i)
  q = Conv(p, w5)
  s = Sigmoid(q)
  k = Mul(i, s)
  m = Add(k, f)
  r = Relu(m)
  t = GlobalAveragePool(r)
  y = Conv(t, w9) }"""


def network() -> ModelProto:
    return scaled(build(TEXT), "w4", 0.01)


def asked(**other: Any) -> dict[str, Any]:
    data = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
    return {"data": {"x": data}, "align": 16, "budget": "macs=0.6", **other}


def test_branches_are_the_parts_of_sums_that_nothing_else_needs() -> None:
    found = [*branches(analyse(from_proto(network())).trace)]
    assert [(b.name, set(b.weights)) for b in found] == [("e", {"w2"}), ("k", {"w4", "w5"})]


@pytest.mark.parametrize("names", [["e"], ["k"], ["e", "k"]])
def test_a_model_without_branches_is_the_one_with_their_weights_at_zero(names: list[str]) -> None:
    analysis = analyse(from_proto(network()))
    left = WithoutBranches(analysis, names).run(analysis.trace.model).model
    assert not {"e", "k"}.intersection(names).intersection(left.graph.producer)
    assert len(left.graph.nodes) < len(analysis.trace.model.graph.nodes)


def test_a_budget_that_no_width_meets_takes_the_branch_that_matters_least() -> None:
    model = network()
    with pytest.raises(OptionError, match="cannot be met"):
        onnxprune.prune(model, **asked(whole_branches=False))
    result = onnxprune.prune(model, **asked())
    report = result.report
    assert result.plan.options["gone_branches"] == ["k"]
    assert "1 branch went whole, constant now: 'k'" in report.notes
    assert report.macs.after <= 0.6 * report.macs.before
    assert report.macs.before == onnxprune.prune(model, ratio=0.0, data="none").report.macs.before
    assert report.channels.before - report.channels.after == 16
    assert report.recovered is not None
    assert [t.way for t in report.recovered.tried] == ["without 1 whole branch", "without 2 whole branches"]
    assert report.proof is not None
    assert report.proof.rewrite_error < 1e-6
    assert 0 < max(e.relative for e in report.proof.pruning) < 0.1  # against the model with its branches


def test_the_plan_takes_the_branch_again() -> None:
    model = network()
    result = onnxprune.prune(model, **asked())
    again = onnxprune.apply(model, result.plan, data=asked()["data"])
    assert again.model == result.model
    assert "1 branch went whole, constant now: 'k'" in again.report.notes


def test_no_branch_goes_where_widths_are_nearer_or_nobody_judges() -> None:
    model = network()
    for tensor in model.graph.initializer:
        if tensor.name == "w4":
            tensor.CopyFrom(numpy_helper.from_array(300 * numpy_helper.to_array(tensor), "w4"))
    free = onnxprune.prune(model, **asked(align=1, budget="macs=0.95"))
    assert "gone_branches" not in free.plan.options
    assert free.report.recovered is not None
    assert any("whole" in t.way for t in free.report.recovered.tried)
    by_ratio = {k: v for k, v in asked(ratio=0.5, align=1).items() if k != "budget"}
    assert "gone_branches" not in onnxprune.prune(network(), **by_ratio).plan.options
    with pytest.raises(OptionError, match="cannot be met"):
        onnxprune.prune(network(), **asked(data="none"))


@pytest.mark.parametrize("names", [["a"], ["nobody"], ["k", "k2"]])
def test_a_plan_that_names_no_branch_is_refused(names: list[str]) -> None:
    plan = Plan("m", "0" * 64, {"gone_branches": names}, {})
    with pytest.raises(PlanError, match="no branch"):
        onnxprune.apply(network(), plan)
