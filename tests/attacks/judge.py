"""Run the command line on what a stranger sent, in a child of its own, and say what it did wrong."""

from __future__ import annotations

import fcntl
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
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import onnxprune
from tests.commands import beside_stages

#: What any input may take: seconds, and a little more than what the command line is told.
SECONDS = 60
LIMITS = ("--timeout", "40", "--max-memory", "2GB")

#: What runs import where they need it.
_LIBRARIES = (
    "encodings.ascii",
    "onnx.reference",
    "onnx_graphsurgeon",
    "onnxruntime",
    "scipy.sparse.csgraph",
    "threadpoolctl",
    "difflib",
    "onnx_ad",
)

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
    inside: Callable[[], object] = lambda: None,
) -> Verdict:
    """Run ``onnxprune *args`` in a folder that holds ``files``; it may leave ``writes`` there, and nothing else.

    ``prepare``: what is done to the folder before; ``inside``: to the process that runs.
    """
    with tempfile.TemporaryDirectory(prefix="attack.") as top:
        folder, spool = Path(top, "work"), Path(top, "tmp")
        folder.mkdir()
        spool.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        prepare(folder)
        there = {*_below(folder), *writes}
        start = time.monotonic()
        pipes = _pipe(), _pipe()
        status, usage = _child(folder, spool, args, [write for _, write in pipes], inside)
        seconds = time.monotonic() - start
        out, err = (_read(*pipe) for pipe in pipes)
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


def _pipe() -> tuple[int, int]:
    """What a run prints goes through pipes: files are what limits are about."""
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.set_blocking(read, False)
    return read, write


def _read(read: int, write: int) -> str:
    os.close(write)
    found = b""
    with suppress(BlockingIOError):
        while part := os.read(read, 1 << 20):
            found += part
    os.close(read)
    return found.decode(errors="replace")


def _child(
    folder: Path, spool: Path, args: Sequence[str], writes: Sequence[int], inside: Callable[[], object]
) -> tuple[int, int]:
    pid = os.fork()
    if pid == 0:
        _run(folder, spool, args, writes, inside)
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


def _run(folder: Path, spool: Path, args: Sequence[str], writes: Sequence[int], inside: Callable[[], object]) -> None:
    """In the child: never returns."""
    code = 99
    try:
        for number, write in enumerate(writes, 1):
            os.dup2(write, number)
        os.closerange(3, max(writes) + 1)
        os.chdir(folder)
        os.environ["TMPDIR"] = tempfile.tempdir = str(spool)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        from onnxprune.cli.wall import main  # noqa: PLC0415

        sys.argv = ["onnxprune", *args]
        inside()
        try:
            main()
        except SystemExit as leaving:
            code = int(leaving.code or 0)
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _faults(code: int, err: str, seconds: float, stray: set[str], lost: Sequence[str]) -> Iterator[str]:
    """What is wrong, the worst first."""
    told = beside_stages(err)
    lines = [line for line in told.split("\n") if line.strip()]
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
    if len(told) > LINE or not all(c.isprintable() for c in told.rstrip("\n")):
        yield f"a line that no terminal should be given: {last!r}"
    if stray:
        yield f"stray files: {re.sub('[0-9a-z_]{8}', '*', min(stray))}"
    if lost:
        yield f"exit 0 without {lost[0]}"
