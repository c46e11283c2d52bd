"""What ``--recover`` adds to zeros and few bits: ``python -m bench.accuracy.training [NET ...] [--samples N]``.

The networks of ``bench.accuracy``, which must be trained. Each is solved, and trained after that, on so many unlabelled
images: the first 512 are those of the other tables. Beside the metric, the divergence (KL) of its probabilities from
the original's on 4 000 images that are neither calibration nor test.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import onnxprune
from bench.accuracy import bits, cache, command_line, digits, metric
from bench.measure import publish

NETS = ("MobileNetV2", "DenseNet", "C2f")

#: Options by name, and for how many steps they are trained.
VARIANTS: Mapping[str, tuple[Mapping[str, Any], int]] = {
    "90 % zeros": ({"sparsity": 0.9}, 400),
    "W4A4": (bits.VARIANTS["W4A4"][0], 160),
    "all three": (bits.VARIANTS["all three"][0], 160),
    "W2": (bits.VARIANTS["W2"][0], 160),
    "half of the MACs": ({"budget": "macs=0.5"}, 100),
    "35 % of the MACs": ({"budget": "macs=0.35"}, 100),
}

#: Seeds of the samples beyond the first 512, and of those that KL is measured on.
_MORE, _OTHERS = 4242, 777


@dataclass(frozen=True)
class Measured:
    """One network in one way: ``kept`` in percent of the original's metric, ``kl`` in nats, seconds of processor."""

    net: str
    seed: int
    variant: str
    samples: int
    steps: int
    best_step: int
    kept: float
    kl: float
    seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each before and after training, a line to stderr as it is there; then one table."""
    parser = command_line.parser(__doc__, NETS, seeds=(0, 1))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--samples", type=int, default=cache.CALIBRATION_SAMPLES)
    parser.add_argument("--steps", type=int, help="instead of those of each variant")
    options = parser.parse_args(arguments)
    found = [
        m
        for net in command_line.networks(options)
        for m in measure(net, options.variants, options.samples, options.steps)
    ]
    rows = [_row(before, after) for before, after in zip(found[::2], found[1::2], strict=True)]
    publish({"Training": rows}, {"measured": [asdict(m) for m in found]}, options.json)


def _row(before: Measured, after: Measured) -> dict[str, str]:
    own = {"network": f"{after.net}, {after.seed}", "": after.variant, "samples": f"{after.samples}"}
    told = {"solved": before, f"and trained, {after.steps} steps": after}
    return {**own, **{n: f"{m.kept:.1f} % (KL {m.kl:.4f}), {m.seconds:.0f} s" for n, m in told.items()}}


def measure(net: cache.TrainedNet, variants: Sequence[str], count: int, steps: int | None) -> Iterator[Measured]:
    """Every variant, first without training."""
    original, images = metric.of_file(net.folded), samples(count)
    others = digits.Digits().draw(4000, _OTHERS).images
    wanted = log_probabilities(onnx.load(net.folded), others)
    for name in variants:
        given, usual = VARIANTS[name]
        for number in (0, usual if steps is None else steps):
            started = time.process_time()
            data = onnxprune.Data({"image": images}, samples=count)
            result = onnxprune.prune(net.folded, data=data, check_n=1, recover=number, **given)
            took = time.process_time() - started
            proto = bits.rounded(result)
            found = log_probabilities(proto, others)
            kl = float((np.exp(wanted) * (wanted - found)).sum(axis=1).mean())
            kept = 100 * bits.of_proto(proto) / original
            recovered = result.report.recovered
            best = recovered.best_step if recovered else 0
            one = Measured(net.name, net.seed, name, count, number, best, kept, kl, took)
            print(one, file=sys.stderr, flush=True)
            yield one


def samples(count: int) -> metric.Array:
    """So many unlabelled images, the first of them those of the other tables."""
    usual: metric.Array = np.load(cache.calibration(segmenting=False))
    more = digits.Digits().draw(max(0, count - len(usual)), _MORE).images
    return np.concatenate([usual, more])[:count]


def log_probabilities(proto: onnx.ModelProto, images: metric.Array) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of each class, [N, classes]."""
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    batches = np.array_split(images, 40)
    scores = np.concatenate([session.run(None, {"image": b})[0] for b in batches]).astype(np.float64)
    scores -= scores.max(axis=1, keepdims=True)
    return np.asarray(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))


if __name__ == "__main__":
    main()
