"""How much of a metric is lost, and how well that is known.

Original and pruned model are measured on the same samples, so their difference is paired: where both are right or both
wrong, nothing is uncertain. Of numbers of each sample x and y the standard error of the drop is that of the
mean of x - y; of parts that one number is made of, as mean IoU is, it is bootstrapped, the same samples drawn for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.widths.metric_options import Limit

#: Draws of the bootstrap.
_DRAWS = 200

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Measurement:
    """A metric of one model: its ``value``, and what it is made of, where that is known.

    ``parts`` [N, ...]: of each sample; ``combine``: from parts of any samples to the value.
    """

    value: float
    parts: NDArray[Any] | None = field(default=None, repr=False)
    combine: Callable[[NDArray[Any]], float] | None = field(default=None, repr=False)

    @property
    def samples(self) -> int | None:
        """How many samples it is of, where that is known."""
        return None if self.parts is None else len(self.parts)


@dataclass(frozen=True)
class Drop:
    """By how much a metric is worse than the original's, and the standard error of that; None where it is not known.

    ``permitted``: how much it may be; ``holds``: whether it is no more, ``confidence`` standard errors away.
    """

    amount: float
    error: float | None
    permitted: float
    holds: bool


def told(amount: float, error: float | None, sign: str = "+-") -> str:
    """A drop as a reader is told it."""
    return f"{amount:.4g}" + ("" if error is None else f" {sign} {error:.2g}")


def within(amount: float, error: float | None, permitted: float, confidence: float) -> bool:
    """Whether a drop is no more than is permitted, so many standard errors away."""
    return amount + confidence * (error or 0.0) <= permitted + 1e-12


def drop(limit: Limit, original: Measurement, found: Measurement) -> Drop:
    """What ``found`` has lost of ``original``, by the terms of ``limit``."""
    scale = abs(original.value) or 1.0 if limit.relative else 1.0
    sign = -1.0 if limit.lower else 1.0
    amount = sign * (original.value - found.value) / scale
    if limit.min_metric is None:
        assert limit.max_drop is not None
        permitted = limit.max_drop
        error = _paired(original, found, amount * sign if limit.relative else 0.0, scale)
    else:
        permitted = sign * (original.value - limit.min_metric) / scale
        error = _alone(found, scale)
    if not math.isfinite(amount):  # of the original's own, as an SNR to itself, there is none
        holds = sign * (found.value - (limit.min_metric or 0.0)) >= limit.confidence * (error or 0.0) * scale
    else:
        holds = within(amount, error, permitted, limit.confidence)
    return Drop(amount, error, permitted, holds)


def _paired(original: Measurement, found: Measurement, share: float, scale: float) -> float | None:
    """The standard error of a drop; ``share``: of a relative one, the drop, for the original's value varies too."""
    if original.parts is None or found.parts is None:
        return None
    if original.combine is None or found.combine is None:
        x, y = (np.asarray(m.parts, np.float64) for m in (original, found))
        return _error(x - y - share * np.sign(original.value) * x) / scale

    def loss(rows: NDArray[np.int64]) -> float:
        assert original.combine is not None
        assert found.combine is not None
        before, after = original.combine(original.parts[rows]), found.combine(found.parts[rows])  # type: ignore[index]
        return float(before - after - share * math.copysign(1.0, original.value) * before)

    return _bootstrapped(len(original.parts), loss) / scale


def _alone(found: Measurement, scale: float) -> float | None:
    """The standard error of a value."""
    if found.parts is None:
        return None
    parts, combine = found.parts, found.combine
    if combine is None:
        return _error(np.asarray(parts, np.float64)) / scale
    return _bootstrapped(len(parts), lambda rows: float(combine(parts[rows]))) / scale


def _error(values: Float) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _bootstrapped(count: int, value: Callable[[NDArray[np.int64]], float]) -> float:
    rng = np.random.default_rng(count)
    found = np.asarray([value(rng.integers(count, size=count)) for _ in range(_DRAWS)])
    found = found[np.isfinite(found)]
    return float(found.std(ddof=1)) if len(found) > 1 else 0.0
