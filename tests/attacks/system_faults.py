"""What the system does to a run: no space, no descriptors, folders that go, a file that shrinks while it is mapped.

``python -m tests.attacks.system_faults`` judges all of them, a line of JSON each.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.attacks.judge import LIMITS, imported, judged
from tests.models import build

PRUNE = ("prune", "m.onnx", "--data", "none", "--check-n", "1")

#: Weights of 300 KB, which are mapped.
MODEL = """(float[1,3,8,8] x) => (float[1,4,8,8] y)
<float[256,3,1,1] w0, float[256,256,1,1] w1, float[4,256,1,1] w2>
{ a = Conv(x, w0)
  b = Relu(a)
  c = Conv(b, w1)
  d = Relu(c)
  y = Conv(d, w2) }"""

#: An id that owns nothing.
_NOBODY = 65534


@dataclass(frozen=True)
class Fault:
    """What is done to the process, what is run, and what the line says."""

    name: str
    inside: Callable[[], object] = field(repr=False)
    says: Sequence[str]
    args: Sequence[str] = (*PRUNE, "-o", "out.onnx")
    prepare: Callable[[Path], object] = field(default=lambda _: None, repr=False)


def _limited(kind: int, value: int) -> Callable[[], object]:
    return lambda: resource.setrlimit(kind, (value, value))


def _after(module: str, name: str, then: Callable[[], object]) -> Callable[[], object]:
    """``then`` happens once ``name`` of ``module`` has been called."""

    def inside() -> None:
        place = sys.modules[module]
        own = getattr(place, name)

        def called(*args: Any, **more: Any) -> Any:
            result = own(*args, **more)
            then()
            return result

        setattr(place, name, called)

    return inside


def _nobody() -> None:
    """Root may write anywhere."""
    if os.geteuid() == 0:
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)


def _read_only(folder: Path) -> None:
    for path in (folder.parent, folder, folder.parent / "tmp"):
        path.chmod(0o755)
    (folder.parent / "tmp").chmod(0o777)
    folder.chmod(0o555)


def _without_temporary() -> None:
    shutil.rmtree(tempfile.gettempdir())


def _faults() -> Iterator[Fault]:
    for size in (0, 100, 50_000):
        yield Fault(f"a disk with {size} bytes left", _limited(resource.RLIMIT_FSIZE, size), [])
    beside = (*PRUNE, "-o", "out.onnx", "--save-as-external-data", "--json", "r.json", "--report", "r.html")
    yield Fault(
        "a disk that fills while several files are written", _limited(resource.RLIMIT_FSIZE, 50_000), [], beside
    )
    drawn = ("prune", "m.onnx", "-o", "out.onnx", "--samples", "8")
    yield Fault("no space for what was seen", _limited(resource.RLIMIT_FSIZE, 0), [], drawn)
    for count in (4, 6, 7):
        yield Fault(f"{count} descriptors", _limited(resource.RLIMIT_NOFILE, count), [])
    yield Fault("a folder that is read-only", _nobody, ["cannot write", "out.onnx"], prepare=_read_only)
    gone = _after("onnxprune.model.files", "ensure_writable", lambda: shutil.rmtree("sub"))
    there = (*PRUNE, "-o", "sub/out.onnx")
    yield Fault("a folder that vanishes", gone, ["sub"], there, prepare=lambda f: (f / "sub").mkdir())
    yield Fault("a folder that never was", lambda: None, ["there is no folder"], there)
    shrinks = _after("onnxprune.model.files", "load", lambda: os.truncate("m.onnx", 100))
    yield Fault("a file that shrinks while it is mapped", shrinks, ["SIGBUS"])
    yield Fault("no temporary folder", _without_temporary, [], drawn)
    yield Fault("a current folder that is gone", lambda: shutil.rmtree(Path.cwd()), ["m.onnx"])
    for option in ("-o", "--json", "--report", "--junit", "--save-plan"):
        output = () if option == "-o" else ("-o", "out.onnx")
        folder = (*PRUNE, *output, option, "sub")
        yield Fault(
            f"{option} is a folder", lambda: None, ["is a folder"], folder, prepare=lambda f: (f / "sub").mkdir()
        )
        yield Fault(
            f"{option} is a pipe",
            lambda: None,
            ["is a pipe or a device"],
            (*PRUNE, *output, option, "it"),
            prepare=lambda f: os.mkfifo(f / "it"),
        )
        own = (*PRUNE, *output, option, "m.onnx")
        yield Fault(f"{option} is the model", lambda: None, ["is the model itself"], own)
        yield Fault(f"{option} is below a file", lambda: None, ["cannot write"], (*PRUNE, *output, option, "m.onnx/x"))
        yield Fault(f"{option} has a long name", lambda: None, ["too long"], (*PRUNE, *output, option, "x" * 300))
    summary = (*PRUNE, "-o", "out.onnx", "--summary", "it")
    yield Fault("--summary is a folder", lambda: None, ["cannot write", "it"], summary, lambda f: (f / "it").mkdir())
    yield Fault("--summary is a pipe", lambda: None, ["cannot write", "it"], summary, lambda f: os.mkfifo(f / "it"))


FAULTS: tuple[Fault, ...] = tuple(_faults())


def main() -> None:
    """Judge all faults, or those whose names hold an argument."""
    imported()
    files = {"m.onnx": build(MODEL).SerializeToString()}
    for fault in FAULTS:
        if sys.argv[1:] and not any(a in fault.name for a in sys.argv[1:]):
            continue
        found = judged(files, (*fault.args, *LIMITS), ("out.onnx",), fault.prepare, fault.inside)
        sys.stdout.write(json.dumps([fault.name, found.fault, found.code, found.err]) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
