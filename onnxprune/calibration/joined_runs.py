"""Whether a model that declares one sample at a time takes several: tried, and believed where every tensor says so.

Exporters write the batch of the example into the file. Most of these models compute any batch all the same, and many
samples at once take a fraction of the time; one that has the batch in a constant, or that mixes samples, shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from onnxprune.calibration.samples import CalibrationSet
from onnxprune.errors import ModelError
from onnxprune.labels.ops.table import Array
from onnxprune.model.onnx_model import Model
from onnxprune.running import session as runtime

#: How far a tensor may be off that is computed beside another sample: sums of float32 in another order.
_ROUNDING = 1e-3


def joined(model: Model, names: Sequence[str], data: CalibrationSet) -> CalibrationSet:
    """``data``, read many samples at once where ``model`` then gives the same for each of them at all of ``names``."""
    inputs = data.inputs
    if inputs.any_batch or not inputs.stacked or inputs.unit != 1 or data.count < 2:
        return data
    wider = replace(data.head(2), inputs=replace(inputs, any_batch=True))
    where = str(model.path or "model")
    graph = model.graph
    given = {*(o.name for o in graph.outputs), *(i.name for i in graph.inputs)}
    more = [n for n in names if n not in given]
    compared = [*(o.name for o in graph.number_outputs), *more]
    try:
        with runtime.session(model, where, optimize=True, outputs=more, any_batch=True) as active:
            both = runtime.run(active, next(wider.batches(2)), where)
            for position, feeds in enumerate(data.head(2).batches(1)):
                alone = runtime.run(active, feeds, where)
                if not all(_same(both[n], alone[n], position) for n in compared):
                    return data
    except ModelError:
        return data
    return replace(data, inputs=wider.inputs)


def _same(both: Array, alone: Array, position: int) -> bool:
    """Whether the half of ``both`` at ``position`` is ``alone``."""
    if alone.ndim == 0 or both.shape != (2 * len(alone), *alone.shape[1:]):
        return False
    half = both[position * len(alone) :][: len(alone)]
    if alone.dtype.kind != "f":
        return bool(np.array_equal(half, alone))
    size = float(np.abs(alone).max(initial=0))
    return bool(np.allclose(half, alone, rtol=0, atol=_ROUNDING * size, equal_nan=True))
