"""Runs one command in a fresh process and says what it cost; prints tables of what was measured.

A child's ``ru_maxrss`` never reads lower than its parent's own peak, because exec carries the high-water
mark over. So the command is started by a trampoline: this file again, in an interpreter that imported next
to nothing.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Run:
    """One finished command: wall seconds with interpreter start, peak resident bytes, exit status, output.

    ``anonymous_bytes``: the peak without pages of mapped files, which the system takes back when it needs them; seen
    every few milliseconds, on Linux.
    """

    seconds: float
    peak_bytes: int
    anonymous_bytes: int
    status: int
    stdout: str
    stderr: str

    @property
    def failure(self) -> str:
        """Empty if the command succeeded, else the signal or the last line of what it complained about."""
        if self.status == 0:
            return ""
        if self.status < 0:
            return signal.Signals(-self.status).name
        lines = [line.strip() for line in self.stderr.splitlines() if line.strip()]
        return lines[-1] if lines else f"exit {self.status}"

    @property
    def value(self) -> Any:
        """What the command printed as its last line, read as JSON; RuntimeError if it failed."""
        if self.failure:
            raise RuntimeError(self.failure)
        return json.loads(self.stdout.splitlines()[-1])


def run(command: Sequence[str | Path], *, timeout: int = 1800) -> Run:
    """Run ``command`` from the root of the repository; it is killed after ``timeout`` seconds."""
    reader, writer = os.pipe()
    trampoline = [sys.executable, "-I", "-S", __file__, str(writer), str(timeout), *map(str, command)]
    root = Path(__file__).parent.parent
    with os.fdopen(reader) as report:
        done = subprocess.run(trampoline, pass_fds=[writer], cwd=root, capture_output=True, text=True, check=False)
        os.close(writer)
        seconds, peak, anonymous, status = json.loads(report.read() or "[0.0, 0, 0, 127]")
    return Run(seconds, peak, anonymous, status, done.stdout, done.stderr)


def python(module: str, *arguments: str | Path, timeout: int = 1800) -> Run:
    """``run`` for ``python -m module arguments``, in the interpreter that runs this."""
    return run([sys.executable, "-m", module, *arguments], timeout=timeout)


def publish(tables: Mapping[str, Sequence[dict[str, str]]], data: dict[str, Any], path: Path | None) -> None:
    """Print each table under its title; write ``data`` and what it was measured on to ``path``, if any."""
    for title, rows in tables.items():
        print(f"\n### {title}\n\n{markdown(rows)}")
    if path is not None:
        where = {"cores": os.cpu_count(), "cpu": platform.machine(), "python": platform.python_version()}
        path.write_text(json.dumps({"measured on": where, **data}, indent=1) + "\n")


def markdown(rows: Sequence[dict[str, str]]) -> str:
    """Draw a Markdown table with the keys of the first row as its head; numbers are aligned to the right."""
    head = list(rows[0])
    body = [[row[key] for key in head] for row in rows]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    right = [all(line[i][:1] in "-0123456789" for line in body) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        aligned = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
        return f"| {' | '.join(aligned)} |"

    rule = "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True))
    return "\n".join([line(head), f"|{rule}|", *map(line, body)])


def _trampoline(writer: int, timeout: int, command: list[str]) -> None:
    """Run ``command`` with our own streams; write [seconds, peak, anonymous bytes, status] to the pipe ``writer``."""
    os.set_inheritable(writer, False)
    started = time.perf_counter()
    child = os.posix_spawnp(command[0], command, os.environ)
    signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
    signal.alarm(timeout)
    anonymous = done = 0
    while not done:
        time.sleep(0.003)
        anonymous = max(anonymous, _anonymous(child))
        done, status, usage = os.wait4(child, os.WNOHANG)
    seconds = time.perf_counter() - started
    unit = 1 if sys.platform == "darwin" else 1024
    numbers = [seconds, usage.ru_maxrss * unit, anonymous, os.waitstatus_to_exitcode(status)]
    os.write(writer, json.dumps(numbers).encode())


def _anonymous(process: int) -> int:
    """Resident bytes that are of no file; 0 where that is not known."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


if __name__ == "__main__":
    _trampoline(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
