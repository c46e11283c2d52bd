"""Train the weights of a pruned model on the original's outputs (distillation: Hinton et al. 2015, arXiv 1503.02531).

The loss is the mean square of the outputs' error, each relative to the size of the original's output; no labels are
needed. Adam (Kingma and Ba 2015, arXiv 1412.6980) in float64, its steps relative to the size of each weight, warmed up
and let down along a cosine. Samples that are held out say which step was the best: where none is, nothing changes.

Weights on grids are trained as floats, and the network is fed the nearest on their grids; of activations the scales are
trained too (learned step sizes: Esser et al. 2020, arXiv 1902.08153).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.activations.simulated import scale_of, simulated
from onnxprune.calibration.gram_matrices import Observations, Part, products
from onnxprune.calibration.reverse_mode.weight_gradients import weight_gradients
from onnxprune.constraints.grids import Grid, Grids
from onnxprune.errors import OptionError
from onnxprune.labels.label_propagation import Trace
from onnxprune.model.edits import Edits
from onnxprune.model.onnx_model import Model
from onnxprune.passes.base import Constrained, PassResult
from onnxprune.progress import Progress, silent
from onnxprune.proof import distance_over_outputs

Weights = dict[str, NDArray[Any]]

#: The longest step, as a share of a weight's root mean square, and the share of all steps that lead up to it.
RATE, WARM_UP = 5e-3, 0.1

#: How often held-out samples are looked at.
CHECKS = 8

_DECAY = (0.9, 0.999)
_EPSILON = 1e-12  # below it a gradient is none: the loss is of the order of 1


@dataclass(frozen=True)
class Trained:
    """A model as it was at ``step``, the best on held-out samples, 0 where none was; and its ``activations``' grids."""

    model: Model = field(repr=False)
    step: int = 0
    activations: Mapping[str, Grid] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Distill:
    """Train for ``steps`` batches of ``seen``, which holds the original's outputs.

    Weights stay 0, and on their grids, as ``held`` has them.
    """

    trace: Trace = field(repr=False)
    seen: Observations = field(repr=False)
    steps: int
    seed: int = 0
    progress: Progress = field(default=silent, repr=False)
    held: Constrained = field(default_factory=Constrained, repr=False)
    name: str = "distill"

    def run(self, model: Model) -> PassResult:
        """The model with trained weights. Raises OptionError where it has no gradients, ModelError as onnxruntime."""
        trained = self.fit(model)
        changes = (f"trained for {trained.step} of {self.steps} steps",) if trained.step else ()
        return PassResult(trained.model, changes)

    def fit(self, model: Model) -> Trained:
        """Train for all steps, and look at held-out samples now and then. Raises as `run`."""
        parts, outputs = self._targets()
        weights = self._weights(model)
        rng = np.random.default_rng(self.seed)
        grids = self.held.grids
        best = Trained(model, 0, grids.activations)
        nearest = self._distance(best)
        latent = _Latent.of(weights, simulated(model, grids.activations), self.held)
        adam = _Adam(latent.start(), self.steps, latent.masks)
        queue: list[Part] = []
        with weight_gradients(latent.model, latent.fed(adam.weights), self.seen.feeds(parts[0]), outputs) as step:
            for number in range(1, self.steps + 1):
                queue = queue or [parts[i] for i in rng.permutation(len(parts))]
                part = queue.pop()
                wanted = {n: self.seen.output(n, part) for n in outputs}
                fed = latent.fed(adam.weights)
                adam.step(latent.back(fed, step(self.seen.feeds(part), fed, partial(_directions, wanted))))
                if number % math.ceil(self.steps / CHECKS) == 0 or number == self.steps:
                    trained = latent.trained(model, number, adam.weights)
                    if (distance := self._distance(trained)) < nearest:
                        best, nearest = trained, distance
                self.progress(self.name, number, self.steps)
        return best

    def ensure_differentiable(self, model: Model) -> None:
        """Raise what `fit` would raise of such a model, before work that takes long."""
        parts, outputs = self._targets()
        with weight_gradients(model, self._weights(model), self.seen.feeds(parts[0]), outputs):
            pass

    def _targets(self) -> tuple[list[Part], dict[str, np.dtype[Any]]]:
        """The batches to train on, and the types of the outputs to reproduce."""
        parts = [p for p in self.seen.parts if not p.held_out]
        parts = [p for p in parts if p.samples == parts[0].samples]
        found = {n: self.seen.output(n, parts[0]).dtype for n in self.seen.compared.ends}
        outputs = {n: dtype for n, dtype in found.items() if dtype.kind == "f"}
        if not outputs:
            raise OptionError("there is no output of floats to reproduce", where="--recover", hint="leave it out")
        return parts, outputs

    def _distance(self, trained: Trained) -> float:
        rounded = simulated(trained.model, trained.activations)
        return distance_over_outputs.distance(rounded, self.seen, "the trained model")

    def _weights(self, model: Model) -> Weights:
        """Weights and biases of matrix products."""
        found = products(model, self.trace.shapes.shape)
        free = set(model.graph.constants) - model.overridable - {o.name for o in model.graph.outputs}
        names = dict.fromkeys(n for p in found for n in p.node.inputs[1:3])
        if not free.intersection(names):
            raise OptionError("there is nothing to train", where="--recover", hint="leave it out")
        return {n: model.array(n) for n in names if n in free}


