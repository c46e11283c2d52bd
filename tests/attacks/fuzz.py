"""Bad files by the thousand: ``python -m tests.attacks.fuzz --cases 20000 --seed 1``."""

from __future__ import annotations

import argparse
import collections
import random
import sys
import time

from tests.attacks.judge import LIMITS, Verdict, imported, judged
from tests.attacks.mutations import bytes_changed, spoilt
from tests.attacks.reproduced import ATTACKS

PRUNE = ("prune", "m.onnx", "-o", "out.onnx")

#: Commands, and how often each is run: those on inputs that are drawn take ten times as long.
COMMANDS = {
    (*PRUNE, "--data", "none", "--check-n", "1"): 12,
    (*PRUNE, "--data", "none", "--check-n", "1", "--lossless", "--ratio", "0.5", "--scope", "global"): 3,
    (*PRUNE, "--data", "none", "--check-n", "0", "--budget", "macs=0.5"): 1,
    (*PRUNE, "--samples", "16", "--check-n", "1"): 1,
    ("inspect", "m.onnx"): 1,
    ("diff", "m.onnx", "m.onnx", "--check-n", "1"): 1,
    ("advise", "m.onnx", "--target", "rk3588"): 1,
}


def of_models(number: int) -> Verdict:
    """A spoilt model, and any command on it."""
    rng = random.Random(number ^ 0x5EED)
    args = rng.choices([*COMMANDS], [*COMMANDS.values()])[0]
    writes = ("out.onnx",) if args[0] == "prune" else ()
    return judged({"m.onnx": spoilt(number)}, (*args, *LIMITS), writes)


def of_data(number: int) -> Verdict:
    """An attack by a file beside the model, spoilt once more."""
    rng = random.Random(number)
    attack = rng.choice([a for a in ATTACKS if len(a.files) > 1])
    files = {n: d if n == "m.onnx" and rng.random() < 0.8 else bytes_changed(d, rng) for n, d in attack.files.items()}
    return judged(files, (*attack.args, *LIMITS), ("out.onnx",), attack.prepare)


def main() -> int:
    """Run, and tell the faults by kind."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=["models", "data"], default="models")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    imported()
    run = of_models if given.kind == "models" else of_data
    found: dict[str, list[int]] = collections.defaultdict(list)
    codes: collections.Counter[int] = collections.Counter()
    start, slowest, largest = time.monotonic(), (0.0, 0), (0, 0)
    for number in range(given.seed * 1_000_000, given.seed * 1_000_000 + given.cases):
        verdict = run(number)
        codes[verdict.code] += 1
        slowest = max(slowest, (round(verdict.seconds, 1), number))
        largest = max(largest, (verdict.megabytes, number))
        if verdict.fault:
            if verdict.fault not in found:
                print(f"{number}: {verdict.fault}", flush=True)
            found[verdict.fault].append(number)
        if verdict.code == 1 or "died of" in verdict.err or "--timeout)" in verdict.err:
            print(f"{number}: worth a look: {verdict.err.strip()[:300]}", flush=True)
    seconds = time.monotonic() - start
    print(f"{given.cases} cases in {seconds:.0f} s, exit codes {dict(codes)}, slowest {slowest}, largest {largest} MB")
    for fault, numbers in sorted(found.items(), key=lambda f: -len(f[1])):
        print(f"{len(numbers):5d}  {fault}  {numbers[:4]}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
