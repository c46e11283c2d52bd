"""What is left of a network's metric at a budget of a chip's cycles: ``python -m bench.accuracy.cycles [NET ...]``.

The networks of ``bench.accuracy``, from its cache, at rk3588 in fp16, without fine-tuning: by cost (the default of a
budget with a target), with --scope group, and at one ratio in multiples of 16. Without data, or with it: --data. Cells
are of the two seeds of training; '-' where the budget cannot be met.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.accuracy import cache, command_line, metric
from bench.accuracy.__main__ import NETS, SEGMENTING
from bench.accuracy.digits import SIZE
from onnxprune import pipeline
from onnxprune.calibration.samples import Data
from onnxprune.cost.chips import Cycles, find
from onnxprune.errors import OptionError
from onnxprune.model import files
from onnxprune.options import Options
from onnxprune.widths.budget import Budget

WAYS: Mapping[str, Mapping[str, Any]] = {
    "by cost": {},
    "`--scope group`": {"scope": "group"},
    "one ratio, align 16": {"scope": "group", "align": 16},
}

BRANCHES: Mapping[str, Mapping[str, Any]] = {"branches may go": {}, "`--no-whole-branches`": {"whole_branches": False}}


def left(net: cache.TrainedNet, share: float, way: Mapping[str, Any], *, data: bool) -> float | None:
    """The metric of what is pruned to ``share`` of the cycles; None where that cannot be."""
    target = Cycles.of(find("rk3588"), "fp16")
    options = Options(
        target=target,
        budget=Budget.of("cycles", share, target),
        check_n=0,
        input_shapes={"image": (1, 1, SIZE, SIZE)},
        data=Data(str(cache.calibration(net.name in SEGMENTING))) if data else None,
        **way,
    )
    try:
        made = pipeline.prune(files.load(net.folded), options).model
    except OptionError:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pruned.onnx")
        files.write({path: made})
        return metric.of_file(path)


def main() -> None:
    """Print a line for each network and budget."""
    parser = command_line.parser(__doc__, NETS, seeds=(0, 1), json=False)
    parser.add_argument("--cycles", type=float, nargs="+", default=(0.95, 0.9, 0.8, 0.7, 0.5))
    parser.add_argument("--data", action="store_true", help="with calibration data")
    parser.add_argument("--branches", action="store_true", help="with whole branches gone, and without")
    options = parser.parse_args()
    ways = BRANCHES if options.branches else WAYS
    print("| network | original | cycles | " + " | ".join(ways) + " |")
    print("|" + "---|" * (len(ways) + 3))
    for name in options.nets:
        nets = [cache.TrainedNet(name, seed) for seed in options.seeds]
        whole = " / ".join(f"{metric.of_file(net.folded):.3f}".lstrip("0") for net in nets)
        for share in options.cycles:
            cells = [name, whole, f"{share:g}"]
            for way in ways.values():
                found = [left(net, share, way, data=options.data) for net in nets]
                cells.append(" / ".join("-" if f is None else f"{f:.3f}".lstrip("0") for f in found))
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
