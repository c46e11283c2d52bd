"""Least squares from sums of products."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.calibration import least_squares
from onnxprune.calibration.least_squares import Kept, Moments
from onnxprune.memory_and_threads import another_thread

RNG = np.random.default_rng(0)
X = RNG.standard_normal((400, 2, 5)) + 0.5
TRUE = RNG.standard_normal((2, 3, 6))  # the last column is the bias
Y = np.einsum("rgn,gmn->rgm", np.concatenate([X, np.ones((400, 2, 1))], axis=2), TRUE)


def filled(x: NDArray[np.floating[Any]] = X, y: NDArray[np.floating[Any]] = Y, *, bias: bool = True) -> Moments:
    moments = Moments.empty(x.shape[1], x.shape[2], y.shape[2], bias=bias)
    for part in np.array_split(np.arange(len(x)), 3):
        moments.add(x[part], y[part])
    return moments


def test_weights_and_bias_that_made_the_targets_are_found() -> None:
    found = filled().ridge(np.zeros_like(TRUE), 1e-12)
    assert found is not None
    np.testing.assert_allclose(found, TRUE, atol=1e-6)
    assert filled().error(found) < 1e-12


def test_error_is_what_is_missed_relative_to_the_variance_of_the_targets() -> None:
    wrong = TRUE + 0.1
    made = np.einsum("rgn,gmn->rgm", np.concatenate([X, np.ones((400, 2, 1))], axis=2), wrong)
    missed = ((made - Y) ** 2).sum() / ((Y - Y.mean(axis=0)) ** 2).sum()
    assert filled().error(wrong) == pytest.approx(missed)


@pytest.mark.parametrize("bias", [True, False])
def test_rows_that_are_kept_judge_as_their_sums_do(bias: bool) -> None:
    kept = Kept(bias)
    with kept.gathering() as take:
        for part in np.array_split(np.arange(len(X)), 3):
            take(X[part].astype(np.float32), Y[part].astype(np.float32))
    w = TRUE + 0.1 if bias else TRUE[:, :, :-1] + 0.1
    assert kept.error(w) == pytest.approx(filled(bias=bias).error(w), rel=1e-5)


@pytest.mark.parametrize("rows", [1, 150, 10**9])
def test_rows_that_wait_for_others_are_all_counted(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(least_squares, "ROWS", rows)
    moments = Moments.empty(2, 5, 3, bias=True)
    with another_thread() as doing, moments.gathering(doing) as take:
        for part in np.array_split(np.arange(len(X)), 7):
            take(X[part], Y[part])
    assert moments.rows == len(X)
    np.testing.assert_allclose(moments.xx, filled().xx)
    np.testing.assert_allclose(moments.xy, filled().xy)


@pytest.mark.parametrize("bias", [True, False])
def test_many_columns_have_the_sums_of_few(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    few = filled(bias=bias)
    monkeypatch.setattr(least_squares, "WIDE", 2)
    np.testing.assert_allclose(filled(bias=bias).xx, few.xx)


def test_strong_ridge_stays_at_the_prior_but_for_the_bias() -> None:
    prior = RNG.standard_normal(TRUE.shape)
    found = filled().ridge(prior, 1e9)
    assert found is not None
    np.testing.assert_allclose(found[:, :, :-1], prior[:, :, :-1], atol=1e-5)
    fitted = np.einsum("rgn,gmn->rgm", X, prior[:, :, :-1])
    np.testing.assert_allclose(found[:, :, -1], (Y - fitted).mean(axis=0), atol=1e-4)


def test_columns_that_say_the_same_are_no_obstacle_with_a_ridge() -> None:
    double = np.concatenate([X, X], axis=2)
    found = filled(double, Y).ridge(np.zeros((2, 3, 11)), 1e-6)
    assert found is not None
    assert filled(double, Y).error(found) < 1e-6


def test_without_a_bias_no_column_is_added() -> None:
    plain = np.einsum("rgn,gmn->rgm", X, TRUE[:, :, :-1])
    found = filled(X, plain, bias=False).ridge(np.zeros((2, 3, 5)), 1e-12)
    assert found is not None
    np.testing.assert_allclose(found, TRUE[:, :, :-1], atol=1e-6)


def test_targets_that_never_change_have_no_error() -> None:
    assert filled(X, np.ones((400, 2, 3))).error(np.zeros((2, 3, 6))) == 0


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e25])
def test_inputs_of_any_size_are_solved_for(size: float) -> None:
    """Squares of these are beyond single precision."""
    x = (X * size).astype(np.float32)
    found = filled(x, Y.astype(np.float32), bias=False).ridge(np.zeros((2, 3, 5)), 1e-6)
    assert found is not None
    usual = filled(X.astype(np.float32), Y.astype(np.float32), bias=False).ridge(np.zeros((2, 3, 5)), 1e-6)
    assert usual is not None
    np.testing.assert_allclose(found * size, usual, rtol=1e-3, atol=1e-4)


def test_what_is_no_number_is_not_taken_for_nothing() -> None:
    x = X.astype(np.float32)
    x[7, 0, 2] = np.nan
    assert filled(x, Y.astype(np.float32)).ridge(np.zeros_like(TRUE), 1e-6) is None
