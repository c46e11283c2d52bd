"""What the system does to a run costs a line and an exit code, and leaves no half file."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.attacks.system_faults import FAULTS, MODEL, PRUNE, Fault
from tests.commands import assert_one_line
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
        process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
        until = time.monotonic() + 30  # the child, which nobody waits for, removes what it made
        while left(folder) not in ([], ["out.onnx"]) and time.monotonic() < until:
            time.sleep(0.01)
        assert left(folder) in ([], ["out.onnx"])
        if left(folder):
            onnx.checker.check_model(onnx.load(folder / "out.onnx"))


@pytest.fixture
def full(folder: Path) -> Iterator[Path]:
    """A file system of its own without a byte left."""
    place = folder / "full"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, check=False
    ).returncode:
        pytest.skip("only root may mount")
    try:
        (place / "rest").write_bytes(bytes(60 << 10))
        with suppress(OSError):
            (place / "more").write_bytes(bytes(64 << 10))
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("option", ["-o", "--json", "--report", "--save-plan", "--trials"])
def test_a_file_system_without_space_costs_one_line(folder: Path, full: Path, option: str) -> None:
    np.save(folder / "d.npy", np.random.default_rng(0).random((8, 3, 8, 8), np.float32))
    command = [sys.executable, "-m", "onnxprune", "prune", "m.onnx", "--check-n", "1", "--data", "d.npy"]
    command += [] if option == "-o" else ["-o", "out.onnx"]
    command += ["--metric", "kl", "--max-drop", "1"] if option == "--trials" else []
    done = subprocess.run([*command, option, "full/it"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stdout
    assert_one_line(done.stderr)
    assert "No space left" in done.stderr
    assert {p.name for p in full.iterdir()} <= {"rest", "more", "it"}
    assert (full / "it").exists() == (option == "--trials")  # the table is added to, line by line
    assert not (folder / "out.onnx").exists()


def test_temporary_files_go_elsewhere_where_there_is_no_space(folder: Path, full: Path) -> None:
    command = [sys.executable, "-m", "onnxprune", "prune", "m.onnx", "-o", "out.onnx", "--samples", "8"]
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "TMPDIR": str(full)}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {p.name for p in full.iterdir()} - {".ses"} == {"rest", "more"}  # that is of onnxruntime


def test_a_run_needs_no_shared_memory(folder: Path) -> None:
    hidden = 'mount -t tmpfs -o ro tmpfs /dev/shm && exec "$@"'
    command = ["unshare", "-m", "sh", "-c", hidden, "sh", sys.executable, "-m", "onnxprune"]
    if subprocess.run([*command[:-3], "true"], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount")
    command += ["prune", "m.onnx", "-o", "out.onnx", "--samples", "8"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nothing_runs_on_after_the_parent_was_killed(folder: Path) -> None:
    environ = {**os.environ, "TMPDIR": str(folder / "tmp")}
    command = [sys.executable, "-m", "onnxprune", "prune", "m.onnx", "-o", "out.onnx", "--samples", "4096"]
    process = subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until = time.monotonic() + 60
    while not (child := children.read_text(encoding="ascii").partition(" ")[0]) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(2)
    process.kill()
    process.communicate()
    until = time.monotonic() + 60
    while Path(f"/proc/{child}/exe").exists() and time.monotonic() < until:
        time.sleep(0.01)
    assert not Path(f"/proc/{child}/exe").exists()
    assert left(folder) == []


def test_two_runs_on_one_output_leave_it_whole(folder: Path) -> None:
    both = [run(folder), run(folder)]
    for process in both:
        process.communicate()
    assert [process.returncode for process in both] == [0, 0]
    assert left(folder) == ["out.onnx"]
    onnx.checker.check_model(onnx.load(folder / "out.onnx"))
