"""Making up for removed channels: weights are solved or trained, and the result is judged on held-out samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from onnxprune.activations.simulated import simulated
from onnxprune.calibration.gram_matrices import samples_for
from onnxprune.calibration.original_observed import ObservedOriginal
from onnxprune.constraints.grids import Grid, Grids
from onnxprune.labels.label_propagation import Trace
from onnxprune.model.onnx_model import Model
from onnxprune.passes import Compensate, Distill
from onnxprune.passes.base import Constrained
from onnxprune.passes.bits import nearest
from onnxprune.passes.zeros import Asked, masked
from onnxprune.progress import Progress
from onnxprune.proof import distance_over_outputs
from onnxprune.proof.distance_over_outputs import Measured
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
class _Walked:
    """A model after one walk: its masks and grids by weight, and how many of so many layers have new weights."""

    model: Model
    masks: Mapping[str, NDArray[np.bool_]]
    grids: Mapping[str, Grid]
    solved: int = 0
    layers: int = 0


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
        seen = self.observed.seen
        before = after = distance_over_outputs.measure(pruned, seen, "the pruned model")
        walked = self._walked(pruned, dead, asked)
        if self.compensate or asked:
            rounded = simulated(walked.model, asked.bits.activations)
            after = distance_over_outputs.measure(rounded, seen, "the compensated model")
            if math.isfinite(before.distance) and after.distance >= before.distance and not asked:
                walked, after = replace(walked, model=pruned, solved=0), before
        model, best, holds = walked.model, 0, Constrained(walked.masks, Grids(walked.grids, asked.bits.activations))
        if self.steps:
            trained = Distill(self.trace, seen, self.steps, self.seed, self.progress, holds).fit(model)
            model, best = trained.model, trained.step
            holds = replace(holds, grids=replace(holds.grids, activations=trained.activations))
            rounded = simulated(model, trained.activations)
            after = distance_over_outputs.measure(rounded, seen, "the trained model")
        recovered = replace(self._told(walked, before, after), tried=tried, best_step=best)
        return Solved(model, recovered, asked, holds)

    def _walked(self, pruned: Model, dead: Units, asked: Asked) -> _Walked:
        """The model with what is ``asked`` of its weights, which are solved anew for it where that is wanted."""
        bits = asked.bits
        model, grids = nearest(masked(pruned, asked.fixed), self.trace, bits)
        if not self.compensate:
            return _Walked(model, dict(asked.fixed), grids)
        walk = Compensate(
            self.trace,
            dead,
            self.observed.seen,
            self.progress,
            asked=asked.solved,
            grids=bits.solved,
            felt=asked.felt,
            rounded=bits.activations,
            wary=self.observed.data.drawn and not len(dead),
        )
        fits, model = walk.fit(model)
        return _Walked(
            model,
            {**asked.fixed, **{f.weight: f.mask for f in fits if f.mask is not None}},
            {**grids, **{f.weight: f.grid for f in fits if f.grid is not None}},
            sum(f.ridge is not None for f in fits),
            len(fits),
        )

    def _told(self, walked: _Walked, before: Measured, after: Measured) -> Recovered:
        """What the walk did, and what was measured on which data."""
        data = self.observed.data
        held = data.split()[1].places().tolist()
        return Recovered(
            samples=data.given,
            held_out=len(held),
            pruned=before.errors,
            final=after.errors,
            solved=walked.solved,
            layers=walked.layers,
            steps=self.steps,
            by_sample=tuple(SampleError(*s) for s in zip(held, before.samples, after.samples, strict=True)),
            drawn=data.drawn_judge,
            beside=data.beside,
        )
