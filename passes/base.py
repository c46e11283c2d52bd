"""The contract of a pass: a frozen dataclass whose fields are its options; valid model in, valid model out.

And what passes have to keep as they find it: zeros, and numbers on grids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from onnxprune.constraints.grids import Grids
from onnxprune.errors import CheckError
from onnxprune.model.onnx_model import Model
from onnxprune.proof.validity import check_valid


@dataclass(frozen=True)
class PassResult:
    """The new model, and one line for each change. Without changes it is the same model object."""

    model: Model = field(repr=False)
    changes: tuple[str, ...] = ()


class Pass(Protocol):
    """Turns a valid model into another valid model."""

    @property
    def name(self) -> str:
        """The name of the pass in messages."""

    def run(self, model: Model) -> PassResult:
        """Apply the pass. ``model`` itself is not changed."""


def run(model: Model, passes: Sequence[Pass]) -> PassResult:
    """Apply ``passes`` in order, checking the model after each. Raises CheckError that names the pass."""
    original = model
    changes: list[str] = []
    done: list[str] = []
    for step in passes:
        result = step.run(model)
        done.append(step.name)
        if result.model is not model:
            try:
                check_valid(original, result.model)
            except CheckError as error:
                raise CheckError(error.what, where=f"after {' -> '.join(done)}", hint=error.hint) from None
        model = result.model
        changes.extend(result.changes)
    return PassResult(model, tuple(changes))


@dataclass(frozen=True)
class Constrained:
    """Constraints that a model's weights satisfy: ``masks`` by weight, false where it is 0, and ``grids``."""

    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict, repr=False)
    grids: Grids = field(default_factory=Grids, repr=False)
