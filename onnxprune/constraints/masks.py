"""Which weights become zero, by what the layer's error says: alternating directions with the pattern as a constraint.

    W <- (H + I)^-1 (H V + Z - U)      Z <- the pattern's nearest to W + U      U <- U + W - Z

with columns scaled so that H has ones on its diagonal, rows by how far outputs move, and the share of zeros growing
to what is asked (Boza 2024, arXiv 2401.02938). What a magnitude drops before least squares, this drops with least
squares in view: weights of columns that others can take over go first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnxprune.constraints.patterns import Float as Scores
from onnxprune.constraints.patterns import Mask, Pattern
from onnxprune.constraints.quadratic import Float, Quadratic

#: Steps of which the first share lets the zeros grow.
STEPS, GROWING = 40, 0.75


def alternating(quadratic: Quadratic, pattern: Pattern, share: float, taps: int) -> Mask:
    """The mask [groups, m, n] of a share of zeros."""
    (found,) = _swept(quadratic, pattern, [share], taps, STEPS)
    return found


def curve(quadratic: Quadratic, pattern: Pattern, shares: Sequence[float], taps: int) -> list[float]:
    """The error at each share of zeros, which ascend, after a few steps of least squares on the mask."""
    errors = [quadratic.error(w) for w in sketched(quadratic, pattern, shares, taps)]
    return list(np.maximum.accumulate(errors))


def sketched(quadratic: Quadratic, pattern: Pattern, shares: Sequence[float], taps: int) -> Iterator[Float]:
    """Weights at each share of zeros, nearly as good as they get."""
    w = quadratic.best
    for mask in _swept(quadratic, pattern, shares, taps, _STEPS_A_SHARE):
        w = quadratic.descended(mask, np.where(mask, w, 0.0), _DESCENT)
        yield w


#: Enough to rank shares and layers.
_STEPS_A_SHARE, _DESCENT = 6, 10


def _swept(quadratic: Quadratic, pattern: Pattern, shares: Sequence[float], taps: int, steps: int) -> list[Mask]:
    """The mask at each share, every one starting where the last ended."""
    scale = np.sqrt(np.diagonal(quadratic.h, axis1=1, axis2=2))
    h = quadratic.h / (scale[:, :, None] * scale[:, None, :])
    by = scale[:, None, :] * np.sqrt(quadratic.rows)[:, :, None]
    v = quadratic.best * by
    inverse = np.linalg.inv(h + np.eye(h.shape[1]))
    pulled = np.matmul(np.matmul(v, h), inverse)
    w, u, z = v, np.zeros_like(v), v
    found, before = [], 0.0
    for share in shares:
        for step in range(steps):
            now = before + (share - before) * min(1.0, (step + 1) / (GROWING * steps)) ** (1 / 3)
            mask = pattern.keep(_square(w + u, taps), now).reshape(v.shape)
            z = np.where(mask, w + u, 0.0)
            u = u + w - z
            w = pulled + np.matmul(z - u, inverse)
        found.append(pattern.keep(_square(z, taps), share).reshape(v.shape))
        before = share
    return found


def _square(w: Float, taps: int) -> Scores:
    return np.asarray((w * w).reshape(*w.shape[:2], -1, taps))
