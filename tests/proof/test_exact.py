"""What counts as equal, and what the report must say of what could not be compared."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import ArrayLike

from onnxprune import pipeline
from onnxprune.model.onnx_model import from_proto
from onnxprune.options import Options
from onnxprune.running.snr_and_cosine import Differences, OutputError
from tests.models import build

NAN, INF = float("nan"), float("inf")


def error(reference: ArrayLike, result: ArrayLike, dtype: str = "f4") -> OutputError:
    found = Differences()
    found.add({"y": np.asarray(reference, dtype)}, {"y": np.asarray(result, dtype)})
    return found.errors()[0]


def test_relative_error_is_a_share_of_the_range() -> None:
    found = error([0, 2, 4], [0, 2, 5])
    assert (found.max_abs, found.relative) == (1, 0.25)


@pytest.mark.parametrize(("reference", "result"), [([[1, 2]], [1, 2]), ([1, NAN], [1, 2]), ([1, INF], [1, -INF])])
def test_other_shapes_and_numbers_that_only_one_side_has_are_infinitely_far(
    reference: ArrayLike, result: ArrayLike
) -> None:
    assert error(reference, result).relative == INF


def test_integers_differ_by_the_share_of_elements() -> None:
    assert error([1, 2, 3, 4], [1, 2, 3, 5], "i8").relative == 0.25


def test_snr_is_in_decibels_of_power() -> None:
    assert error([10, 0], [9, 0]).snr_db == pytest.approx(20, abs=1e-4)


def test_an_output_that_is_nan_is_said_not_to_be_compared() -> None:
    text = """(float[2,3,8,8] x) => (float y) <float[8,3,1,1] w0, float[5,8,1,1] w9, float zero = {0}> {
        h = Conv(x, w0)
        c = Conv(h, w9)
        z = Mul(c, zero)
        y = Div(z, z)
    }"""
    report = pipeline.prune(from_proto(build(text)), Options()).report
    assert report.achieved > 0
    assert any("100 % of output 'y' is NaN" in note for note in report.notes)
