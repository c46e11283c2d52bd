"""From figures at the positions of tensors to scores of units: each tensor where a channel is seen is one view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxprune.importance.criterion import Scores, Subject
from onnxprune.importance.magnitude import l2
from onnxprune.labels.groups import Groups

#: What the values of one group in one view are divided by.
Norm = Callable[[Scores], float]


@dataclass(frozen=True)
class View:
    """Numbers along the channels of one tensor, and the unit at each position: both [n]."""

    values: Scores = field(repr=False)
    unit: NDArray[np.int64] = field(repr=False)


def by_group(subject: Subject, groups: Groups, views: Sequence[View], norm: Norm) -> list[Scores]:
    """The mean over all views of a unit's mean figure in each, which is divided by ``norm`` of its group's there.

    Units that no view shows count as the mean of their group; a group that none shows is scored by l2.
    """
    group_of = np.full(subject.trace.units, -1, np.int64)
    place = np.zeros(subject.trace.units, np.int64)  # of a unit in its group
    for group in groups:
        group_of[group.units] = group.index
        place[group.units] = np.arange(group.width)
    total = [np.zeros(g.width) for g in groups]
    count = [np.zeros(g.width) for g in groups]
    for view in views:
        seen = group_of[view.unit]
        for index in np.unique(seen[seen >= 0]):
            own = seen == index
            places, values = place[view.unit[own]], view.values[own]
            times = np.bincount(places, minlength=len(total[index]))
            shown = times > 0
            mean = np.bincount(places, values, len(total[index]))[shown] / times[shown]
            total[index][shown] += mean / (norm(mean) or 1.0)
            count[index] += shown
    scores = []
    for group, sums, number in zip(groups, total, count, strict=True):
        shown = number > 0
        if not shown.any():
            weights = l2(subject.weights_of(group))
            scores.append(weights / (norm(weights) or 1.0))
            continue
        mean = sums / np.maximum(number, 1)
        scores.append(np.where(shown, mean, mean[shown].mean()))
    return scores
