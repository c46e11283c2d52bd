"""The distance of a model's outputs from the original's, on held-out calibration samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from onnxprune.calibration.gram_matrices import Observations, Part
from onnxprune.model.onnx_model import Model
from onnxprune.running import session as runtime
from onnxprune.running.snr_and_cosine import Array, Differences, OutputError, by_row

Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Measured:
    """The error of each output, their `distance`, and the distance on each held-out sample, in order.

    A tensor that is compared in place of an output (`onnxprune.labels.outputs.parts.Compared`) has its place in
    ``errors``.
    """

    errors: tuple[OutputError, ...]
    distance: float
    samples: tuple[float, ...] = field(repr=False)


def mean_over_outputs(differences: Differences) -> float:
    """Noise over signal, averaged over the outputs; lower is nearer. 0 where no output can be compared."""
    return fmean([10 ** (-e.snr_db / 10) for e in differences.errors()] or [0.0])


def measure(model: Model, seen: Observations, where: str) -> Measured:
    """Run ``model`` on the held-out part of ``seen``. Raises ModelError.

    An output that is not one row a sample counts with the whole of its batch.
    """
    whole, apart, samples = Differences(), Differences(), []
    ends, shown = seen.compared.ends, seen.compared.shown
    for part, reference, results in _runs(model, seen, where):
        whole.add({n: reference[n] for n in shown}, {n: results[n] for n in shown})
        one = [{n: arrays[n] for n in ends} for arrays in (reference, results)]
        apart.add(*one)
        for expected, found in by_row(one[0], one[1], part.samples):
            own = Differences()
            own.add(expected, found)
            samples.append(mean_over_outputs(own))
    return Measured(whole.errors(), mean_over_outputs(apart), tuple(samples))


def distance(model: Model, seen: Observations, where: str) -> float:
    """Noise over signal of ``model`` on the held-out part of ``seen``; lower is nearer. Raises ModelError.

    It is the mean over the ends of the outputs (`onnxprune.labels.outputs.parts`).
    """
    differences = Differences()
    for _, reference, results in _runs(model, seen, where):
        differences.add({n: reference[n] for n in seen.compared.ends}, {n: results[n] for n in seen.compared.ends})
    return mean_over_outputs(differences)


def _runs(model: Model, seen: Observations, where: str) -> Iterator[tuple[Part, Arrays, Arrays]]:
    """Each held-out batch, with the outputs and ends of the original and those of ``model``."""
    names = dict.fromkeys((*seen.compared.shown, *seen.compared.ends))
    given = {*(o.name for o in model.graph.outputs), *(i.name for i in model.graph.inputs)}
    more = [n for n in names if n not in given]
    with runtime.session(model, where, optimize=True, outputs=more, any_batch=seen.any_batch) as active:
        for part in (p for p in seen.parts if p.held_out):
            feeds = seen.feeds(part)
            results = {**feeds, **runtime.run(active, feeds, where)}
            yield part, {n: seen.output(n, part) for n in names}, {n: results[n] for n in names}
