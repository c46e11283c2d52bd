"""FPGM: filters near the geometric median of their layer are replaceable (He et al. 2019, arXiv 1811.00250)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxprune.importance.group_weights import GroupWeights

Array = NDArray[np.float64]


def _distances(rows: Array) -> Array:
    """Sum over j of ||w_i - w_j||, from the Gram matrix: ||a - b||^2 = a.a + b.b - 2 a.b."""
    gram = rows @ rows.T
    square = np.diag(gram)
    return np.asarray(np.sqrt(np.maximum(square[:, None] + square[None, :] - 2 * gram, 0)).sum(axis=1))


def fpgm(weights: GroupWeights) -> Array:
    """Sum of distances from a channel's filters to all others of the layer."""
    return weights.made_by(_distances)
