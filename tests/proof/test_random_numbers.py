"""Models that draw random numbers: proven on numbers that both models are given, or not at all."""

from __future__ import annotations

import pytest
from onnx import ModelProto, helper

from onnxprune import pipeline
from onnxprune.errors import CheckError
from onnxprune.model.onnx_model import from_proto
from onnxprune.options import Options
from onnxprune.report.run_report import Report
from tests.models import build, sandwich


def random(middle: str, *weights: str) -> ModelProto:
    """Convolutions before and after ``middle``."""
    more = f"{middle}\nf = Relu(g)\nl = Conv(f, w8)"
    return build(sandwich(more, "float[8,8,1,1] w8", *weights).replace("(g, w9)", "(l, w9)"))


def pruned(proto: ModelProto) -> Report:
    """Half of the channels are asked for."""
    return pipeline.prune(from_proto(proto), Options(ratio=0.5, check_n=2, seed=1)).report


@pytest.mark.parametrize(
    ("middle", "node", "free"),
    [
        ("r = RandomNormalLike(h)\ng = Add(h, r)", "RandomNormalLike:r", 8),
        ("r = RandomUniform<shape=[2,8,6,6]>()\ng = Add(h, r)", "RandomUniform:r", 8),
        ("s = Sigmoid(h)\ng = Bernoulli(s)", "Bernoulli:g", 8),
        ("g = Dropout(h, share, yes)", "Dropout:g", 16),  # channels go through
        ("g, mask = Dropout(h, share, yes)", "Dropout:g", 16),
    ],
)
def test_both_models_go_on_from_the_same_numbers(middle: str, node: str, free: int) -> None:
    report = pruned(random(middle, "float share = {0.5}", "bool yes = {1}"))
    assert report.proof is not None
    assert report.proof.rewrite_error < 1e-5
    assert max(e.max_abs for e in report.proof.pruning) > 0.01
    assert report.channels.before == free
    said = next(n for n in report.notes if "random" in n)
    assert said.startswith(f"'{node}' draws random numbers: both models were given the same in the proof")


def test_a_dropout_inside_of_a_function_drops_nothing_in_the_proof() -> None:
    proto = random("g = Dropout(h, share, yes)", "float share = {0.5}", "bool yes = {1}")
    node = next(n for n in proto.graph.node if n.op_type == "Dropout")
    body = [helper.make_node("Identity", ["x"], ["i"]), helper.make_node("Dropout", ["i", "p", "is"], ["y"])]
    made = helper.make_function("custom", "Drop", ["x", "p", "is"], ["y"], body, [helper.make_opsetid("", 17)])
    proto.functions.append(made)
    node.op_type, node.domain = "Drop", "custom"
    report = pruned(proto)
    assert report.proof is not None
    assert report.proof.rewrite_error < 1e-5
    assert [n for n in report.notes if "draws random numbers" in n]


def test_a_dropout_that_is_told_not_to_is_as_any_other() -> None:
    report = pruned(random("g = Dropout(h, share, no)", "float share = {0.5}", "bool no = {0}"))
    assert not [n for n in report.notes if "random" in n]


def test_what_is_another_on_each_run_is_not_taken_for_rounding() -> None:
    """Nothing is severed inside of a branch: two runs of the original must agree."""
    sides = "then_branch = t () => (a) { a = Dropout(h, share, is) }, else_branch = e () => (a) { a = Abs(h) }"
    with pytest.raises(CheckError, match=r"the original gives another '.*' on each run.*export it without"):
        pruned(random(f"g = If<{sides}>(is)", "bool is = {1}", "float share = {0.5}"))
