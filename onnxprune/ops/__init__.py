"""Operator rules, one family a module. Importing this package fills the table."""

from onnxprune.ops import (
    attention,
    contracting,
    control,
    elementwise,
    indexing,
    movement,
    normalization,
    quantized,
    recurrent,
    reduction,
)
from onnxprune.ops.table import Change, Cut, Rule, find, known_operators

__all__ = [
    "Change",
    "Cut",
    "Rule",
    "attention",
    "contracting",
    "control",
    "elementwise",
    "find",
    "indexing",
    "known_operators",
    "movement",
    "normalization",
    "quantized",
    "recurrent",
    "reduction",
]
