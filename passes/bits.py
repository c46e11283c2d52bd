"""Which weights and tensors go onto which grid, and which weights are solved for it or rounded to the nearest code.

Layers that are solved anew are left to `Compensate`, as `Bits.solved`. All others (weights that are read elsewhere
too, or no data) are rounded before that, as `Bits.fixed`, so that later layers can make up for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune.activations.ranges import INPUT_BITS, histograms
from onnxprune.activations.sharing import shared
from onnxprune.calibration.gram_matrices import Product, products
from onnxprune.calibration.original_observed import ObservedOriginal
from onnxprune.constraints.bit_options import BitsRequest, ByLayer
from onnxprune.constraints.grids import Grid, Grids
from onnxprune.constraints.laid import cells_of, laid_along
from onnxprune.constraints.rounding import DIGITS, WeightGrid
from onnxprune.errors import OptionError, PlanError, first_and_more
from onnxprune.labels import ops
from onnxprune.labels.analysis import matches
from onnxprune.labels.label_propagation import Trace
from onnxprune.labels.rewrite import alive_of
from onnxprune.model.dtypes import dtype_of
from onnxprune.model.edits import Edits
from onnxprune.model.onnx_model import Model
from onnxprune.passes.compensate import kept_along
from onnxprune.passes.shared_weights import solved_labels
from onnxprune.plans.plan_file import Plan

#: Of so few bits weights have a zero point where nothing is said: without one a code is lost to the side that is full.
ZEROED = 4

#: Digits of the numbers that weights are stored as.
_DIGITS: Mapping[int, int] = {TensorProto.FLOAT16: 11, TensorProto.BFLOAT16: 8}


#: Where no bits were chosen by layer.
NOTHING: Mapping[str, int] = {}


@dataclass(frozen=True)
class Bits:
    """``fixed`` and ``solved``: grids to be made, by node label; ``activations``: grids by tensor.

    ``notes``: which weights are rounded without being solved for, and which are left out.
    """

    fixed: Mapping[str, WeightGrid] = field(default_factory=dict, repr=False)
    solved: Mapping[str, WeightGrid] = field(default_factory=dict, repr=False)
    activations: Mapping[str, Grid] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.fixed or self.solved or self.activations)


@dataclass(frozen=True)
class GridAllocator:
    """Decides for a ``model``, which is what is left of ``trace`` without the units ``dead``.

    ``observed``: what was seen of the original, if anything; ``solves``: whether weights are solved anew by it.
    """

    trace: Trace = field(repr=False)
    dead: NDArray[np.int64] = field(repr=False)
    observed: ObservedOriginal | None
    solves: bool

    def decide(self, model: Model, request: BitsRequest, by_layer: Mapping[str, int] = NOTHING) -> Bits:
        """What ``request`` asks of ``model``; ``by_layer``: bits of weights where these were chosen.

        Raises OptionError for a name that nobody has, ModelError as running.
        """
        layers = {p.node.inputs[1]: p for p in distinct(model, self.trace)}
        equal = 0 if isinstance(request.weights, ByLayer) else request.weights or 0
        bits = {**dict.fromkeys(layers, equal), **by_layer, **self.own(layers, request)}
        asked = {n: self.grid(model, layers[n], b, request) for n, b in bits.items() if b}
        taken = asked if request.weights is not None or request.own else layers
        sets, notes = self._sets(model, taken) if request.activations else ([], ())
        activations = self._ranged(model, sets, request) if sets else {}
        found = self._told(model, layers, asked)
        return replace(found, activations=activations, notes=(*_left(layers, asked), *found.notes, *notes))

    def again(self, model: Model, grids: Grids) -> Bits:
        """The grids of a plan. Raises PlanError where one does not fit."""
        layers = {p.node.inputs[1]: p for p in distinct(model, self.trace)}
        asked = {}
        for name, grid in grids.weights.items():
            shape = model.graph.constants[name][1] if name in layers else ()
            cells = cells_of(layers[name], grid, shape) if name in layers else None
            if cells is None:
                raise PlanError(f"its grid of '{name}' lies along no layer's weight")
            asked[name] = WeightGrid(grid.bits, given=cells)
        for name in grids.activations:
            if name not in self.trace.tensors:
                raise PlanError(f"its grid of '{name}' is of no tensor")
        return replace(self._told(model, layers, asked), activations=dict(grids.activations))

    def own(self, layers: Mapping[str, Product], request: BitsRequest) -> dict[str, int]:
        """The bits of the weights that ``request`` names. Raises OptionError for a name that matches nothing."""
        found: dict[str, int] = {}
        for glob, bits in request.own:
            names = matches(self.trace, glob, "--bits-for")
            found |= {n: bits for n, p in layers.items() if names & {n, p.node.label, p.target}}
        return found

    def grid(self, model: Model, product: Product, bits: int, request: BitsRequest) -> WeightGrid:
        """The grid to make for one layer. Raises OptionError where its type has too few digits."""
        symmetric, per = bits > ZEROED if request.symmetric is None else request.symmetric, request.per
        digits = _DIGITS.get(model.graph.constants[product.node.inputs[1]][0], DIGITS)
        if digits < DIGITS and bits - symmetric >= digits:
            what = f"{bits} bits times a scale are no numbers of the {digits} binary digits of '{product.node.label}'"
            raise OptionError(what, where="--weights", hint="fewer bits, or a model in float32")
        if isinstance(per, int) and product.channels % per:
            per = "channel"
        return WeightGrid(bits, symmetric, per, request.ranges, digits, request.power_of_two)

    def _told(self, model: Model, layers: Mapping[str, Product], asked: Mapping[str, WeightGrid]) -> Bits:
        """Which of them the walk solves for."""
        fixed, solved = {}, {}
        seen = self.observed.seen.products if self.solves and self.observed is not None else {}
        free = solved_labels(model, self.trace, seen)
        for name, grid in asked.items():
            label = layers[name].node.label
            if label in free:
                solved[label] = grid
            else:
                fixed[label] = grid
        if not seen or not fixed:
            return Bits(fixed, solved)
        note = f"{first_and_more([*fixed])}: weights are rounded to the nearest, as none are solved for there"
        return Bits(fixed, solved, notes=(note,))

    def _sets(self, model: Model, weights: Collection[str]) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
        """Sets of tensors that share a grid, of those that feed layers with ``weights``; and who cannot have one."""
        assert self.observed is not None
        graph, reference = model.graph, self.observed.reference.graph
        there = {*reference.producer, *(i.name for i in reference.inputs)}
        types = self.trace.shapes.elem_type

        def fits(name: str) -> bool:
            return name in there and name in self.trace.tensors and types.get(name) == TensorProto.FLOAT

        found, left = [], []
        layers = [p for p in products(model, self.trace.shapes.shape, every=True) if p.node.inputs[1] in weights]
        for own in shared(graph, dict.fromkeys(p.source for p in layers)):
            kept = tuple(n for n in own if fits(n))
            left += [n for n in own if not fits(n)]
            found += [kept] if kept else []
        if not left:
            return found, ()
        what = "cannot be rounded: only tensors of single precision and known shape that the original has"
        return found, (f"{first_and_more(left)} {what}",)

    def _ranged(self, model: Model, sets: list[tuple[str, ...]], request: BitsRequest) -> dict[str, Grid]:
        """A grid for each tensor, by what the original holds there of the channels that stay."""
        assert self.observed is not None and request.activations is not None  # noqa: PT018 (both are the caller's)
        alive = alive_of(self.trace, self.dead)
        kept: dict[str, dict[int, NDArray[np.int64]]] = {}
        for name in (n for own in sets for n in own):
            tensor = self.trace.tensors[name]
            axes = [a for a in range(tensor.rank) if tensor.along(a) is not None]
            kept[name] = {a: kept_along(self.trace, alive, name, a) for a in axes}
        inputs = {i.name for i in model.graph.inputs}
        found: dict[str, Grid] = {}
        seen = histograms(self.observed.reference, self.observed.seen, sets, kept)
        for own, histogram in zip(sets, seen, strict=True):
            bits = max(request.activations, INPUT_BITS) if inputs & set(own) else request.activations
            grid = histogram.grid(
                bits, symmetric=bool(request.symmetric), ranges=request.ranges, power_of_two=request.power_of_two
            )
            found |= {n: grid.of_rank(self.trace.tensors[n].rank) for n in own}
        return found


def grids_of(plan: Plan) -> Grids:
    """The grids of a plan."""
    return Grids(plan.grids, plan.activations)


def planned(plan: Plan, grids: Grids) -> Plan:
    """The plan with ``grids``."""
    return replace(plan, grids=grids.weights, activations=grids.activations)


def distinct(model: Model, trace: Trace) -> Iterator[Product]:
    """A node for every weight; but not for those that a user may give in their place, or that are read as outputs."""
    seen = model.overridable | {o.name for o in model.graph.outputs}
    for product in products(model, trace.shapes.shape, every=True):
        if product.node.inputs[1] not in seen:
            seen = seen | {product.node.inputs[1]}
            yield product


def left_to_callers(trace: Trace) -> tuple[str, ...]:
    """What is said of weights that `distinct` leaves out as they are inputs of the graph."""
    model = trace.model
    found = [
        p.node.label for p in products(model, trace.shapes.shape, every=True) if p.node.inputs[1] in model.overridable
    ]
    what = "weights are inputs too, for which callers may give others: none are solved for, rounded or made zero there"
    way_out = "export with keep_initializers_as_inputs=False, or run onnxruntime.tools.remove_initializer_from_input"
    return (f"{first_and_more(found)}: {what}; {way_out}",) if found else ()


def left_alone(trace: Trace, given: Model) -> Iterator[str]:
    """What is said of weights that are neither rounded nor made zero; ``given``: the model with its branches."""
    model = trace.model
    graph, found = model.graph, products(model, trace.shapes.shape, every=True)
    outputs, layers = {o.name for o in graph.outputs}, {p.node.index for p in found}
    floats = {n for n, (kind, shape) in graph.constants.items() if dtype_of(kind).kind == "f" and 0 not in shape}
    others = [
        node.label
        for node in graph.nodes
        if node.index not in layers and floats.intersection(node.inputs[:2])
        if (rule := ops.find(node)) is not None and rule.linear is not None
    ]
    left = {
        "weights are graph outputs too": [p.node.label for p in found if p.node.inputs[1] in outputs],
        "weights are in a branch of an If": [
            p.node.label for p in found if p.node.inputs[1] not in given.graph.constants
        ],
        "constants on the left, in batches or of one axis are no weights of a layer": others,
    }
    for why, labels in left.items():
        if labels:
            yield f"{first_and_more(labels)}: {why}: none are rounded or made zero there"
    if not found and not others:
        yield "no layer has weights of its own in floats: none are rounded or made zero"


def nearest(model: Model, trace: Trace, bits: Bits) -> tuple[Model, dict[str, Grid]]:
    """``model`` with the weights of ``bits.fixed`` rounded to the nearest code; and their grids by weight."""
    constants, grids = {}, {}
    for product in distinct(model, trace):
        if (asked := bits.fixed.get(product.node.label)) is not None:
            name = product.node.inputs[1]
            array = model.array(name)
            matrix = product.form.matrix(array.astype(np.float64))
            read = bits.activations.get(product.source)
            if read is not None and (bias := product.node.input(2)) in model.graph.constants:
                asked = asked.with_room(model.array(bias), float(read.scale.flat[0]), matrix.shape[:2])
            w, cells = asked.nearest(matrix.reshape(*matrix.shape[:2], -1), product.taps)
            constants[name] = product.form.weight(w.reshape(matrix.shape)).astype(array.dtype)
            grids[name] = laid_along(product, cells)
    return (model.apply(Edits(constants=constants)) if constants else model), grids


def _left(layers: Mapping[str, Product], asked: Mapping[str, WeightGrid]) -> Iterator[str]:
    """Who has no scales for groups of inputs."""
    whole = [layers[n].node.label for n, g in asked.items() if isinstance(g.per, str)]
    if whole and len(whole) < len(asked):
        yield f"{first_and_more(whole)}: a scale for each output, as their inputs are no multiple of the group"
