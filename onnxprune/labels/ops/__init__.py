"""Operator rules, one family a module. Importing this package fills the table."""

from onnxprune.labels.ops import (
    attention,
    contracting,
    custom,
    elementwise,
    gather_and_grid_sample,
    movement,
    normalization,
    quantized,
    recurrent,
    reduction,
)
from onnxprune.labels.ops.table import (
    Change,
    Cut,
    Kernel,
    Rule,
    find,
    gathers_of,
    is_one_of,
    kernel_of,
    known_operators,
    may_give_text,
)

__all__ = [
    "Change",
    "Cut",
    "Kernel",
    "Rule",
    "attention",
    "contracting",
    "custom",
    "elementwise",
    "find",
    "gather_and_grid_sample",
    "gathers_of",
    "is_one_of",
    "kernel_of",
    "known_operators",
    "may_give_text",
    "movement",
    "normalization",
    "quantized",
    "recurrent",
    "reduction",
]
