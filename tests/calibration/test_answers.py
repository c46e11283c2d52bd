"""Which of the pictures that are drawn for a classifier are taken: classes take turns."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.calibration.data_options import Data
from onnxprune.calibration.samples import CalibrationSet
from onnxprune.calibration.synthetic import answers, drawing
from onnxprune.labels.analysis import analyse
from onnxprune.model.onnx_model import from_proto
from tests.models import build


def bright(batch: str) -> str:
    """A classifier: of the second class is a picture whose mean is over .6."""
    return f"""(float[{batch},1,16,16] x) => (float[{batch},2] scores)
    <float[1,2] w = {{0, 1}}, float[2] b = {{0, -0.6}}> {{
        m = ReduceMean<axes=[2,3], keepdims=0>(x)
        z = MatMul(m, w)
        scores = Add(z, b) }}"""


def draw(text: str, samples: int = 32, seed: int = 0) -> CalibrationSet:
    trace = analyse(from_proto(build(text))).trace
    return drawing.load(Data(None, samples=samples, input_range="0..1"), trace.model, trace.shapes, seed)


def shares_of_bright(data: CalibrationSet) -> float:
    pictures = np.concatenate([b["x"] for b in data.batches(64)])
    return float((pictures.mean(axis=(1, 2, 3)) > 0.6).mean())


@pytest.mark.parametrize("batch", ["N", "1", "2"])
def test_what_is_drawn_for_a_classifier_is_of_all_classes_alike(batch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = draw(bright(batch))
    assert data.count == 32
    assert shares_of_bright(data) == 0.5
    monkeypatch.setattr(drawing, "POOL", 1)
    assert shares_of_bright(draw(bright(batch))) < 0.4


def test_the_same_seed_takes_the_same_pictures() -> None:
    one, again, other = (next(draw(bright("N"), seed=s).batches(32))["x"] for s in (3, 3, 4))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_classes_take_turns_until_they_have_no_more() -> None:
    answers_of = np.array([1, 1, 1, 0, 1, 2, 1, 0])
    assert answers.turns(answers_of, 3).tolist() == [0, 3, 5]
    assert answers.turns(answers_of, 6).tolist() == [0, 1, 2, 3, 5, 7]
    assert answers.turns(answers_of, 8).tolist() == list(range(8))


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ("float[2,5] y", "y"),
        ("float[2,1] y", None),
        ("float[2,5,4] y", None),
        ("int64[2,5] y", None),
        ("float[3,5] y", None),
        ("float[2,5,4] y, float[2,3] z", "z"),
    ],
)
def test_scores_are_a_row_of_floats_for_each_sample(outputs: str, expected: str | None) -> None:
    names = [o.split()[-1] for o in outputs.split(", ")]
    kinds = [o.split()[0] for o in outputs.split(", ")]
    inputs = ", ".join(f"{k} in_{n}" for k, n in zip(kinds, names, strict=True))
    body = "\n".join(f"{n} = Identity(in_{n})" for n in names)
    trace = analyse(from_proto(build(f"({inputs}) => ({outputs}) {{ {body} }}"))).trace
    assert answers.scores_of(trace.model, trace.shapes.shape, 2) == expected
