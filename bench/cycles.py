"""What of the MACs removed the chip sees: cycles that the real RKNN compiler charges, before and after pruning.

    python -m bench.cycles [--python PATH] [--models unet,...] [--removed 0.41,0.58] [--dtypes fp16,int8]
                           [--others FILE ...] [--predicted]

Each model of `bench.rknn` is pruned to the same budgets of MACs: with the target, by the budget of cycles that leaves
as many, with --align 16 and one ratio for all, and with one ratio alone. FILE: what another tool made of the one model
that is named, to be compiled beside it.
With --scores: at an equal budget of cycles, the score lost by widths that fill the target's blocks and by others.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from bench.rknn import MODELS
from onnxprune import pipeline
from onnxprune.cost import macs_and_bytes as cost
from onnxprune.cost.chips import Cycles, find
from onnxprune.cost.rknn import Job, build
from onnxprune.errors import OptionError
from onnxprune.importance import across_groups as readers
from onnxprune.labels.analysis import analyse
from onnxprune.model import files
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model
from onnxprune.options import Options
from onnxprune.pipeline import Result
from onnxprune.running import seeded_inputs, tried_input_shapes
from onnxprune.widths.budget import Budget

TARGET = "rk3588"
_HALVINGS = 7


@dataclass(frozen=True)
class Case:
    """A model file, and who made it; ``cycles``: what the compiler charges, by data type."""

    tool: str
    path: Path
    macs: float


def shapes_of(model: Model, given: Mapping[str, Shape]) -> Mapping[str, Shape]:
    """The shape of every tensor."""
    return tried_input_shapes.shapes_at(model, tried_input_shapes.choose_shapes(model, given)).shape


def case(tool: str, path: Path, given: Mapping[str, Shape]) -> Case:
    """A file and its MACs."""
    model = files.load(path)
    return Case(tool, path, sum(cost.by_node(cost.Macs(), model.graph, shapes_of(model, given)).values()))


def pruned(source: Path, given: Mapping[str, Shape], share: float, target: Cycles, folder: Path) -> Iterator[Case]:
    """What is left at ``share`` of the MACs, by the ways that are compared."""
    chip = f"--target {target.chip.name} --dtype {target.dtype}"
    asked = Budget.of("macs", share)
    ways: dict[str, Callable[[], Result]] = {
        f"{chip} --budget macs=": lambda: _made(source, given, Options(target=target, budget=asked)),
        f"{chip} --budget cycles=": lambda: _by_cycles(source, given, share, target),
        "one ratio, --align 16": lambda: _made(source, given, Options(align=16, budget=asked)),
        "one ratio": lambda: _made(source, given, Options(budget=asked)),
    }
    for index, (tool, make) in enumerate(ways.items()):
        path = folder / f"{source.stem}-{target.dtype}-{share}-{index}.onnx"
        try:
            made = make()
        except OptionError as error:
            print(f"{source.stem}, {tool}: {error}", file=sys.stderr, flush=True)
            continue
        files.write({path: made.model})
        yield case(tool, path, given)


def _made(source: Path, given: Mapping[str, Shape], options: Options) -> Result:
    return pipeline.prune(files.load(source), replace(options, input_shapes=given, check_n=1))


def _by_cycles(source: Path, given: Mapping[str, Shape], share: float, target: Cycles) -> Result:
    """The budget of cycles that leaves the nearest to ``share`` of the MACs, by halving. Raises OptionError."""
    low, high, found = 0.25, 0.95, list[tuple[float, Result]]()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        try:
            made = _made(source, given, Options(target=target, budget=Budget.of("cycles", middle, target)))
        except OptionError:
            low = middle
            continue
        left = made.report.macs.after / made.report.macs.before
        found.append((abs(left - share), made))
        low, high = (middle, high) if left < share else (low, middle)
    if not found:
        raise OptionError(f"no budget of cycles leaves {share:g} of the MACs", where="--budget")
    return min(found, key=lambda f: f[0])[1]


def charged(
    cases: Sequence[Case], given: Mapping[str, Shape], dtype: str, python: Path | None, *, predicted: bool
) -> list[float]:
    """Cycles of each file: the compiler's, or those that the target's arithmetic predicts."""
    if predicted:
        costs = Cycles.of(find(TARGET), dtype)
        models = [files.load(c.path) for c in cases]
        return [sum(cost.by_node(costs, m.graph, shapes_of(m, given)).values()) for m in models]
    jobs = []
    for one in cases:
        model = files.load(one.path)
        inputs = tried_input_shapes.choose_shapes(model, given)
        jobs.append(Job(one.path, seeded_inputs.seeded_feeds(model.graph.inputs, inputs, 0), simulate=False))
    return [float(sum(layer.total for layer in built.layers)) for built in build(jobs, TARGET, dtype, python)]


def rows(name: str, options: argparse.Namespace, folder: Path) -> Iterator[str]:
    """A line for each way of pruning a model, at each budget and type."""
    make, given = MODELS[name]
    source = folder / f"{name}.onnx"
    onnx.save(make(), source)
    whole = case("original", source, given)
    for dtype in options.dtypes.split(","):
        target = Cycles.of(find(TARGET), dtype)
        cases = [whole]
        for removed in options.removed.split(","):
            cases += pruned(source, given, 1 - float(removed), target, folder)
        cases += [case(f"{path.stem}", path, given) for path in options.others]
        cycles = charged(cases, given, dtype, options.python, predicted=options.predicted)
        for one, spent in zip(cases[1:], cycles[1:], strict=True):
            macs, share = 1 - one.macs / whole.macs, 1 - spent / cycles[0]
            cells = [name, dtype, one.tool, f"{-100 * macs:+.1f} %", f"{spent:,.0f}".replace(",", " ")]
            yield "| " + " | ".join([*cells, f"{-100 * share:+.1f} %", f"{share / macs:.2f}"]) + " |"


def kept(name: str, options: argparse.Namespace) -> Iterator[str]:
    """At equal cycles: the score (l2, made comparable between groups) that is lost."""
    make, given = MODELS[name]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, f"{name}.onnx")
        onnx.save(make(), source)
        model = files.load(source)
        unpruned = pipeline.prune(model, Options(ratio=0, input_shapes=given, check_n=0)).report
        groups = analyse(model, input_shapes=given).groups
        scored = readers.comparable(groups, [np.asarray(g.scores) for g in unpruned.groups])
        for dtype in options.dtypes.split(","):
            target = Cycles.of(find(TARGET), dtype)
            for share in options.cycles.split(","):
                cells = [name, dtype, f"{100 * float(share):.0f} %"]
                for align, scope in ((None, None), (16, "group"), (32, "group"), (16, "cost")):
                    chosen = Options(
                        target=target,
                        align=align,
                        scope=scope,
                        budget=Budget.of("cycles", float(share), target),
                        input_shapes=given,
                        check_n=0,
                    )
                    try:
                        plan = pipeline.prune(model, chosen).report
                    except OptionError:
                        cells.append("not met")
                        continue
                    lost = sum(float(x[list(g.removed)].sum()) for x, g in zip(scored, plan.groups, strict=True))
                    cells.append(f"{lost:.2f}")
                yield "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--python", type=Path)
    parser.add_argument("--models", default="unet,nudenet,resnet50,yolov4_like")
    parser.add_argument("--removed", default="0.41,0.58")
    parser.add_argument("--dtypes", default="fp16,int8")
    parser.add_argument("--cycles", default="0.8,0.6,0.4")
    parser.add_argument("--others", type=Path, nargs="*", default=[])
    parser.add_argument("--predicted", action="store_true", help="by the target's arithmetic, without the compiler")
    parser.add_argument("--scores", action="store_true", help="only the table of scores lost")
    options = parser.parse_args()
    if not options.scores:
        print("| model | type | by | MACs | cycles | cycles | share of cycles / share of MACs |")
        print("|---|---|---|---|---|---|---|")
        for name in options.models.split(","):
            with tempfile.TemporaryDirectory() as folder:
                for line in rows(name, options, Path(folder)):
                    print(line, flush=True)
        return
    print("| model | type | cycles | by target | one ratio, align 16 | one ratio, align 32 | by cost, align 16 |")
    print("|---|---|---|---|---|---|---|")
    for name in options.models.split(","):
        for line in kept(name, options):
            print(line, flush=True)


if __name__ == "__main__":
    main()
