"""The original as it was seen on calibration data: what scores look at, and pruned models are compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from onnxprune.calibration import CalibrationSet
from onnxprune.graph import Shape
from onnxprune.model import Model
from onnxprune.observe import LEAST_ROWS, Observations, Product, Spill, observe, products
from onnxprune.progress import Progress
from onnxprune.trace import Trace


@dataclass(frozen=True)
class Lesson:
    """``reference``: the original, its BatchNormalization folded if it will be; ``seen``: what it gives on ``data``."""

    reference: Model = field(repr=False)
    data: CalibrationSet
    seen: Observations = field(repr=False)


#: No more samples are looked at than give every product `observe.LEAST_ROWS` rows, but these: rows of one are alike.
LEAST_SAMPLES = 64


def learn(trace: Trace, reference: Model, data: CalibrationSet, spill: Spill, progress: Progress) -> Lesson:
    """Run ``reference`` on as much of ``data`` as helps. Raises ModelError where onnxruntime cannot."""
    shapes = trace.shapes.shape
    found = products(reference, shapes)
    data = data.head(_enough(found, shapes))
    return Lesson(reference, data, observe(reference, found, data, shapes, spill, progress))


def _enough(found: Sequence[Product], shapes: Mapping[str, Shape]) -> int:
    """How many samples give every product enough rows."""
    rows = [math.prod(shapes[p.target]) / shapes[p.target][p.form.made] / shapes[p.target][0] for p in found]
    return max([LEAST_SAMPLES, *(math.ceil(LEAST_ROWS / max(r, 1.0)) for r in rows)])
