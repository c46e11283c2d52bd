"""Call functions again that were written out for the analysis and that pruning left as they were."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxprune.model.onnx_model import Model
from onnxprune.model.written_out.functions import Inlined, restore
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
