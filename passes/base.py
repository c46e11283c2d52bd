"""The pass contract: a frozen dataclass whose fields are its options; valid in, valid out, the input untouched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from onnxprune.errors import CheckError
from onnxprune.model.onnx_model import Model
from onnxprune.proof.validity import check_valid


@dataclass(frozen=True)
class PassResult:
    """The new model, and what was changed, a line each. No changes: the same model object."""

    model: Model = field(repr=False)
    changes: tuple[str, ...] = ()


class Pass(Protocol):
    """Something that turns a valid model into a valid model."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    def run(self, model: Model) -> PassResult:
        """Apply it. The model given stays as it is."""


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
