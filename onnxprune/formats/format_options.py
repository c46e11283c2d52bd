"""The options about the format of the written model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from onnxprune.option_declarations import option

#: What a model may be written as; and which of these need numbers on grids.
FORMATS = ("float", "sparse", "qdq", "qonnx", "integer", "npy")
OF_GRIDS = ("qdq", "qonnx", "integer", "npy")

#: Those whose grids are of single precision alone.
OF_SINGLE = ("qdq", "qonnx")

#: Bits of weights that the types of a format have, where others would be stored in more.
STORED = {"qdq": (2, 4, 8)}

#: The one that is a folder.
FOLDER = "npy"

#: How integers are rounded where their scale changes.
Rounding = Literal["half-up", "gemmlowp"]
ROUNDINGS = ("half-up", "gemmlowp")


@dataclass(frozen=True, kw_only=True)
class FormatOptions:
    """Options for the format that is written."""

    format: str = option(
        "float",
        "--format",
        kind=FORMATS,
        shown=True,
        help="What to write: float (weights on their grids), sparse (zeros left out), qdq (QuantizeLinear and "
        "DequantizeLinear), qonnx, integer (a graph without floats), or npy (a folder of arrays).",
    )
    rounding: Rounding = option(
        "half-up",
        "--rounding",
        kind=ROUNDINGS,
        shown=True,
        help="How integer and npy round: once, halves up, or twice, as gemmlowp does.",
    )

    def format_to_json(self) -> dict[str, Any]:
        """As plan and report write them."""
        if self.format == "float":
            return {}
        return {"format": self.format, **({"rounding": self.rounding} if self.format in ("integer", "npy") else {})}
