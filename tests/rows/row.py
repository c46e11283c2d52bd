"""What a row is: a small model with all that the property needs to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnx import ModelProto

from onnxprune.model.graph import Shape
from tests.models import build


@dataclass(frozen=True)
class Row:
    """A model in text. ``held_because``: why channels stay that no graph output needs; None: there are none such."""

    name: str
    text: str = field(repr=False)
    prunable: int
    held_because: str | None = None
    opset: int = 17
    ir: int = 8
    shapes: Mapping[str, Shape] = field(default_factory=dict)

    def model(self) -> ModelProto:
        """The model, its weights filled in."""
        return build(self.text, self.opset, self.ir)

    def __str__(self) -> str:
        return self.name


#: Declarations of what onnx cannot infer.
G = "float[2,8,6,6] g"

FIXED = "whose channels are fixed"
