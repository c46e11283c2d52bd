"""How far a model's outputs are from the original's, on calibration samples that nothing was learnt from."""

from __future__ import annotations

from statistics import fmean

from onnxprune import runtime
from onnxprune.differ import Differences, OutputError
from onnxprune.model import Model
from onnxprune.observe import Observations


def errors(model: Model, seen: Observations, where: str) -> tuple[OutputError, ...]:
    """The error of each output of ``model`` on the held-out part of ``seen``. Raises ModelError."""
    differences = Differences()
    with runtime.session(model, where, optimize=True) as active:
        for part in (p for p in seen.parts if p.held_out):
            results = runtime.run(active, seen.feeds(part), where)
            differences.add({n: seen.output(n, part) for n in results}, results)
    return differences.errors()


def distance(found: tuple[OutputError, ...]) -> float:
    """One number for several outputs: the mean over them of noise over signal; lower is nearer."""
    return fmean(10 ** (-e.snr_db / 10) for e in found)
