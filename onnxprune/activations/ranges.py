"""The grid of a tensor, from its values on samples: over the whole range, a share of the values, or the least error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.gram_matrices import Observations
from onnxprune.constraints.grids import Grid
from onnxprune.constraints.rounding import next_power_of_two
from onnxprune.model.onnx_model import Model
from onnxprune.running import session as runtime

#: Samples that are looked at, and bins of a histogram.
SAMPLES, BINS = 96, 4096

#: Finer grids than bins tell apart are as wide as the range.
MOST_MSE = 9

#: Shares of a range that are tried.
_SHARES = np.linspace(0.15, 1.0, 35)

#: Inputs of the model are at least of so many bits: they come as bytes.
INPUT_BITS = 8


@dataclass
class Histogram:
    """A histogram of all values between the least and the largest; its range always includes 0."""

    low: float = 0.0
    high: float = 0.0
    counts: NDArray[np.float64] = field(default_factory=lambda: np.zeros(BINS), repr=False)

    def add(self, values: NDArray[Any]) -> None:
        """Count ``values``; where the range grows, what was counted before is counted again in wider bins."""
        finite = values[np.isfinite(values)]
        if not finite.size:
            return
        low, high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
        if high == low:
            return
        if (low, high) != (self.low, self.high):
            old, self.counts = (self.middles(), self.counts), np.zeros(BINS)
            self.low, self.high = low, high
            self._count(*old)
        self._count(finite, None)

    def _count(self, values: NDArray[Any], weights: NDArray[np.float64] | None) -> None:
        at = np.clip((values - self.low) / (self.high - self.low) * BINS, 0, BINS - 1).astype(np.int64)
        self.counts += np.bincount(at.reshape(-1), weights, BINS)

    def middles(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        return np.asarray(self.low + (np.arange(BINS) + 0.5) * (self.high - self.low) / BINS)

    def grid(self, bits: int, *, symmetric: bool, ranges: str | float, power_of_two: bool = False) -> Grid:
        """One scale for all values. Codes are unsigned where no value is negative, or where there is a zero point.

        ``power_of_two``: the scale is a power of two.
        """
        signed = symmetric and self.low < 0
        values, weights = self.middles(), self.counts

        def grid(low: float, high: float) -> Grid:
            if symmetric:
                half = 2.0 ** (bits - 1)
                scale = max(high / (half - 1), -low / half) if signed else high / (2.0**bits - 1)
            else:
                scale = (high - low) / (2.0**bits - 1)
            step = np.full((), max(scale, 1e-30) if scale else 1.0, np.float32)  # of zeros any scale is theirs
            step = next_power_of_two(step) if power_of_two else step
            zero = 0 if symmetric else int(np.clip(np.rint(-low / float(step)), 0, 2**bits - 1))
            return Grid(step, np.full((), zero, np.int64), bits, signed)

        if isinstance(ranges, float) and weights.any():
            share = np.cumsum(weights) / weights.sum()
            low, high = np.interp([(100 - ranges) / 200, (100 + ranges) / 200], share, values)
            return grid(min(float(low), 0.0), max(float(high), 0.0))
        if ranges != "mse" or bits > MOST_MSE or not weights.any():
            return grid(self.low, self.high)
        lows = self.low * _SHARES if self.low < 0 else np.zeros(1)
        highs = self.high * _SHARES if self.high > 0 else np.zeros(1)
        if symmetric:
            ends = [(low, high) for low, high in zip(*np.broadcast_arrays(lows, highs), strict=True)]
        else:
            ends = [(low, high) for low in lows[:: 3 if len(highs) > 1 else 1] for high in highs]
        ends.append((self.low, self.high))
        tried = [grid(float(low), float(high)) for low, high in ends]
        return min(tried, key=lambda g: float(((_nearest(g, values) - values) ** 2 * weights).sum()))


def _nearest(grid: Grid, values: NDArray[np.float64]) -> NDArray[np.float64]:
    scale, zero = float(grid.scale), int(grid.zero_point)
    return np.asarray(np.clip(np.rint(values / scale), grid.low - zero, grid.high - zero) * scale)


def histograms(
    model: Model, seen: Observations, sets: Sequence[Sequence[str]], kept: Mapping[str, Mapping[int, NDArray[np.int64]]]
) -> list[Histogram]:
    """A histogram for each set of tensors of ``model``, on samples that are not held out.

    ``kept``: by tensor and axis, the positions that count. Raises ModelError where onnxruntime cannot run the model.
    """
    names = [n for own in sets for n in own]
    given = {o.name for o in model.graph.outputs} | {i.name for i in model.graph.inputs}
    found = [Histogram() for _ in sets]
    where = str(model.path or "model")
    left = SAMPLES
    asked = [n for n in dict.fromkeys(names) if n not in given]
    with runtime.session(model, where, optimize=True, outputs=asked, any_batch=seen.any_batch) as active:
        for part in (p for p in seen.parts if not p.held_out):
            feeds = seen.feeds(part)
            values = {**feeds, **runtime.run(active, feeds, where)}
            for histogram, own in zip(found, sets, strict=True):
                for name in own:
                    array = values[name]
                    for axis, positions in kept.get(name, {}).items():
                        array = array.take(positions, axis)
                    if array.dtype.kind == "f":
                        histogram.add(array.astype(np.float32))
            left -= part.samples
            if left <= 0:
                break
    return found
