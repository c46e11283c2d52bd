"""Chips and engines: in which blocks they compute, what their compilers charge, and what follows for widths.

A target is a TOML file, so that a chip is added without code. Those shipped are beside this module; each says where
its numbers came from.
"""

from onnxprune.cost.chips.chip import Chip, Precision, find, shipped, text
from onnxprune.cost.chips.cycles import Cycles, Milliseconds, Row, costs

__all__ = ["Chip", "Cycles", "Milliseconds", "Precision", "Row", "costs", "find", "shipped", "text"]
