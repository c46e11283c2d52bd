"""How small a model the ways of others lead to, on the same images: curves of each layer, and one ratio for all.

``python -m bench.accuracy.vendors [NET-SEED ...]``. PaddleSlim (its sensitivity analysis: each layer alone at 10 to
90 %, evaluated as it was cut; ratios at which each has lost the same, between the points) and NPruner (10 to 50 %; the
largest ratio of each layer that has lost no more) train afterwards. Here nothing is trained, so what they lead to is
what their choice alone keeps; a tolerance for each layer is found by bisection, as both advise. 1 000 labelled images
steer, 1 000 others judge. Beside them `--metric` on the plans of `bench.accuracy.plans`. Curves are kept as
``NET-SEED.curves.npz``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from bench.accuracy import cache, command_line, plans, search
from bench.accuracy.digits import SIZE
from bench.measure import publish
from onnxprune.calibration.data_options import NO_DATA
from onnxprune.cost.chips import costs
from onnxprune.cost.macs_and_bytes import CostModel, Macs
from onnxprune.model import files
from onnxprune.model.onnx_model import Model
from onnxprune.options import Options
from onnxprune.planning.planner import Planner
from onnxprune.planning.planner_opened import planning
from onnxprune.search.drop import Measurement, drop
from onnxprune.widths.budget import Budget
from onnxprune.widths.choose_channels import Choice
from onnxprune.widths.metric_options import Limit
from onnxprune.widths.plan_contest import Way

SHAPES = {"image": (1, 1, SIZE, SIZE)}
RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
TARGET, STEERING = "rk3588", 1000

#: Levels among which a bisection looks: a tolerance for each layer, or a ratio for all.
TOLERANCES, UNIFORM = np.geomspace(1e-4, 0.3, 31), np.linspace(0.01, 0.61, 31)

Right = npt.NDArray[np.bool_]
Ratios = Mapping[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a line for each network, way and permitted drop."""
    parser = command_line.parser(__doc__, search.NETS, metavar="NET-SEED")
    options = parser.parse_args(arguments)
    rows = []
    for text in options.nets:
        name, _, seed = text.rpartition("-")
        rows += [{"network": text, **row} for row in _Net(cache.TrainedNet(name, int(seed))).rows()]
        print(*rows[-10:], sep="\n", flush=True)
    publish({"Smallest models, by the ways of others and by --metric": rows}, {"rows": rows}, options.json)


