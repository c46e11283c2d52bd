"""Scores from the size of weights.

l1: sum |w| of each filter (Li et al. 2017, Pruning Filters for Efficient ConvNets). l2: its Euclidean norm. bn:
|gamma| of the batch normalisation that scales the channel (Liu et al. 2017, Network Slimming).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from onnxprune.importance.group_weights import GroupWeights

Array = NDArray[np.float64]


def _abs_sum(rows: Array) -> Array:
    return np.asarray(np.abs(rows).sum(axis=1))


def _norm(rows: Array) -> Array:
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows)))


def l1(weights: GroupWeights) -> Array:
    """Sum of absolute weights of the filters that make the channel."""
    return weights.made_by(_abs_sum)


def l2(weights: GroupWeights) -> Array:
    """Euclidean norm of the filters that make the channel."""
    return weights.made_by(_norm)


def batch_norm_scale(weights: GroupWeights) -> Array:
    """|gamma| of the batch normalisation; where the group has none, the l2 score."""
    scale = weights.combine("scale", _abs_sum)
    return l2(weights) if scale is None else scale


def random(weights: GroupWeights) -> Array:
    """Uniform in [0, 1), from the group's seed: the baseline that a criterion has to beat."""
    return np.random.default_rng(weights.seed).random(weights.width)
