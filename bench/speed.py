"""What pruning costs next to reading and writing the same file: ``python -m bench.speed``.

Everything is measured in fresh processes, the two sides by turns. Seconds are those of the work alone,
after imports; a ratio is onnxprune's analysis and rewrite, without the numeric proof, over ``onnx.load``
and ``onnx.save``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import onnx

from bench.measure import Run, publish, python
from fixtures import build

RATIO = 0.3
SIZES: dict[str, Callable[[], onnx.ModelProto]] = {
    "5 MB": partial(build.conv_chain, 34, width=64),
    "100 MB": partial(build.big, 100),
    "500 MB": partial(build.big, 500),
}
LENGTHS = (100, 1000, 10_000)


def prune_without_proof(source: Path, target: Path, ratio: float) -> float:
    """Read ``source``, prune ``ratio`` of each group, write ``target``, prove nothing; seconds it took."""
    from onnxprune import pipeline  # noqa: PLC0415
    from onnxprune.model import files  # noqa: PLC0415
    from onnxprune.options import Options  # noqa: PLC0415

    started = time.perf_counter()
    pruned = pipeline.prune(files.load(source), Options(ratio=ratio, check_n=0))
    files.write({target: pruned.model})
    return time.perf_counter() - started


def prune_with_proof(source: Path, target: Path, ratio: float) -> float:
    """As a user does it: read, prune, prove, write; seconds it took."""
    from onnxprune import pipeline  # noqa: PLC0415
    from onnxprune.model import files  # noqa: PLC0415

    started = time.perf_counter()
    pruned = pipeline.prune(files.load(source), pipeline.Options(ratio=ratio))
    files.write({target: pruned.model})
    return time.perf_counter() - started


def reload(source: Path, target: Path, ratio: float) -> float:  # noqa: ARG001
    """``onnx.load`` and ``onnx.save``, nothing between them; seconds it took."""
    started = time.perf_counter()
    onnx.save(onnx.load(source), target)
    return time.perf_counter() - started


def nothing(source: Path, target: Path, ratio: float) -> float:  # noqa: ARG001
    """Do nothing: what there is before any work is an interpreter that imported onnxprune."""
    from onnxprune import pipeline  # noqa: F401, PLC0415

    return 0.0


WORK = {"reload": reload, "prune": prune_without_proof, "prove": prune_with_proof, "nothing": nothing}


@dataclass(frozen=True)
class Cost:
    """The size of the file, seconds of work in each repeat, the highest peak of resident bytes, any crash."""

    file_bytes: int
    seconds: list[float]
    peak_bytes: int
    anonymous_bytes: int
    crash: str

    @property
    def best(self) -> float:
        """The shortest repeat."""
        return min(self.seconds, default=math.nan)

    @property
    def middle(self) -> float:
        """The median repeat."""
        return statistics.median(self.seconds) if self.seconds else math.nan


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure sizes and lengths, print the tables, and write all that was measured if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="only the memory of single runs, over 2 GB included")
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--work", nargs=3, metavar=("WHAT", "SOURCE", "TARGET"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        what, source, target = options.work
        print(json.dumps(WORK[what](Path(source), Path(target), RATIO)))
        return
    if options.memory:
        memory = {
            "500 MB": measure(SIZES["500 MB"], ["prune", "prove"], 1),
            "2.3 GB": measure_large(["prune", "prove"]),
        }
        rows = [anonymous_row(name, work, cost) for name, costs in memory.items() for work, cost in costs.items()]
        publish({"Memory": rows}, as_json(memory), options.json)
        return
    sides = ["reload", "prune"]
    idle = measure(partial(build.conv_chain, 1), ["nothing"], 1)["nothing"]
    sizes = {name: measure(make, sides, options.repeats) for name, make in SIZES.items()}
    chains = {n: measure(partial(build.conv_chain, n), sides, options.repeats) for n in LENGTHS}
    tables = {
        "Size of the file": [size_row(name, costs) for name, costs in sizes.items()],
        "Number of Convs": growth_rows(chains),
        "Peak memory": [memory_row(name, costs, idle) for name, costs in sizes.items()],
    }
    publish(tables, {"idle": asdict(idle), "sizes": as_json(sizes), "chains": as_json(chains)}, options.json)


def measure(make: Callable[[], onnx.ModelProto], works: Sequence[str], repeats: int) -> dict[str, Cost]:
    """Measure each of ``works`` on the model that ``make`` returns, in ``repeats`` rounds of them all."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source.onnx")
        onnx.save(make(), source)
        runs: dict[str, list[Run]] = {work: [] for work in works}
        for _ in range(repeats):
            for work, done in runs.items():
                done.append(python("bench.speed", "--work", work, source, Path(folder, f"{work}.onnx")))
        return {work: _cost(source.stat().st_size, done) for work, done in runs.items()}


