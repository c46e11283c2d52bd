"""Making up for removed channels: weights are solved or trained, and the result is judged on held-out samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxprune.activations.simulated import simulated
from onnxprune.calibration.gram_matrices import samples_for
from onnxprune.calibration.original_observed import ObservedOriginal
from onnxprune.constraints.grids import Grids
from onnxprune.labels.label_propagation import Trace
from onnxprune.model.onnx_model import Model
from onnxprune.passes import Compensate, Distill
from onnxprune.passes.bits import nearest
from onnxprune.passes.zeros import Asked, masked
from onnxprune.progress import Progress
from onnxprune.proof import distance_over_outputs
from onnxprune.running.snr_and_cosine import OutputError
from onnxprune.widths.plan_contest import Tried

Units = NDArray[np.int64]

#: Plans are compared after compensation by as few samples as give every product so many rows, within these bounds, and
#: by so many rows for a column: enough to rank them.
ROWS, FEWEST, MOST, PER_COLUMN, TRIAL_RIDGES = 4096, 16, 96, 8, (1e-5, 1e-2)


@dataclass(frozen=True)
class SampleError:
    """The distance of the outputs from the original's on one held-out sample: noise over signal, averaged over outputs.

    ``sample``: its position in the calibration data. ``pruned`` and ``final`` are as in `Recovered`.
    """

    sample: int
    pruned: float
    final: float


@dataclass(frozen=True)
class Recovered:
    """What calibration data did for a pruned model, and its errors against the original on held-out samples.

    ``pruned``: the errors after the cut; ``final``: those of the model that is written, the same where compensation did
    not help. ``solved``: how many layers have new weights, of ``layers`` that could. ``steps``: how long it was
    trained; ``best_step``: the step that was best on held-out samples, 0 if none was. ``beside``: how many inputs were
    drawn in addition to the samples; ``drawn``: whether the held-out ones were drawn.
    """

    samples: int
    held_out: int
    pruned: tuple[OutputError, ...]
    final: tuple[OutputError, ...]
    solved: int
    layers: int
    tried: tuple[Tried, ...] = ()
    steps: int = 0
    best_step: int = 0
    by_sample: tuple[SampleError, ...] = field(default=(), repr=False)
    drawn: bool = False
    beside: int = 0

    @property
    def held_out_of(self) -> int:
        """How many samples, or drawn inputs, the held-out ones were taken from."""
        return self.beside if self.drawn and self.beside else self.samples

    @property
    def on(self) -> str:
        """What the errors were measured on."""
        told = f"{self.held_out} held-out of {self.held_out_of} {'drawn inputs' if self.drawn else 'samples'}"
        if not self.beside:
            return told
        return f"{told}, beside {self.samples} samples" if self.drawn else f"{told}, beside {self.beside} drawn inputs"


@dataclass(frozen=True)
class Constrained:
    """Constraints that a model's weights satisfy: ``masks`` by weight, false where it is 0, and ``grids``."""

    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict, repr=False)
    grids: Grids = field(default_factory=Grids, repr=False)


@dataclass(frozen=True)
class Solved:
    """A model whose weights were solved anew where that helps.

    ``asked``: the zeros and grids that were asked of its weights; ``holds``: those that hold. ``recovered``: what
    calibration data did, if there was any.
    """

    model: Model = field(repr=False)
    recovered: Recovered | None = None
    asked: Asked = field(default_factory=Asked, repr=False)
    holds: Constrained = field(default_factory=Constrained, repr=False)


@dataclass(frozen=True)
class Recovery:
    """Compensates pruned forms of the ``observed`` original; without ``compensate`` it only measures them.

    ``steps``: how many steps the model that is written is then trained on the original's outputs.
    """

    trace: Trace = field(repr=False)
    observed: ObservedOriginal
    compensate: bool
    steps: int
    seed: int
    progress: Progress = field(repr=False)

    def distance(self, pruned: Model, dead: Units) -> float:
        """How far the outputs of a plan are from the original's, on held-out samples."""
        if self.compensate:
            pruned = self.tried(pruned, dead)
        return distance_over_outputs.distance(pruned, self.observed.seen, "the pruned model")

    def tried(self, pruned: Model, dead: Units) -> Model:
        """Compensated by few samples: enough to rank plans."""
        wanted = samples_for(ROWS, self.observed.seen.products.values(), self.trace.shapes.shape)
        seen = self.observed.seen.head(min(MOST, max(FEWEST, wanted)))
        return Compensate(self.trace, dead, seen, self.progress, TRIAL_RIDGES, PER_COLUMN).fit(pruned)[1]

    def finished(self, pruned: Model, dead: Units, tried: tuple[Tried, ...], asked: Asked) -> Solved:
        """The model to write, and what is told of it.

        Without what does not help held-out samples, but with all that is ``asked`` of the weights. Where activations
        are on grids, errors are of the network with them rounded.
        """
        bits = asked.bits
        seen = self.observed.seen
        before = after = distance_over_outputs.measure(pruned, seen, "the pruned model")
        solved, layers, masks = 0, 0, dict(asked.fixed)
        result, grids = nearest(masked(pruned, asked.fixed), self.trace, bits)
        if self.compensate:
            walk = Compensate(
                self.trace,
                dead,
                seen,
                self.progress,
                asked=asked.solved,
                grids=bits.solved,
                felt=asked.felt,
                rounded=bits.activations,
                wary=self.observed.data.drawn and not len(dead),
            )
            fits, result = walk.fit(result)
            solved, layers = sum(f.ridge is not None for f in fits), len(fits)
            masks |= {f.weight: f.mask for f in fits if f.mask is not None}
            grids |= {f.weight: f.grid for f in fits if f.grid is not None}
        if self.compensate or asked:
            after = distance_over_outputs.measure(simulated(result, bits.activations), seen, "the compensated model")
            if math.isfinite(before.distance) and after.distance >= before.distance and not asked:
                result, solved, after = pruned, 0, before
        best = 0
        if self.steps:
            train = Distill(self.trace, seen, self.steps, self.seed, self.progress, masks)
            best, result = train.fit(result)
            after = distance_over_outputs.measure(result, seen, "the trained model")
        data = self.observed.data
        held = data.split()[1].places().tolist()
        by_sample = tuple(SampleError(*s) for s in zip(held, before.samples, after.samples, strict=True))
        recovered = Recovered(
            samples=data.given,
            held_out=len(held),
            pruned=before.errors,
            final=after.errors,
            solved=solved,
            layers=layers,
            tried=tried,
            steps=self.steps,
            best_step=best,
            by_sample=by_sample,
            drawn=data.drawn_judge,
            beside=data.beside,
        )
        return Solved(result, recovered, asked, Constrained(masks, Grids(grids, bits.activations)))
