"""What zeros and few bits leave of models out of wheels: ``python -m bench.accuracy.released_bits [MODEL ...]``.

The models, samples and metrics of ``released``, with fewer samples, as a walk is measured in every way. Each on real
samples, on drawn inputs, and with ``--data none``: the smallest weights become zero, or weights alone are rounded to
the nearest, as activations have no ranges then. Where activations have few bits, the model is measured with them
rounded. Beside 8 bits: onnxruntime's quantize_static.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import onnxprune
from bench.accuracy import command_line, ours, released, text
from bench.accuracy.bits import rounded, statically_quantized
from bench.measure import publish
from fixtures import trained

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "50 %": {"sparsity": 0.5},
    "2:4": {"pattern": "2:4"},
    "W8A8": {"weights": 8, "activations": 8},
    "W4": {"weights": 4},
    "W4A8": {"weights": 4, "activations": 8},
    "W4A4": {"weights": 4, "activations": 4},
}
REAL, DRAWN, NONE = "real samples", "drawn inputs", "--data none"
MODELS = ("nudenet", "ppocr-rec", "open-nsfw")


@dataclass(frozen=True)
class Measured:
    """One model in one way: its metrics, or the line in which it is refused; seconds of processor."""

    model: str
    variant: str
    way: str
    metrics: ours.Metrics | None
    failure: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Subject:
    """A model out of a wheel, with what it is calibrated on and what it said to the test samples."""

    key: str
    calibration: Path
    tests: released.Array
    expected: released.Answers

    def score(self, proto: onnx.ModelProto) -> ours.Metrics:
        """The metrics of a model in memory."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "m.onnx")
            onnx.save(proto, path)
            return released.TASKS[self.key].score(released.answers(path, self.tests), self.expected)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, a line for each to stderr as it is there; then one table."""
    parser = command_line.parser(__doc__, MODELS, metavar="MODEL")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--ways", nargs="+", default=[REAL, DRAWN, NONE], choices=[REAL, DRAWN, NONE])
    parser.add_argument("--calibration", type=int, default=96, help="samples")
    parser.add_argument("--test", type=int, default=120, help="samples")
    options = parser.parse_args(arguments)
    found = [m for key in options.nets for m in measure(key, options)]
    rows = [row([m for m in found if m.model == key]) for key in dict.fromkeys(m.model for m in found)]
    data = {"text": text.languages(), "measured": [asdict(m) for m in found]}
    publish({f"Zeros and bits; text: {text.languages()}": [r for each in rows for r in each]}, data, options.json)


def row(found: Sequence[Measured]) -> list[dict[str, str]]:
    """One model: a line for each way."""
    rows = []
    for way in dict.fromkeys(m.way for m in found):
        cells = {v: next((_cell(m) for m in found if (m.way, m.variant) == (way, v)), "") for v in VARIANTS}
        rows.append({"model": found[0].model, "way": way, **cells})
    return rows


def _cell(one: Measured) -> str:
    value = ours.first(one.metrics)
    return one.failure if value is None else f"{value:.3f}"


def measure(key: str, options: argparse.Namespace) -> Iterator[Measured]:
    """One model in every way, onnxruntime's beside."""
    task, source = released.TASKS[key], trained.path(key)
    tests = task.samples(options.test, True)
    with tempfile.TemporaryDirectory() as folder:
        calibration = Path(folder, "calibration.npy")
        np.save(calibration, task.samples(options.calibration, False))
        subject = Subject(key, calibration, tests, released.answers(source, tests))
        yield _said(Measured(key, "original", "", task.score(subject.expected, subject.expected)))
        for variant in options.variants:
            for way in options.ways:
                yield _said(pruned(subject, variant, way))
        if "W8A8" in options.variants:
            for per_channel in (False, True):
                yield _said(static(subject, source, per_channel=per_channel))


def static(subject: Subject, source: Path, *, per_channel: bool) -> Measured:
    """What onnxruntime's quantize_static leaves."""
    way = f"quantize_static, {'per channel' if per_channel else 'defaults'}"
    try:
        proto = statically_quantized(source, subject.calibration, per_channel=per_channel)
        return Measured(subject.key, "W8A8", way, subject.score(proto))
    except Exception as error:  # noqa: BLE001  whatever a peer raises is its result
        return Measured(subject.key, "W8A8", way, None, type(error).__name__)


def _said(one: Measured) -> Measured:
    print(one, file=sys.stderr, flush=True)
    return one


def pruned(subject: Subject, variant: str, way: str) -> Measured:
    """What is made of the model in one way."""
    data = {REAL: str(subject.calibration), DRAWN: None, NONE: "none"}[way]
    (name,) = trained.MODELS[subject.key].input_shapes
    shapes = {name: (1, *subject.tests.shape[1:])}
    asked = {option: value for option, value in VARIANTS[variant].items() if way != NONE or option != "activations"}
    started = time.process_time()
    try:
        result = onnxprune.prune(trained.path(subject.key), data=data, input_shapes=shapes, check_n=1, **asked)
    except onnxprune.OnnxPruneError as error:
        return Measured(subject.key, variant, way, None, str(error))
    seconds = time.process_time() - started
    return Measured(subject.key, variant, way, subject.score(rounded(result)), seconds=seconds)


if __name__ == "__main__":
    main()
