"""How far a model's outputs are from the original's, on calibration samples that nothing was learnt from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from statistics import fmean

from onnxprune import runtime
from onnxprune.differ import Array, Differences, OutputError
from onnxprune.model import Model
from onnxprune.observe import Observations, Part

Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Measured:
    """The error of each output over all held-out samples, and the `distance` of each of them, in order."""

    errors: tuple[OutputError, ...]
    samples: tuple[float, ...] = field(repr=False)


def measure(model: Model, seen: Observations, where: str) -> Measured:
    """Run ``model`` on the held-out part of ``seen``. Raises ModelError.

    An output that is not one row a sample counts with the whole of its batch.
    """
    whole, samples = Differences(), []
    for part, reference, results in _runs(model, seen, where):
        whole.add(reference, results)
        for one, found in zip(_rows(reference, part.samples), _rows(results, part.samples), strict=True):
            own = Differences()
            own.add(one, found)
            samples.append(distance(own.errors()))
    return Measured(whole.errors(), tuple(samples))


def errors(model: Model, seen: Observations, where: str) -> tuple[OutputError, ...]:
    """The error of each output of ``model`` on the held-out part of ``seen``. Raises ModelError."""
    differences = Differences()
    for _, reference, results in _runs(model, seen, where):
        differences.add(reference, results)
    return differences.errors()


def _runs(model: Model, seen: Observations, where: str) -> Iterator[tuple[Part, Arrays, Arrays]]:
    """Each held-out batch, with the outputs of the original and those of ``model``."""
    with runtime.session(model, where, optimize=True) as active:
        for part in (p for p in seen.parts if p.held_out):
            results = runtime.run(active, seen.feeds(part), where)
            yield part, {n: seen.output(n, part) for n in results}, results


def _rows(arrays: Arrays, samples: int) -> Iterator[dict[str, Array]]:
    """What each sample has of ``arrays``."""
    for row in range(samples):
        yield {n: a[row : row + 1] if a.ndim and len(a) == samples else a for n, a in arrays.items()}


def distance(found: tuple[OutputError, ...]) -> float:
    """One number for several outputs: the mean over them of noise over signal; lower is nearer."""
    return fmean(10 ** (-e.snr_db / 10) for e in found)
