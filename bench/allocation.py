"""How long it takes to spend a budget, by the number of groups: ``python -m bench.allocation [GROUPS ...]``.

Seconds of processor, of scoring and rewriting nothing: from scores of a chain of 3x3 convolutions of 64 channels to
what goes at 60 % of the cost. Each is the least of some repeats, in one process.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

import numpy as np

from fixtures import build
from onnxprune.cost.chips import Cycles, find
from onnxprune.cost.macs_and_bytes import CostModel, Macs
from onnxprune.cost.sizes import cost_of
from onnxprune.labels.analysis import Analysis, analyse
from onnxprune.model.onnx_model import from_proto
from onnxprune.widths.budget_strategies import Spending
from onnxprune.widths.rounding_to_alignment import allocate

SHARE, REPEATS = 0.6, 3
RK3588 = Cycles.of(find("rk3588"), "fp16")
#: By title: the cost, what widths are multiples of, and the target.
KINDS: dict[str, tuple[CostModel, int | None, Cycles | None]] = {
    "cycles, by target": (RK3588, None, RK3588),
    "MACs, by target": (Macs(), None, RK3588),
    "MACs": (Macs(), 1, None),
    "MACs, align 16": (Macs(), 16, None),
}


def seconds(analysis: Analysis, cost: CostModel, align: int | None, target: Cycles | None) -> float:
    """Of processor, for one allocation."""
    rng = np.random.default_rng(0)
    scores = [rng.gamma(2, 1, g.width) * rng.uniform(0.5, 2) for g in analysis.groups]
    limit = SHARE * cost_of(analysis.trace, cost, np.zeros(0, np.int64))
    allocated = partial(allocate, max_ratio=None, ratio_of={})
    spending = Spending(analysis.trace, analysis.groups, scores, allocated, cost, limit, "cost", align, target)
    started = time.process_time()
    spending.allocation()
    return time.process_time() - started


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("groups", nargs="*", type=int, default=[50, 100, 200, 400])
    print("| groups | " + " | ".join(KINDS) + " |")
    print("|" + "---|" * (len(KINDS) + 1))
    for count in parser.parse_args().groups:
        analysis = analyse(from_proto(build.conv_chain(count + 1, width=64)))
        cells = [f"{min(seconds(analysis, *kind) for _ in range(REPEATS)):.2f}" for kind in KINDS.values()]
        print(f"| {len(analysis.groups)} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
