"""Bad files by the thousand: ``python -m tests.attacks.fuzz --cases 20000 --seed 1``."""

from __future__ import annotations

import argparse
import collections
import json
import random
import sys
import time
from pathlib import Path

from tests.attacks.judge import LIMITS, Verdict, judged
from tests.attacks.mutations import spoilt

COMMANDS = (
    ("prune", "m.onnx", "-o", "out.onnx", "--check-n", "1"),
    ("prune", "m.onnx", "-o", "out.onnx", "--check-n", "1", "--lossless", "--ratio", "0.5", "--scope", "global"),
    ("prune", "m.onnx", "-o", "out.onnx", "--check-n", "0", "--budget", "macs=0.5"),
    ("inspect", "m.onnx"),
    ("diff", "m.onnx", "m.onnx", "--check-n", "1"),
    ("advise", "m.onnx", "--target", "rk3588"),
)


def case(number: int) -> tuple[dict[str, bytes], tuple[str, ...], tuple[str, ...]]:
    """Files, arguments, and what may be written."""
    rng = random.Random(number ^ 0x5EED)
    args = rng.choices(COMMANDS, (6, 3, 1, 1, 1, 1))[0]
    return {"m.onnx": spoilt(number)}, (*args, *LIMITS), ("out.onnx",) if args[0] == "prune" else ()


def run(number: int) -> Verdict:
    """The verdict on one case."""
    return judged(*case(number))


def _heavy() -> None:
    """Import what runs need: children are forked with it."""
    import onnx.reference  # noqa: F401, PLC0415
    import onnx_graphsurgeon  # noqa: F401, PLC0415
    import onnxruntime  # noqa: F401, PLC0415
    import scipy.sparse.csgraph  # noqa: F401, PLC0415

    from onnxprune import pipeline  # noqa: F401, PLC0415
    from onnxprune.cli.main import cli  # noqa: F401, PLC0415
    from onnxprune.cli.printing import report  # noqa: F401, PLC0415


def main() -> int:
    """Run, and tell the faults by kind."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    _heavy()
    found: dict[str, list[int]] = collections.defaultdict(list)
    codes: collections.Counter[int] = collections.Counter()
    start, slowest, largest = time.monotonic(), (0.0, 0), (0, 0)
    for index in range(given.cases):
        number = given.seed * 1_000_000 + index
        verdict = run(number)
        codes[verdict.code] += 1
        slowest = max(slowest, (round(verdict.seconds, 1), number))
        largest = max(largest, (verdict.megabytes, number))
        if verdict.fault:
            if verdict.fault not in found:
                print(f"{number}: {verdict.fault}", flush=True)
            found[verdict.fault].append(number)
    seconds = time.monotonic() - start
    print(f"{given.cases} cases in {seconds:.0f} s, exit codes {dict(codes)}, slowest {slowest}, largest {largest} MB")
    for fault, numbers in sorted(found.items(), key=lambda f: -len(f[1])):
        print(f"{len(numbers):5d}  {fault}  {numbers[:4]}")
    if given.keep:
        given.keep.write_text(json.dumps(found), encoding="utf-8")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
