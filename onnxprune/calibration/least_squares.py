"""Least squares from second moments: what a layer's inputs have in common with each other and with its outputs.

Columns X [rows, groups, n] and targets Y [rows, groups, m], a column of ones behind the others where there is a bias.
All that is kept of them are the sums X'X, X'Y and Y'Y, in float64, so that memory does not grow with the data. From
these follow, for every W [groups, m, n],

    error(W)  = sum |Y - X W'|^2 / sum |Y - mean(Y)|^2
    ridge     W' = (X'X + k I)^-1 (X'Y + k V')      pulled towards V, the weights as they are

(Hoerl and Kennard 1970; as in He et al. 2017, arXiv 1707.06168, but not pulled towards zero.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from onnxprune.labels.ops.table import Array
from onnxprune.memory_and_threads import Doing, another_thread, at_once

Float = NDArray[np.float64]

#: Rows that are gathered before sums are made of them; or at least as many as columns, of so many bytes.
ROWS, BYTES = 4096, 2 << 20

#: Between these, single precision has room for sums of squares, and for the squares of much less.
_SQUARED = 1e-10, 1e15

#: Below it numbers of single precision have fewer digits, and many runtimes take them for 0.
_TINY = float(np.finfo(np.float32).tiny)

#: From so many columns on, two threads share a product.
WIDE = 1024

#: What takes in rows: x [rows, groups, columns] and y [rows, groups, targets].
Taking = Callable[[Array, Array], None]


@dataclass
class Moments:
    """Sums over rows of columns X and targets Y, from which least squares follow; `add` adds rows."""

    xx: Float = field(repr=False)  # [groups, n, n]
    xy: Float = field(repr=False)  # [groups, n, m]
    yy: Float = field(repr=False)  # [groups, m]
    y: Float = field(repr=False)  # [groups, m]
    bias: bool  # whether the last column is ones
    rows: int = 0

    @staticmethod
    def empty(groups: int, columns: int, targets: int, *, bias: bool) -> Moments:
        """Moments of no rows; ``columns`` does not count the column of ones that ``bias`` adds."""
        n = columns + bias
        xx, xy, yy, y = (np.zeros((groups, *s)) for s in ((n, n), (n, targets), (targets,), (targets,)))
        return Moments(xx, xy, yy, y, bias)

    def add(self, x: Array, y: Array) -> None:
        """Take in rows of x [rows, groups, columns] and y [rows, groups, targets]."""
        x, y = _with_squares(x), _with_squares(y)
        columns = np.ones((x.shape[1], len(x), x.shape[2] + self.bias), x.dtype)  # group by group, each in one piece
        columns[..., : x.shape[2]] = x.transpose(1, 0, 2)
        targets = np.ascontiguousarray(y.transpose(1, 0, 2))
        for group, (a, b) in enumerate(zip(columns, targets, strict=True)):  # products in their own precision
            _add_squares(self.xx[group], a)
            self.xy[group] += a.T @ b
        self.yy += np.einsum("rgm,rgm->gm", y, y, dtype=np.float64)
        self.y += y.sum(axis=0, dtype=np.float64)
        self.rows += len(x)

    @contextmanager
    def gathering(self, doing: Doing = at_once) -> Iterator[Taking]:
        """Inside, what takes in rows as `add` does, many of them at once: sums cost as much for a few.

        Sums are made by ``doing``, which has to be done with them before they are looked at.
        """
        waiting: list[tuple[Array, Array]] = []

        def flush() -> None:
            if waiting:
                doing(self._add, waiting.copy())
                waiting.clear()

        def take(x: Array, y: Array) -> None:
            waiting.append((x, y))
            rows, size = (sum(v) for v in zip(*((len(a), a.nbytes) for a, _ in waiting), strict=True))
            if rows >= ROWS or (rows >= self.xx.shape[1] and size >= BYTES):
                flush()

        yield take
        flush()

    def _add(self, parts: Sequence[tuple[Array, Array]]) -> None:
        x, y = (np.concatenate(arrays) if len(arrays) > 1 else arrays[0] for arrays in zip(*parts, strict=True))
        self.add(x, y)

    @property
    def by_chance(self) -> float:
        """The share of a target that is nothing but noise which so many columns explain in so many rows."""
        return float(self.xx.shape[1] / max(1, self.rows))

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
                damped = np.array(xx, order="F")  # as LAPACK wants it, so that there is one copy and no other
                damped[np.diag_indices(len(xx))] += k * weights
                factor = scipy.linalg.cho_factor(damped, lower=True, overwrite_a=True, check_finite=False)
                aims = xy + k * weights[:, None] * prior[group].T
                found[group] = scipy.linalg.cho_solve(factor, aims, check_finite=False).T
            except scipy.linalg.LinAlgError:
                return None
        return found if np.isfinite(found).all() else None


def _with_squares(a: Array) -> Array:
    """``a``, in double precision where the squares of single precision end; what is below its digits is nothing."""
    largest = max(float(a.max(initial=0)), -float(a.min(initial=0)))
    if _SQUARED[0] < largest < _SQUARED[1] or largest == 0:
        return a
    return np.zeros_like(a) if largest < _TINY else a.astype(np.float64)  # NaN is neither


def _add_squares(total: Float, a: Array) -> None:
    """Add A'A. That of many columns is made in blocks, of which two threads have as much to do each."""
    if len(total) < WIDE:
        total += a.T @ a
        return
    half = len(total) // 2
    left, right = a[:, :half], a[:, half:]

    def aside() -> None:
        block = left.T @ right
        total[:half, half:] += block
        total[half:, :half] += block.T

    with another_thread() as doing:
        doing(aside)
        total[:half, :half] += left.T @ left
        total[half:, half:] += right.T @ right


@dataclass
class Kept:
    """Rows as they are, to judge by: where there are fewer of them than columns, sums take more room and more time."""

    bias: bool
    parts: list[tuple[Array, Array]] = field(default_factory=list, repr=False)

    @contextmanager
    def gathering(self, doing: Doing = at_once) -> Iterator[Taking]:
        """As that of `Moments`; nothing is left to do."""
        del doing
        yield lambda x, y: self.parts.append((x, y))

    def error(self, w: Float) -> float:
        """As that of `Moments`."""
        w = w.astype(np.float32)
        columns, constant = (w[..., :-1], w[..., -1]) if self.bias else (w, np.float32(0))
        square, yy, total, rows = 0.0, 0.0, np.zeros(w.shape[:2]), 0
        for x, y in self.parts:
            found = np.matmul(x.transpose(1, 0, 2), columns.transpose(0, 2, 1)).transpose(1, 0, 2) + constant
            square += float(np.square(y - found, dtype=np.float64).sum())
            yy = yy + np.square(y, dtype=np.float64).sum(axis=0)
            total += y.sum(axis=0, dtype=np.float64)
            rows += len(x)
        energy = float((yy / rows - (total / rows) ** 2).clip(0).sum())
        return square / rows / energy if energy > 0 else 0.0
