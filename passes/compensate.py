"""Solve the weights of pruned layers anew, so that fed by the pruned network they give what the original's gave.

Layer by layer in the order of the graph (sequential reconstruction: He et al. 2017, arXiv 1707.06168; ThiNet,
1707.06342): X are the columns of the layer's input in the network as pruned and compensated so far, Y the rows of its
output in the original, or, where it is added to another tensor that has been computed by then, what makes their
sum the original's,

    W' = argmin |Y - X W'|^2 + k |W' - W|^2       by ridge regression (`onnxprune.calibration.least_squares`)

with k chosen on held-out samples. Where that does not lessen the error on held-out samples, the layer stays as it is.
What else is asked of the weights (`onnxprune.constraints`) is asked here, so that layers behind make up for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.gram_matrices import Observations, Part, Product, as_float
from onnxprune.calibration.least_squares import Kept, Moments
from onnxprune.calibration.piecewise_replay import Replay
from onnxprune.constraints.grids import Grid
from onnxprune.constraints.laid import laid_along
from onnxprune.constraints.patterns import Mask
from onnxprune.constraints.quadratic import Quadratic, covariance, damped, with_bias
from onnxprune.constraints.rounding import WeightGrid
from onnxprune.constraints.zeros import RIDGE, Zeros, solver
from onnxprune.labels.label_propagation import Trace
from onnxprune.labels.labels import Alive
from onnxprune.labels.ops.table import Array, Rows
from onnxprune.labels.rewrite import alive_of
from onnxprune.memory_and_threads import another_thread, in_threads
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model
from onnxprune.passes.base import PassResult
from onnxprune.passes.shared_weights import Together, solved_together
from onnxprune.progress import Progress, silent

#: Strengths of the ridge that are tried, as shares of the mean square of the columns.
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)

#: The wary leave a layer that misses less than the first as it is, unless no more than the second share of that is
#: left: where samples do not excite it, solving leads astray, and there is little to win.
_LITTLE, _LEFT = 1e-2, 0.5

#: However few columns a product has, where ``rows`` says how many it is fitted to.
_LEAST_ROWS = 4096

#: A layer whose held-out error is below this already has nothing to win: sums of float32 products are no better.
_EXACT = 1e-6


@dataclass(frozen=True)
class Fit:
    """One layer's error on held-out samples, relative to the energy of its output, before and after."""

    node: str
    before: float
    after: float
    ridge: float | None  # None: left as it was
    weight: str = ""
    mask: Mask | None = field(default=None, repr=False)  # of the weight: false where zero was asked for
    grid: Grid | None = field(default=None, repr=False)  # that the weight is on

    def __str__(self) -> str:
        return f"solved {self.node} anew: held-out error {self.before:.2e} -> {self.after:.2e}"


