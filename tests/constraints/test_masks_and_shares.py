"""Patterns hold what they say, masks by alternating directions beat magnitude, shares of layers add up."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from onnxprune.calibration.least_squares import Moments
from onnxprune.constraints.masks import alternating, curve
from onnxprune.constraints.patterns import Pattern
from onnxprune.constraints.quadratic import Quadratic, steadied, with_bias
from onnxprune.constraints.shares import Curve, spread
from onnxprune.constraints.zeros import Zeros


def test_a_share_is_met_to_the_weight_and_the_largest_stay() -> None:
    scores = np.random.default_rng(0).random((2, 3, 4, 5))
    keep = Pattern.parse("unstructured").keep(scores, 0.7)
    assert (~keep).sum() == round(0.7 * 120)
    assert scores[keep].min() > scores[~keep].max()


def test_equal_scores_leave_as_many() -> None:
    assert (~Pattern.parse("unstructured").keep(np.ones((1, 4, 5, 1)), 0.35)).sum() == 7


def test_no_layer_loses_all() -> None:
    assert Pattern.parse("unstructured").keep(np.ones((1, 1, 8, 1)), 0.9).sum() == 1


@pytest.mark.parametrize("text", ["2:4", "1:4", "1:2"])
def test_n_of_m_holds_along_channels(text: str) -> None:
    pattern = Pattern.parse(text)
    weight = np.random.default_rng(1).standard_normal((1, 5, 8, 3))
    assert not pattern.holds(weight)
    zeroed = weight * pattern.keep(np.abs(weight), pattern.share or 0)
    assert pattern.holds(zeroed)
    assert np.mean(zeroed == 0) == pattern.share


def test_n_of_m_wants_whole_rows() -> None:
    assert not Pattern.parse("2:4").fits((1, 8, 6, 9))
    assert Pattern.parse("2:4").fits((1, 8, 8, 9))


def test_blocks_go_as_a_whole_at_the_edges_too() -> None:
    scores = np.random.default_rng(2).random((1, 5, 7, 2))
    keep = Pattern.parse("block:2x3").keep(scores, 0.5)
    for r, c, t in itertools.product(range(0, 5, 2), range(0, 7, 3), range(2)):
        assert len(np.unique(keep[0, r : r + 2, c : c + 3, t])) == 1
    assert abs(np.mean(~keep) - 0.5) < 0.06


def test_channels_go_as_a_whole_and_one_stays() -> None:
    keep = Pattern.parse("channel").keep(np.random.default_rng(3).random((1, 8, 3, 9)), 0.5)
    assert sorted(keep.reshape(8, -1).mean(axis=1)) == [0] * 4 + [1] * 4
    assert Pattern.parse("channel").keep(np.ones((1, 8, 3, 9)), 0.999).any()


@pytest.mark.parametrize("text", ["4:2", "0:4", "block:0x2", "rows", ""])
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not unstructured"):
        Pattern.parse(text)


def correlated(seed: int = 0) -> Quadratic:
    """Of columns that say much of each other."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((400, 6)) @ rng.standard_normal((6, 24)) + 0.3 * rng.standard_normal((400, 24))
    return Quadratic((x.T @ x / 400)[None], rng.standard_normal((1, 10, 24)), np.ones((1, 10)))


@pytest.mark.parametrize("name", ["unstructured", "2:4", "block:2x2"])
def test_masks_that_see_the_error_are_better_than_the_largest_weights(name: str) -> None:
    pattern = Pattern.parse(name)
    won = []
    for seed in range(5):
        quadratic = correlated(seed)
        mask = alternating(quadratic, pattern, 0.5, 1)
        largest = pattern.keep(np.abs(quadratic.best[..., None]), 0.5)[..., 0]
        assert abs(np.mean(~mask) - 0.5) < 0.05
        won.append(quadratic.error(quadratic.on(mask)) / quadratic.error(quadratic.on(largest)))
    assert np.mean(won) < 0.9


def test_a_curve_rises_with_the_share_and_is_near_what_exact_solving_gives() -> None:
    quadratic, pattern = correlated(), Pattern.parse("unstructured")
    errors = curve(quadratic, pattern, (0.0, 0.3, 0.6, 0.9), 1)
    assert errors == sorted(errors)
    assert errors[0] == pytest.approx(0, abs=1e-9)
    exact = quadratic.error(quadratic.on(alternating(quadratic, pattern, 0.6, 1)))
    assert errors[2] == pytest.approx(exact, rel=0.3)


