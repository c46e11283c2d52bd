"""Scores that compare between groups, of such as compare within one only: those of weights.

A norm says which channels of a layer matter more, not what the network loses with them. What is known of that without
data: every layer that reads a group gives its outputs on, and misses a share of its inputs. So losing a part of a group
costs

    sum over its readers (share of the reader's inputs that are the group's) * -log(share of the group's score kept)

A signal that passes layers which each hand on a share of it keeps the product of the shares: hence the logarithm, by
which the last channels of a group cost the most. A channel's score is what it adds when those below it have gone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxprune.labels.groups import Group, Groups

Scores = NDArray[np.float64]

#: A channel is never worth all: the last one of a group counts as if this share of the mean were left behind it.
_LEFT = 1e-3


def comparable(groups: Groups, scores: Sequence[Scores]) -> list[Scores]:
    """Scores that compare between groups, [width] each, in the order that ``scores``, of weights, gives within each."""
    return [_weight(group) * _logarithmic(score) for group, score in zip(groups, scores, strict=True)]


def _weight(group: Group) -> float:
    """How many layers read the group, each counted by the share of its inputs; 1 where no weight reads it."""
    read = [p.units.reshape(-1) for p in group.slices if p.role == "in"]
    return sum(float(np.isin(units, group.units).mean()) for units in read) or 1.0


def _logarithmic(score: Scores) -> Scores:
    """By how much the logarithm of what is left falls with each channel, from the least important one on."""
    order = np.argsort(score, kind="stable")
    value = score[order] - min(float(score.min(initial=0.0)), 0.0)
    left = np.append(np.cumsum(value[::-1])[::-1], 0.0)
    left += _LEFT * left[0] / max(len(score), 1) or 1.0
    found = np.empty_like(left[:-1])
    found[order] = np.log(left[:-1] / left[1:])
    return found
