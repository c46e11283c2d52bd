"""Outputs that join results of different units count each of them for itself, and probabilities by their logits."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.calibration.gram_matrices import spilling
from onnxprune.labels.output_parts import ends
from onnxprune.model.edits import Edits
from onnxprune.model.onnx_model import from_proto
from onnxprune.proof import distance_over_outputs as heldout
from tests.models import build
from tests.passes.test_compensate import Case, samples

HEADS = "c = Conv(x, w0)\nb = Relu(c)\ns = Conv(c, w1)\np = Sigmoid(s)\n"
JOINED = f"(float[N,3,8,8] x) => (float y) <float[4,3,1,1] w0, float[2,4,1,1] w1> {{ {HEADS}"


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("y = Concat<axis=1>(b, p) }", ("b", "p")),
        ("j = Concat<axis=1>(b, p)\nt = Transpose<perm=[0,2,3,1]>(j)\ny = Flatten(t) }", ("b", "p")),
        ("j = Concat<axis=1>(b, p)\nk = Concat<axis=1>(j, s)\ny = Identity(k) }", ("b", "p", "s")),
        ("j = Concat<axis=1>(b, p)\ny = Concat<axis=1>(j, s) }", ("b", "p", "s")),
        ("y = Transpose<perm=[0,2,3,1]>(b) }", ("y",)),
        ("y = Softmax<axis=1>(c) }", ("c",)),
        ("q = Softmax<axis=1>(c)\ny = Identity(q) }", ("c",)),
        ("q = Softmax<axis=1>(c)\nj = Concat<axis=1>(b, q)\ny = Flatten(j) }", ("b", "c")),
    ],
)
def test_ends_are_what_is_joined_last(nodes: str, expected: tuple[str, ...]) -> None:
    assert ends(from_proto(build(JOINED + nodes)).graph) == expected


def test_small_numbers_count_as_much_as_large_ones_beside_them() -> None:
    text = JOINED.replace("b = Relu(c)", "b = Mul(c, k)").replace("w1>", "w1, float k = {1000.0}>")
    with spilling() as spill:
        case = Case(build(f"{text} y = Concat<axis=1>(b, p) }}"), [], samples(20, 0), spill)
        scores_off = case.model.apply(Edits(constants={"w1": np.zeros((2, 4, 1, 1), np.float32)}))
        measured = heldout.measure(scores_off, case.seen, "test")
        alone = heldout.distance(scores_off, case.seen, "test")
    assert measured.errors[0].snr_db > 40  # as one tensor, next to nothing happened
    assert measured.distance > 0.01
    assert alone == pytest.approx(measured.distance)