@dataclass(frozen=True)
class Compensate:
    """Refit every matrix product behind removed channels to what ``seen`` holds of the original.

    ``rows``: of each product, about so many for each column, and thousands at least; all there are without it.
    ``asked`` and ``grids``: what is asked of the weights of nodes, by label, beside; they are solved again whatever
    comes of it. ``felt``: what errors of their outputs count there. ``rounded``: tensors that are on a grid for all who
    read them. ``wary``: samples are not like what the model is given, and layers that miss little stay as they are.
    """

    trace: Trace = field(repr=False)
    dead: NDArray[np.int64] = field(repr=False)
    seen: Observations = field(repr=False)
    progress: Progress = field(default=silent, repr=False)
    ridges: tuple[float, ...] = RIDGES
    rows: int | None = None
    asked: Mapping[str, Zeros] = field(default_factory=dict, repr=False)
    grids: Mapping[str, WeightGrid] = field(default_factory=dict, repr=False)
    felt: Mapping[str, NDArray[np.float64]] = field(default_factory=dict, repr=False)
    rounded: Mapping[str, Grid] = field(default_factory=dict, repr=False)
    wary: bool = False
    name: str = "compensate"

    def run(self, model: Model) -> PassResult:
        """Solve the weights and biases. Raises ModelError where onnxruntime cannot run a part of the model."""
        fits, result = self.fit(model)
        changes = tuple(str(f) for f in fits if f.ridge is not None)
        return PassResult(result, changes)

    def fit(self, model: Model) -> tuple[list[Fit], Model]:
        """Solve as `run` does; returns the fit of each layer, and the model."""
        found, order = solved_together(model, self.trace, self.seen.products)
        ordered = model if order == sorted(order) else model.reordered(order)
        if ordered is not model:
            found, _ = solved_together(ordered, self.trace, self.seen.products)
        network = Replay(
            ordered, self.seen, self.trace.shapes.elem_type, {n: g.rounded for n, g in self.rounded.items()}
        )
        alive = alive_of(self.trace, self.dead)
        fits = []
        for number, together in enumerate(sorted(found, key=lambda t: t[0].node.index), 1):
            network.advance(together[0].node.index)
            fits.append(self._solve(network, together, alive))
            self.progress(self.name, number, len(found))
        inputs = {order[index]: change for index, change in network.edits.inputs.items()}
        return fits, model.apply(replace(network.edits, inputs=inputs))

    def _solve(self, network: Replay, together: Together, alive: Alive) -> Fit:
        product = together[0]
        model, node = network.model, product.node
        weight = product.form.matrix(model.array(node.inputs[1]).astype(np.float64))
        prior = weight.reshape(product.groups, product.outputs, -1)
        given = node.input(2) != ""
        if product.form.bias:
            bias = model.array(node.inputs[2]).astype(np.float64) if given else np.zeros(prior.shape[:2])
            column = np.broadcast_to(bias.reshape(-1), prior[..., 0].size).reshape(*prior.shape[:2], 1)
            prior = np.concatenate([prior, column], axis=2)
        fit, held = self._moments(network, together, alive)
        before = held.error(prior)
        best, after, ridge, mask = prior, before, None, None
        if before > _EXACT:
            best, after, ridge = self._nearest(partial(fit.ridge, prior), held, prior, before, wide=not product.fine)
            if self.wary and before < _LITTLE and after > _LEFT * before:
                best, after, ridge = prior, before, None
        felt = self.felt.get(node.label, np.ones(prior.shape[:2]))
        if (zeros := self.asked.get(node.label)) is not None:
            mask = zeros.chosen(fit, prior, ridge, felt)
            solve = solver(fit, prior, mask, felt)
            best, after, ridge = self._nearest(solve, held, solve(self.ridges[-1]), np.inf)
            ridge = ridge or self.ridges[-1]
        cells = None
        if (grid := self.grids.get(node.label)) is not None:
            free = best[:, :, :-1] if fit.bias else best
            h = damped(covariance(fit), ridge or max(RIDGE, fit.by_chance))
            if fit.bias and (read := self.rounded.get(product.source)) is not None:
                bias = with_bias(fit, free)[:, :, -1]
                grid = grid.with_room(bias, float(read.scale.flat[0]), bias.shape)
            w, cells = grid.solved(Quadratic(h, free, felt), free, mask, product.taps)
            best, ridge = with_bias(fit, w + 0.0), ridge or RIDGE  # no zero with a sign: a grid that is given has none
            after = held.error(best)
        if ridge is not None:
            _give(network, together, best)
        if mask is not None:
            mask = product.form.weight(mask.reshape(weight.shape))
        grid_of = None if cells is None else laid_along(product, cells)
        return Fit(node.label, before, after, ridge, node.inputs[1], mask, grid_of)

    def _nearest(
        self,
        solve: Callable[[float], NDArray[Any] | None],
        held: Moments | Kept,
        prior: NDArray[Any],
        before: float,
        *,
        wide: bool = False,
    ) -> tuple[NDArray[Any], float, float | None]:
        """Weights, their held-out error and their ridge: from the middle on, upwards or else down, while that helps.

        What is ``wide`` takes long to solve and asks for more: it begins one further up, and the first two, which are
        looked at in any case, are solved side by side.
        """

        def judged(strength: float) -> tuple[NDArray[Any] | None, float]:
            solved = solve(strength)
            return solved, np.inf if solved is None else held.error(solved)

        best, least, ridge = prior, np.inf, None
        middle = min(len(self.ridges) // 2 + wide, len(self.ridges) - 1)
        first = self.ridges[middle : middle + 2] if wide else ()
        known = dict(zip(first, in_threads(judged, first), strict=True))
        for side in (self.ridges[middle:], self.ridges[:middle][::-1]):
            for strength in side:
                solved, error = known.get(strength) or judged(strength)
                if solved is None:
                    continue
                if error >= least:
                    break
                best, least, ridge = solved, error, strength
            if ridge is not None and ridge > self.ridges[middle]:
                break
        return (best, least, ridge) if least < before else (prior, before, None)

    def _moments(self, network: Replay, together: Together, alive: Alive) -> tuple[Moments, Moments | Kept]:
        """Of the pruned inputs' columns and the original outputs' rows, to fit and held out."""
        product, own = together[0], {p.target for p in together}
        apart = [replace(p, beside="") if p.beside in own else p for p in together]  # nothing of them is computed yet
        size = (product.groups, product.columns, product.outputs)
        fit = Moments.empty(*size, bias=product.form.bias)
        few = sum(self.seen.held_out_rows(p.node.label) for p in together) < product.columns
        held = Kept(product.form.bias) if few else Moments.empty(*size, bias=product.form.bias)
        with another_thread() as doing, fit.gathering(doing) as to_fit, held.gathering(doing) as to_judge:
            for part, one in itertools.product(self.seen.parts, apart):
                (to_judge if part.held_out else to_fit)(*self._rows(network, one, alive, part))
        return fit, held

    def _rows(self, network: Replay, product: Product, alive: Alive, part: Part) -> tuple[Array, Array]:
        """Columns [rows, groups, columns] and targets [rows, groups, outputs] of one layer in one part."""
        kept = kept_along(self.trace, alive, product.target, product.form.made)
        seen = self.seen.products[product.node.label]
        whole = bool(seen.total) and seen.total == product.target  # the other part is gone, and it gives the sum
        x, (y, rows) = network.get(product.source, part), self.seen.rows_of(product.node.label, part)
        every = 1
        if self.rows is not None:
            every = max(1, len(rows) * len(self.seen.parts) // max(_LEAST_ROWS, self.rows * product.columns))
            y, rows = y[::every], rows[::every]
        there, rows, shape = self._there(product, alive, rows, self.seen.shape_of(product.node.label, part))
        target = y[there].reshape(len(rows), -1)[:, kept]
        if product.beside or whole:  # the sum is what the original's is, with what is missing of its other part
            beside = self.seen.beside(product.node.label, part)
            target = target + beside[::every][there].reshape(len(rows), -1)[:, kept]
        if product.beside:
            now = product.parts_of(network.get(product.beside, part), shape, rows)
            target = target - now.reshape(len(rows), -1)
        columns = as_float(product.form.patches(x, shape, rows)).reshape(len(rows), product.groups, -1)
        return columns, target.reshape(len(rows), product.groups, -1)

    def _there(self, product: Product, alive: Alive, rows: Rows, shape: Shape) -> tuple[NDArray[np.bool_], Rows, Shape]:
        """Which ``rows`` of an output of ``shape`` are still there, and the rows and the shape that are left of these.

        Channels are rows where they lie along an axis that is not multiplied, as in a MatMul behind a Conv.
        """
        made, there = product.form.made, np.ones(len(rows), bool)
        left, sizes = list(shape), [s for a, s in enumerate(shape) if a != made]
        where = [*np.unravel_index(rows, sizes)]
        for place, axis in enumerate(a for a in range(len(shape)) if a != made):
            kept = kept_along(self.trace, alive, product.target, axis)
            if self.trace.tensors[product.target].along(axis) is not None and len(kept) < shape[axis]:
                moved = np.full(shape[axis], -1)
                moved[kept] = np.arange(len(kept))
                where[place], left[axis] = moved[where[place]], len(kept)
                there &= where[place] >= 0
        lead = [s for a, s in enumerate(left) if a != made]
        return there, np.ravel_multi_index([w[there] for w in where], lead), tuple(left)


def _give(network: Replay, together: Together, best: NDArray[Any]) -> None:
    """Put the solved weights, and biases behind them [groups, outputs, columns (+ 1)], into the network."""
    product = together[0]
    weight, model = product.node.inputs[1], network.model
    old = model.array(weight)
    columns = best[:, :, :-1] if product.form.bias else best
    matrix = columns.reshape(product.form.matrix(old).shape)
    constants, added = {weight: product.form.weight(matrix).astype(old.dtype)}, dict[str, NDArray[Any]]()
    if product.form.bias:
        bias, name = best[:, :, -1].reshape(-1).astype(old.dtype), product.node.input(2)
        shape = model.graph.constants[name][1] if name else (0,)
        if math.prod(shape) == bias.size:
            constants[name] = bias.reshape(shape)
        else:  # there is none, or one number for all outputs
            added[network.free_name(f"{weight}_bias")] = bias
    network.give(constants, added, [p.node.index for p in together])


def kept_along(trace: Trace, alive: Alive, tensor: str, axis: int) -> NDArray[np.int64]:
    """Which channels of the original's ``tensor`` are left in the pruned; where several axes have them, in part."""
    found = trace.tensors[tensor]
    layer, size = found.along(axis), found.shape[axis]
    if layer is None:
        return np.arange(size)
    others = tuple(a for a in range(layer.labels.ndim) if a != axis)
    return np.flatnonzero(np.broadcast_to(alive(layer.labels).any(axis=others), size))
