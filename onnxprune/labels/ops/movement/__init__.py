"""Operators that move elements: numpy's own operation on the label array. Below a rule: how it mentions sizes."""

from onnxprune.labels.ops.movement import joining, repeating, reshaping, slicing, spatial

__all__ = ["joining", "repeating", "reshaping", "slicing", "spatial"]
