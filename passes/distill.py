"""Train the weights of a pruned model on the original's outputs (distillation: Hinton et al. 2015, arXiv 1503.02531).

The loss is the mean square of the outputs' error, each relative to the size of the original's output; no labels are
needed. Adam (Kingma and Ba 2015, arXiv 1412.6980) in float64, its steps relative to the size of each weight, warmed up
and let down along a cosine. Samples that are held out say which step was the best: where none is, nothing changes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.gram_matrices import Observations, Part, products
from onnxprune.calibration.reverse_mode.gradients import weight_gradients
from onnxprune.errors import OptionError
from onnxprune.labels.label_propagation import Trace
from onnxprune.model.edits import Edits
from onnxprune.model.onnx_model import Model
from onnxprune.passes.base import PassResult
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
class Distill:
    """Train for ``steps`` batches of ``seen``, which holds the original's outputs.

    Weights stay 0 where ``masks``, by name, are false.
    """

    trace: Trace = field(repr=False)
    seen: Observations = field(repr=False)
    steps: int
    seed: int = 0
    progress: Progress = field(default=silent, repr=False)
    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict, repr=False)
    name: str = "distill"

    def run(self, model: Model) -> PassResult:
        """The model with trained weights. Raises OptionError where it has no gradients, ModelError as onnxruntime."""
        best, result = self.fit(model)
        return PassResult(result, (f"trained for {best} of {self.steps} steps",) if best else ())

    def fit(self, model: Model) -> tuple[int, Model]:
        """Train; returns the step that was best on held-out samples, 0 where none was, and the model at that step."""
        parts = [p for p in self.seen.parts if not p.held_out]
        parts = [p for p in parts if p.samples == parts[0].samples]
        found = {n: self.seen.output(n, parts[0]).dtype for n in self.seen.compared.ends}
        outputs = {n: dtype for n, dtype in found.items() if dtype.kind == "f"}
        weights = self._weights(model)
        if not weights or not outputs:
            raise OptionError("there is nothing to train", where="--recover", hint="leave it out")
        rng = np.random.default_rng(self.seed)
        masks = {n: m for n, m in self.masks.items() if n in weights}
        adam = _Adam({n: w.astype(np.float64) for n, w in weights.items()}, self.steps, masks)
        best, nearest, result = 0, self._distance(model), model
        queue: list[Part] = []
        with weight_gradients(model, weights, self.seen.feeds(parts[0]), outputs) as step:
            for number in range(1, self.steps + 1):
                queue = queue or [parts[i] for i in rng.permutation(len(parts))]
                part = queue.pop()
                wanted = {n: self.seen.output(n, part) for n in outputs}
                adam.step(step(self.seen.feeds(part), weights, partial(_directions, wanted)))
                weights = {n: w.astype(weights[n].dtype) for n, w in adam.weights.items()}
                if number % math.ceil(self.steps / CHECKS) == 0 or number == self.steps:
                    trained = model.apply(Edits(constants=weights))
                    if (distance := self._distance(trained)) < nearest:
                        best, nearest, result = number, distance, trained
                self.progress(self.name, number, self.steps)
        return best, result

    def _distance(self, model: Model) -> float:
        return distance_over_outputs.distance(model, self.seen, "the trained model")

    def _weights(self, model: Model) -> Weights:
        """Weights and biases of matrix products; those of grouped convolutions have no gradient in onnx-ad."""
        found = products(model, self.trace.shapes.shape)
        free = set(model.graph.constants) - model.overridable - {o.name for o in model.graph.outputs}
        names = [n for p in found for n in p.node.inputs[1 if p.groups == 1 else 2 : 3]]
        return {n: model.array(n) for n in dict.fromkeys(names) if n in free}


def _directions(wanted: Mapping[str, NDArray[Any]], found: Mapping[str, NDArray[Any]]) -> Weights:
    """The gradient of the loss at the outputs."""
    gradients = {}
    for name, array in wanted.items():
        target = array.astype(np.float64)
        energy = float(np.sum(target**2)) or 1.0
        gradients[name] = 2 * (found[name] - target) / (energy * len(wanted))
    return gradients


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
        self._size = {n: float(np.sqrt(np.mean(w**2))) for n, w in self.weights.items()}

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