def opposed(seed: int = 0) -> Quadratic:
    """Of outputs that are read in sums alone: what three directions of them hold is all that counts."""
    rng = np.random.default_rng(seed)
    read = rng.standard_normal((3, 10))
    return replace(correlated(seed), felt=(read.T @ read + 1e-3 * np.eye(10))[None])


@pytest.mark.parametrize(("quadratic", "steps", "rel"), [(correlated(), 200, 1e-6), (opposed(), 2000, 1e-3)])
def test_least_squares_on_a_mask_is_the_least_there_is(quadratic: Quadratic, steps: int, rel: float) -> None:
    mask = np.random.default_rng(4).random((1, 10, 24)) < 0.5
    best = quadratic.on(mask)
    assert (best[~mask] == 0).all()
    rng = np.random.default_rng(5)
    for _ in range(20):
        assert quadratic.error(best + 1e-3 * rng.standard_normal(best.shape) * mask) > quadratic.error(best)
    near = quadratic.descended(mask, np.zeros_like(best), steps)
    assert quadratic.error(near) == pytest.approx(quadratic.error(best), rel=rel)


@pytest.mark.parametrize("name", ["unstructured", "2:4"])
def test_what_one_output_misses_another_makes_up_for(name: str) -> None:
    pattern, won = Pattern.parse(name), []
    for seed in range(5):
        quadratic = opposed(seed)
        alone = replace(quadratic, felt=quadratic.rows)
        apart = alone.on(alternating(alone, pattern, 0.5, 1))
        won.append(quadratic.error(quadratic.on(alternating(quadratic, pattern, 0.5, 1))) / quadratic.error(apart))
    assert max(won) < 0.5


def test_outputs_that_nobody_reads_are_no_singular_matrix() -> None:
    quadratic = replace(correlated(), felt=steadied(np.zeros((1, 10, 10))))
    assert np.isfinite(quadratic.on(alternating(quadratic, Pattern.parse("unstructured"), 0.5, 1))).all()
    assert (steadied(np.zeros((2, 4))) > 0).all()


def test_rows_that_count_more_keep_more() -> None:
    quadratic = correlated()
    rows = np.ones((1, 10))
    rows[0, 0] = 100
    mask = alternating(replace(quadratic, felt=rows), Pattern.parse("unstructured"), 0.8, 1)
    assert mask[0, 0].sum() > mask[0, 1:].sum(axis=1).max()


def test_the_bias_takes_the_mean() -> None:
    rng = np.random.default_rng(6)
    moments = Moments.empty(1, 3, 2, bias=True)
    x = rng.standard_normal((100, 1, 3)) + 5
    moments.add(x, rng.standard_normal((100, 1, 2)))
    w = with_bias(moments, np.zeros((1, 2, 3)))
    assert w[0, :, -1] == pytest.approx(moments.y[0] / 100)


def test_shares_meet_the_whole_and_spare_what_is_dear() -> None:
    shares = (0.0, 0.5, 0.9)
    curves = {"cheap": Curve(1000, (0, 0.01, 0.1), shares), "dear": Curve(200, (0, 5.0, 50.0), shares)}
    found = spread(curves, 0.6)
    assert 1000 * found["cheap"] + 200 * found["dear"] == pytest.approx(0.6 * 1200)
    assert found["cheap"] == pytest.approx(0.72)
    assert found["dear"] == 0


def test_shares_end_where_curves_end() -> None:
    assert spread({"a": Curve(10, (0, 1.0), (0.0, 0.9))}, 0.99) == {"a": pytest.approx(0.9)}


@pytest.mark.parametrize("rows", [16, 64])
def test_few_rows_are_no_reason_to_spare_the_small_rather_than_the_large(rows: int) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((rows, 1, 64)), rng.standard_normal((1, 8, 64))
    moments = Moments.empty(1, 64, 8, bias=False)
    moments.add(x, np.einsum("rgn,gmn->rgm", x, w))

    mask = Zeros(Pattern.parse("unstructured"), 0.5, 1).chosen(moments, w, None, np.ones((1, 8)))

    lost = float(np.square(w[~mask]).sum())  # on further rows, whose columns have nothing in common
    assert lost < 1.2 * np.sort(np.square(w).ravel())[:256].sum()
