"""The original as it was seen on calibration data: what scores look at, and pruned models are compared with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from onnxprune.calibration.gram_matrices import (
    ENOUGH_ROWS,
    Observations,
    Spill,
    observe,
    products,
    samples_for,
    seen_of,
)
from onnxprune.calibration.joined_runs import joined
from onnxprune.calibration.samples import CalibrationSet
from onnxprune.labels.label_propagation import Trace
from onnxprune.model.onnx_model import Model
from onnxprune.progress import Progress
from onnxprune.running.batch_size import batch_size


@dataclass(frozen=True)
class Lesson:
    """``reference``: the original, its BatchNormalization folded if it will be; ``seen``: what it gives on ``data``."""

    reference: Model = field(repr=False)
    data: CalibrationSet
    seen: Observations = field(repr=False)


#: No more samples are looked at than give every product `gram_matrices.ENOUGH_ROWS` rows, but these.
LEAST_SAMPLES = 64


def learn(trace: Trace, reference: Model, data: CalibrationSet, spill: Spill, progress: Progress) -> Lesson:
    """Run ``reference`` on as much of ``data`` as helps. Raises ModelError where onnxruntime cannot."""
    shapes = trace.shapes.shape
    found = products(reference, shapes)
    taken = data.head(max(LEAST_SAMPLES, samples_for(ENOUGH_ROWS, found, shapes)))
    if taken.count < data.count:
        note = f"{taken.count} of {data.count} calibration samples are used: every layer finds positions enough in them"
        taken = replace(taken, notes=(*taken.notes, note))
    if batch_size(reference.graph, shapes) > 1:
        taken = joined(reference, seen_of(reference, found), taken)
    return Lesson(reference, taken, observe(reference, found, taken, shapes, spill, progress))
