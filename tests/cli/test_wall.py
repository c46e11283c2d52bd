"""What runs a model can die, hang or eat memory: that costs a line and an exit code, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import assert_one_line

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the wall is tested where /proc is")

#: The command line with a command that does what a model might make a library do.
PROGRAM = """
import click, ctypes, mmap, os, sys, tempfile, time
from onnxprune.file_system import scratch
from onnxprune.cli import main, wall
from onnxprune.cli.options import bounded
@click.command()
@bounded
def work():
    {}
main.COMMANDS["work"] = ""
sys.modules["onnxprune.cli.commands.work"] = sys.modules["__main__"]
sys.argv[1:1] = ["work"]
wall.main()
"""

#: In the middle of its work, and for ever: what it is inside of will be left in order.
ENDLESS = "with tempfile.TemporaryDirectory(prefix=scratch.prefix()) as f: os.mkdir(f + '/inside'); time.sleep(86400)"


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    (tmp_path / "spool").mkdir()
    return tmp_path / "spool"


@pytest.fixture
def start() -> Iterator[list[subprocess.Popen[str]]]:
    """Nothing outlives a test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def begun(started: list[subprocess.Popen[str]], spool: Path, *args: str) -> subprocess.Popen[str]:
    """A run that has a temporary folder by now."""
    command = [sys.executable, "-c", PROGRAM.format(ENDLESS), *args]
    environ = {**os.environ, "TMPDIR": str(spool)}
    process = subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=environ)
    started.append(process)
    until = time.monotonic() + 60
    while not any(spool.glob("onnxprune.*/inside")) and time.monotonic() < until and process.poll() is None:
        time.sleep(0.02)
    assert any(spool.glob("onnxprune.*/inside"))
    return process


def child_of(process: subprocess.Popen[str]) -> int:
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()[0])


def ended(process: subprocess.Popen[str], spool: Path) -> tuple[int, str]:
    """Exit code and message, once it is sure that nothing was left."""
    out, err = process.communicate(timeout=60)
    assert out == ""
    assert list(spool.iterdir()) == []
    return process.returncode, err


@pytest.mark.parametrize(
    ("number", "code", "says"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "terminated"),
        (signal.SIGHUP, 129, "terminated"),
    ],
    ids=["interrupt", "terminate", "hang up"],
)
@pytest.mark.parametrize("whom", ["the parent", "both"])
def test_a_signal_ends_the_run(
    start: list[subprocess.Popen[str]], spool: Path, number: int, code: int, says: str, whom: str
) -> None:
    process = begun(start, spool)
    if whom == "both":  # as a terminal does
        os.kill(child_of(process), number)
    process.send_signal(number)
    found, err = ended(process, spool)
    assert found == code
    assert_one_line(err, says)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_the_death_of_the_child_is_a_line(
    start: list[subprocess.Popen[str]], spool: Path, number: signal.Signals
) -> None:
    process = begun(start, spool)
    os.kill(child_of(process), number)
    code, err = ended(process, spool)
    assert code == 2
    assert_one_line(err, number.name)


def test_a_child_does_not_outlive_a_killed_parent(start: list[subprocess.Popen[str]], spool: Path) -> None:
    process = begun(start, spool)
    process.kill()
    ended(process, spool)  # its pipes are closed once the child has ended too


def test_a_run_has_so_much_time(start: list[subprocess.Popen[str]], spool: Path) -> None:
    process = begun(start, spool, "--timeout", "3")
    code, err = ended(process, spool)
    assert code == 2
    assert_one_line(err, "--timeout", "3 seconds")


#: Takes memory as a library would: in Python, and in C behind Python's back.
GREEDY = {
    "python": "[bytearray(1 << 20) for _ in range(3000)]",
    "mapped": "m = [mmap.mmap(-1, 1 << 20) for _ in range(3000)]; [x.write(bytes(1 << 20)) for x in m]; time.sleep(60)",
    "crash": "ctypes.string_at(0)",
    "abort": "os.write(2, b'terminate called\\n  what(): oh\\n'); os.abort()",
}


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("python", "300.0 MB"),
        ("mapped", "300.0 MB"),
        ("crash", "SIGSEGV"),
        ("abort", "what(): oh"),
    ],
)
def test_what_a_run_does_to_its_process(what: str, says: str) -> None:
    """A command that does what a model might make onnxruntime do."""
    command = [sys.executable, "-c", PROGRAM.format(GREEDY[what]), "--max-memory", "300MB", "--timeout", "30"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert_one_line(done.stderr, says)


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_cost_nothing(chain: Path, closed: str) -> None:
    command = f'exec "{sys.executable}" -m onnxprune inspect "{chain}" {closed}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert ("Conv:a" in done.stdout) == (">&-" not in closed.replace("2>&-", ""))


@pytest.mark.parametrize("given", ["", "x", "0", "-1GB", "1XB"])
def test_an_amount_that_is_none_is_refused(chain: Path, given: str) -> None:
    command = [sys.executable, "-m", "onnxprune", str(chain), "--max-memory", given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert_one_line(done.stderr, "--max-memory")
