"""Operator rules, one family a module. Importing this package fills the table."""

from onnxprune.ops import contracting, elementwise, movement, normalization, reduction
from onnxprune.ops.table import Change, Cut, Rule, find, known_operators

__all__ = [
    "Change",
    "Cut",
    "Rule",
    "contracting",
    "elementwise",
    "find",
    "known_operators",
    "movement",
    "normalization",
    "reduction",
]
