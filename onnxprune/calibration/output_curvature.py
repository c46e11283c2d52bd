"""How far a model's outputs move when the output of one of its matrix products does.

For random directions v on the outputs, each output scaled to a mean square of 1, and g = d <v, outputs> / d Y at one
row of Y: the outputs move by E (g'd)^2 = d' E[g g'] d in the mean square when the row moves by d. Rows count as
independent, so that G = E[g g'] over rows, times their number, stands for all of Y (the factor of K-FAC, Martens and
Grosse 2015, arXiv 1503.05671, that belongs to outputs). What removed inputs x of Y = W x do to the outputs follows from
W' G W alone, which is small where a layer has more outputs than inputs (a classifier of thousands).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.gram_matrices import Product, samples_for
from onnxprune.calibration.reverse_mode.gradients import Directions, differentiable, gate_gradients, random_directions
from onnxprune.calibration.samples import CalibrationSet
from onnxprune.errors import OptionError
from onnxprune.labels.label_propagation import Trace
from onnxprune.progress import Progress, counted
from onnxprune.running.batch_size import batch_size
from onnxprune.running.session import Feeds

Float = NDArray[np.float64]

#: Samples are enough when their rows are many: as few as give every product so many rows, within these bounds; and no
#: more than make so many elements of all maps, but the fewest.
ROWS, FEWEST, MOST, ELEMENTS = 4096, 4, 64, 2 * 10**8

#: Outputs of a group whose G is looked at whole.
MOST_TOGETHER = 512

#: Activations, gates, and the gradients of both.
_COPIES = 4


@dataclass(frozen=True)
class On:
    """The samples on which outputs move, and the tensors that stand for these (`onnxprune.labels.outputs.parts`)."""

    data: CalibrationSet
    ends: tuple[str, ...]


def felt(trace: Trace, weights: Mapping[str, Weighed], on: On, seed: int, progress: Progress) -> dict[str, Float]:
    """V of each product [groups, rows, channels, taps] with V'V = W' G W, relative to the energy of the outputs.

    Raises OptionError where there are no gradients.
    """
    products = {label: w.product for label, w in weights.items()}
    squares = {label: w.squares for label, w in weights.items()}
    total = _summed(trace, products, squares, on, seed, progress)
    return {label: w.felt(total[label]) for label, w in weights.items()}


def felt_outputs(
    trace: Trace, products: Mapping[str, Product], on: On, seed: int, progress: Progress
) -> dict[str, Float]:
    """G of each product [groups, outputs, outputs], or its diagonal [groups, outputs] where it is too large.

    Raises OptionError where there are no gradients.
    """

    def squares(product: Product, gradient: NDArray[Any]) -> Float:
        last = _rows(product, gradient)
        if not 1 < product.outputs <= MOST_TOGETHER or not product.fine:
            return np.asarray(np.square(last, dtype=np.float64).sum(axis=0))
        rows = last.astype(np.float64).transpose(1, 0, 2)
        return np.asarray(np.matmul(rows.transpose(0, 2, 1), rows))

    each = {label: partial(squares, p) for label, p in products.items()}
    return _summed(trace, products, each, on, seed, progress)


def _summed(
    trace: Trace,
    products: Mapping[str, Product],
    squares: Mapping[str, Callable[[NDArray[Any]], Float]],
    on: On,
    seed: int,
    progress: Progress,
) -> dict[str, Float]:
    """``squares`` of the gradients at every product, summed over rows, for a sample and an element of the outputs."""
    if not products:
        return {}
    made = sum(math.prod(shape) for shape in trace.shapes.shape.values())
    wanted = min(samples_for(ROWS, products.values(), trace.shapes.shape), ELEMENTS // max(1, made))
    data = on.data.head(min(MOST, max(FEWEST, wanted)))
    size = data.run_size(batch_size(trace.model.graph, trace.shapes.shape, _COPIES))
    first = next(data.batches(size))
    count = on.data.inputs.count(first)
    gates = {p.target: (count, *trace.shapes.shape[p.target][1:]) for p in products.values()}
    part = differentiable(trace, gates, first, on.ends)
    elements = sum(math.prod(trace.shapes.shape[n][1:]) for n in part.outputs)
    rng = np.random.default_rng(seed)
    directed: Iterator[tuple[Feeds, Directions]] = ((f, partial(random_directions, rng)) for f in data.batches(size))
    batches = counted(directed, "gradients on calibration data", data.runs(size), progress)
    total: dict[str, Any] = dict.fromkeys(products, 0.0)
    for gradients in gate_gradients(part, batches, str(trace.model.path or "model")):
        for label, product in products.items():
            total[label] = total[label] + squares[label](gradients[product.target])
    for label, product in products.items():
        if not np.isfinite(total[label]).all():
            where, hint = f"tensor '{product.target}'", "another --importance needs no gradients"
            raise OptionError("its gradient is beyond the numbers of its type", where=where, hint=hint)
    return {label: np.asarray(sums / (data.count * elements)) for label, sums in total.items()}


def _rows(product: Product, gradient: NDArray[Any]) -> NDArray[Any]:
    """Of what a product gives: [rows, groups, outputs]."""
    return np.moveaxis(gradient, product.form.made, -1).reshape(-1, product.groups, product.outputs)


@dataclass(frozen=True)
class Weighed:
    """A product and its weight [groups, outputs, channels, taps]."""

    product: Product
    weight: Float = field(repr=False)

    @property
    def _narrow(self) -> bool:
        """Whether W' G W is smaller than G."""
        return self.product.columns < self.product.outputs

    def squares(self, gradient: NDArray[Any]) -> Float:
        """Sum over rows of g g' [groups, outputs, outputs], or W' g g' W [groups, columns, columns]."""
        rows = _rows(self.product, gradient).astype(np.float64).transpose(1, 0, 2)
        if self._narrow:
            rows = np.matmul(rows, self._flat)
        return np.asarray(np.matmul(rows.transpose(0, 2, 1), rows))

    def felt(self, square: Float) -> Float:
        """V, from the mean of squares."""
        values, vectors = np.linalg.eigh(square)
        root = (vectors * np.sqrt(np.maximum(values, 0))[:, None]) @ vectors.transpose(0, 2, 1)
        whole = root if self._narrow else np.matmul(root, self._flat)
        return np.asarray(whole.reshape(self.product.groups, -1, self.product.channels, self.product.taps))

    @property
    def _flat(self) -> Float:
        return self.weight.reshape(*self.weight.shape[:2], -1)
