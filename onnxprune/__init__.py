"""Structured channel pruning of exported ONNX models, proven exact, without PyTorch."""

from __future__ import annotations

from importlib import metadata

__version__ = metadata.version("onnxprune")
