"""The original as it was seen on calibration data: what scores look at, and pruned models are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field

from onnxprune.calibration import CalibrationSet
from onnxprune.model import Model
from onnxprune.observe import Observations, Spill, observe, products
from onnxprune.progress import Progress
from onnxprune.trace import Trace


@dataclass(frozen=True)
class Lesson:
    """``reference``: the original, its BatchNormalization folded if it will be; ``seen``: what it gives on ``data``."""

    reference: Model = field(repr=False)
    data: CalibrationSet
    seen: Observations = field(repr=False)


def learn(trace: Trace, reference: Model, data: CalibrationSet, spill: Spill, progress: Progress) -> Lesson:
    """Run ``reference`` on ``data``. Raises ModelError where onnxruntime cannot."""
    shapes = {**trace.shapes.shape, **{n: s for n, (_, s) in reference.graph.constants.items()}}
    seen = observe(reference, products(reference, shapes), data, shapes, spill, progress)
    return Lesson(reference, data, seen)
