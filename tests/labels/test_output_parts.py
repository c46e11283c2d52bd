"""Outputs that join results of different units count each of them for itself, and probabilities by their logits."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune import prune
from onnxprune.file_system.arrays_on_disk import spilling
from onnxprune.labels.outputs.parts import Compared, compared, ends
from onnxprune.model.edits import Edits
from onnxprune.model.onnx_model import from_proto
from onnxprune.proof import distance_over_outputs
from tests.models import build
from tests.passes.test_compensate import Case, samples

HEADS = "c = Conv(x, w0)\nb = Relu(c)\ns = Conv(c, w1)\np = Sigmoid(s)\n"
MORE = "w1, float[2,2,1,1] w2, float half = {0.5}, int64[1] most = {3}>"
#: What is declared of outputs that are no floats.
KINDS = {"Greater": "bool[N,2,8,8] y", "Cast": "int32[N,1,8,8] y"}
JOINED = f"(float[N,3,8,8] x) => (float y) <float[4,3,1,1] w0, float[2,4,1,1] w1> {{ {HEADS}"


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("y = Concat<axis=1>(b, p) }", ("b", "p", "s")),
        ("j = Concat<axis=1>(b, p)\nt = Transpose<perm=[0,2,3,1]>(j)\ny = Flatten(t) }", ("b", "p", "s")),
        ("j = Concat<axis=1>(b, c)\nk = Concat<axis=1>(j, s)\ny = Identity(k) }", ("b", "c", "s")),
        ("j = Concat<axis=1>(b, c)\ny = Concat<axis=1>(j, s) }", ("b", "c", "s")),
        ("y = Transpose<perm=[0,2,3,1]>(b) }", ("y",)),
        ("y = Transpose<perm=[0,2,3,1]>(p) }", ("y", "s")),
        ("y = Softmax<axis=1>(c) }", ("c",)),
        ("q = Softmax<axis=1>(c)\ny = Identity(q) }", ("c",)),
        ("q = Softmax<axis=1>(c)\nj = Concat<axis=1>(b, q)\ny = Flatten(j) }", ("b", "c")),
        ("y = Greater(p, half) }", ("p", "s")),
        ("q = Softmax<axis=1>(c)\na = ArgMax<axis=1>(q)\ny = Cast<to=6>(a) }", ("c",)),
        ("y, i = TopK<axis=2>(p, most) }", ("s",)),
        # Weights behind the picking: what it picks from does not tell of them.
        ("z, i = TopK<axis=2>(p, most)\ny = Conv(z, w2) }", ("y",)),
    ],
)
def test_ends_are_what_is_joined_last_and_what_probabilities_and_decisions_are_made_of(
    nodes: str, expected: tuple[str, ...]
) -> None:
    kind = next((k for op, k in KINDS.items() if f"y = {op}" in nodes), "float y")
    text = JOINED.replace("w1>", MORE).replace("float y", kind)
    assert ends(from_proto(build(text + nodes)).graph) == expected


def spoken(nodes: str, scores: float, boxes: float = 5.0) -> Compared:
    """What is compared where no score is over ``scores``, and the box is of the size of ``boxes``."""
    values = {n: np.linspace(0, scores, 8, dtype=np.float32) for n in ("p", "y")}
    values |= {"b": np.linspace(-boxes, boxes, 8, dtype=np.float32), "s": np.linspace(-90, -20, 8, dtype=np.float32)}
    return compared(from_proto(build(JOINED + nodes)).graph, lambda name: iter([values[name], values[name]]))


@pytest.mark.parametrize(("spread", "said"), [(0.5, False), (0.01, True)])
def test_an_output_that_is_the_same_for_every_sample_is_said(spread: float, *, said: bool) -> None:
    """Whatever became of it, its errors would be small."""
    text = "(float[N,3] x) => (float y) <float[3,3] w> { y = MatMul(x, w) }"
    rng = np.random.default_rng(0)
    values = [(np.arange(1, 4) + spread * rng.standard_normal((8, 3))).astype(np.float32) for _ in range(3)]
    notes = compared(from_proto(build(text)).graph, lambda _: iter(values)).notes
    assert (notes != ()) == said
    if said:
        assert notes[0].startswith("output 'y' is much the same on all held-out inputs: the mean of all is 4")
    assert compared(from_proto(build(text)).graph, lambda _: iter([values[0][:4]])).notes == ()
    for odd in (np.inf, np.nan, 1e300):
        pair = [(sign * np.full((8, 3), odd)).astype(np.float64) for sign in (1, -1)]
        assert compared(from_proto(build(text)).graph, lambda _, pair=pair: iter(pair)).notes == ()  # type: ignore[misc]


def test_of_a_sigmoid_that_says_nothing_counts_what_it_takes() -> None:
    said = "output 'p' tells nothing on held-out inputs: compared is what its Sigmoid takes, 's'"
    model = JOINED.replace("(float y)", "(float p)")
    values = {"p": np.zeros(4, np.float32), "s": np.linspace(-90, -20, 4, dtype=np.float32)}
    graph = from_proto(build(f"{model} }}")).graph
    assert compared(graph, lambda n: [values[n]]) == Compared(("s",), ("s",), (said,))
    assert compared(graph, lambda n: [values[n], np.ones(4, np.float32)]) == Compared(("p",), ("p",))


def test_scores_beside_boxes_give_way_to_what_they_are_made_of_and_the_output_is_shown() -> None:
    joined = "y = Concat<axis=1>(b, p) }"
    assert spoken(joined, 0.01) == Compared(("b", "s"), ("y",))
    assert spoken(joined, 0.9) == Compared(("b", "p"), ("y",))


def test_what_is_constant_is_not_compared_where_something_else_is_not() -> None:
    joined = "y = Concat<axis=1>(b, p) }"
    assert spoken(joined, 0.9, boxes=0.0).ends == ("p",)
    assert spoken("y = Identity(b) }", 0.0, boxes=0.0).ends == ("y",)


#: A network that is compensated on nothing but drawn inputs, and an end that hides how near its outputs are.
HIDING = {
    "a Sigmoid that is never on": ("float y", "q = Add(s, low)\ny = Sigmoid(q)", "q"),
    "the largest": ("int64[N,1,8,8] y", "y = ArgMax<axis=1>(s)", "y"),
    "over a threshold": ("bool[N,4,8,8] y", "y = Greater(s, half)", "y"),
}


@pytest.mark.drawn
@pytest.mark.parametrize("name", HIDING)
def test_weights_are_solved_anew_where_outputs_tell_nothing(name: str) -> None:
    given, last, shown = HIDING[name]
    more = "float[8,3,3,3] w0, float[8,8,3,3] w1, float[4,8,1,1] w2, float half = {0.5}, float low = {-60.0}"
    head = f"(float[N,3,12,12] x) => ({given}) <{more}>"
    body = f"{{ c = Conv(x, w0)\nr = Relu(c)\nd = Conv(r, w1)\nq0 = Relu(d)\ns = Conv(q0, w2)\n{last} }}"
    recovered = prune(build(f"{head} {body}"), ratio=0.25).report.recovered
    assert recovered is not None
    assert recovered.solved > 0
    (before,), (after,) = recovered.pruned, recovered.final
    assert after.name == shown
    assert after.cosine > before.cosine


def test_small_numbers_count_as_much_as_large_ones_beside_them() -> None:
    text = JOINED.replace("b = Relu(c)", "b = Mul(c, k)").replace("w1>", "w1, float k = {1000.0}>")
    with spilling() as spill:
        case = Case(build(f"{text} y = Concat<axis=1>(b, p) }}"), [], samples(20, 0), spill)
        scores_off = case.model.apply(Edits(constants={"w1": np.zeros((2, 4, 1, 1), np.float32)}))
        measured = distance_over_outputs.measure(scores_off, case.seen, "test")
        alone = distance_over_outputs.distance(scores_off, case.seen, "test")
    assert measured.errors[0].snr_db > 40  # as one tensor, next to nothing happened
    assert measured.distance > 0.01
    assert alone == pytest.approx(measured.distance)
