"""What onnxprune makes of a model at a budget of MACs, by its command line, in fresh processes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from bench import judge
from bench.measure import python

CALIBRATION = "CALIBRATION"  #: stands for the file of calibration samples
#: What is compared: the options beside budget and alignment.
VARIANTS: dict[str, tuple[str, ...]] = {
    "weights only": ("--data", "none", "--importance", "l2", "--scope", "global"),
    "no data": (),
    "data, no compensation": ("--data", CALIBRATION, "--no-compensate"),
    "full": ("--data", CALIBRATION),
}

Metrics = dict[str, float]  #: by name; the first is the one that tables show


@dataclass(frozen=True)
class Subject:
    """A model file, its calibration samples, one sample's shape by input, and how well a file of it does."""

    source: Path
    calibration: Path
    shapes: Mapping[str, tuple[int, ...]]
    measure: Callable[[Path], Metrics]


@dataclass(frozen=True)
class Outcome:
    """One pruned file: its share of the MACs, its metrics, what it took; ``failure`` instead, if there is none."""

    variant: str
    budget: float
    align: int
    macs: float | None = None
    metrics: Metrics | None = None
    seconds: float | None = None
    peak_bytes: int | None = None
    failure: str = ""


def prune(subject: Subject, variant: str, budget: float, align: int) -> Outcome:
    """Prune ``subject`` to ``budget`` of its MACs, and measure the file that is written."""
    options = [str(subject.calibration) if option == CALIBRATION else option for option in VARIANTS[variant]]
    for name, shape in subject.shapes.items():
        options += ["--input-shape", f"{name}:{','.join(map(str, shape))}"]
    options += ["--align", str(align), "--budget", f"macs={budget}"]
    with tempfile.TemporaryDirectory() as folder:
        pruned = Path(folder, "pruned.onnx")
        done = python("onnxprune", subject.source, *options, "-o", str(pruned))
        if done.failure:
            return Outcome(variant, budget, align, seconds=done.seconds, failure=done.failure)
        share = _macs(subject, pruned) / _macs(subject, subject.source)
        return Outcome(variant, budget, align, share, subject.measure(pruned), done.seconds, done.peak_bytes)


def metrics(outcomes: Iterable[Outcome], variant: str, budget: float, align: int) -> Metrics | None:
    """The metrics of one of ``outcomes``, None if there is no such file."""
    wanted = (variant, budget, align)
    return next((one.metrics for one in outcomes if (one.variant, one.budget, one.align) == wanted), None)


def first(found: Metrics | None) -> float | None:
    """The metric that tables show."""
    return None if found is None else next(iter(found.values()))


def _macs(subject: Subject, path: Path) -> int:
    """Multiply-accumulates of one sample, as ``bench.judge`` counts them."""
    zeros = {name: np.zeros(shape, np.float32) for name, shape in subject.shapes.items()}
    return judge.macs(onnx.load(path), zeros)
