"""How far a model's outputs move when the output of one of its matrix products does.

For random directions v on the outputs, each output scaled to a mean square of 1, and g = d <v, outputs> / d Y at one
row of Y: the outputs move by E (g'd)^2 = d' E[g g'] d in the mean square when the row moves by d. Rows count as
independent, so that G = E[g g'] over rows, times their number, stands for all of Y (the factor of K-FAC, Martens and
Grosse 2015, arXiv 1503.05671, that belongs to outputs).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.batching import batch_size
from onnxprune.calibration import CalibrationSet
from onnxprune.gradients import Directions, differentiable, gate_gradients, random_directions
from onnxprune.observe import Product, samples_for
from onnxprune.progress import Progress, counted
from onnxprune.runtime import Feeds
from onnxprune.trace import Trace

Float = NDArray[np.float64]

#: Samples are enough when their rows are many: as few as give every product so many rows, within these bounds.
ROWS, FEWEST, MOST = 4096, 16, 64

#: Activations, gates, and the gradients of both.
_COPIES = 4


def roots(
    trace: Trace, products: Mapping[str, Product], data: CalibrationSet, seed: int, progress: Progress
) -> dict[str, Float]:
    """G^(1/2) of each product [groups, outputs, outputs], relative to the energy of the model's outputs.

    Raises OptionError where there are no gradients.
    """
    wanted = samples_for(ROWS, products.values(), trace.shapes.shape)
    data = data.head(min(MOST, max(FEWEST, wanted)))
    size = data.run_size(batch_size(trace.model.graph, trace.shapes.shape, _COPIES))
    first = next(data.batches(size))
    count = len(next(iter(first.values())))
    gates = {p.target: (count, *trace.shapes.shape[p.target][1:]) for p in products.values()}
    part = differentiable(trace, gates, first, added=True)
    elements = sum(math.prod(trace.shapes.shape[n][1:]) for n in part.outputs)
    rng = np.random.default_rng(seed)
    directed: Iterator[tuple[Feeds, Directions]] = ((f, partial(random_directions, rng)) for f in data.batches(size))
    batches = counted(directed, "gradients on calibration data", data.runs(size), progress)
    total: dict[str, Any] = dict.fromkeys(products, 0.0)
    for gradients in gate_gradients(part, batches, str(trace.model.path or "model")):
        for label, product in products.items():
            total[label] = total[label] + _squares(gradients[product.target], product)
    return {label: _root(square / (data.count * elements)) for label, square in total.items()}


def _squares(gradient: NDArray[Any], product: Product) -> Float:
    """Sum over rows of g g' [groups, outputs, outputs]."""
    last = np.moveaxis(gradient, product.form.made, -1)
    rows = last.reshape(-1, product.groups, product.outputs).astype(np.float64)
    return np.stack([rows[:, g].T @ rows[:, g] for g in range(product.groups)])


def _root(square: Float) -> Float:
    values, vectors = np.linalg.eigh(square)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))[:, None]) @ vectors.transpose(0, 2, 1))
