"""The most cycles that any choice of channels can save at a share of the MACs: ``python -m bench.bound [MODEL ...]``.

An integer program over the widths of all groups, whatever their scores: a variable for each group and width, and one
for each node and the widths that it reads and writes. Widths are all channels or multiples of what activations are
stored in, at least a tenth: one that fills no block costs the cycles of the one above it, for fewer MACs. The MACs that
are left are between the share asked for and one hundredth less. rk3588, by the target's arithmetic. With --shares: of
the widths whose share of the cycles saved is at least so much of the MACs asked for, the least score lost (l2, as by
cost).
"""

from __future__ import annotations

import argparse
import itertools
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_matrix

from bench.rknn import MODELS
from onnxprune.cost.chips import Cycles, find
from onnxprune.cost.macs_and_bytes import Macs
from onnxprune.cost.sizes import Sizes
from onnxprune.importance import across_groups as readers
from onnxprune.importance import criteria as scores
from onnxprune.importance.criterion import Subject
from onnxprune.labels.analysis import analyse
from onnxprune.model import files
from onnxprune.widths.alignment_steps import Multiple, sizes_of
from onnxprune.widths.allowed_widths import choices

SLACK, FLOOR = 0.01, 0.1


def options(width: int, step: int) -> list[int]:
    """Widths that a row of a group may have."""
    least = max(step, math.ceil(FLOOR * width))
    return [*(k for k in range(step, width, step) if k >= least), width]


class Program:
    """Rows and columns of the integer program; cycles and MACs are shares of the original's."""

    def __init__(self, cycles: Sizes, macs: Sizes, step: int, losses: list[NDArray[np.float64]]) -> None:
        self.widths = [options(w, step) for w in cycles.kept]
        self.first = np.cumsum([0, *(len(w) for w in self.widths)]).tolist()
        self.price = [0.0] * self.first[-1]
        self.work = [0.0] * self.first[-1]
        self.lost = [float(loss[k]) for loss, widths in zip(losses, self.widths, strict=True) for k in widths]
        self.entries: list[tuple[int, int, float]] = []
        self.sides: list[float] = []
        for block, widths in enumerate(self.widths):
            self._row([(self.first[block] + i, 1.0) for i in range(len(widths))], 1.0)
        nodes = sorted({*cycles.nodes, *macs.nodes})
        for node in nodes:
            self._node(node, cycles, macs)

    def _row(self, entries: list[tuple[int, float]], side: float) -> None:
        self.entries += [(len(self.sides), column, value) for column, value in entries]
        self.sides.append(side)

    def _node(self, node: int, cycles: Sizes, macs: Sizes) -> None:
        """One column for each combination of widths, tied to those of the groups."""
        blocks = sorted({*cycles.reads(node), *macs.reads(node)})
        start, combos = len(self.price), list(itertools.product(*(range(len(self.widths[b])) for b in blocks)))
        for combo in combos:
            kept = {b: self.widths[b][i] for b, i in zip(blocks, combo, strict=True)}
            self.price.append(cycles.at(node, kept) / cycles.cost)
            self.work.append(macs.at(node, kept) / macs.cost)
        if not blocks:
            self._row([(start, 1.0)], 1.0)
        for place, block in enumerate(blocks):
            for option in range(len(self.widths[block])):
                own = [(start + i, 1.0) for i, combo in enumerate(combos) if combo[place] == option]
                self._row([*own, (self.first[block] + option, -1.0)], 0.0)

    def solve(self, low: float, high: float, most: float = math.inf) -> Found | None:
        """The least cycles with MACs between two limits; with ``most`` cycles, the least score lost; or None."""
        rows, columns, values = zip(*self.entries, strict=True)
        matrix = coo_matrix((values, (rows, columns)), shape=(len(self.sides), len(self.price))).tocsr()
        integral = np.zeros(len(self.price))
        integral[: self.first[-1]] = 1  # those of nodes follow
        sides, price = np.asarray(self.sides), np.asarray(self.price)
        lost = np.zeros(len(price))
        lost[: self.first[-1]] = self.lost
        limits = [
            LinearConstraint(matrix, sides, sides),
            LinearConstraint(np.asarray(self.work)[None], low, high),
            LinearConstraint(price[None], -np.inf, most),
        ]
        goal = price if math.isinf(most) else lost
        settings = {"time_limit": 240, "mip_rel_gap": 1e-3}
        found = milp(goal, integrality=integral, bounds=Bounds(0, 1), constraints=limits, options=settings)
        if found.x is None:
            return None
        chosen = [
            widths[int(np.argmax(found.x[first : first + len(widths)]))]
            for widths, first in zip(self.widths, self.first, strict=False)
        ]
        return Found(float(price @ found.x), float(np.dot(self.work, found.x)), float(lost @ found.x), chosen)


@dataclass(frozen=True)
class Found:
    """What widths cost, and the score that they lose; to a thousandth of the best there are."""

    cycles: float
    macs: float
    lost: float
    widths: list[int]


def program(name: str, costs: Cycles) -> Program:
    """The program of a model of `bench.rknn`."""
    make, shapes = MODELS[name]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.onnx")
        onnx.save(make(), path)
        analysis = analyse(files.load(path), input_shapes=shapes)
        groups, subject = analysis.groups, Subject(analysis.trace)
        scored = readers.comparable(groups, scores.score(subject, groups, scores.resolve("l2")(subject)))
        cycles, macs = (sizes_of(analysis.trace, groups, c) for c in (costs, Macs()))
        losses = [block.loss for group in choices(groups, scored, Multiple(1)) for block in group.blocks]
        return Program(cycles, macs, costs.precision.store_block, losses)


def main() -> None:
    """Print a line for each model, type and budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", default=["unet"])
    parser.add_argument("--removed", type=float, nargs="+", default=[0.41, 0.58])
    parser.add_argument("--dtypes", nargs="+", default=["fp16", "int8"])
    parser.add_argument("--shares", type=float, nargs="*", default=[])
    parser.add_argument("--widths", action="store_true", help="print them too")
    given = parser.parse_args()
    print("| model | type | MACs | cycles | of the MACs' share | score lost |")
    print("|---|---|---|---|---|---|")
    for name, dtype in itertools.product(given.models, given.dtypes):
        made = program(name, Cycles.of(find("rk3588"), dtype))
        for removed, share in itertools.product(given.removed, [None, *given.shares]):
            most = math.inf if share is None else 1 - share * removed
            found = made.solve(1 - removed - SLACK, 1 - removed, most)
            if found is None:
                print(f"| {name} | {dtype} | -{100 * removed:.0f} % | none at {share} | - | - |", flush=True)
                continue
            saved, less = 1 - found.cycles, 1 - found.macs
            cells = [name, dtype, f"-{100 * less:.1f} %", f"-{100 * saved:.1f} %", f"{saved / less:.3f}"]
            print("| " + " | ".join([*cells, f"{found.lost:.2f}"]) + " |", flush=True)
            if given.widths:
                print(found.widths)


if __name__ == "__main__":
    main()
