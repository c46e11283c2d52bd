"""Which weights become zero, by what the layer's error says: alternating directions with the pattern as a constraint.

    W <- the W with G W H + W = G V H + Z - U     Z <- the pattern's nearest to W + U      U <- U + W - Z

with columns and rows scaled so that H and G have ones on their diagonals, and the share of zeros growing to what is
asked (Boza 2024, arXiv 2401.02938, where G is not). What a magnitude drops before least squares, this drops with least
squares in view: weights of columns that others can take over go first, and those whose outputs do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxprune.constraints.patterns import Float as Scores
from onnxprune.constraints.patterns import Mask, Pattern
from onnxprune.constraints.quadratic import Float, Quadratic

#: Steps of which the first share lets the zeros grow.
STEPS, GROWING = 40, 0.75


def alternating(quadratic: Quadratic, pattern: Pattern, share: float, taps: int) -> Mask:
    """The mask [groups, m, n] that zeroes a ``share`` of the weights; true where a weight stays."""
    (found,) = _swept(quadratic, pattern, [share], taps, STEPS)
    return found


def curve(quadratic: Quadratic, pattern: Pattern, shares: Sequence[float], taps: int) -> list[float]:
    """The error at each share of zeros, which ascend, after a few steps of least squares on the mask."""
    errors, w = [], quadratic.best
    for mask in _swept(quadratic, pattern, shares, taps, _STEPS_A_SHARE):
        w = quadratic.descended(mask, np.where(mask, w, 0.0), _DESCENT)
        errors.append(quadratic.error(w))
    return list(np.maximum.accumulate(errors))


#: Enough to rank shares and layers.
_STEPS_A_SHARE, _DESCENT = 6, 10


def _swept(quadratic: Quadratic, pattern: Pattern, shares: Sequence[float], taps: int, steps: int) -> list[Mask]:
    """The mask at each share, every one starting where the last ended."""
    scale, rows = np.sqrt(np.diagonal(quadratic.h, axis1=1, axis2=2)), np.sqrt(quadratic.rows)
    h = quadratic.h / (scale[:, :, None] * scale[:, None, :])
    by = scale[:, None, :] * rows[:, :, None]
    v = quadratic.best * by
    g = quadratic.felt / (rows[:, :, None] * rows[:, None, :]) if quadratic.together else None
    solved = _alone(h) if g is None else _together(h, g)
    pulled = v - solved(v)  # what comes of V where Z and U are 0
    w, u, z = v, np.zeros_like(v), v
    found, before = [], 0.0
    for share in shares:
        for step in range(steps):
            now = before + (share - before) * min(1.0, (step + 1) / (GROWING * steps)) ** (1 / 3)
            mask = pattern.keep(_square(w + u, taps), now).reshape(v.shape)
            z = np.where(mask, w + u, 0.0)
            u = u + w - z
            w = pulled + solved(z - u)
        found.append(pattern.keep(_square(z, taps), share).reshape(v.shape))
        before = share
    return found


def _alone(h: Float) -> Callable[[Float], Float]:
    """As `_together`, where G is ones on a diagonal."""
    inverse = np.linalg.inv(h + np.eye(h.shape[1]))
    return lambda a: np.asarray(np.matmul(a, inverse))


def _together(h: Float, g: Float) -> Callable[[Float], Float]:
    """From A to the W with G W H + W = A."""
    (along, right), (across, left) = np.linalg.eigh(h), np.linalg.eigh(g)
    by = 1 / (np.maximum(across, 0)[:, :, None] * np.maximum(along, 0)[:, None, :] + 1)
    left, right, by = (a.astype(np.float32) for a in (left, right, by))  # to say which stay, that is near enough
    back = left.transpose(0, 2, 1), right.transpose(0, 2, 1)

    def solved(a: Float) -> Float:
        inside = np.matmul(np.matmul(back[0], a.astype(np.float32)), right)
        return np.asarray(np.matmul(np.matmul(left, inside * by), back[1]))

    return solved


def _square(w: Float, taps: int) -> Scores:
    return np.asarray((w * w).reshape(*w.shape[:2], -1, taps))
