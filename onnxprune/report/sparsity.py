"""The zeros among the weights of a model: how many, in which layers and patterns, and which targets use them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from onnxprune.calibration.gram_matrices import products
from onnxprune.constraints.patterns import Pattern
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model

#: Patterns that some hardware takes, or that are worth knowing of.
PATTERNS = ("1:2", "2:4", "1:4", "4:8")

#: What becomes of zeros, by target, by what their makers say. None of it was measured here but the first.
TARGETS: Mapping[str, str] = {
    "onnxruntime": "multiplies by zeros as by any number: no time is saved on a CPU",
    "TensorRT": "takes 2:4 along input channels (sparse tensor cores, Ampere and later; --sparsity=enable)",
    "RKNN": "multiplies by zeros; its compiler has sparse_infer for rk3576 and rv1126b alone",
    "disk": "a zipped file is smaller; the file itself is not",
    "FPGA": "multipliers by constant zero are not built (hls4ml, FINN)",
}


@dataclass(frozen=True)
class SparseLayer:
    """A weight of ``size`` numbers with ``zeros`` zeros, and the ``patterns`` that it has.

    ``outputs``: how many of its ``of`` outputs are all zeros. ``channels``: how many inputs each output reads.
    """

    node: str
    weight: str
    shape: Shape
    size: int
    zeros: int
    outputs: int
    of: int
    channels: int
    patterns: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of zeros."""
        return self.zeros / self.size


@dataclass(frozen=True)
class Sparsity:
    """All weights of Conv, ConvTranspose, Gemm and MatMul, once each."""

    layers: tuple[SparseLayer, ...] = field(repr=False)

    @property
    def size(self) -> int:
        """How many weights there are."""
        return sum(la.size for la in self.layers)

    @property
    def zeros(self) -> int:
        """How many of them are 0."""
        return sum(la.zeros for la in self.layers)

    @property
    def share(self) -> float:
        """Of zeros."""
        return self.zeros / self.size if self.size else 0.0

    @property
    def patterns(self) -> tuple[str, ...]:
        """Those that hold in every layer that can hold them, of which there is one at least."""
        able = [(la, Pattern.parse(p)) for p in PATTERNS for la in self.layers if _fits(la, Pattern.parse(p))]
        names = dict.fromkeys(p.name for _, p in able)
        return tuple(n for n in names if all(n in la.patterns for la, p in able if p.name == n))

    def to_json(self) -> str:
        """The file's text."""
        document: dict[str, Any] = {
            "format": "onnxprune-sparsity",
            "version": 1,
            "weights": self.size,
            "zeros": self.zeros,
            "sparsity": self.share,
            "patterns": self.patterns,
            "targets": dict(TARGETS),
            "layers": [{**asdict(la), "sparsity": la.share} for la in self.layers],
        }
        return json.dumps(document, indent=2) + "\n"


def sparsity_of(model: Model, shapes: Mapping[str, Shape], values: Model | None = None) -> Sparsity:
    """The zeros of ``model``; ``shapes``: those of its tensors; ``values``: where its weights have others since."""
    return Sparsity(tuple(_layers(model, shapes, values or model)))


def _layers(model: Model, shapes: Mapping[str, Shape], values: Model) -> Iterator[SparseLayer]:
    done = set()
    for product in products(model, shapes, every=True):
        name = product.node.inputs[1]
        if name in done:
            continue
        done.add(name)
        array = (values if name in values.graph.constants else model).array(name)
        matrix = product.form.matrix(array)
        rows = (matrix != 0).any(axis=(2, 3))
        yield SparseLayer(
            product.node.label,
            name,
            tuple(array.shape),
            array.size,
            int(array.size - np.count_nonzero(array)),
            int((~rows).sum()),
            rows.size,
            matrix.shape[2],
            tuple(p for p in PATTERNS if Pattern.parse(p).holds(matrix)),
        )


def _fits(layer: SparseLayer, pattern: Pattern) -> bool:
    return not layer.channels % pattern.columns
