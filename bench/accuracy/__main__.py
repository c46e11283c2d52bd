"""How much of a network's metric is left without fine-tuning: ``python -m bench.accuracy [NET ...]``.

Trains what is missing from the cache (``bench.accuracy.train``), prunes every network with onnxprune and with
Torch-Pruning to the same budgets of MACs, and measures all on the same test samples. One table, a line for
each network, budget and alignment; where there are two seeds of training, a cell has two numbers.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.accuracy import cache, command_line, metric, ours
from bench.accuracy.digits import SIZE
from bench.measure import publish, python

NETS = ("ResNet-20", "VGG-8", "MobileNetV2", "DenseNet", "U-Net", "C2f")
SEGMENTING = ("U-Net",)
BUDGETS, ALIGNS, SEEDS = (0.7, 0.5, 0.35), (1, 8, 16), (0, 1)
#: What "full" is to keep of the original's metric, by budget, at align 1; and how far align 8 may be behind.
BARS, ALIGNED_BAR = {0.5: 0.98, 0.35: 0.95}, 0.01
_HOURS = 3600


@dataclass(frozen=True)
class Measured:
    """All of one trained network: the original's metric, and every attempt at pruning it."""

    net: cache.TrainedNet
    original: float
    ours: list[ours.Outcome]
    peer: list[dict[str, Any]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the chosen networks, print the tables, and write all that was measured if asked to."""
    parser = command_line.parser(__doc__, NETS, seeds=SEEDS)
    parser.add_argument("--macs", type=float, nargs="+", default=BUDGETS)
    parser.add_argument("--align", type=int, nargs="+", default=ALIGNS)
    parser.add_argument("--variants", nargs="*", default=list(ours.VARIANTS), choices=ours.VARIANTS)
    parser.add_argument("--with-batchnorm", action="store_true", help="give onnxprune the files with BatchNorm nodes")
    parser.add_argument("--peer-from", type=Path, metavar="PATH", help="Torch-Pruning's figures from an earlier --json")
    options = parser.parse_args(arguments)
    nets = options.nets
    python("bench.accuracy.train", *nets, "--seeds", *map(str, options.seeds), timeout=4 * _HOURS)
    earlier = json.loads(options.peer_from.read_text())["networks"] if options.peer_from else None
    measured = [measure(net, options, earlier) for net in command_line.networks(options)]
    cells = [(net, budget, align) for net in nets for budget in options.macs for align in options.align]
    rows = [row([m for m in measured if m.net.name == net], budget, align) for net, budget, align in cells]
    judged = list(bars(measured))
    publish(
        {"Without fine-tuning": rows} | ({"Bars": judged} if judged else {}),
        {"networks": [asdict(one) for one in measured]},
        options.json,
    )


def measure(net: cache.TrainedNet, options: argparse.Namespace, earlier: list[dict[str, Any]] | None) -> Measured:
    """Prune one network in every way; progress goes to stderr, a line for each."""
    subject = ours.Subject(
        net.with_batchnorm if options.with_batchnorm else net.folded,
        cache.calibration(net.name in SEGMENTING),
        {"image": (1, 1, SIZE, SIZE)},
        lambda path: {"metric": metric.of_file(path)},
    )
    outcomes = []
    for variant in options.variants:
        for budget in options.macs:
            for align in options.align:
                outcomes.append(ours.prune(subject, variant, budget, align))
                print(net, outcomes[-1], file=sys.stderr, flush=True)
    if earlier is not None:
        peer = [attempt for one in earlier if one["net"] == asdict(net) for attempt in one["peer"]]
    else:
        peer = _peer(net, options)
    return Measured(net, metric.of_file(subject.source), outcomes, peer)


def _peer(net: cache.TrainedNet, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every attempt of Torch-Pruning; RuntimeError if its process fails, which no crash of it brings about."""
    chosen = ("--macs", *map(str, options.macs), "--align", *map(str, options.align))
    done = python("bench.accuracy.peer", net.name, str(net.seed), *chosen, timeout=4 * _HOURS)
    if done.failure:
        raise RuntimeError(done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


def row(seeds: Sequence[Measured], budget: float, align: int) -> dict[str, str]:
    """One network at one budget and alignment."""

    def cell(value: Callable[[Measured], float | None]) -> str:
        return " / ".join("-" if found is None else f"{found:.3f}".lstrip("0") for found in map(value, seeds))

    cells = {"network": seeds[0].net.name, "MACs": f"{budget:g}", "align": str(align)}
    cells["original"] = cell(lambda one: one.original)
    for title, key in (("TP best, plain", "plain"), ("TP best, BN re-estimated", "reestimated")):
        cells[title] = cell(lambda one, key=key: best(one.peer, budget, align, key))
    for variant in ours.VARIANTS:
        cells[variant] = cell(lambda one, variant=variant: ours.first(ours.metrics(one.ours, variant, budget, align)))
    return cells


def best(attempts: Iterable[dict[str, Any]], budget: float, align: int, key: str) -> float | None:
    """The best of Torch-Pruning's importances and scopes, chosen by the test samples themselves."""
    here = [a[key] for a in attempts if (a["budget"], a["align"]) == (budget, align) and a[key] is not None]
    return max(here, default=None)


def bars(measured: Iterable[Measured]) -> Iterable[dict[str, str]]:
    """Say for each network that "full" was measured on whether it keeps what it is to keep."""
    for one in measured:
        for budget, bar in BARS.items():
            full, aligned = (ours.first(ours.metrics(one.ours, "full", budget, align)) for align in (1, 8))
            if full is None:
                continue
            kept = full / one.original
            line = {"network": f"{one.net.name}, seed {one.net.seed}", "MACs": f"{budget:g}"}
            line |= {"of the original, align 1": f"{kept:.3f}", "bar": f"{bar:.2f}", "met": _yes(kept >= bar)}
            behind = None if aligned is None else full - aligned
            line["align 8 behind by"] = "-" if behind is None else f"{behind:.3f}"
            line["within 0.01"] = "-" if behind is None else _yes(behind <= ALIGNED_BAR)
            yield line


def _yes(met: bool) -> str:
    return "yes" if met else "no"


if __name__ == "__main__":
    main()
