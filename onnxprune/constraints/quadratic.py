"""How far a layer's output is from what it should be, as a function of its weights W [groups, m, n].

    error(W) = tr G (W - V) H (W - V)'        V: the nearest weights there are; H: covariance and ridge

which is what least squares with a pull (`onnxprune.calibration.least_squares`) comes to when W may not be V. The bias
follows from W, and is not in it. ``G`` is how far the model's outputs move with those of the layer: an error of one
output that another one's takes back costs nothing. Where G is a diagonal, each row of W is a problem of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnxprune.calibration.least_squares import Moments

Float = NDArray[np.float64]
Mask = NDArray[np.bool_]

#: What rounding leaves of a mean square, as sums are of products in single precision.
_ROUNDING = 1e-5

#: What the least direction of H counts, as a share of the largest, where rounding made it less than nothing.
_DEFINITE = 1e-3

#: Multiplications that exact least squares may take, and weights of rows that are solved together; above, conjugate
#: gradients come as near as `_STEPS` allow.
_MOST_WORK, _MOST_TOGETHER, _STEPS, _DONE = 2e11, 1500, 60, 1e-20

#: What an output counts at least, and a direction of outputs, as a share of their mean.
_UNFELT, _STEADY = 1e-6, 1e-3


@dataclass(frozen=True)
class Quadratic:
    """``h`` [groups, n, n], ``best`` [groups, m, n], ``felt``: G [groups, m, m], or its diagonal [groups, m]."""

    h: Float = field(repr=False)
    best: Float = field(repr=False)
    felt: Float = field(repr=False)

    @staticmethod
    def of(moments: Moments, prior: Float, strength: float, felt: Float) -> Quadratic:
        """Of moments with targets; ``prior`` and the bias in its last column, if any, as in `Moments.ridge`."""
        solved = moments.ridge(prior, strength)
        best = prior if solved is None else solved
        if moments.bias:
            best = best[:, :, :-1]
        return Quadratic(damped(covariance(moments), strength), best, felt)

    @property
    def together(self) -> bool:
        """Whether rows depend on each other, that is, G is not a diagonal."""
        return self.felt.ndim == 3

    @property
    def rows(self) -> Float:
        """The diagonal of G [groups, m]: how much an error of each output alone counts."""
        return np.diagonal(self.felt, axis1=1, axis2=2) if self.together else self.felt

    def error(self, w: Float) -> float:
        """The error of the weights ``w``."""
        if not self.together:
            return float((self.by_row(w) * self.rows).sum())
        apart = w - self.best
        return float((self._times(apart) * apart).sum())

    def by_row(self, w: Float) -> Float:
        """The unweighted error of each row [groups, m] of ``w``."""
        apart = w - self.best
        return np.asarray((np.matmul(apart, self.h) * apart).sum(axis=2))

    def on(self, mask: Mask, start: Float | None = None) -> Float:
        """The weights of least error that are 0 where ``mask`` is false.

        ``start``: where the search begins, if it is not solved exactly.
        """
        if self.together:
            if mask.sum(axis=(1, 2)).max() <= _MOST_TOGETHER:
                try:
                    return self._exactly(mask)
                except scipy.linalg.LinAlgError:
                    pass
            alone = Quadratic(self.h, self.best, self.rows).on(mask, start)
            return self.descended(mask, alone, _STEPS)
        counts = mask.sum(axis=2)
        if start is None and float((counts.astype(np.float64) ** 3).sum()) / 3 < _MOST_WORK:
            try:
                return self._exactly_by_row(mask)
            except scipy.linalg.LinAlgError:  # rounding made it indefinite: descending stops in time
                pass
        return self.descended(mask, np.where(mask, self.best if start is None else start, 0.0), _STEPS)

    def _exactly(self, mask: Mask) -> Float:
        aims = self._times(self.best)
        found = np.zeros_like(self.best)
        for group, (h, felt) in enumerate(zip(self.h, self.felt, strict=True)):
            row, column = np.nonzero(mask[group])
            if len(row):
                factor = scipy.linalg.cho_factor(
                    h[np.ix_(column, column)] * felt[np.ix_(row, row)], lower=True, check_finite=False
                )
                found[group, row, column] = scipy.linalg.cho_solve(factor, aims[group, row, column], check_finite=False)
        return found

    def _exactly_by_row(self, mask: Mask) -> Float:
        aims = np.matmul(self.best, self.h)
        found = np.zeros_like(self.best)
        for group, h in enumerate(self.h):
            for row, kept in enumerate(mask[group]):
                own = np.flatnonzero(kept)
                if not len(own):
                    continue
                factor = scipy.linalg.cho_factor(h[np.ix_(own, own)], lower=True, check_finite=False)
                found[group, row, own] = scipy.linalg.cho_solve(factor, aims[group, row, own], check_finite=False)
        return found

    def _times(self, w: Float) -> Float:
        """G W H, or W H where rows are problems of their own."""
        right = np.matmul(w, self.h)
        return np.asarray(np.matmul(self.felt, right) if self.together else right)

    def descended(self, mask: Mask, start: Float, steps: int) -> Float:
        """``start`` after ``steps`` steps of conjugate gradients on the mask, row by row where rows are independent."""
        axes = (1, 2) if self.together else (2,)
        scale = 1 / np.maximum(np.diagonal(self.h, axis1=1, axis2=2), 1e-30)[:, None, :]
        if self.together:
            scale = scale / np.maximum(self.rows, 1e-30)[:, :, None]
        w = start.copy()
        left = np.where(mask, self._times(self.best - w), 0.0)
        towards = scaled = left * scale
        size = (left * scaled).sum(axis=axes, keepdims=True)
        first = size
        for _ in range(steps):
            ahead = np.where(mask, self._times(towards), 0.0)
            curved = (towards * ahead).sum(axis=axes, keepdims=True)
            fine = (curved > 0) & (size > _DONE * first)  # else it is there, or what is left is rounding
            step = np.where(fine, size / np.where(fine, curved, 1.0), 0.0)
            w += step * towards
            left = left - step * ahead
            scaled = left * scale
            new = (left * scaled).sum(axis=axes, keepdims=True)
            towards = scaled + np.where(fine, new / np.where(fine, size, 1.0), 0.0) * towards
            size = new
        return w


def covariance(moments: Moments) -> Float:
    """Of the columns [groups, n, n], around their means where there is a bias that takes these."""
    xx = moments.xx / max(moments.rows, 1)
    if not moments.bias:
        return xx
    mean = xx[:, -1, :-1]
    found = xx[:, :-1, :-1] - mean[:, :, None] * mean[:, None, :]
    square = np.diagonal(xx, axis1=1, axis2=2)[:, :-1]
    return np.asarray(found + _ROUNDING * square[:, :, None] * np.eye(found.shape[1]))


def damped(h: Float, strength: float) -> Float:
    """With ``strength`` times the mean of its diagonal on it, and a little where nothing comes in."""
    mean = np.diagonal(h, axis1=1, axis2=2).mean(axis=1)
    whole = float(mean.mean())
    ridge = strength * mean + (_ROUNDING * whole if whole > 0 else 1.0)
    return np.asarray(h + ridge[:, None, None] * np.eye(h.shape[1]))


def taken_over(h: Float) -> NDArray[np.float32]:
    """What of a column's error each later one takes over: U / diag(U), where U'U is the inverse of H [n, n]."""
    try:
        backwards = np.linalg.cholesky(h[::-1, ::-1])[::-1, ::-1]  # H = R R', R upper, U = R^-1
    except np.linalg.LinAlgError:  # of columns that hardly vary, rounding of their sums is most of what is left
        values, vectors = np.linalg.eigh(h)
        definite = (vectors * np.maximum(np.abs(values), _DEFINITE * np.abs(values).max())) @ vectors.T
        backwards = np.linalg.cholesky(definite[::-1, ::-1])[::-1, ::-1]
    upper = scipy.linalg.solve_triangular(backwards, np.eye(len(h)), check_finite=False)
    return np.asarray(upper / np.diag(upper)[:, None], np.float32)


def steadied(felt: Float) -> Float:
    """G, or its diagonal, so that no output, and no direction of outputs, counts nothing."""
    if felt.ndim == 2:
        return np.maximum(felt, _UNFELT * max(float(felt.mean()), 1e-30))
    mean = float(np.diagonal(felt, axis1=1, axis2=2).mean())
    return np.asarray(felt + _STEADY * max(mean, 1e-30) * np.eye(felt.shape[1]))


def with_bias(moments: Moments, w: Float) -> Float:
    """W and, in a last column, the bias that is best for it, where there is one."""
    if not moments.bias:
        return w
    x, y = moments.xx[:, -1, :-1] / moments.rows, moments.xy[:, -1, :] / moments.rows
    bias = y - np.einsum("gmn,gn->gm", w, x)
    return np.concatenate([w, bias[:, :, None]], axis=2)
