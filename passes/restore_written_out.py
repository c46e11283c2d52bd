"""Put back what was written out for the analysis: calls of functions, and nodes inside of the branches of If."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxprune.model.onnx_model import Model
from onnxprune.model.written_out.functions import Inlined, restore
from onnxprune.model.written_out.if_branches import Flat
from onnxprune.passes.base import PassResult


@dataclass(frozen=True)
class RestoreCalls:
    """Put back the calls of ``inlined`` whose nodes are what they were; drop functions that nobody calls any more."""

    inlined: Inlined = field(repr=False)
    name: str = "restore-calls"

    def run(self, model: Model) -> PassResult:
        """Model with the calls; functions that pruning changed inside stay written out."""
        restored, dropped = restore(self.inlined, model)
        return PassResult(restored, tuple(f"wrote out every call of function {name}" for name in dropped))


@dataclass(frozen=True)
class RestoreBranches:
    """The form that ``flat`` was written out from."""

    flat: Flat = field(repr=False)
    name: str = "restore-branches"

    def run(self, model: Model) -> PassResult:
        """Model with If nodes again."""
        return PassResult(self.flat.restore(model))
