"""Few samples: what is drawn beside them, who judges, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import onnxprune
from onnxprune.calibration import samples
from onnxprune.calibration.data_options import Data
from onnxprune.calibration.samples import CalibrationSet
from onnxprune.calibration.synthetic import drawing, few_samples
from onnxprune.labels.analysis import analyse
from onnxprune.model.onnx_model import from_proto
from tests.commands import CHAIN
from tests.models import build


def given(count: int) -> dict[str, NDArray[Any]]:
    """Samples that are known by their values: the first is 1000 everywhere, the second 1001."""
    return {"x": np.full((count, 3, 8, 8), 1000, np.float32) + np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1)}


def mixed(data: Mapping[str, NDArray[Any]], *, judged: bool = False) -> tuple[CalibrationSet, CalibrationSet]:
    """(as given, with drawn inputs beside)."""
    trace = analyse(from_proto(build(CHAIN))).trace
    own = samples.load(Data(data), trace.model, trace.shapes.inputs)
    return own, few_samples.with_drawn(own, Data(data), trace.model, trace.shapes, 0, judged=judged)


def values(data: CalibrationSet) -> list[int]:
    """Which samples are in it, 0 for each that was drawn."""
    first = np.concatenate([b["x"][:, 0, 0, 0] for b in data.batches(7)])
    return [int(v) if v >= 1000 else 0 for v in first]


def test_those_that_judge_are_read_more_than_once_beside_drawn_ones() -> None:
    _, both = mixed(given(9))
    found, first = values(both), list(range(1000, 1009))
    assert found[:36] == first * few_samples.COPIES
    assert set(found[36:]) == {0}
    assert (both.given, both.count) == (9, len(found))
    assert both.places().tolist()[8:11] == [8, 0, 1]
    assert both.places().tolist()[36:39] == [0, 1, 2]


def test_fewer_are_read_once_beside_what_is_drawn_without_any() -> None:
    own, both = mixed(given(5))
    found = np.concatenate([b["x"] for b in both.batches(7)])
    assert found[:5, 0, 0, 0].tolist() == [1000, 1001, 1002, 1003, 1004]
    trace = analyse(from_proto(build(CHAIN))).trace
    alone = drawing.load(Data(None), trace.model, trace.shapes, 0)
    np.testing.assert_array_equal(found[own.count :], np.concatenate([b["x"] for b in alone.batches(7)]))


def test_drawn_ones_judge_where_there_are_few() -> None:
    fit, held = mixed(given(5))[1].split()
    assert set(values(held)) == {0}
    assert {*range(1000, 1005)} < set(values(fit))


@pytest.mark.parametrize(("count", "judged"), [(few_samples.JUDGES, False), (5, True)])
def test_samples_judge_where_there_are_enough_or_models_are_judged(count: int, judged: bool) -> None:
    fit, held = mixed(given(count), judged=judged)[1].split()
    assert min(values(held)) >= 1000
    assert not set(values(fit)) & set(values(held))
    assert set(values(fit)) | set(values(held)) == {0, *range(1000, 1000 + count)}
    assert held.places().tolist() == [v - 1000 for v in values(held)]


def test_more_stand_alone_and_so_do_labels() -> None:
    for data in (given(few_samples.FEW + 1), {**given(5), "labels": np.arange(5)}):
        own, both = mixed(data)
        assert both is own


@pytest.mark.drawn
def test_the_report_says_how_many_were_drawn_beside() -> None:
    for count in (5, few_samples.JUDGES):
        found = onnxprune.prune(build(CHAIN), data={"x": given(count)["x"] / 1000}).report
        recovered = found.recovered
        assert recovered is not None
        assert (recovered.samples, recovered.drawn, recovered.held_out) == (count, count == 5, len(recovered.by_sample))
        assert recovered.beside > count
        told = f"{recovered.beside} drawn inputs"
        assert told in recovered.on
        assert any(note.startswith(f"{count} samples are few") and told in note for note in found.notes)
