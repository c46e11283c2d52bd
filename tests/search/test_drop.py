"""How much of a metric is lost, and how well that is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.errors import OptionError
from onnxprune.search.drop import Measurement, drop
from onnxprune.widths.metric_options import Limit


def limit(**given: Any) -> Limit:
    return Limit(
        **{"max_drop": 0.01, "min_metric": None, "relative": False, "lower": False, "confidence": 1.0, **given}
    )


def of(values: list[float] | NDArray[Any]) -> Measurement:
    return Measurement(float(np.mean(values)), np.asarray(values))


def test_the_error_of_a_drop_is_paired() -> None:
    """The same samples are wrong in both but for one of 100: it is known to that one, not to the 50 that are wrong."""
    before = np.arange(100) % 2
    after = before.copy()
    after[1] = 0
    found = drop(limit(), of(before), of(after))
    assert found.amount == pytest.approx(0.01)
    assert found.error == pytest.approx(0.01)
    assert not found.holds
    assert drop(limit(confidence=0.0), of(before), of(after)).holds


def test_what_is_equal_has_no_error() -> None:
    assert drop(limit(max_drop=0.0), of([0.0, 1.0, 1.0]), of([0.0, 1.0, 1.0])).holds


def test_a_loss_that_grows_is_a_drop() -> None:
    assert drop(limit(lower=True), of([1.0, 1.0]), of([1.5, 1.5])).amount == pytest.approx(0.5)
    assert drop(limit(lower=True, max_drop=None, min_metric=2.0), of([1.0, 1.0]), of([1.5, 1.5])).holds
    assert not drop(limit(lower=True, max_drop=None, min_metric=1.2), of([1.0, 1.0]), of([1.5, 1.5])).holds


def test_a_relative_drop_is_a_share_of_the_original() -> None:
    found = drop(limit(relative=True, max_drop=0.1), of([50.0, 50.0]), of([46.0, 46.0]))
    assert found.amount == pytest.approx(0.08)
    assert found.holds


def test_parts_are_bootstrapped_to_about_the_error_of_their_mean() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 400))
    plain = drop(limit(), of(x), of(y))
    parts = drop(limit(), Measurement(x.mean(), x, np.mean), Measurement(y.mean(), y, np.mean))
    assert plain.error is not None
    assert parts.error == pytest.approx(plain.error, rel=0.2)


def test_of_one_number_the_error_is_not_known_and_the_number_decides() -> None:
    found = drop(limit(), Measurement(0.9), Measurement(0.895))
    assert (found.error, found.holds) == (None, True)


@pytest.mark.parametrize(("value", "holds"), [(20.0, False), (30.0, True)])
def test_an_infinite_original_is_judged_by_the_value(value: float, holds: bool) -> None:
    found = drop(limit(max_drop=None, min_metric=25.0), Measurement(float("inf")), Measurement(value))
    assert found.holds == holds


@pytest.mark.parametrize("given", [{"max_drop": -1.0}, {"confidence": -0.5}, {"max_drop": None, "min_metric": np.inf}])
def test_limits_that_are_none_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(OptionError):
        limit(**given)