def _directions(wanted: Mapping[str, NDArray[Any]], found: Mapping[str, NDArray[Any]]) -> Weights:
    """The gradient of the loss at the outputs."""
    gradients = {}
    for name, array in wanted.items():
        target = array.astype(np.float64)
        energy = float(np.sum(target**2)) or 1.0
        gradients[name] = 2 * (found[name] - target) / (energy * len(wanted))
    return gradients


@dataclass(frozen=True)
class _Latent:
    """What is trained, in float64, and what of it the network is fed: numbers on their grids.

    ``model``: with its activations rounded. ``weights``: as they were. ``shared``: the tensors of each scale that is
    trained, by the first of them; scales are trained as their logarithms.
    """

    model: Model
    weights: Weights
    grids: Grids
    masks: Mapping[str, NDArray[np.bool_]]
    shared: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, weights: Weights, model: Model, held: Constrained) -> _Latent:
        """Scales that are powers of two stay as they are: they were asked to be."""
        sets: dict[tuple[float, int, int], list[str]] = {}
        for name, grid in held.grids.activations.items():
            scale = float(grid.scale.flat[0])
            if math.frexp(scale)[0] != 0.5:
                sets.setdefault((scale, int(grid.zero_point.flat[0]), grid.bits), []).append(name)
        masks = {n: m for n, m in held.masks.items() if n in weights}
        return cls(model, weights, held.grids, masks, {names[0]: tuple(names) for names in sets.values()})

    def start(self) -> Weights:
        """Where training begins."""
        scales = {scale_of(n): np.zeros(()) for n in self.shared}
        return {**{n: w.astype(np.float64) for n, w in self.weights.items()}, **scales}

    def fed(self, latent: Mapping[str, NDArray[Any]]) -> Weights:
        """The constants of `model` that are trained."""
        found = {n: self._rounded(n, latent[n].astype(w.dtype)) for n, w in self.weights.items()}
        scales = self._scales(latent)
        return {**found, **{scale_of(n): scales[n] for n in scales if scale_of(n) in self.model.graph.constants}}

    def back(self, fed: Weights, gradients: Weights) -> Weights:
        """Gradients of what is trained, from those of what was fed."""
        found = {n: gradients[n] for n in self.weights if n in gradients}
        for first, names in self.shared.items():
            own = [np.asarray(gradients[scale_of(n)] * fed[scale_of(n)]) for n in names if scale_of(n) in gradients]
            found |= {scale_of(first): np.asarray(sum(own))} if own else {}
        return found

    def trained(self, model: Model, step: int, latent: Mapping[str, NDArray[Any]]) -> Trained:
        """``model``, whose activations are not rounded, with what is trained by now."""
        fed = self.fed(latent)
        scales = self._scales(latent)
        activations = {
            n: replace(g, scale=np.full_like(g.scale, scales[n])) if n in scales else g
            for n, g in self.grids.activations.items()
        }
        return Trained(model.apply(Edits(constants={n: fed[n] for n in self.weights})), step, activations)

    def _rounded(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        grid = self.grids.weights.get(name)
        return values if grid is None else grid.values(grid.codes(values)).astype(values.dtype)

    def _scales(self, latent: Mapping[str, NDArray[Any]]) -> Weights:
        """By tensor."""
        found = Weights()
        for first, names in self.shared.items():
            scale = self.grids.activations[first].scale.reshape(()) * np.exp(latent[scale_of(first)])
            found |= dict.fromkeys(names, np.asarray(scale, np.float32))
        return found


@dataclass
class _Adam:
    """``weights``, moved a step at a time, but for those that ``masks`` hold at 0."""

    weights: Weights
    steps: int
    masks: Mapping[str, NDArray[np.bool_]]
    _number: int = 0

    def __post_init__(self) -> None:
        self._first = {n: np.zeros_like(w) for n, w in self.weights.items()}
        self._second = {n: np.zeros_like(w) for n, w in self.weights.items()}
        self._size = {n: float(np.sqrt(np.mean(w**2))) if w.ndim else 1.0 for n, w in self.weights.items()}

    def step(self, gradients: Mapping[str, NDArray[Any]]) -> None:
        """Against the gradients."""
        self._number += 1
        done = self._number / self.steps
        rate = RATE * min(1.0, done / WARM_UP) * (1 + math.cos(math.pi * done)) / 2
        for name, gradient in gradients.items():
            g = gradient.astype(np.float64)
            self._first[name] += (1 - _DECAY[0]) * (g - self._first[name])
            self._second[name] += (1 - _DECAY[1]) * (g * g - self._second[name])
            mean = self._first[name] / (1 - _DECAY[0] ** self._number)
            size = np.sqrt(self._second[name] / (1 - _DECAY[1] ** self._number))
            moved = self.weights[name] - rate * self._size[name] * mean / (size + _EPSILON)
            self.weights[name] = np.where(self.masks[name], moved, 0.0) if name in self.masks else moved
