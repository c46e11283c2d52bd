"""Remove channels: apply a rewrite that was found for this model."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxprune.labels.rewrite import Rewrite
from onnxprune.model.onnx_model import Model
from onnxprune.passes.base import PassResult


@dataclass(frozen=True)
class RemoveChannels:
    """Cut initializers and what mentions their sizes."""

    rewrite: Rewrite = field(repr=False)
    name: str = "remove-channels"

    def run(self, model: Model) -> PassResult:
        """Raises nothing: the rewrite was checked when it was made."""
        changes = tuple(f"cut {name}" for name in self.rewrite.kept)
        return PassResult(model.apply(self.rewrite.edits), changes)
