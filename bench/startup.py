"""How long a user waits for ``--help``: ``python -m bench.startup [TOOL ...]``, CPU seconds beyond Python's own start.

By turns, in fresh processes. A tool is a name on the path or the path of its script, the start of whose own
interpreter is taken off.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.measure import publish

TOOLS = ("onnxprune", "onnxslim", "onnxsim", "polygraphy")
TURNS = 7


def cpu_seconds(command: Sequence[str | Path]) -> float:
    """User and system time of one run, its children included."""
    before = os.times()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def interpreter(script: Path) -> Path:
    """The Python beside an installed script."""
    beside = script.resolve().with_name("python")
    return beside if beside.exists() else Path(sys.executable)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tools", nargs="*", default=TOOLS, metavar="TOOL")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    scripts = {Path(t).name: Path(found) for t in given.tools if (found := shutil.which(t)) is not None}
    for _ in range(2):  # bytecode and file caches
        for script in scripts.values():
            cpu_seconds([script, "--help"])
    spent: dict[str, list[float]] = {name: [] for name in scripts}
    for _ in range(TURNS):
        for name, script in scripts.items():
            spent[name].append(cpu_seconds([script, "--help"]) - cpu_seconds([interpreter(script), "-c", ""]))
    middle = {name: statistics.median(values) for name, values in spent.items()}
    rows = [{"tool": name, "--help, CPU s beyond Python's start": f"{value:.2f}"} for name, value in middle.items()]
    publish({"Start-up": rows}, {"startup": spent}, given.json)


if __name__ == "__main__":
    main()
