"""What a model takes of each sample: names, types and shapes of its inputs, and how samples make a batch.

Axis 0 of every input is the batch. A sample is then one entry along it, and samples are stacked: any number of them
where the axis is dynamic, exactly b where the model fixes it. Where inputs disagree about axis 0, or one has none, it
is no batch: a sample is the whole of what the model reads in one run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from onnxprune.calibration.images import Pixels
from onnxprune.errors import DataError
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model
from onnxprune.running.batch_size import takes_any

#: One sample: an array for each input, and its label where there is one.
Sample = dict[str, NDArray[Any]]

#: The array of an .npz that holds labels, unless the model has an input of this name.
LABELS = "labels"


@dataclass(frozen=True)
class Slot:
    """One input of the model: the ``shape`` of one sample, and ``batch``, the fewest samples that a run takes."""

    name: str
    dtype: np.dtype[Any]
    shape: Shape
    batch: int
    pixels: Pixels = field(repr=False)

    def takes_pixels(self, dtype: np.dtype[Any]) -> bool:
        """Whether an array of ``dtype`` holds pixels, which become floats by mean and std."""
        return dtype == np.uint8 and self.dtype.kind == "f"

    def samples(self, shape: Shape, dtype: np.dtype[Any], where: str) -> int:
        """How many samples an array holds: [n, *sample], [n, batch, *sample] or one. Raises DataError."""
        if dtype != self.dtype and not self.takes_pixels(dtype):
            hint = f"save it with .astype('{self.dtype}')"
            raise DataError(f"is {dtype}, and input '{self.name}' reads {self.dtype}", where=where, hint=hint)
        size = len(self.shape)
        if shape == self.shape:
            return 1
        if shape[1:] == self.shape:
            return shape[0]
        if len(shape) == size + 2 and shape[1:] == (self.batch, *self.shape):
            return shape[0] * self.batch
        one, given = (",".join(map(str, s)) for s in (self.shape, shape))
        raise DataError(
            f"has shape {given}, and a sample of input '{self.name}' has {one}",
            where=where,
            hint="set another size of a dynamic input with --input-shape",
        )

    def taken(self, sample: NDArray[Any], where: str) -> NDArray[Any]:
        """One sample as the model reads it. Raises DataError where it holds NaN or infinity."""
        if self.takes_pixels(sample.dtype):
            return self.pixels.scaled(sample, self.dtype, where)
        if sample.dtype.kind == "f" and not np.isfinite(sample).all():
            raise DataError(f"has NaN or infinite values for input '{self.name}'", where=where, hint="remove it")
        return sample


@dataclass(frozen=True)
class Inputs:
    """All inputs in the model's order. ``unit``: samples a run takes, or a multiple of it where ``any_batch``."""

    slots: tuple[Slot, ...]
    unit: int
    any_batch: bool
    stacked: bool  # whether samples are stacked along axis 0
    pixels: Pixels = field(repr=False)

    @classmethod
    def of(cls, model: Model, shapes: Mapping[str, Shape], pixels: Pixels) -> Inputs:
        """The inputs of ``model`` at ``shapes``: where it leaves its batch open and takes no other, of that one."""
        infos = model.graph.inputs
        dims = [i.dims if i.dims is not None else (None,) * len(shapes[i.name]) for i in infos]
        first = {(d[0] or 1) if d else 0 for d in dims}
        stacked = len(first) == 1 and first != {0}
        unit = first.pop() if stacked else 1
        any_batch = stacked and all(d[0] is None for d in dims)
        traced = {shapes[i.name][0] for i in infos} if any_batch else set()
        if len(traced) == 1 and not takes_any(model, shapes):
            unit, any_batch = traced.pop(), False
        slots = []
        for info, declared in zip(infos, dims, strict=True):
            whole = tuple(1 if a == 0 and declared[a] is None else s for a, s in enumerate(shapes[info.name]))
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(info.elem_type))
            slots.append(Slot(info.name, dtype, whole[1:] if stacked else whole, unit, pixels))
        return cls(tuple(slots), unit, any_batch, stacked, pixels)

    def count(self, feeds: Mapping[str, NDArray[Any]]) -> int:
        """How many samples one run of ``feeds`` holds."""
        return len(next(iter(feeds.values()))) if self.stacked else 1

    def joined(self, batch: Sequence[Sample]) -> dict[str, NDArray[Any]]:
        """Stack samples into what one run reads: {input: array}."""
        if not self.stacked:
            return {s.name: np.asarray(batch[0][s.name]) for s in self.slots}  # a scalar may be a number
        return {s.name: np.stack([sample[s.name] for sample in batch]) for s in self.slots}