def measure_large(works: Sequence[str]) -> dict[str, Cost]:
    """Measure each of ``works`` once on a model of 2.3 GB with external data."""
    with tempfile.TemporaryDirectory() as folder:
        source = build.gemms(Path(folder), 35)
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        costs = {}
        for work in works:
            costs[work] = _cost(size, [python("bench.speed", "--work", work, source, Path(folder, "out.onnx"))])
            Path(folder, "out.onnx").unlink(missing_ok=True)
        return costs


def anonymous_row(name: str, work: str, cost: Cost) -> dict[str, str]:
    """Peaks of one run, in bytes and in file sizes."""
    return {
        "model": name,
        "run": {"prune": "without proof", "prove": "with proof"}[work],
        "file, MB": f"{cost.file_bytes / 1e6:.0f}",
        "s": f"{cost.best:.1f}",
        "resident, MB": f"{cost.peak_bytes / 1e6:.0f}",
        "resident, x file": f"{cost.peak_bytes / cost.file_bytes:.2f}",
        "anonymous, MB": f"{cost.anonymous_bytes / 1e6:.0f}",
        "anonymous, x file": f"{cost.anonymous_bytes / cost.file_bytes:.2f}",
        "crash": cost.crash,
    }


def _cost(size: int, runs: Sequence[Run]) -> Cost:
    crash = next((done.failure for done in runs if done.failure), "")
    seconds = [] if crash else [float(done.value) for done in runs]
    peak, anonymous = (max(getattr(r, f"{n}_bytes") for r in runs) for n in ("peak", "anonymous"))
    return Cost(size, seconds, peak, anonymous, crash)


def size_row(name: str, costs: dict[str, Cost]) -> dict[str, str]:
    """Seconds of both sides, and their ratios."""
    reload, prune = costs["reload"], costs["prune"]
    return {
        "model": name,
        "file, MB": f"{reload.file_bytes / 1e6:.1f}",
        "load + save, s: min": f"{reload.best:.3f}",
        "load + save, s: median": f"{reload.middle:.3f}",
        "analysis + rewrite, s: min": f"{prune.best:.3f}",
        "analysis + rewrite, s: median": f"{prune.middle:.3f}",
        "ratio of min": f"{prune.best / reload.best:.2f}",
        "ratio of medians": f"{prune.middle / reload.middle:.2f}",
        "crash": prune.crash,
    }


def growth_rows(chains: dict[int, dict[str, Cost]]) -> list[dict[str, str]]:
    """Make a line per length, with the p of seconds ~ Convs^p since the line before, and since the first."""
    first, previous = next(iter(chains)), {after: before for before, after in pairwise(chains)}
    rows: list[dict[str, str]] = []
    for n, costs in chains.items():
        row = {"Convs": str(n)}
        for work, title in (("reload", "load + save"), ("prune", "analysis + rewrite")):
            row[f"{title}, s: min"] = f"{costs[work].best:.3f}"
            row[f"{title}, s: median"] = f"{costs[work].middle:.3f}"
            row[f"{title}: exponent"] = _exponent(chains, work, previous.get(n, n), n)
            row[f"{title}: since {first}"] = _exponent(chains, work, first, n)
        row["ratio of min"] = f"{costs['prune'].best / costs['reload'].best:.2f}"
        rows.append(row | {"crash": costs["prune"].crash})
    return rows


def _exponent(chains: dict[int, dict[str, Cost]], work: str, before: int, after: int) -> str:
    """Return the slope of log(shortest seconds) over log(Convs)."""
    if before == after:
        return "-"
    growth = chains[after][work].best / chains[before][work].best
    return f"{math.log(growth) / math.log(after / before):.2f}"


def memory_row(name: str, costs: dict[str, Cost], idle: Cost) -> dict[str, str]:
    """Peak resident memory as it is, and in file sizes, with and without that of the imports."""
    reload, prune = costs["reload"], costs["prune"]
    return {
        "model": name,
        "file, MB": f"{reload.file_bytes / 1e6:.1f}",
        "imports, MB": f"{idle.peak_bytes / 1e6:.0f}",
        "load + save, MB": f"{reload.peak_bytes / 1e6:.0f}",
        "analysis + rewrite, MB": f"{prune.peak_bytes / 1e6:.0f}",
        "ratio of peaks": f"{prune.peak_bytes / reload.peak_bytes:.2f}",
        "load + save, x file": f"{reload.peak_bytes / reload.file_bytes:.2f}",
        "analysis + rewrite, x file": f"{prune.peak_bytes / prune.file_bytes:.2f}",
        "less imports, x file": f"{(prune.peak_bytes - idle.peak_bytes) / prune.file_bytes:.2f}",
    }


def as_json(costs: Mapping[Any, dict[str, Cost]]) -> dict[str, Any]:
    """Return what was measured, by model and by work."""
    return {str(name): {work: asdict(cost) for work, cost in both.items()} for name, both in costs.items()}


if __name__ == "__main__":
    main()
