"""What the plain command keeps: ``python -m bench.accuracy.no_data TABLE [NET ...]``, the share of the metric left.

``plain``: --ratio 0.3 --align 8, weights alone and on drawn inputs; ``budgets``: drawn inputs by budget and alignment;
``few``: so many real samples, alone and beside drawn ones; ``ranges``: drawn in ranges that are wrong. Networks and
samples are those of ``bench.accuracy``, which trains them; each run is one call in this process, its line on stderr.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import onnxprune
from bench.accuracy import cache, command_line, metric
from bench.accuracy.__main__ import NETS, SEEDS, SEGMENTING
from bench.accuracy.digits import SIZE
from bench.measure import publish
from onnxprune.calibration.data_options import Data
from onnxprune.calibration.synthetic import few_samples
from onnxprune.errors import OptionError

FEW, FEW_NETS = (0, 1, 4, 8, 16, 32, 64), ("ResNet-20", "U-Net", "MobileNetV2")
#: The networks read 0..1.
RANGES = ("0..1", "-1..1", "-2.12..2.64", "0..255")


def kept(net: cache.TrainedNet, **options: Any) -> float | None:
    """The share of its metric that ``onnxprune.prune`` leaves; None where what is asked for cannot be had."""
    with tempfile.TemporaryDirectory() as folder:
        pruned = Path(folder, "pruned.onnx")
        try:
            result = onnxprune.prune(str(net.folded), input_shapes={"image": (1, 1, SIZE, SIZE)}, **options)
        except OptionError:
            return None
        result.save(pruned)
        share = metric.of_file(pruned) / metric.of_file(net.folded)
    shown = {n: v for n, v in options.items() if not isinstance(v, dict)}
    print(net, shown, f"{share:.4f}", file=sys.stderr, flush=True)
    return share


def plain(net: cache.TrainedNet) -> Iterator[tuple[str, float | None]]:
    """What everybody types first."""
    for title, data in (("weights alone", "none"), ("drawn", None)):
        yield title, kept(net, ratio=0.3, align=8, data=data)


def budgets(net: cache.TrainedNet) -> Iterator[tuple[str, float | None]]:
    """Drawn inputs; multiples of 8 and 16 at half of the MACs."""
    for budget, align in ((0.5, 1), (0.5, 8), (0.5, 16), (0.35, 1)):
        yield f"{budget:g}, align {align}", kept(net, budget=f"macs={budget}", align=align)


def few(net: cache.TrainedNet) -> Iterator[tuple[str, float | None]]:
    """At 0.35 of the MACs, of 128 calibration images so many, evenly spread."""
    images = np.load(cache.calibration(net.name in SEGMENTING))[:128].astype(np.float32)
    most = few_samples.FEW
    for count in FEW:
        taken = {"image": images[(np.arange(count) * 2 + 1) * len(images) // (2 * count)]} if count else None
        for limit, title in ((most, "beside drawn"), (0, "alone")):
            few_samples.FEW = limit
            if count or limit:
                yield f"{count}, {title}" if count else "none", kept(net, budget="macs=0.35", data=taken)
    few_samples.FEW = most


def ranges(net: cache.TrainedNet) -> Iterator[tuple[str, float | None]]:
    """At half of the MACs."""
    for said in RANGES:
        yield said, kept(net, budget="macs=0.5", data=Data(None, input_range=said))


TABLES: dict[str, Callable[[cache.TrainedNet], Iterator[tuple[str, float | None]]]] = {
    "plain": plain,
    "budgets": budgets,
    "few": few,
    "ranges": ranges,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one table, and write its numbers if asked to."""
    parser = command_line.parser(__doc__)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("nets", nargs="*", metavar="NET", help=", ".join(NETS))
    parser.add_argument("--seeds", type=int, nargs="+")
    options = parser.parse_args(arguments)
    chosen = options.nets or (FEW_NETS if options.table == "few" else NETS)
    seeds = options.seeds or ((0,) if options.table == "few" else SEEDS)
    rows, data = [], {}
    for net in (cache.TrainedNet(name, seed) for name in chosen for seed in seeds):
        found = dict(TABLES[options.table](net))
        data[f"{net.name}-{net.seed}"] = found
        shown = {title: "cannot be met" if share is None else f"{100 * share:.1f} %" for title, share in found.items()}
        rows.append({"network": f"{net.name}, {net.seed}"} | shown)
    publish({f"Share of the metric that is left: {options.table}": rows}, data, options.json)


if __name__ == "__main__":
    main()
