"""Weights onto a grid: codes that miss least of a layer's output, not of its weights.

Rounding goes column by column, those of the most energy first, and what each column misses is handed to those that are
not rounded yet (GPTQ: Frantar et al. 2022, arXiv 2210.17323; optimal brain surgery on H). Then single weights move to
another code as long as that lessens the error (coordinate descent). How wide a grid is, is tried out: of several
widths each row takes the one that misses least, and then what fits its codes best. At last all rows move together,
where outputs are felt together.

The codes follow from the quadratic, the start, the mask and the grid alone, so that a grid that is given again gives
them again. Where a mask is false the code is the zero point, which stands for 0 exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.constraints.grids import Cells
from onnxprune.constraints.patterns import Mask
from onnxprune.constraints.quadratic import Float, Quadratic, taken_over

#: Rounds of coordinate descent, columns that are handled before the others hear of it, and refits of widths.
_ROUNDS, _BLOCK, _REFITS = 4, 64, 1

#: Shares of the range that are tried as the width of a grid, by bits, and for more bits.
_WIDTHS = {2: np.linspace(0.4, 1.0, 9), 3: np.linspace(0.55, 1.0, 7), 4: np.linspace(0.7, 1.0, 5)}
_FINE = np.asarray((0.9, 1.0))

#: Weights that are not too many to be moved one by one, and what a move has to win, as a share of what a step of its
#: own size counts: less is rounding.
_MOST, _LEAST_WON = 1 << 19, 1e-6

#: What a bias is at most, in units of its sums: an eighth of 32 bits, as it may grow yet.
_MOST_BIAS = 2.0**28

Single = NDArray[np.float32]

#: Shares that are tried where only the weights themselves are looked at.
_MANY = np.linspace(0.3, 1.0, 36)

#: Shares that are tried where scales are powers of two, rounded up.
_HALVED = np.asarray((0.25, 0.5, 1.0))

#: Digits of single precision, and the least scale of weights in fewer: a code times it is one of their numbers.
DIGITS, _LEAST_SCALE = 24, 2.0**-20


@dataclass(frozen=True)
class WeightGrid:
    """What is asked of a layer's weights: ``bits`` each, ``symmetric`` around 0 or with a zero point.

    ``per``: "tensor", "channel" (an output), or as many input channels as share a scale; ``ranges``: "mse", "minmax" or
    a percentile; ``digits``: of the type that weights are stored in; ``power_of_two``: so are scales; ``given``: cells
    that are known already; ``least`` [groups, m]: what a scale is at least, so that a bias in units of it is an int32.
    """

    bits: int
    symmetric: bool = True
    per: str | int = "channel"
    ranges: str | float = "mse"
    digits: int = DIGITS
    power_of_two: bool = False
    given: Cells | None = field(default=None, repr=False)
    least: Float | None = field(default=None, repr=False)

    def with_room(self, bias: NDArray[Any], scale: float, along: tuple[int, ...]) -> WeightGrid:
        """With room for the ``bias`` of outputs ``along`` [groups, m] in 32 bits; the inputs have ``scale``.

        Where that widens a grid, as where weights have all but vanished, a step is nothing beside the bias.
        """
        if bias.size not in (1, along[0] * along[1]):
            return self
        least = np.abs(bias.astype(np.float64)).reshape(-1) / (scale * _MOST_BIAS)
        return replace(self, least=np.broadcast_to(least, along[0] * along[1]).reshape(along))

    def nearest(self, w: Float, taps: int) -> tuple[Float, Cells]:
        """Round ``w`` [groups, m, n] to the nearest codes, without knowing its inputs; returns weights and grid."""
        if self.given is not None:
            return self.given.values(w), self.given
        best, least = self._at(w, 1.0, taps), np.full(w.shape[:2], np.inf)
        for share in (_HALVED if self.power_of_two else _MANY) if self.ranges == "mse" else (1.0,):
            cells = self._at(w, float(share), taps)
            best, least = self._better(best, least, cells, ((cells.values(w) - w) ** 2).sum(axis=2))
        return best.values(w), best

    def solved(self, quadratic: Quadratic, start: Float, mask: Mask | None, taps: int) -> tuple[Float, Cells]:
        """Round near the optimum of ``quadratic``, from ``start``, the best weights without a grid.

        Returns the weights and the grid.
        """
        w, cells = self._by_row(quadratic, start, mask, taps)
        return _moved_together(quadratic, w, cells, mask), cells

    def _by_row(self, quadratic: Quadratic, start: Float, mask: Mask | None, taps: int) -> tuple[Float, Cells]:
        """The same, each row by itself."""
        if self.given is not None:
            return Attempt.of(quadratic, start, mask).rounded(self.given), self.given
        if self.ranges != "mse":
            cells = self._at(start, 1.0, taps)
            return Attempt.of(quadratic, start, mask).rounded(cells), cells
        shares = _HALVED if self.power_of_two else _WIDTHS.get(self.bits, _FINE)
        tried = [self._at(start, float(share), taps) for share in shares]
        attempt = Attempt.of(quadratic, start, mask)
        errors = attempt.errors(_joined(tried)).reshape(len(start), len(tried), -1)
        cells, least = tried[0], np.full(start.shape[:2], np.inf)
        for place, one in enumerate(tried):
            cells, least = self._better(cells, least, one, errors[:, place])
        w = attempt.rounded(cells)
        least = quadratic.by_row(w)
        for _ in range(0 if self.power_of_two else _REFITS):
            one = self._refitted(quadratic, w, cells)
            own = attempt.rounded(one)
            errors = quadratic.by_row(own)
            w = np.where(self._is_better(errors, least)[:, :, None], own, w)
            cells, least = self._better(cells, least, one, errors)
        return w, cells

    def _is_better(self, errors: Float, least: Float) -> Mask:
        if self.per == "tensor":
            return np.full(errors.shape, errors.sum() < least.sum())
        return np.asarray(errors < least)

    def _better(self, best: Cells, least: Float, cells: Cells, errors: Float) -> tuple[Cells, Float]:
        better = self._is_better(errors, least)
        each = better[:, :, None]
        scale, zero = np.where(each, cells.scale, best.scale), np.where(each, cells.zero, best.zero)
        return replace(best, scale=scale, zero=zero), np.where(better, errors, least)

    def _at(self, w: Float, share: float, taps: int) -> Cells:
        """A grid over such a share of the range of W."""
        groups, m, n = w.shape
        blocks = n // (self.per * taps) if isinstance(self.per, int) else 1
        cells = w.reshape(groups, m, blocks, -1) if self.per != "tensor" else w.reshape(1, 1, 1, -1)
        if isinstance(self.ranges, float):
            ends = (100 - self.ranges) / 2, (100 + self.ranges) / 2
            bottom, top = np.percentile(cells, ends, axis=3)
        else:
            bottom, top = cells.min(axis=3), cells.max(axis=3)
        bottom, top = np.minimum(bottom, 0.0) * share, np.maximum(top, 0.0) * share
        # Where all are 0 any scale is theirs; but a bias is stored in units of it.
        top = np.where(top > bottom, top, (top - bottom).max())
        if self.symmetric:
            half = 2 ** (self.bits - 1)
            scale = self._fine(np.maximum(top / (half - 1), bottom / -half))
            zero = np.zeros(scale.shape, np.int64)
        else:
            high = 2**self.bits - 1
            scale = self._fine((top - bottom) / high)
            zero = np.clip(np.rint(-bottom / scale), 0, high).astype(np.int64)
        along = (groups, m, blocks)
        own = np.broadcast_to(scale, along), np.broadcast_to(zero, along)
        return Cells(*own, self.bits, self.symmetric, self.per == "tensor")

    def _fine(self, scale: Float) -> NDArray[np.float32]:
        """Such that a code times it is a number of the type that weights are stored in."""
        if self.least is not None:
            scale = np.maximum(scale, self.least.max() if self.per == "tensor" else self.least[:, :, None])
        digits = self.digits if self.digits == DIGITS else self.digits - self.bits + self.symmetric
        mantissa, exponent = np.frexp(np.maximum(scale, _LEAST_SCALE if digits < DIGITS else 1e-30))
        if self.power_of_two:
            return next_power_of_two(np.ldexp(mantissa, exponent))
        return np.ldexp(np.rint(mantissa * 2.0**digits) / 2.0**digits, exponent).astype(np.float32)

    def _refitted(self, quadratic: Quadratic, w: Float, cells: Cells) -> Cells:
        """``cells`` with the scales that fit the codes of W best."""
        aims = np.matmul(w, quadratic.h)
        over, under = (aims * quadratic.best).sum(axis=2), (aims * w).sum(axis=2)
        if self.per == "tensor":
            over, under = (np.broadcast_to((a * quadratic.rows).sum(), a.shape) for a in (over, under))
        factor = np.where(under > 0, over / np.where(under > 0, under, 1.0), 1.0).clip(0.5, 2.0)
        return replace(cells, scale=self._fine(cells.scale * factor[:, :, None]))


def next_power_of_two(scale: NDArray[Any]) -> NDArray[np.float32]:
    """The next power of two: a grid as wide, or up to twice as wide."""
    mantissa, exponent = np.frexp(scale)
    return np.asarray(np.ldexp(1.0, exponent - (mantissa == 0.5)), np.float32)  # frexp has mantissas from a half on


def _joined(cells: Sequence[Cells]) -> Cells:
    """The rows of all, one behind the other."""
    scale, zero = (np.concatenate(parts, axis=1) for parts in zip(*((c.scale, c.zero) for c in cells), strict=True))
    return replace(cells[0], scale=scale, zero=zero)


@dataclass(frozen=True)
class Attempt:
    """A layer to be rounded: what does not depend on the grid. Weights lie as [groups, n, m], in single precision.

    ``ahead`` [groups, n, n]: what of a column's error each later one takes over, in the ``order`` [groups, n] of
    rounding.
    """

    quadratic: Quadratic
    start: NDArray[np.float32] = field(repr=False)
    mask: NDArray[np.float32] | None = field(repr=False)
    order: NDArray[np.int64] = field(repr=False)
    ahead: NDArray[np.float32] = field(repr=False)

    @staticmethod
    def of(quadratic: Quadratic, start: Float, mask: Mask | None) -> Attempt:
        """From ``start`` [groups, m, n], the best without a grid."""
        order = np.argsort(-np.diagonal(quadratic.h, axis1=1, axis2=2), axis=1, kind="stable")
        ahead = np.stack([taken_over(h[np.ix_(own, own)]) for h, own in zip(quadratic.h, order, strict=True)])
        free = None if mask is None else _columns(mask.astype(np.float32))
        return Attempt(quadratic, _columns(start.astype(np.float32)), free, order, ahead)

    def errors(self, cells: Cells) -> Float:
        """By row [groups, attempts * m] what W misses on the first pass, where ``cells`` has several times its rows."""
        m = self.start.shape[2]
        codes = _Steps.of(cells, self.start.shape[1])
        many = codes.scale.shape[2] // m
        found = self._in_order(codes, many)
        return np.concatenate(
            [self.quadratic.by_row(_columns(found[:, :, i * m : (i + 1) * m])) for i in range(many)], 1
        )

    def rounded(self, cells: Cells) -> Float:
        """Weights on ``cells`` [groups, m, n], near V in the sense of the quadratic."""
        codes = _Steps.of(cells, self.start.shape[1])
        return cells.values(_columns(self._moved(self._in_order(codes, 1), codes)).astype(np.float64))

    def _in_order(self, codes: _Steps, many: int) -> NDArray[np.float32]:
        """Rounded column by column, ``many`` attempts beside each other."""
        order = self.order[:, :, None]
        w = np.tile(np.take_along_axis(self.start, order, 1), (1, 1, many))
        free = None if self.mask is None else np.tile(np.take_along_axis(self.mask, order, 1), (1, 1, many))
        for begin in range(0, w.shape[1], _BLOCK):
            end = min(begin + _BLOCK, w.shape[1])
            errors = np.empty((len(w), end - begin, w.shape[2]), np.float32)
            for column in range(begin, end):
                done = codes.nearest(w[:, column], self.order[:, column])
                apart = np.subtract(w[:, column], done, out=errors[:, column - begin])
                w[:, column] = done
                if column + 1 < end:
                    step = self.ahead[:, column, column + 1 : end, None] * apart[:, None]
                    w[:, column + 1 : end] -= step if free is None else step * free[:, column + 1 : end]
            if end < w.shape[1]:
                step = np.matmul(self.ahead[:, begin:end, end:].transpose(0, 2, 1), errors)
                w[:, end:] -= step if free is None else step * free[:, end:]
        found = np.empty_like(w)
        np.put_along_axis(found, np.broadcast_to(order, w.shape), w, 1)
        return found

    def _moved(self, w: NDArray[np.float32], codes: _Steps) -> NDArray[np.float32]:
        """Single weights move to the best code there is, the others as they are, until none does."""
        # By a power of two such that single precision has room: the weights are the same, bit for bit.
        _, exponent = np.frexp(np.trace(self.quadratic.h.sum(axis=0)))
        sized = np.ldexp(self.quadratic.h, -exponent)
        h = sized.astype(np.float32)
        left = np.matmul(sized, _columns(self.quadratic.best) - w).astype(np.float32)
        inverse = 1 / np.diagonal(h, axis1=1, axis2=2)
        every = np.broadcast_to(np.arange(w.shape[1]), self.order.shape)
        for _ in range(_ROUNDS):
            moved = False
            for begin in range(0, w.shape[1], _BLOCK):
                end = min(begin + _BLOCK, w.shape[1])
                before = w[:, begin:end].copy()
                wishes = codes.all_nearest(before + left[:, begin:end] * inverse[:, begin:end, None], begin)
                moving = wishes != before if self.mask is None else (wishes != before) & (self.mask[:, begin:end] > 0)
                for column in begin + np.flatnonzero(moving.any(axis=(0, 2))):
                    now = w[:, column]
                    wish = now + left[:, column] * inverse[:, column, None]
                    step = codes.nearest(wish, every[:, column]) - now
                    step *= moving[:, column - begin]  # of these rows alone, so that each is by itself
                    if step.any():
                        w[:, column] += step
                        left[:, begin:end] -= h[:, begin:end, column, None] * step[:, None]
                change = w[:, begin:end] - before
                if change.any():
                    moved = True
                    left[:, :begin] -= np.matmul(h[:, :begin, begin:end], change)
                    left[:, end:] -= np.matmul(h[:, end:, begin:end], change)
            if not moved:
                break
        return w


@dataclass(frozen=True)
class _Steps:
    """Of a grid, by block of ``size`` columns and row [groups, blocks, m]: its step, and its ends around 0."""

    scale: NDArray[np.float32] = field(repr=False)
    low: NDArray[np.float32] = field(repr=False)
    high: NDArray[np.float32] = field(repr=False)
    size: int

    @staticmethod
    def of(cells: Cells, columns: int) -> _Steps:
        """From the rows of ``cells``."""
        zero = _columns(cells.zero).astype(np.float32)
        scale = np.ascontiguousarray(_columns(cells.scale))
        return _Steps(scale, cells.low - zero, cells.high - zero, columns // scale.shape[1])

    def nearest(self, w: NDArray[np.float32], columns: NDArray[np.int64]) -> NDArray[np.float32]:
        """Of weights [groups, m], in one column of each group."""
        if self.scale.shape[1] == 1:
            scale, low, high = self.scale[:, 0], self.low[:, 0], self.high[:, 0]
        else:
            at = np.arange(len(columns)), columns // self.size
            scale, low, high = self.scale[at], self.low[at], self.high[at]
        return _nearest(w, scale, low, high)

    def all_nearest(self, w: NDArray[np.float32], begin: int) -> NDArray[np.float32]:
        """Of weights [groups, columns, m], of the columns from ``begin`` on."""
        at = slice(0, 1) if self.scale.shape[1] == 1 else np.arange(begin, begin + w.shape[1]) // self.size
        return _nearest(w, self.scale[:, at], self.low[:, at], self.high[:, at])


def _nearest(w: Single, scale: Single, low: Single, high: Single) -> Single:
    codes = w / scale
    np.rint(codes, out=codes)
    np.maximum(codes, low, out=codes)
    np.minimum(codes, high, out=codes)
    codes *= scale
    return codes


def _columns(w: NDArray[Any]) -> NDArray[Any]:
    """[groups, m, n] as [groups, n, m], and back."""
    return w.transpose(0, 2, 1)


def _moved_together(quadratic: Quadratic, w: Float, cells: Cells, mask: Mask | None) -> Float:
    """W [groups, m, n] on ``cells``, nearer to V or as it is, which it is where outputs are not felt together.

    Column by column, single weights go to the best code that there is, the others as they are, those first that win
    most: an error of one output can take back what another one's does.
    """
    if not quadratic.together or w[0].size > _MOST:
        return w
    blocks = cells.scale.shape[2]
    scale = cells.scale.astype(np.float64).repeat(w.shape[2] // blocks, 2)
    zero = cells.zero.repeat(w.shape[2] // blocks, 2)
    found = w.copy()
    for group, own in enumerate(found):
        ends = cells.low - zero[group], cells.high - zero[group]
        layer = _Together(quadratic.felt[group], quadratic.h[group], scale[group], *ends)
        layer.move(own, quadratic.best[group], np.ones(own.shape, np.bool_) if mask is None else mask[group])
    return cells.values(found)


class _Together:
    """A group of a layer whose outputs are felt together: G [m, m], H [n, n], steps and ends of all weights [m, n]."""

    def __init__(self, g: Float, h: Float, scale: Float, low: Float, high: Float) -> None:
        self._g, self._h, self._scale, self._low, self._high = g, h, scale, low, high
        self._rows = np.diag(g).copy()

    def move(self, w: Float, best: Float, free: Mask) -> None:
        """In place, until nothing moves."""
        left = self._g @ (best - w) @ self._h
        for _ in range(_ROUNDS):
            moved = False
            for begin in range(0, w.shape[1], _BLOCK):
                block = slice(begin, begin + _BLOCK)
                before = w[:, block].copy()
                near = left[:, block].copy()
                for column in range(begin, min(begin + _BLOCK, w.shape[1])):
                    self._column(w, near, column, begin, free[:, column])
                change = w[:, block] - before
                if change.any():
                    moved = True
                    left -= (self._g @ change) @ self._h[block]
            if not moved:
                return

    def _column(self, w: Float, left: Float, column: int, begin: int, free: Mask) -> None:
        """Move weights of one column; ``left``: what is missing at the columns from ``begin`` on."""
        energy = float(self._h[column, column])
        own = left[:, column - begin]
        counts = self._rows * energy
        steps = self._nearest(w[:, column] + own / counts, column) - w[:, column]
        wins = steps * (2 * own - counts * steps) * free
        moving = np.flatnonzero(wins > _LEAST_WON * counts * self._scale[:, column] ** 2)
        if not len(moving):
            return
        done = np.zeros(len(w))
        for row in moving[np.argsort(-wins[moving], kind="stable")]:
            now, scale = w[row, column], self._scale[row, column]
            code = round((now + own[row] / counts[row]) / scale)
            step = min(max(code, self._low[row, column]), self._high[row, column]) * scale - now
            if step * (2 * own[row] - counts[row] * step) > _LEAST_WON * counts[row] * scale**2:
                w[row, column] += step
                done[row] = step
                own -= self._g[row] * (energy * step)
        along = self._h[column, begin : begin + left.shape[1]].copy()
        along[column - begin] = 0.0  # that is done
        left -= (self._g @ done)[:, None] * along

    def _nearest(self, w: Float, column: int) -> Float:
        codes = np.rint(w / self._scale[:, column])
        return np.asarray(np.clip(codes, self._low[:, column], self._high[:, column]) * self._scale[:, column])
