"""What the system does to a run costs a line and an exit code, and leaves no half file."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest

from tests.attacks.system_faults import FAULTS, MODEL, PRUNE, Fault
from tests.models import build

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits, and how runs are watched, are Linux's")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def verdicts() -> dict[str, tuple[str, int, str]]:
    """{what is done: (fault, exit code, message)}, of one process without threads, so that it can be forked."""
    command = [sys.executable, "-m", "tests.attacks.system_faults"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name: (fault, code, err) for name, fault, code, err in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_a_fault_of_the_system_costs_one_line(fault: Fault, verdicts: dict[str, tuple[str, int, str]]) -> None:
    found, code, err = verdicts[fault.name]
    assert found == ""
    assert code == 2, err
    for part in fault.says:
        assert part in err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "m.onnx").write_bytes(build(MODEL).SerializeToString())
    return tmp_path


def run(folder: Path) -> subprocess.Popen[bytes]:
    environ = {**os.environ, "TMPDIR": str(folder / "tmp")}
    command = [sys.executable, "-m", "onnxprune", *PRUNE, "-o", "out.onnx"]
    return subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def left(folder: Path) -> list[str]:
    """What a run has left; .ses is onnxruntime's own, made when it is imported."""
    names = {p.name for p in (*folder.iterdir(), *(folder / "tmp").iterdir())}
    return sorted(names - {"m.onnx", "tmp", ".ses"})


@pytest.mark.parametrize("count", [2, pytest.param(30, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_leaves_no_half_file(folder: Path, count: int) -> None:
    rng = random.Random(count)
    start = time.monotonic()
    first = run(folder)
    first.communicate()
    assert first.returncode == 0
    seconds = time.monotonic() - start
    for _ in range(count):
        (folder / "out.onnx").unlink(missing_ok=True)
        process = run(folder)
        time.sleep(rng.random() * seconds)
        process.kill()
        process.communicate()  # the child holds the other ends of the pipes until it has removed what it made
        assert process.returncode in (0, -signal.SIGKILL)
        assert left(folder) in ([], ["out.onnx"])
        if left(folder):
            onnx.checker.check_model(onnx.load(folder / "out.onnx"))


def test_two_runs_on_one_output_leave_it_whole(folder: Path) -> None:
    both = [run(folder), run(folder)]
    for process in both:
        process.communicate()
    assert [process.returncode for process in both] == [0, 0]
    assert left(folder) == ["out.onnx"]
    onnx.checker.check_model(onnx.load(folder / "out.onnx"))
