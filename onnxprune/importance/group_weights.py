"""The weights of one group as criteria see them: matrices with a row for each channel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.samples import CalibrationSet
from onnxprune.labels.groups import Group, Slice
from onnxprune.model.onnx_model import Model

#: [n, elements] -> [n]
Measure = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Filters:
    """One axis of a constant: ``rows`` [n, elements], and ``unit`` [n], which of the group's units each row is of."""

    constant: str
    rows: NDArray[np.float64] = field(repr=False)
    unit: NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True)
class GroupWeights:
    """A group and its weights; ``seed`` is this group's own. ``data``: calibration data, where there is any."""

    model: Model = field(repr=False)
    group: Group
    seed: int
    data: CalibrationSet | None = field(default=None, repr=False)

    @property
    def width(self) -> int:
        """Number of units, which is the length of the scores."""
        return self.group.width

    def filters(self, role: str) -> Iterator[Filters]:
        """The group's slices of a role: 'out' makes the channels, 'in' reads them, 'scale' scales them, or ''."""
        for part in self.group.slices:
            if part.role == role and part.constant in self.model.graph.constants:
                yield self._filters(part)

    def _filters(self, part: Slice) -> Filters:
        array = np.moveaxis(self.model.array(part.constant).astype(np.float64, copy=False), part.axis, 0)
        if part.units.ndim == 2:
            blocks = np.unique(part.units, axis=0)
            order = [int(np.flatnonzero((part.units == b).all(axis=1))[0]) for b in blocks]
            size = part.units.shape[0] // len(blocks)
            rows = np.concatenate([array[:, o : o + size].reshape(array.shape[0], -1) for o in sorted(order)])
            units = np.concatenate([part.units[o] for o in sorted(order)])
        else:
            rows, units = array.reshape(array.shape[0], -1), part.units
        position = np.searchsorted(self.group.units, units)
        position = np.minimum(position, self.width - 1)
        own = self.group.units[position] == units
        return Filters(part.constant, rows[own], position[own])

    def not_finite(self) -> str | None:
        """The first constant of the group that holds NaN or infinity."""
        for part in self.group.slices:
            if part.constant in self.model.graph.constants and not np.isfinite(self.model.array(part.constant)).all():
                return part.constant
        return None

    def made_by(self, measure: Measure) -> NDArray[np.float64]:
        """``measure`` of the filters that make the channels; of other constants, where no weight makes them."""
        for role in ("out", "", "scale"):
            found = self.combine(role, measure)
            if found is not None:
                return found
        return np.ones(self.width)

    def combine(self, role: str, measure: Measure) -> NDArray[np.float64] | None:
        """The mean over all slices of ``measure(rows)``, each slice scaled to mean 1; None where there are no slices.

        Scaled so, layers whose weights differ in size compare, within a group and across groups.
        """
        total, count = np.zeros(self.width), np.zeros(self.width)
        for part in self.filters(role):
            values = measure(part.rows)
            mean = float(values.mean()) if len(values) else 0.0
            np.add.at(total, part.unit, values / mean if mean else values)
            np.add.at(count, part.unit, 1)
        if not count.any():
            return None
        return total / np.maximum(count, 1)
