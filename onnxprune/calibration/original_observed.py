"""The original model as observed on calibration data: scores are made from it, and pruned models compared with it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from onnxprune.calibration.cached import observations as kept
from onnxprune.calibration.cached.folder import CacheFolder
from onnxprune.calibration.gram_matrices import ENOUGH_ROWS, Observations, observe, products, samples_for, seen_of
from onnxprune.calibration.joined_runs import joined
from onnxprune.calibration.samples import CalibrationSet
from onnxprune.file_system.arrays_on_disk import Spill
from onnxprune.labels.label_propagation import Trace
from onnxprune.model.onnx_model import Model
from onnxprune.progress import Progress
from onnxprune.running.batch_size import batch_size


@dataclass(frozen=True)
class ObservedOriginal:
    """``reference``: the original, with BatchNormalization folded as in the run; ``seen``: observations on ``data``.

    ``cache``: where results that follow from these are kept, under ``key``, a hash of all that they depend on.
    """

    reference: Model = field(repr=False)
    data: CalibrationSet
    seen: Observations = field(repr=False)
    cache: CacheFolder | None = field(default=None, repr=False)
    key: str = field(default="", repr=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for the report."""
        return (*self.data.notes, *self.seen.compared.notes, *(self.cache.notes if self.cache else ()))


#: No more samples are looked at than give every product `gram_matrices.ENOUGH_ROWS` rows, but these.
LEAST_SAMPLES = 64


def observe_original(
    trace: Trace,
    reference: Model,
    data: CalibrationSet,
    spill: Spill,
    progress: Progress,
    cache: CacheFolder | None = None,
) -> ObservedOriginal:
    """Run ``reference`` on as much of ``data`` as helps, or read what an earlier run left in ``cache``.

    Raises ModelError where onnxruntime cannot run it.
    """
    shapes = trace.shapes.shape
    found = products(reference, shapes)
    copies = data.mixture.given * data.mixture.copies if data.mixture else 0  # of what was given, on top
    taken = data.head(max(LEAST_SAMPLES, samples_for(ENOUGH_ROWS, found, shapes)) + copies)
    if taken.count < data.count:
        note = f"{taken.count} of {data.count} calibration samples are used: every layer finds positions enough in them"
        taken = replace(taken, notes=(*taken.notes, note))
    key = kept.key_for(reference, taken, shapes) if cache else ""
    known = kept.recalled(cache, key, reference, found, taken, shapes, spill) if cache else None
    if known is not None:
        taken = replace(taken, inputs=replace(taken.inputs, any_batch=known.any_batch))
        return ObservedOriginal(reference, taken, known, cache, key)
    if batch_size(reference.graph, shapes) > 1:
        taken = joined(reference, seen_of(reference, found), taken)
    seen = observe(reference, found, taken, shapes, spill, progress)
    if cache:
        kept.keep(cache, key, seen, reference, shapes, taken.inputs.unit)
    return ObservedOriginal(reference, taken, seen, cache, key)
