"""How small a model a metric leads to, and whether it keeps what it promises.

``python -m bench.accuracy.search [NET-SEED ...]``. Plans of many budgets are made and measured once
(`bench.accuracy.plans`); then 200 random halves of the 2 000 test images steer a search each, and the drop on the
others, and on all, says what it was worth. Beside it: bisection over the same plans.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bench.accuracy import cache, command_line, plans
from bench.measure import publish
from onnxprune.search.curve import Point, find, taken
from onnxprune.search.drop import Drop, Measurement, drop
from onnxprune.widths.metric_options import Limit

NETS = ("ResNet-20-0", "ResNet-20-1", "VGG-8-0", "VGG-8-1", "MobileNetV2-0", "MobileNetV2-1")
SPLITS, DROPS, EVALUATIONS = 200, (0.01, 0.02), 8

#: From (measure, permitted, confidence) to the row of the plan that is taken, and how many were measured.
Search = Callable[[Callable[[int], Drop], float, float], tuple[int, int]]


def main(arguments: Sequence[str] | None = None) -> None:
    """Replay all searches, and print a line for each network, permitted drop and search."""
    parser = command_line.parser(__doc__, NETS, metavar="NET-SEED")
    options = parser.parse_args(arguments)
    rows = []
    for text in options.nets:
        name, _, seed = text.rpartition("-")
        made = plans.of(cache.TrainedNet(name, int(seed)))
        for permitted in DROPS:
            for title, search, confidence in (
                ("curve, 1 SE", curve(made), 1.0),
                ("bisection, 1 SE", bisection(made), 1.0),
                ("curve, 0 SE", curve(made), 0.0),
                ("bisection, 0 SE", bisection(made), 0.0),
            ):
                rows.append({"network": text, "permitted": f"{100 * permitted:g}", "search": title})
                rows[-1] |= replayed(made, search, permitted, confidence)
    publish({"Searches by a metric": rows}, {"rows": rows}, options.json)


def replayed(made: plans.Plans, search: Search, permitted: float, confidence: float) -> dict[str, str]:
    """Means over the splits, of the images that steered nothing and of all."""
    rng = np.random.default_rng(0)
    count = made.right.shape[1]
    left, held, every, used = [], [], [], []
    limit = Limit(max_drop=permitted, min_metric=None, relative=False, lower=False, confidence=confidence)
    right = made.right.astype(np.float64)
    for _ in range(SPLITS):
        steering = np.zeros(count, np.bool_)
        steering[rng.permutation(count)[: count // 2]] = True
        seen = [Measurement(float(r.mean()), r) for r in right[:, steering]]
        row, evaluations = search(lambda i, seen=seen: drop(limit, seen[0], seen[i]), permitted, confidence)
        left.append(made.macs[row])
        held.append(float((right[0] - right[row])[~steering].mean()))
        every.append(float((right[0] - right[row]).mean()))
        used.append(evaluations)
    return {
        "MACs left": f"{np.mean(left):.3f}",
        "spread": f"{np.std(left):.3f}",
        "drop of the others": f"{100 * np.mean(held):.2f}",
        "of all": f"{100 * np.mean(every):.2f}",
        "more than permitted of all, in 100": f"{100 * np.mean(np.asarray(every) > permitted + 1e-9):.0f}",
        "evaluations": f"{np.mean(used):.1f}",
    }


def curve(made: plans.Plans) -> Search:
    """The search of ``--metric``; what cannot hold is the original."""

    def search(measure: Callable[[int], Drop], permitted: float, confidence: float) -> tuple[int, int]:
        rows: list[int] = []

        def measured(shares: Sequence[float]) -> list[Point | None]:
            found: list[Point | None] = []
            for share in shares:
                row = _nearest(made, share)
                rows.append(row)
                lost = measure(row)
                noise, left = float(made.noise[row]), float(made.macs[row])
                found.append(Point(left, noise, lost.amount, lost.error or 0.0, lost.holds))
            return found

        points = find(measured, permitted, confidence, EVALUATIONS)
        best = taken(points, permitted)
        return (0 if best is None else rows[points.index(best)]), len(rows)

    return search


def bisection(made: plans.Plans) -> Search:
    """Halve the shares that are left, as often as there are evaluations."""

    def search(measure: Callable[[int], Drop], _permitted: float, _confidence: float) -> tuple[int, int]:
        low, high, best, used = 0.2, 1.0, 0, 0
        while used < EVALUATIONS - 1:
            middle = (low + high) / 2
            row = _nearest(made, middle)
            used += 1
            if measure(row).holds:
                best, high = row, middle
            else:
                low = middle
        return best, used

    return search


def _nearest(made: plans.Plans, share: float) -> int:
    """The pruned plan that was asked for about ``share``."""
    return 1 + int(np.abs(made.shares[1:] - share).argmin())


if __name__ == "__main__":
    main()
