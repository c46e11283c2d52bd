"""A few samples with drawn inputs beside them: a handful tells too little of what a layer's inputs have in common.

Solved on eight photographs alone a network is worse than solved on drawn inputs, and on both it is better. The samples
are read more than once: of each time, other positions are looked at. What is drawn is what would be without them, to
the byte, so that one sample is no other roll of the dice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.calibration.data_options import Data
from onnxprune.calibration.model_inputs import Sample
from onnxprune.calibration.samples import CalibrationSet, Mixture
from onnxprune.calibration.synthetic import drawing
from onnxprune.errors import OnnxPruneError
from onnxprune.model.onnx_model import Model
from onnxprune.running.tensor_shapes import Shapes

#: So many samples at most have drawn inputs beside them; from so many on, some of them are held out to judge by.
FEW, JUDGES = 64, 8

#: How often each sample is read at most where some of them judge, and the share of what is drawn at which it is read no
#: oftener. Fewer than those are read once: nobody tells whether they help.
COPIES, SHARE = 4, 0.25


@dataclass(frozen=True)
class _Repeated:
    """All samples of ``data``, ``copies`` times, as one chunk."""

    data: CalibrationSet = field(repr=False)
    copies: int
    pixels: bool = False  # they are numbers already

    @property
    def size(self) -> int:
        return self.data.count * self.copies

    def read(self, positions: Sequence[int]) -> Iterator[Sample]:
        copy, sample = np.divmod(positions, self.data.count)
        for number in range(self.copies):
            wanted = set(sample[copy == number].tolist())
            if wanted:
                yield from (s for position, s in enumerate(self.data.samples()) if position in wanted)


def with_drawn(
    data: CalibrationSet, how: Data, model: Model, shapes: Shapes, seed: int, *, judged: bool = False
) -> CalibrationSet:
    """``data``, and where it is small drawn inputs beside it; as it is where nothing can be drawn, or labels count.

    ``judged``: what is held out is to be of ``data``, however little there is.
    """
    unit = data.inputs.unit
    if data.count > FEW or data.labelled or (judged and data.count < 2 * unit):
        return data
    whole = drawing.enough(data.inputs, model, shapes.shape)
    copies = max(1, min(COPIES, round(SHARE * whole / data.count))) if data.count >= JUDGES else 1
    if whole < 2 * unit:
        return data
    try:
        drawn = drawing.load(replace(how, source=None, samples=whole), model, shapes, seed, data.inputs)
    except OnnxPruneError:
        return data
    chunks = [_Repeated(data, copies), *drawn.chunks()]
    note = (
        f"{data.count} samples are few: calibrated on them and {drawn.count} drawn inputs, "
        f"as a few alone would do worse; more than {FEW} samples stand alone"
    )
    return replace(
        data,
        chunks=lambda: chunks,
        chosen=np.arange(copies * data.count + drawn.count),
        mixture=Mixture(data.chosen, copies, held_out=judged or data.count >= JUDGES),
        notes=(*data.notes, note, *drawn.notes[1:]),
    )
