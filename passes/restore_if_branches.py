"""Put nodes back into the branches of If that they come from."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxprune.model.onnx_model import Model
from onnxprune.model.written_out.if_branches import Flat
from onnxprune.passes.base import PassResult


@dataclass(frozen=True)
class RestoreBranches:
    """The form that ``flat`` was written out from."""

    flat: Flat = field(repr=False)
    name: str = "restore-branches"

    def run(self, model: Model) -> PassResult:
        """Model with If nodes again."""
        return PassResult(self.flat.restore(model))
