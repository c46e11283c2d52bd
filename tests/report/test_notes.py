"""What a run says beside its figures."""

from __future__ import annotations

import onnxprune
from tests.models import build

ALWAYS = """(float[1,3,8,8] x) => (float[1,4,8,8] y)
<float[8,3,1,1] w0, float[4,8,1,1] w1, bool c = {1}>
{ a = Conv(x, w0)
  b = If(c) <then_branch = t () => (float[1,8,8,8] p) { p = Relu(a) },
             else_branch = e () => (float[1,8,8,8] q) { q = Neg(a) }>
  y = Conv(b, w1) }"""


def test_an_if_that_always_goes_one_way_is_written_as_that_branch_and_it_is_said() -> None:
    result = onnxprune.prune(build(ALWAYS), ratio=0.5, data="none")
    assert [n.op_type for n in result.model.graph.node] == ["Conv", "Relu", "Identity", "Conv"]
    said = "the If of 'b' always goes one way (then): what it takes is written in its place"
    assert said in result.report.notes


def test_an_if_that_depends_on_an_input_is_not() -> None:
    text = ALWAYS.replace("x) =>", "x, bool c) =>").replace(", bool c = {1}>", ">")
    result = onnxprune.prune(build(text), ratio=0.5, data="none")
    assert "If" in [n.op_type for n in result.model.graph.node]
    assert not any("always goes one way" in note for note in result.report.notes)
