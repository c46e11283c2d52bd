"""Importance of channels: one number a unit, larger for what should stay. Scoring knows nothing of ONNX operators.

A criterion is a function from `GroupWeights` to an array [width]. Add one with a module of its own and a line in
`CRITERIA`; users bring theirs as ``module:function``.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import ModelError, OptionError
from onnxprune.groups import Group, Groups
from onnxprune.model import Model
from onnxprune.scores import fpgm, magnitude
from onnxprune.scores.weights import GroupWeights
from onnxprune.user_code import user_function

Scores = NDArray[np.float64]
Importance = Callable[[GroupWeights], Scores]

CRITERIA: dict[str, Importance] = {
    "l1": magnitude.l1,
    "l2": magnitude.l2,
    "fpgm": fpgm.fpgm,
    "bn": magnitude.batch_norm_scale,
    "random": magnitude.random,
}


def resolve(name: str) -> Importance:
    """The criterion called ``name``, or a user's ``module:function``. Raises OptionError."""
    if name in CRITERIA:
        return CRITERIA[name]
    if ":" not in name:
        known = ", ".join(CRITERIA)
        raise OptionError(
            f"no importance is called '{name}'", where="--importance", hint=f"{known}, or module:function"
        )
    return user_function(name, "--importance")


def score(model: Model, groups: Groups, importance: Importance, seed: int) -> list[Scores]:
    """The scores of every group's units, [width] each.

    Raises ModelError for NaN weights, OptionError for bad scores.
    """
    return [_score(model, group, importance, seed) for group in groups]


def _score(model: Model, group: Group, importance: Importance, seed: int) -> Scores:
    weights = GroupWeights(model, group, seed + zlib.crc32(group.name.encode()))
    result = np.asarray(importance(weights), np.float64)
    if result.shape != (group.width,):
        raise OptionError(
            f"gives shape {list(result.shape)}, not [{group.width}], for group '{group.name}'", where="--importance"
        )
    if not np.isfinite(result).all():
        name = weights.not_finite()
        if name is not None:
            raise ModelError(
                "has NaN or infinite weights", where=f"tensor '{name}'", hint="repair or export the model again"
            )
        raise OptionError(f"gives scores that are not finite for group '{group.name}'", where="--importance")
    return result
