"""Importance of channels: one number a unit, larger for what should stay. Scoring knows nothing of ONNX operators.

A criterion is given the `Subject` once, may run it on calibration data as long as it takes, and gives back a function
that scores any grouping of its channels; groups change where nodes cannot follow. One that looks at weights alone is
a function `GroupWeights` -> [width]. Users bring theirs as ``module:function`` (of `GroupWeights`), or as
``module:criterion`` (a `Criterion`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from onnxprune.errors import ModelError, OptionError, nearest
from onnxprune.importance import activation, fpgm, magnitude, reconstruction, taylor
from onnxprune.importance.criterion import Criterion, Scorer, Scores, Subject
from onnxprune.importance.group_weights import GroupWeights
from onnxprune.labels.groups import Groups
from onnxprune.plugins import giving_numbers, is_code, user_function


def of_weights(measure: Callable[[GroupWeights], Scores]) -> Criterion:
    """A criterion that looks at the weights of one group at a time."""
    return Criterion(
        lambda subject: lambda groups: [measure(subject.weights_of(group)) for group in groups], within=True
    )


CRITERIA: dict[str, Criterion] = {
    "l1": of_weights(magnitude.l1),
    "l2": of_weights(magnitude.l2),
    "fpgm": of_weights(fpgm.fpgm),
    "bn": of_weights(magnitude.batch_norm_scale),
    "random": of_weights(magnitude.random),
    "activation": Criterion(activation.mean_absolute, needs_data=True),
    "apoz": Criterion(activation.share_of_nonzeros, needs_data=True),
    "variance": Criterion(activation.variance, needs_data=True),
    "taylor": Criterion(taylor.taylor, needs_data=True),
    "reconstruction": Criterion(reconstruction.reconstruction, needs_data=True),
    "output": Criterion(reconstruction.output, needs_data=True),
}


def resolve(name: str) -> Criterion:
    """The criterion called ``name``, or a user's ``module:function``. Raises OptionError."""
    if name in CRITERIA:
        return CRITERIA[name]
    if not is_code(name):
        hint = nearest(name, CRITERIA, f"{', '.join(CRITERIA)}, or module:function")
        raise OptionError(f"no importance is called '{name}'", where="--importance", hint=hint)
    found = user_function(name, "--importance")
    return found if isinstance(found, Criterion) else of_weights(giving_numbers(found, f"--importance {name}"))


def score(subject: Subject, groups: Groups, scorer: Scorer) -> list[Scores]:
    """The scores of every group's units, [width] each.

    Raises ModelError for NaN weights, OptionError for bad scores.
    """
    results = [np.asarray(s, np.float64) for s in scorer(groups)]
    if len(results) != len(groups):
        raise OptionError(f"gives scores for {len(results)} of {len(groups)} groups", where="--importance")
    for group, result in zip(groups, results, strict=True):
        if result.shape != (group.width,):
            raise OptionError(
                f"gives shape {list(result.shape)}, not [{group.width}], for group '{group.name}'", where="--importance"
            )
        if not np.isfinite(result).all():
            name = subject.weights_of(group).not_finite()
            if name is not None:
                raise ModelError(
                    "has NaN or infinite weights", where=f"tensor '{name}'", hint="repair or export the model again"
                )
            raise OptionError(f"gives scores that are not finite for group '{group.name}'", where="--importance")
    return results
