"""Run the command line on what a stranger sent, in a child of its own, and say what it did wrong."""

from __future__ import annotations

import gc
import importlib
import os
import pkgutil
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnxprune

#: What any input may take: seconds, and a little more than what the command line is told.
SECONDS = 60
LIMITS = ("--timeout", "40", "--max-memory", "2GB")

#: What runs import where they need it.
_LIBRARIES = ("onnx.reference", "onnx_graphsurgeon", "onnxruntime", "scipy.sparse.csgraph", "threadpoolctl", "onnx_ad")

#: The longest message.
LINE = 2000


@dataclass(frozen=True)
class Verdict:
    """What was wrong with a run: nothing, or a kind of fault in one line."""

    fault: str
    code: int
    err: str = field(repr=False)
    out: str = field(repr=False)
    seconds: float
    megabytes: int


def judged(
    files: Mapping[str, bytes],
    args: Sequence[str],
    writes: Sequence[str] = (),
    prepare: Callable[[Path], object] = lambda _: None,
) -> Verdict:
    """Run ``onnxprune *args`` in a folder that holds ``files``; it may leave ``writes`` there, and nothing else."""
    with tempfile.TemporaryDirectory(prefix="attack.") as top:
        folder, spool = Path(top, "work"), Path(top, "tmp")
        folder.mkdir()
        spool.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        prepare(folder)
        there = {*_below(folder), *writes}
        start = time.monotonic()
        status, usage = _child(folder, spool, args, Path(top))
        seconds = time.monotonic() - start
        out, err = (Path(top, n).read_text(encoding="utf-8", errors="replace") for n in ("out", "err"))
        code = os.waitstatus_to_exitcode(status)
        stray = {*_below(folder), *_below(spool)} - there
        lost = [w for w in writes if code == 0 and not (folder / w).exists()]
        faults = _faults(code, err, seconds, stray, lost)
    return Verdict(next(faults, ""), code, err, out, seconds, usage // 1024)


def imported() -> None:
    """Import what runs need: children are forked with it, and start at once."""
    for name in _LIBRARIES:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(onnxprune.__path__, "onnxprune."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.freeze()  # a collection in a child writes to no page that it shares


def _below(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def _child(folder: Path, spool: Path, args: Sequence[str], top: Path) -> tuple[int, int]:
    pid = os.fork()
    if pid == 0:
        _run(folder, spool, args, top)
    deadline = time.monotonic() + SECONDS
    pause = 0.002
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return status, usage.ru_maxrss
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            return status, usage.ru_maxrss
        time.sleep(pause)
        pause = min(pause * 1.3, 0.05)


def _run(folder: Path, spool: Path, args: Sequence[str], top: Path) -> None:
    """In the child: never returns."""
    code = 99
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(top / name, os.O_WRONLY | os.O_CREAT, 0o600), number)
        os.chdir(folder)
        os.environ["TMPDIR"] = tempfile.tempdir = str(spool)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        from onnxprune.cli.wall import main  # noqa: PLC0415

        sys.argv = ["onnxprune", *args]
        try:
            main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _faults(code: int, err: str, seconds: float, stray: set[str], lost: Sequence[str]) -> Iterator[str]:
    """What is wrong, the worst first."""
    lines = [line for line in err.split("\n") if line.strip()]
    last = lines[-1][:80] if lines else ""
    if seconds > SECONDS:
        yield "hang"
    if code < 0:
        yield f"signal {signal.Signals(-code).name}"
    if "Traceback" in err:
        places = re.findall(r'File "[^"]*?/?(onnxprune/[\w/]+\.py|passes/\w+\.py)", line \d+, in (\w+)', err)
        yield f"traceback {' '.join(places[-1]) if places else '?'}: {last}"
    if code not in (0, 1, 2):
        yield f"exit code {code}"
    if len(lines) != bool(code):
        yield f"{len(lines)} lines at exit {code}: {last}"
    if code and not last.startswith("onnxprune: "):
        yield f"not a line of ours: {last}"
    if len(err) > LINE or not all(c.isprintable() for c in err.rstrip("\n")):
        yield f"a line that no terminal should be given: {last!r}"
    if stray:
        yield f"stray files: {re.sub('[0-9a-z_]{8}', '*', min(stray))}"
    if lost:
        yield f"exit 0 without {lost[0]}"
