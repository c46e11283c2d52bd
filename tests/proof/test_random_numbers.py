"""Models that draw random numbers: proven on numbers that both models are given, or not at all."""

from __future__ import annotations

import pytest

from onnxprune import pipeline
from onnxprune.errors import CheckError
from onnxprune.model.onnx_model import from_proto
from onnxprune.options import Options
from onnxprune.report.run_report import Report
from tests.models import build, sandwich


def pruned(middle: str, *weights: str, opset: int = 17) -> Report:
    """Half of the channels before ``middle`` are asked for."""
    more = f"{middle}\nf = Relu(g)\nl = Conv(f, w8)"
    text = sandwich(more, "float[8,8,1,1] w8", *weights).replace("(g, w9)", "(l, w9)")
    model = from_proto(build(text, opset))
    return pipeline.prune(model, Options(ratio=0.5, check_n=2, seed=1)).report


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
    report = pruned(middle, "float share = {0.5}", "bool yes = {1}")
    assert report.proof is not None
    assert report.proof.rewrite_error < 1e-5
    assert max(e.max_abs for e in report.proof.pruning) > 0.01
    assert report.channels.before == free
    said = next(n for n in report.notes if "random" in n)
    assert said.startswith(f"'{node}' draws random numbers: both models were given the same in the proof")


def test_a_dropout_that_is_told_not_to_is_as_any_other() -> None:
    report = pruned("g = Dropout(h, share, no)", "float share = {0.5}", "bool no = {0}")
    assert not [n for n in report.notes if "random" in n]


def test_what_is_another_on_each_run_is_not_taken_for_rounding() -> None:
    """Nothing is severed inside of a branch: two runs of the original must agree."""
    sides = "then_branch = t () => (a) { a = Dropout(h, share, is) }, else_branch = e () => (a) { a = Abs(h) }"
    with pytest.raises(CheckError, match=r"the original gives another '.*' on each run.*export it without"):
        pruned(f"g = If<{sides}>(is)", "bool is = {1}", "float share = {0.5}")
