"""How many zeros each layer gets, so that all together have a share of the weights and cost the least.

Errors of layers add up. On the lower convex hull of each layer's curve the steepest fall of error for a weight that
stays is bought first (a Lagrangian over the curves: Everett 1963); in the middle of a step that is in the middle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

#: Shares of zeros that curves are made of; no layer loses all.
SHARES = (0.0, 0.2, 0.35, 0.5, 0.6, 0.7, 0.78, 0.84, 0.88, 0.91, 0.94, 0.96, 0.975, 0.985, 0.99)


@dataclass(frozen=True)
class Curve:
    """The error of a layer of ``size`` weights at each of ``shares`` of zeros, which ascend from 0."""

    size: int
    errors: Sequence[float] = field(repr=False)
    shares: Sequence[float] = field(default=SHARES, repr=False)

    def hull(self) -> list[tuple[float, float]]:
        """Its lower convex hull: shares and errors."""
        found: list[tuple[float, float]] = []
        for point in zip(self.shares, self.errors, strict=True):
            while len(found) > 1 and _slope(found[-2], point) <= _slope(found[-2], found[-1]):
                found.pop()
            found.append(point)
        return found


def spread(curves: Mapping[str, Curve], share: float) -> dict[str, float]:
    """The share of zeros of each layer, such that ``share`` of all weights are zero, or as many as the curves reach."""
    steps = []
    for name, curve in curves.items():
        hull = curve.hull()
        for left, right in pairwise(hull):
            steps.append((_slope(left, right) / curve.size, name, right[0] - left[0]))
    wanted = share * sum(c.size for c in curves.values())
    found = dict.fromkeys(curves, 0.0)
    for _, name, step in sorted(steps, key=lambda s: s[0]):
        zeros = min(step * curves[name].size, wanted)
        found[name] += zeros / curves[name].size
        wanted -= zeros
    return found


def _slope(left: tuple[float, float], right: tuple[float, float]) -> float:
    return (right[1] - left[1]) / (right[0] - left[0])
