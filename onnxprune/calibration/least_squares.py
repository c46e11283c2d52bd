"""Least squares from second moments: what a layer's inputs have in common with each other and with its outputs.

Columns X [rows, groups, n] and targets Y [rows, groups, m], a column of ones behind the others where there is a bias.
All that is kept of them are the sums X'X, X'Y and Y'Y, in float64, so that memory does not grow with the data. From
these follow, for every W [groups, m, n],

    error(W)  = sum |Y - X W'|^2 / sum |Y - mean(Y)|^2
    ridge     W' = (X'X + k I)^-1 (X'Y + k V')      pulled towards V, the weights as they are

(Hoerl and Kennard 1970; as in He et al. 2017, arXiv 1707.06168, but not pulled towards zero.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnxprune.labels.ops.table import Array

Float = NDArray[np.float64]


@dataclass
class Moments:
    """Sums over rows; ``add`` grows them."""

    xx: Float = field(repr=False)  # [groups, n, n]
    xy: Float = field(repr=False)  # [groups, n, m]
    yy: Float = field(repr=False)  # [groups, m]
    y: Float = field(repr=False)  # [groups, m]
    bias: bool  # whether the last column is ones
    rows: int = 0

    @staticmethod
    def empty(groups: int, columns: int, targets: int, *, bias: bool) -> Moments:
        """No rows yet; ``columns`` without that of the bias."""
        n = columns + bias
        xx, xy, yy, y = (np.zeros((groups, *s)) for s in ((n, n), (n, targets), (targets,), (targets,)))
        return Moments(xx, xy, yy, y, bias)

    def add(self, x: Array, y: Array) -> None:
        """Take in rows of x [rows, groups, columns] and y [rows, groups, targets]."""
        if self.bias:
            x = np.concatenate([x, np.ones((*x.shape[:2], 1), x.dtype)], axis=2)
        for group in range(x.shape[1]):  # products of these rows in their own precision, sums in float64
            a, b = x[:, group], y[:, group]
            self.xx[group] += a.T @ a
            self.xy[group] += a.T @ b
        self.yy += np.einsum("rgm,rgm->gm", y, y, dtype=np.float64)
        self.y += y.sum(axis=0, dtype=np.float64)
        self.rows += len(x)

    def energy(self) -> float:
        """The mean square of the targets around their means, summed over targets."""
        return float((self.yy / self.rows - (self.y / self.rows) ** 2).clip(0).sum())

    def error(self, w: Float) -> float:
        """What W [groups, m, n] misses of the targets, relative to `energy`; 0 where there is nothing to miss."""
        crossed = (w * self.xy.transpose(0, 2, 1)).sum()
        square = self.yy.sum() - 2 * crossed + (np.matmul(w, self.xx) * w).sum()
        energy = self.energy()
        return max(0.0, float(square) / self.rows) / energy if energy > 0 else 0.0

    def ridge(self, prior: Float, strength: float) -> Float | None:
        """W [groups, m, n] for k = ``strength`` times the mean of the columns' squares; None where it is singular."""
        found = np.empty_like(prior)
        for group, (xx, xy) in enumerate(zip(self.xx, self.xy, strict=True)):
            weights = np.ones(len(xx))
            if self.bias:
                weights[-1] = 0  # nothing pulls the bias
            k = strength * float(np.diag(xx) @ weights) / max(weights.sum(), 1.0)
            try:
                factor = scipy.linalg.cho_factor(xx + np.diag(k * weights), lower=True, check_finite=False)
                found[group] = scipy.linalg.cho_solve(factor, xy + k * weights[:, None] * prior[group].T).T
            except scipy.linalg.LinAlgError:
                return None
        return found if np.isfinite(found).all() else None
