"""Plans of the trained networks at many budgets, made once and measured on all test images: what searches are tried on.

One analysis a network. A plan's outputs are kept (the class of each test image), so that any search with any labels,
metric or split can be replayed in no time. Files are beside the networks, ``NET-SEED.plans.npz``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bench.accuracy import cache
from bench.accuracy.digits import SIZE
from onnxprune.cost.macs_and_bytes import Macs, Params
from onnxprune.labels.analysis import analyse
from onnxprune.model import files
from onnxprune.model.onnx_model import Model
from onnxprune.options import Options
from onnxprune.planning.planner import Planner
from onnxprune.planning.planner_opened import observing
from onnxprune.progress import Stopwatch, silent
from onnxprune.running import session as runtime
from onnxprune.widths.budget import Budget

SHARES = (0.9, 0.8, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.425, 0.4, 0.375, 0.35, 0.325, 0.3, 0.275, 0.25, 0.225, 0.2)
BATCH = 100


@dataclass(frozen=True)
class Plans:
    """A row for each plan, the original first.

    ``right`` [plans, images]: whether each names the class; ``macs``, ``params``: what is left; ``noise``: of the
    outputs, held out; ``kl``: on the calibration images.
    """

    shares: npt.NDArray[np.float64]
    macs: npt.NDArray[np.float64]
    params: npt.NDArray[np.float64]
    noise: npt.NDArray[np.float64]
    kl: npt.NDArray[np.float64]
    right: npt.NDArray[np.bool_]
    seconds: npt.NDArray[np.float64]


def of(net: cache.TrainedNet, shares: Sequence[float] = SHARES) -> Plans:
    """The plans of a network, made where they are missing."""
    path = net.folded.with_name(f"{net.name}-{net.seed}.plans.npz")
    if not path.exists():
        np.savez(path, **vars(_made(net, shares)))
    with np.load(path) as held:
        return Plans(**held)


def _made(net: cache.TrainedNet, shares: Sequence[float]) -> Plans:
    model = files.load(net.folded)
    options = Options(data=str(cache.calibration(segmenting=False)), input_shapes={"image": (1, 1, SIZE, SIZE)})
    images, labels = test_images()
    watch = Stopwatch(silent)
    analysis = analyse(model, input_shapes=options.input_shapes)
    rows = []
    with observing(analysis, options, watch) as observed:
        planner = Planner(analysis, options, observed, silent)
        calibration = np.load(cache.calibration(segmenting=False))
        logits = logits_of(model, calibration)
        rows.append((1.0, 1.0, 1.0, 0.0, 0.0, logits_of(model, images).argmax(1) == labels, 0.0))
        for share in shares:
            start = time.perf_counter()
            made = planner.made(replace(options.request, budget=Budget(Macs(), share)))
            seconds = time.perf_counter() - start
            found = logits_of(made.solved.model, images).argmax(1) == labels
            kl = _kl(logits, logits_of(made.solved.model, calibration))
            left = [planner.left(cost, made.judged.best) for cost in (Macs(), Params())]
            rows.append((share, *left, made.noise, kl, found, seconds))
            print(
                net, share, f"{found.mean():.4f} {kl:.4f} {made.noise:.4f} {seconds:.1f} s", file=sys.stderr, flush=True
            )
    return Plans(*(np.asarray(column) for column in zip(*rows, strict=True)))


def test_images() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """The test images and their labels."""
    with np.load(cache.test_samples()) as stored:
        return stored["images"], stored["labels"]


def logits_of(model: Model, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The first output of ``model``, [N, classes]."""
    name = model.graph.inputs[0].name
    with runtime.session(model, "bench", optimize=True) as active:
        found = [active.run(None, {name: images[i : i + BATCH]})[0] for i in range(0, len(images), BATCH)]
    return np.concatenate(found).astype(np.float64)


def _kl(wanted: npt.NDArray[np.float64], found: npt.NDArray[np.float64]) -> float:
    p, q = (x - np.logaddexp.reduce(x, axis=1, keepdims=True) for x in (wanted, found))
    return float((np.exp(p) * (p - q)).sum(1).mean())


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        name, _, seed = argument.rpartition("-")
        of(cache.TrainedNet(name, int(seed)))