class _Net:
    """A network, without calibration data: all is judged as it was cut."""

    def __init__(self, net: cache.TrainedNet) -> None:
        self.net, self.model = net, files.load(net.folded)
        self.images, self.labels = plans.test_images()
        self.options = Options(data=NO_DATA, input_shapes=SHAPES, importance="l1")

    def rows(self) -> list[dict[str, str]]:
        """Of all ways."""
        with planning(self.model, self.options) as planner:
            self.planner = planner
            self.original = self._right(self.model, slice(None))
            curves, seconds = self._curves()
            points = len(planner.analysis.groups)
            found = []
            for permitted in search.DROPS:
                ways: dict[str, tuple[npt.NDArray[np.float64], Callable[[float], Ratios], int]] = {
                    "PaddleSlim's": (TOLERANCES, lambda t: _between(curves, t), points * len(RATIOS)),
                    "NPruner's": (TOLERANCES, lambda t: _largest(curves, t), points * 5),
                    "one ratio": (UNIFORM, self._everywhere, 0),
                }
                for title, (levels, ratios, measured) in ways.items():
                    spent = seconds * measured / max(points * len(RATIOS), 1)
                    found.append({"way": title, **self._row(levels, ratios, permitted, measured, spent)})
        return found + self._ours()

    def _everywhere(self, ratio: float) -> Ratios:
        return {g.name: ratio for g in self.planner.analysis.groups}

    def _row(
        self,
        levels: npt.NDArray[np.float64],
        ratios: Callable[[float], Ratios],
        permitted: float,
        measured: int,
        seconds: float,
    ) -> dict[str, str]:
        """Bisection over ``levels``, each probe measured; the last that held is the answer."""
        start = time.process_time()
        low, high, best = -1, len(levels), None
        while high - low > 1:
            middle = (low + high) // 2
            measured += 1
            choice = self._choice(ratios(float(levels[middle])))
            right = self._right(self.planner.cut(choice, lossless=False)[1], slice(STEERING))
            if float(self.original[:STEERING].mean() - right.mean()) <= permitted:
                low, best = middle, choice
            else:
                high = middle
        seconds += time.process_time() - start
        return self._told(best, None, permitted, measured, seconds)

    def _told(
        self, choice: Choice | None, judged: Right | None, permitted: float, measured: int, seconds: float
    ) -> dict[str, str]:
        if judged is None:
            model = self.model if choice is None else self.planner.cut(choice, lossless=False)[1]
            judged = self._right(model, slice(STEERING, None))
        left = [1.0 if choice is None else self.planner.left(c, choice) for c in self._costs()]
        return {
            "permitted": f"{100 * permitted:g}",
            "MACs": f"{left[0]:.3f}",
            f"{TARGET} cycles": f"{left[1]:.3f}",
            "drop of the others": f"{100 * float(self.original[STEERING:].mean() - judged.mean()):.2f}",
            "evaluations": str(measured),
            "seconds": f"{seconds:.0f}",
        }

    def _costs(self) -> tuple[CostModel, CostModel]:
        priced = costs(TARGET, None)
        assert priced is not None
        return Macs(), priced

    def _choice(self, ratios: Ratios) -> Choice:
        own = tuple((n, r) for n, r in ratios.items() if r > 0)
        asked = replace(self.options.request, ratio=0.0, ratio_for=own, budget=None, ways=(Way("l1", "group"),))
        return self.planner.chosen(asked).best

    def _curves(self) -> tuple[dict[str, list[float]], float]:
        """Drop of each layer alone at `RATIOS`, as it was cut, and the seconds that took."""
        path = self.net.folded.with_name(f"{self.net.name}-{self.net.seed}.curves.npz")
        if not path.exists():
            start = time.process_time()
            found = [[self._drop_of({g.name: r}) for r in RATIOS] for g in self.planner.analysis.groups]
            np.savez(path, drops=np.asarray(found), seconds=time.process_time() - start)
        with np.load(path) as held:
            names = [g.name for g in self.planner.analysis.groups]
            return dict(zip(names, held["drops"].tolist(), strict=True)), float(held["seconds"])

    def _drop_of(self, ratios: Ratios) -> float:
        right = self._right(self.planner.cut(self._choice(ratios), lossless=False)[1], slice(STEERING))
        return float(self.original[:STEERING].mean() - right.mean())

    def _right(self, model: Model, part: slice) -> Right:
        return plans.logits_of(model, self.images[part]).argmax(1) == self.labels[part]

    def _ours(self) -> list[dict[str, str]]:
        """``--metric``, on plans that were made; seconds are those of what it measured, without images."""
        made = plans.of(self.net)
        options = Options(data=str(cache.calibration(segmenting=False)), input_shapes=SHAPES)
        found = []
        with planning(self.model, options) as planner:
            self.planner = planner
            for permitted in search.DROPS:
                for confidence in (1.0, 0.0):
                    row, used = _searched(made, permitted, confidence)
                    choice = None if row == 0 else _made(planner, float(made.shares[row]))
                    judged = made.right[row, STEERING:]
                    title = f"--metric, {confidence:g} SE"
                    told = self._told(choice, judged, permitted, len(used), float(made.seconds[used].sum()))
                    found.append({"way": title, **told})
        return found


def _made(planner: Planner, share: float) -> Choice:
    return planner.chosen(replace(planner.options.request, budget=Budget(Macs(), share))).best


def _searched(made: plans.Plans, permitted: float, confidence: float) -> tuple[int, list[int]]:
    """The row of the answer where the first images steer, and those that were measured."""
    limit = Limit(max_drop=permitted, min_metric=None, relative=False, lower=False, confidence=confidence)
    seen = [Measurement(float(r.mean()), r.astype(np.float64)) for r in made.right[:, :STEERING]]
    used: list[int] = []

    def measure(row: int) -> object:
        used.append(row)
        return drop(limit, seen[0], seen[row])

    row, _ = search.curve(made)(measure, permitted, confidence)  # type: ignore[arg-type]
    return row, used


def _between(curves: Mapping[str, Sequence[float]], tolerance: float) -> Ratios:
    """Where each curve first passes the tolerance, on straight lines between its points."""
    found = {}
    for name, drops in curves.items():
        x, y = (0.0, *RATIOS), (0.0, *drops)
        found[name] = x[-1]
        for n in range(1, len(x)):
            if y[n] > tolerance:
                found[name] = x[n - 1] + (x[n] - x[n - 1]) * (tolerance - y[n - 1]) / (y[n] - y[n - 1])
                break
    return found


def _largest(curves: Mapping[str, Sequence[float]], tolerance: float) -> Ratios:
    """The largest ratio up to a half at which no more is lost, 0 where there is none."""
    return {
        name: max((r for r, d in zip(RATIOS[:5], drops, strict=False) if d <= tolerance), default=0.0)
        for name, drops in curves.items()
    }


if __name__ == "__main__":
    main()
