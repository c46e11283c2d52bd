"""How a metric falls with what is left, out of few measurements of it: where the smallest model is that may hold.

A single measurement is uncertain by about as much as what is permitted, and a bisection believes each. Here all of them
together decide where to look: along budgets the noise x of the outputs grows steadily and is known well, and

    drop = a x^b        by least squares, each measurement weighted by its standard error and by `LAW`, b near 1

Standard errors are smoothed alike. What is taken was measured itself, and holds; and the curve must not say otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Shares that are measured first, in this order: side by side where there are processes for it. The curve finds all
#: others: with 0.7 and 0.25 here too, a search takes more evaluations and leaves no less.
FIRST = (0.5, 0.35)

#: Shares nearer to each other than this are one.
NEAR = 0.015

#: What `b` is expected to be, and how surely; what is tried.
_EXPONENT, _SPREAD, _EXPONENTS = 1.0, 0.4, np.linspace(0.4, 2.2, 37)

#: How fast standard errors grow with noise at most, and how far beyond what was measured the curve is followed.
_MOST_GROWTH, _BEYOND = 0.6, 0.6

#: By how many standard errors of one measurement the curve may be wrong: it is not to have the last word twice.
DOUBT = 0.3

#: How wrong the curve may be of a drop, as a share of it: it is no law, and far from what is permitted it saturates.
LAW = 0.3

#: How exactly a share is looked for.
_EXACT = 1e-3

#: The largest share that is looked at, and the least step away from one that does not hold.
_LARGEST, _STEP = 0.97, 0.03

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """A model with ``share`` of the cost left: the noise of its outputs, and its drop with the standard error."""

    share: float
    noise: float
    drop: float
    error: float
    holds: bool


@dataclass(frozen=True)
class Curve:
    """What measurements say together."""

    points: Sequence[Point]
    scale: float
    exponent: float
    error: tuple[float, float]  # log error = error[0] + error[1] log noise

    @staticmethod
    def through(points: Sequence[Point]) -> Curve:
        """The curve of at least one point; all drops are finite."""
        ordered = sorted(points, key=lambda p: p.share)
        x = np.asarray([max(p.noise, 1e-12) for p in ordered])
        error = _errors(x, np.asarray([p.error for p in ordered]))
        d = np.asarray([p.drop for p in ordered])
        weights = 1 / (np.maximum(np.exp(error[0]) * x ** error[1], 1e-9) ** 2 + (LAW * d) ** 2)

        def fitted(b: float) -> tuple[float, float, float]:
            a = max(float((weights * x**b * d).sum() / (weights * x ** (2 * b)).sum()), 1e-12)
            misfit = float((weights * (d - a * x**b) ** 2).sum())
            return misfit + ((b - _EXPONENT) / _SPREAD) ** 2, a, b

        _, a, b = min(fitted(float(b)) for b in _EXPONENTS)
        return Curve(ordered, a, b, error)

    def noise(self, share: float) -> float:
        """The noise at a share: straight lines of its logarithm, over what was measured and on at either end."""
        shares = np.asarray([p.share for p in self.points])
        logs = np.maximum.accumulate(np.log([max(p.noise, 1e-12) for p in self.points])[::-1])[::-1]
        if len(shares) == 1:
            return math.exp(float(logs[0])) * (1 - share) / max(1 - float(shares[0]), 1e-9)
        place = int(np.clip(np.searchsorted(shares, share), 1, len(shares) - 1))
        slope = (logs[place] - logs[place - 1]) / max(shares[place] - shares[place - 1], 1e-9)
        return math.exp(min(float(logs[place] + slope * (share - shares[place])), 700.0))

    def drop(self, share: float) -> float:
        """The drop that is expected at a share."""
        return self.scale * math.pow(self.noise(share), self.exponent)

    def bound(self, share: float, confidence: float) -> float:
        """The drop, and so many standard errors on top."""
        error = math.exp(self.error[0]) * math.pow(self.noise(share), self.error[1])
        return self.drop(share) + confidence * error

    def smallest(self, permitted: float, confidence: float, least: float) -> float:
        """The smallest share whose bound is permitted, no less than ``least``, nor than the curve is good for."""
        low, high = max(least, _BEYOND * self.points[0].share), _LARGEST
        if self.bound(low, confidence) <= permitted:
            return low
        while high - low > _EXACT:  # the bound only falls with the share
            middle = (low + high) / 2
            low, high = (low, middle) if self.bound(middle, confidence) <= permitted else (middle, high)
        return high


def _errors(x: Float, errors: Float) -> tuple[float, float]:
    """`Curve.error`, of the standard ``errors`` at noise ``x``; of those that are 0 nothing is known."""
    known = errors > 0
    if not known.any():
        return -30.0, 0.0
    logs, at = np.log(errors[known]), np.log(x[known])
    slope = 0.0
    if known.sum() > 2 and at.std() > 0:
        slope = float(np.clip(np.polyfit(at, logs, 1)[0], 0.0, _MOST_GROWTH))
    return float((logs - slope * at).mean()), slope


def find(
    measured: Callable[[Sequence[float]], Sequence[Point | None]],
    permitted: float,
    confidence: float,
    evaluations: int,
    *,
    whole: bool = False,
) -> list[Point]:
    """What was measured, in order. `taken` says which of it is the answer.

    ``measured``: points at shares of the cost, None where so little cannot be left; at most ``evaluations`` are asked.
    ``whole``: all of the cost may be the answer too, for more than that goes; where it does not hold, nothing will.
    """
    found: list[Point] = [p for p in measured([1.0]) if p is not None] if whole else []
    used = int(whole)
    if any(not p.holds for p in found) or used == evaluations:
        return found
    first = FIRST[: max(1, min(len(FIRST), evaluations // 2, evaluations - used))]
    answers = list(zip(first, measured(first), strict=True))
    found += [p for _, p in answers if p is not None]
    least = max((share + NEAR for share, p in answers if p is None), default=0.0)
    used += len(first)
    while used < evaluations:
        share = _next(found, permitted, confidence, least)
        if share is None:
            break
        (point,) = measured([share])
        used += 1
        if point is None:
            least = share + NEAR
        else:
            found.append(point)
    return found


def _next(found: Sequence[Point], permitted: float, confidence: float, least: float) -> float | None:
    """Where to look next; None where enough is known."""
    if not found:
        share = (max(least, 0.5) + 1) / 2
        return share if share < _LARGEST else None
    best = taken(found, permitted)
    if not _measurable(found):
        return _middle(found, least)
    share = Curve.through(found).smallest(permitted, confidence - DOUBT, least)
    refused = [p.share for p in found if not p.holds and (best is None or p.share < best.share)]
    if best is None:
        high = max(refused, default=0.0)
        if high > _LARGEST - NEAR:
            return None
        times = sum(s > max(FIRST) - NEAR for s in refused)  # each time twice as far, so that they do not run out
        share = min(max(share, high + _STEP * 2 ** max(times - 1, 0)), _LARGEST)
    else:
        if refused:  # the same samples judge what is smaller, and hardly like it better
            share = max(share, max(refused) + _STEP)
        if share > best.share - 2 * NEAR:
            return None
    while near := [p.share for p in found if abs(p.share - share) < NEAR]:  # what does not hold is gone around
        share = max(near) + _STEP
        if best is not None and share > best.share - NEAR:
            return None
    return share if share <= _LARGEST + NEAR else None


def _measurable(found: Sequence[Point]) -> bool:
    """Whether drops are numbers: those of what is infinite of the original are not."""
    return all(math.isfinite(p.drop) for p in found)


def _middle(found: Sequence[Point], least: float) -> float | None:
    """Between what holds and what does not."""
    high = min((p.share for p in found if p.holds), default=1.0)
    low = max([least, *(p.share for p in found if not p.holds and p.share < high)])
    share = (low + high) / 2
    return share if high - low > 2 * NEAR and share <= _LARGEST else None


def taken(found: Sequence[Point], permitted: float) -> Point | None:
    """The smallest that holds by its own measurement and by the curve through all of them; None where none does."""
    good = sorted((p for p in found if p.holds), key=lambda p: p.share)
    if not good:
        return None
    if not _measurable(found):
        return good[0]
    curve = Curve.through(found)
    agreed = [p for p in good if curve.bound(p.share, -DOUBT) <= permitted]
    return agreed[0] if agreed else None
