"""Where to look for the smallest model, on networks that are formulas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from onnxprune.search.curve import Curve, Point, find, taken

SAMPLES = 1000


#: From a share, what is permitted and the confidence.
Measure = Callable[[float, float, float], Point | None]


def network(seed: int, *, scale: float = 1.0, least: float = 0.0) -> Measure:
    """The measure of a network whose true drop is `truth`, seen on `SAMPLES` of one draw."""
    rng = np.random.default_rng(seed)
    hard = rng.random(SAMPLES)

    def measure(share: float, permitted: float, confidence: float) -> Point | None:
        if share < least:
            return None
        lost = hard < scale * truth(share)
        gained = (hard > 0.99) & (rng.random(SAMPLES) < 0.5)
        each = lost.astype(float) - gained
        drop, error = float(each.mean()), float(each.std(ddof=1) / SAMPLES**0.5)
        return Point(share, noise(share), drop, error, drop + confidence * error <= permitted)

    return measure


def noise(share: float) -> float:
    return float(np.exp(-8 * share) - np.exp(-8))


def truth(share: float) -> float:
    """Half a point more is wrong for each percent of noise."""
    return 0.5 * noise(share)


def search(measure: Measure, permitted: float, confidence: float, evaluations: int = 8) -> list[Point]:
    def all_of(shares: Sequence[float]) -> list[Point | None]:
        return [measure(s, permitted, confidence) for s in shares]

    return find(all_of, permitted, confidence, evaluations)


def test_where_nothing_holds_it_goes_up_faster_each_time() -> None:
    found = search(lambda s, _p, _c: Point(s, noise(s), 0.05 if s < 0.93 else 0.0, 0.001, s >= 0.93), 0.01, 0.0)
    assert len(found) <= 8
    assert any(p.holds for p in found)


@pytest.mark.parametrize("permitted", [0.005, 0.01, 0.02, 0.05])
def test_it_ends_near_the_smallest_that_holds(permitted: float) -> None:
    exact = min(s for s in np.linspace(0.05, 0.99, 400) if truth(s) - 0.005 <= permitted)
    ends = []
    for seed in range(20):
        found = search(network(seed), permitted, 0.0)
        best = taken(found, permitted)
        assert best is not None
        assert best.holds
        assert len(found) <= 8
        ends.append(best.share)
    assert abs(float(np.median(ends)) - exact) < 0.1


def test_confidence_keeps_away_from_the_limit() -> None:
    def broken(confidence: float) -> float:
        ends = [taken(search(network(seed), 0.01, confidence), 0.01) for seed in range(60)]
        return float(np.mean([truth(e.share) - 0.005 > 0.01 for e in ends if e is not None]))

    assert broken(1.0) <= 0.15
    assert broken(1.0) < broken(0.0)


def test_what_cannot_be_left_is_gone_around() -> None:
    best = taken(search(network(0, least=0.8), 0.05, 0.0), 0.05)
    assert best is not None
    assert best.share >= 0.8


def test_where_nothing_holds_there_is_no_answer_and_the_mildest_was_tried() -> None:
    found = search(lambda share, *_: Point(share, noise(share), 0.5, 0.01, holds=False), 0.01, 1.0)
    assert taken(found, 0.01) is None
    assert max(p.share for p in found) > 0.9
    assert len(found) <= 8


def test_a_lucky_measurement_is_not_taken_against_all_others() -> None:
    points = [
        Point(0.7, 0.01, 0.006, 0.002, holds=True),
        Point(0.5, 0.02, 0.014, 0.002, holds=False),
        Point(0.35, 0.04, 0.007, 0.002, holds=True),
        Point(0.25, 0.08, 0.05, 0.002, holds=False),
    ]
    best = taken(points, 0.01)
    assert best is not None
    assert best.share == 0.7


def test_what_is_far_too_small_does_not_say_where_to_look() -> None:
    """A detector that finds half of its boxes at half of the cost, and no fewer below: no power of the noise."""

    def measured(share: float, permitted: float, confidence: float) -> Point:
        x = 10.0 ** float(np.interp(share, [0.35, 0.5, 0.86, 0.92], [0.3, -0.8, -3.6, -4.4]))
        drop = 0.43 * (1 - float(np.exp(-x / 0.07)))
        error = (drop * (1 - drop) / SAMPLES) ** 0.5
        return Point(share, x, drop, error, drop + confidence * error <= permitted)

    best = taken(search(measured, 0.01, 0.0), 0.01)
    assert best is not None
    assert best.share < 0.8


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_nothing_is_measured_twice_nor_below_what_did_not_hold(confidence: float) -> None:
    for seed in range(40):
        shares: list[float] = []
        for number, point in enumerate(found := search(network(seed), 0.01, confidence)):
            assert all(abs(point.share - share) > 0.0149 for share in shares)
            if number > 1 and not found[0].holds:
                assert point.share > max(p.share for p in found[:number] if not p.holds)
            shares.append(point.share)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_so_many_evaluations_and_no_more(count: int) -> None:
    assert len(search(network(1), 0.02, 0.0, count)) <= count


def test_a_curve_of_exact_measurements_is_that_curve() -> None:
    curve = Curve.through([Point(s, noise(s), truth(s), 0.001, holds=True) for s in (0.2, 0.4, 0.6, 0.8)])
    assert curve.drop(0.5) == pytest.approx(truth(0.5), rel=0.25)
    assert curve.drop(0.4) == pytest.approx(truth(0.4), rel=0.05)
