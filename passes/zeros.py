"""Which weights become zero: how many in each layer, and, for layers that are not solved anew, which ones.

The shares of the layers follow from curves of error against the share of zeros, as observed on the original
(`onnxprune.constraints.shares`), or from one ranking over the network, or they are the same everywhere. Layers that are
solved anew are left to `Compensate`, as `Asked.solved`; others (weights read elsewhere too, no data) are `Asked.fixed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.gram_matrices import Product
from onnxprune.calibration.npz import members
from onnxprune.calibration.original_observed import ObservedOriginal
from onnxprune.calibration.output_curvature import On, felt_outputs
from onnxprune.constraints.masks import curve
from onnxprune.constraints.patterns import Mask, Pattern, at_least
from onnxprune.constraints.quadratic import Float, Quadratic, covariance, damped, steadied
from onnxprune.constraints.request import ZerosRequest
from onnxprune.constraints.shares import SHARES, Curve, spread
from onnxprune.constraints.zeros import RIDGE, Zeros
from onnxprune.errors import OptionError, PlanError, first_and_more
from onnxprune.file_system.regular_file import ensure_regular
from onnxprune.labels.analysis import matches
from onnxprune.labels.label_propagation import Trace
from onnxprune.labels.rewrite import alive_of
from onnxprune.model.edits import Edits
from onnxprune.model.onnx_model import Model
from onnxprune.passes.bits import Bits, distinct
from onnxprune.passes.compensate import kept_along
from onnxprune.passes.shared_weights import solved_labels, solved_together
from onnxprune.plans.plan_file import Plan
from onnxprune.plugins import giving_numbers, user_function
from onnxprune.progress import Progress

Masks = Mapping[str, NDArray[np.bool_]]
Number = TypeVar("Number", bound=np.generic)

#: How a file of masks is made.
_SAVING = "numpy.savez(path, **{weight: mask})"


@dataclass(frozen=True)
class Asked:
    """What is asked of weights. ``fixed``: masks by weight; ``solved``: zeros by node label, for layers solved anew.

    ``notes``: which layers are left out. ``bits``: grids for the weights that are not zero; ``felt``: as of
    `felt_by_layer`.
    """

    fixed: Masks = field(default_factory=dict, repr=False)
    solved: Mapping[str, Zeros] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()
    bits: Bits = field(default_factory=Bits)
    felt: Mapping[str, Float] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return bool(self.fixed or self.solved or self.bits)


@dataclass(frozen=True)
class Layer:
    """A weight as [groups, outputs, channels, taps], and the first node that multiplies with it."""

    product: Product
    name: str
    weight: Float = field(repr=False)

    def rowed(self, array: NDArray[Number], h: Float) -> NDArray[Number]:
        """[groups, outputs, channels, taps] in the columns of ``h`` [groups, n, n], without taps if it has none."""
        if h.shape[1] != self.product.columns:
            array = array.transpose(0, 1, 3, 2).reshape(len(array), -1, self.product.channels, 1)
        return array.reshape(*array.shape[:2], -1)


@dataclass(frozen=True)
class ZerosAllocator:
    """Decides for a ``model``, which is what is left of ``trace`` without the units ``dead``.

    ``observed``: what weights are solved anew by, None where they are not; ``felt``: as of `felt_by_layer`.
    """

    trace: Trace = field(repr=False)
    dead: NDArray[np.int64] = field(repr=False)
    observed: ObservedOriginal | None
    felt: Mapping[str, Float] = field(repr=False)
    progress: Progress = field(repr=False)

    def again(self, model: Model, masks: Masks) -> Asked:
        """The masks of a plan. Raises PlanError where one does not fit."""
        layers = {la.name: la for la in self.layers(model)}
        for name, mask in masks.items():
            if name not in layers or model.graph.constants[name][1] != mask.shape:
                raise PlanError(f"its mask of '{name}' is {list(mask.shape)}, and no layer has such a weight")
        return self._asked(model, layers, {n: _matrix(layers[n], m) for n, m in masks.items()}, {})

    def decide(self, model: Model, request: ZerosRequest, plan: Plan) -> Asked:
        """What ``request`` asks of ``model``, which ``plan`` was cut by. Raises OptionError."""
        layers = {la.name: la for la in self.layers(model)}
        given = {n: _matrix(layers[n], m) for n, m in _given(request.masks, layers, plan).items()}
        shares: dict[str, float] = {}
        for glob, share in request.own:
            names = matches(self.trace, glob, "--sparsity-for")
            shares |= {n: share for n, la in layers.items() if names & {n, la.product.node.label, la.product.target}}
        open_ = {n: la for n, la in layers.items() if n not in given and n not in shares}
        unfit = [n for n, la in {**open_, **{n: layers[n] for n in shares}}.items() if not _fits(request.pattern, la)]
        notes = _left_out(layers, unfit, request.pattern)
        for name in unfit:
            shares[name] = 0.0
        rest = {n: la for n, la in open_.items() if n not in unfit}
        masks = dict(given)
        if request.criterion == "reconstruction":
            shares |= self._shares(rest, request)
        elif request.share is not None:
            scores = {n: _scores(la, request) for n, la in rest.items()}
            if request.scope == "global" and request.pattern.share is None:
                shares |= _ranked(scores, request.pattern, request.share)
            else:
                shares |= dict.fromkeys(rest, request.share)
        chosen: dict[str, Zeros] = {}
        for name, share in shares.items():
            layer = layers[name]
            if share <= 0:
                continue
            if request.criterion == "reconstruction" and layer.product.node.label in self.felt:
                chosen[name] = Zeros(request.pattern, share, layer.product.taps)
            else:
                masks[name] = request.pattern.keep(_scores(layer, request), share)
        asked = self._asked(model, layers, masks, chosen)
        return Asked(asked.fixed, asked.solved, notes)

    def _asked(
        self, model: Model, layers: Mapping[str, Layer], masks: Mapping[str, Mask], chosen: Mapping[str, Zeros]
    ) -> Asked:
        """``masks`` [groups, outputs, channels, taps] go to the walk where it can solve for the rest."""
        solved = {layers[n].product.node.label: z for n, z in chosen.items()}
        seen = self.observed.seen.products if self.observed is not None else {}
        free = solved_labels(model, self.trace, seen)
        fixed = {}
        for name, mask in masks.items():
            layer = layers[name]
            if layer.product.node.label in free:
                flat = mask.reshape(*mask.shape[:2], -1)
                solved[layer.product.node.label] = Zeros(Pattern("given"), float(1 - mask.mean()), 1, flat)
            else:
                fixed[name] = layer.product.form.weight(mask)
        return Asked(fixed, solved)

    def layers(self, model: Model) -> Iterator[Layer]:
        """Every weight once, with the first node that multiplies with it."""
        for product in distinct(model, self.trace):
            name = product.node.inputs[1]
            yield Layer(product, name, product.form.matrix(model.array(name).astype(np.float64)))

    def _shares(self, layers: Mapping[str, Layer], request: ZerosRequest) -> dict[str, float]:
        """The share of zeros of each layer that nothing else says one of."""
        if request.share is None:
            return {}
        if request.scope == "layer" or request.pattern.share is not None:
            return dict.fromkeys(layers, request.share)
        felt = {n: self.felt.get(la.product.node.label) for n, la in layers.items()}
        own = {n: self.quadratic(layers[n], g) for n, g in felt.items() if g is not None}
        curves = {}
        for done, (name, quadratic) in enumerate(own.items(), 1):
            found = curve(quadratic, request.pattern, SHARES, taps_of(layers[name], quadratic))
            curves[name] = Curve(layers[name].weight.size, found)
            self.progress("zeros of each layer", done, len(own))
        return {**dict.fromkeys(layers, request.share), **spread(curves, request.share)}

    def quadratic(self, layer: Layer, felt: Float) -> Quadratic:
        """Of what stays of a layer, on what was seen of the original; taps are rows where moments are of channels."""
        assert self.observed is not None
        product = self.observed.seen.products[layer.product.node.label]
        groups, _, channels, taps = layer.weight.shape
        kept = kept_along(self.trace, alive_of(self.trace, self.dead), product.source, product.form.summed)
        group, channel = np.divmod(kept.reshape(groups, channels), product.channels)
        column = channel[:, :, None] * taps + np.arange(taps) if product.fine else channel[:, :, None]
        column = column.reshape(groups, -1)
        seen = self.observed.seen
        each = [covariance(seen.moments[n]) for n, p in seen.products.items() if p.node.inputs[1] == layer.name]
        whole = np.mean(each, axis=0)
        h = damped(whole[group[:, :1, None], column[:, :, None], column[:, None, :]], RIDGE)
        return Quadratic(h, layer.rowed(layer.weight, h), felt if product.fine else felt.repeat(taps, axis=1))


def taps_of(layer: Layer, quadratic: Quadratic) -> int:
    """Columns of a channel in ``quadratic``."""
    return layer.product.taps if quadratic.h.shape[1] == layer.product.columns else 1


def felt_by_layer(trace: Trace, observed: ObservedOriginal, seed: int, progress: Progress) -> dict[str, Float]:
    """What errors of its outputs count, of each layer of the original that can be solved, by node label.

    [groups, outputs, outputs], or where that is too large [groups, outputs], as `felt_outputs` gives it. It is the same
    whatever is removed.
    """
    found, _ = solved_together(observed.reference, trace, observed.seen.products)
    own = {p.node.label: p for together in found for p in together}
    fit, _ = observed.data.split()
    try:
        felt: Mapping[str, Float] = felt_outputs(trace, own, On(fit, observed.seen.compared.ends), seed, progress)
    except OptionError:  # no gradients: relative to what the layer gives
        felt = {label: _relative(p, observed) for label, p in own.items()}
    return {t[0].node.label: np.sum([felt[p.node.label] for p in t], axis=0) for t in found}


def felt_by_what_stays(
    model: Model, trace: Trace, dead: NDArray[np.int64], felt: Mapping[str, Float]
) -> dict[str, Float]:
    """G as of `Quadratic` by node label, of outputs that stay in ``model``, which is without the units ``dead``."""
    alive, left = alive_of(trace, dead), {}
    for product in (p for p in distinct(model, trace) if p.node.label in felt):
        kept = kept_along(trace, alive, product.target, product.form.made)
        whole = felt[product.node.label]
        group, row = np.divmod(kept.reshape(product.groups, product.outputs), whole.shape[1])
        at = (group[:, :1, None], row[:, :, None], row[:, None, :]) if whole.ndim == 3 else (group, row)
        left[product.node.label] = steadied(whole[at])
    return left


def _relative(product: Product, observed: ObservedOriginal) -> Float:
    weight = product.form.matrix(observed.reference.array(product.node.inputs[1]).astype(np.float64))
    h = damped(covariance(observed.seen.moments[product.node.label]), RIDGE)
    flat = weight.reshape(*weight.shape[:2], -1) if product.fine else weight.sum(axis=3)
    energy = float(np.einsum("gmn,gmn->", np.matmul(flat, h), flat))
    return np.full((product.groups, product.outputs), 1 / max(energy, 1e-30))


def masked(model: Model, masks: Masks) -> Model:
    """``model`` with zeros where ``masks`` are false, [shape of the weight]."""
    zeroed = {n: model.changed(n, m.shape, partial(_where, m)) for n, m in masks.items()}
    return model.apply(Edits(constants=zeroed)) if zeroed else model


def _where(mask: NDArray[np.bool_], array: NDArray[Any]) -> NDArray[Any]:
    return np.where(mask, array, np.zeros((), array.dtype))


def _fits(pattern: Pattern, layer: Layer) -> bool:
    return pattern.fits(layer.weight.shape)


def _left_out(layers: Mapping[str, Layer], unfit: Sequence[str], pattern: Pattern) -> tuple[str, ...]:
    if not unfit:
        return ()
    who = first_and_more([layers[n].product.node.label for n in unfit])
    why = f"their inputs are no multiple of {pattern.columns}" if pattern.kept else "they have one output"
    return (f"{who}: no weight becomes zero, as the pattern {pattern.name} does not fit: {why}",)


def _scores(layer: Layer, request: ZerosRequest) -> NDArray[np.floating[Any]]:
    """One a weight, not negative, larger for what should stay."""
    if request.criterion == "random":
        return np.random.default_rng([request.seed, layer.product.node.index]).random(layer.weight.shape)
    if request.criterion == "l2":
        return np.asarray(layer.weight**2)
    if request.criterion in ("l1", "reconstruction"):
        return np.abs(layer.weight)
    option = "--sparsity-criterion"
    found = giving_numbers(user_function(request.criterion, option), f"{option} {request.criterion}")(layer.weight)
    if found.shape != layer.weight.shape or not np.isfinite(found).all() or (found < 0).any():
        what = f"must give numbers of at least 0 in shape {list(layer.weight.shape)} for '{layer.name}'"
        raise OptionError(what, where="--sparsity-criterion")
    return found


def _ranked(scores: Mapping[str, NDArray[Any]], pattern: Pattern, share: float) -> dict[str, float]:
    """Shares by one ranking over all layers, of weights, or of blocks by their mean."""
    every = [(s if pattern.name == "unstructured" else pattern.means(s)).reshape(-1) for s in scores.values()]
    flat = np.concatenate(every) if every else np.zeros(0)
    if not len(flat):
        return {}
    gone = np.zeros(len(flat), np.bool_)
    gone[np.argsort(flat, kind="stable")[: at_least(share, len(flat))]] = True
    parts = np.split(gone, np.cumsum([e.size for e in every])[:-1])
    return {n: min(float(part.mean()), 1 - 1 / part.size) for n, part in zip(scores, parts, strict=True)}


def _matrix(layer: Layer, mask: NDArray[np.bool_]) -> Mask:
    return np.asarray(layer.product.form.matrix(mask))


def _given(path: str, layers: Mapping[str, Layer], plan: Plan) -> dict[str, NDArray[np.bool_]]:
    """The masks of a file, cut as ``plan`` cuts the weights. Raises OptionError."""
    if not path:
        return {}
    found = {}
    for name, array in _read(path).items():
        if name not in layers:
            raise OptionError(f"'{name}' is no weight of a layer", where=path, hint="onnxprune sparsity lists them")
        if array.dtype.kind not in "biuf":
            raise OptionError(f"the mask of '{name}' is {array.dtype}, not numbers", where=path, hint=_SAVING)
        shape = layers[name].product.form.weight(layers[name].weight).shape
        mask = array != 0
        if mask.shape != shape:
            for axis in plan.initializers.get(name, ()):
                if axis.keep.ndim == 1 and axis.axis < mask.ndim and mask.shape[axis.axis] == axis.size:
                    mask = mask.take(axis.keep, axis.axis)
        if mask.shape != shape:
            what = f"the mask of '{name}' is {list(array.shape)}, not {list(shape)}"
            raise OptionError(what, where=path)
        found[name] = mask
    return found


def _read(path: str) -> dict[str, NDArray[Any]]:
    try:
        ensure_regular(Path(path))
        return {n: next(m.read(1, m.shape, [0])) for n, m in members(Path(path)).items()}
    except Exception as error:  # noqa: BLE001 (numpy, zipfile, and what unpacks, raise what they meet in a file)
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"cannot read masks: {reason}", where=path, hint=_SAVING) from None
