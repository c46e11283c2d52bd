"""Trials side by side: processes here, and a real scheduler with two workers over TCP, of which one is killed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxprune
from onnxprune.errors import KeptError, MetricError, OnnxPruneError
from tests.commands import AGAINST_THE_ORIGINAL, Run, assert_one_line

METRIC = (
    AGAINST_THE_ORIGINAL
    + """
import os, signal, time


def each(session):
    return (outputs(session) == TRUE).mean((1, 2))


def kills(session):
    parent = int(Path("parent").read_text())
    if os.getpid() != parent:
        with Path("calls").open("a") as calls:
            calls.write(f"{os.getpid()}\\n")
        if len(Path("calls").read_text().splitlines()) >= 4 and not Path("killed").exists():
            Path("killed").write_text(f"{os.getpid()}")
            os.kill(os.getpid(), signal.SIGKILL)
    return each(session)


def waits(session):
    if os.getpid() != int(Path("parent").read_text()):
        with Path("calls").open("a") as calls:
            calls.write(f"{os.getpid()} {os.getppid()}\\n")
        time.sleep(0.2)
    return each(session)


def raises(session):
    if os.getpid() != int(Path("parent").read_text()):
        raise KeyError("of a worker")
    return each(session)
"""
)
SWEEP = ("sensitivity", "chain.onnx", "--data", "x.npy", "--ratios", "0.2,0.4,0.6")
SAID_BY_RAY = "SIGTERM handler is not set"  # its server's words come through at times
SEARCH = ("chain.onnx", "--data", "x.npy", "--check-n", "1", "--max-drop", "0.1", "--metric")


@pytest.fixture(autouse=True)
def here(chain: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(chain.parent)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "worker_metric", raising=False)
    Path("worker_metric.py").write_text(METRIC, encoding="utf-8")
    Path("parent").write_text(str(os.getpid()))
    np.save("x.npy", np.random.default_rng(1).standard_normal((30, 3, 8, 8)).astype(np.float32))
    return chain.parent


@pytest.fixture
def cluster(here: Path) -> Iterator[str]:
    """A scheduler and two workers, as a user starts them; they look on nothing but their own folder."""
    distributed = pytest.importorskip("distributed")
    env = {**os.environ, "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    started = []

    def start(name: str, *args: str) -> None:
        command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *args]
        quiet = subprocess.DEVNULL
        started.append(subprocess.Popen(command, env=env, stdout=quiet, stderr=quiet, start_new_session=True))

    start("scheduler", "--port", "0", "--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", "scheduler.json")
    for number in (1, 2):
        own = here / f"folder{number}"
        own.mkdir()
        alone = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(own))
        start("worker", "--scheduler-file", "scheduler.json", *alone)
    until = time.monotonic() + 60
    while not Path("scheduler.json").exists() and time.monotonic() < until:
        time.sleep(0.1)
    address = json.loads(Path("scheduler.json").read_text())["address"]
    with distributed.Client(address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    yield address.replace("tcp://", "dask://")
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def ray_cluster(here: Path) -> Iterator[str]:
    """A head with two processors, as a user starts it. It takes no `ray stop`, which would end those of others."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'ray[client]'")
    own = free_port()
    client = free_port(own + 1)
    env = {**os.environ, "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
    env["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # what its client server forks while gRPC calls would at times not begin
    alone = ("--node-ip-address", "127.0.0.1", "--include-dashboard", "false", "--object-store-memory", "100000000")
    place = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # sockets have short paths
    ports = ("--port", str(own), "--ray-client-server-port", str(client))
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus", "2"]
    command += [*ports, *alone, "--temp-dir", place]
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=here)
    yield f"ray://127.0.0.1:{client}"
    process.terminate()
    process.wait(timeout=60)
    shutil.rmtree(place, ignore_errors=True)


def free_port(first: int = 9100) -> int:
    """One that Ray gives to no worker of its own."""
    for port in range(first, 9900):
        with socket.socket() as place, suppress(OSError):
            place.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def swept(run: Run, name: str, *args: object) -> bytes:
    outcome = run(*SWEEP, *args, "--csv", name)
    assert [line for line in outcome.err.splitlines() if not line.startswith(SAID_BY_RAY)] == []
    return Path(name).read_bytes()


def test_any_number_of_processes_comes_to_the_same(run: Run) -> None:
    stop = ("--early-stop", "raised", "--threshold", 0.01)
    assert swept(run, "a.csv", *stop) == swept(run, "b.csv", *stop, "--jobs", 2)
    told = []
    for jobs in (1, 2):
        args = ("--trials", f"{jobs}.jsonl", "-o", f"{jobs}.onnx", "--jobs", jobs)
        outcome = run(*SEARCH, "worker_metric:each", *args)
        assert outcome.err == ""
        told.append([x for x in outcome.out.splitlines() if x.startswith(("tried: ", "metric: "))])
    assert told[0] == told[1]
    assert Path("1.onnx").read_bytes() == Path("2.onnx").read_bytes()
    keys = [{json.loads(x)["key"] for x in Path(f"{j}.jsonl").read_text().splitlines()} for j in (1, 2)]
    assert keys[0] == keys[1]


@pytest.mark.slow
def test_a_process_that_is_killed_costs_what_it_was_running(run: Run) -> None:
    whole = swept(run, "a.csv", "--metric", "worker_metric:each")
    assert swept(run, "b.csv", "--metric", "worker_metric:kills", "--jobs", 2, "--trials", "t.jsonl") == whole
    assert Path("calls").read_text().split()[-1] != Path("killed").read_text()  # another took over
    keys = [json.loads(x)["key"] for x in Path("t.jsonl").read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 6


@pytest.mark.slow
def test_a_worker_of_a_cluster_that_is_killed_costs_what_it_was_running(run: Run, cluster: str) -> None:
    whole = swept(run, "a.csv", "--metric", "worker_metric:each")
    args = ("--metric", "worker_metric:kills", "--cluster", cluster, "--trials", "t.jsonl")
    assert swept(run, "b.csv", *args) == whole
    assert len({*Path("calls").read_text().split()}) == 2  # one, and the other alone
    keys = [json.loads(x)["key"] for x in Path("t.jsonl").read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 6


@pytest.mark.ray
def test_a_worker_of_rays_that_is_killed_costs_what_it_was_running(
    run: Run, ray_cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray")

    connected = ray.init
    refused = [ConnectionAbortedError("Starting Ray client server failed")]

    def at_the_second_try(**given: Any) -> Any:
        if refused:
            raise refused.pop()
        return connected(**given)

    monkeypatch.setattr(ray, "init", at_the_second_try)
    whole = swept(run, "a.csv", "--metric", "worker_metric:each")
    args = ("--metric", "worker_metric:kills", "--cluster", ray_cluster, "--trials", "t.jsonl")
    assert swept(run, "b.csv", *args) == whole
    assert Path("calls").read_text().split()[-1] != Path("killed").read_text()  # another took over
    keys = [json.loads(x)["key"] for x in Path("t.jsonl").read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 6
    raised = run(*SWEEP, "--metric", "worker_metric:raises", "--cluster", ray_cluster)
    assert "worker_metric:raises: raises KeyError: 'of a worker'" in raised.err
    assert "Traceback" not in raised.err


@pytest.mark.parametrize(
    ("trials", "kills", "options"),
    [(24, 2, []), pytest.param(200, 5, ["--jobs", "2"], marks=pytest.mark.slow)],
    ids=["few", "many"],
)
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs kill -9")
def test_a_sweep_that_is_killed_again_and_again_comes_to_the_same(
    run: Run, trials: int, kills: int, options: list[str]
) -> None:
    """The run with all its processes, at a moment of its own each time; with several, a worker by itself as well."""
    own = [f"{0.9 * (n + 1) / (trials // 2):.5f}" for n in range(trials // 2)]
    sweep = ["sensitivity", "chain.onnx", "--data", "x.npy", "--ratios", ",".join(own)]
    assert run(*sweep, "--metric", "worker_metric:each", "--csv", "whole.csv").err == ""
    metric = "worker_metric:kills" if options else "worker_metric:each"
    command = [
        *sweep,
        "--metric",
        metric,
        *options,
        "--cache",
        "kept",
        "--trials",
        "t.jsonl",
        "--resume",
        "--csv",
        "b.csv",
    ]
    table, gone = Path("t.jsonl"), 0

    def finished() -> int:
        return table.read_bytes().count(b"\n") if table.exists() else 0

    while gone < kills:
        wanted, until = finished() + max(1, trials // (2 * kills)), time.monotonic() + 300
        process = subprocess.Popen([sys.executable, "-m", "onnxprune", *command], start_new_session=True)
        while process.poll() is None and finished() < wanted and time.monotonic() < until:
            time.sleep(0.002)
        assert process.poll() is None, "it finished before it was killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        gone += 1
    assert 0 < finished() < trials
    outcome = run(*command)
    assert outcome.err == ""
    keys = [json.loads(x)["key"] for x in table.read_text().splitlines() if x.endswith("}")]
    assert len(keys) == len(set(keys)) == trials
    assert Path("b.csv").read_bytes() == Path("whole.csv").read_bytes()
    if options:
        assert len(Path("calls").read_text().splitlines()) >= 4  # the fourth has killed a worker


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="asks Linux which processes there are")
def test_workers_end_with_the_run_that_they_work_for(here: Path) -> None:
    ratios = ",".join(f"{0.05 + n / 200:.3f}" for n in range(150))
    command = [*SWEEP[:-1], ratios, "--metric", "worker_metric:waits", "--jobs", "2"]
    process = subprocess.Popen([sys.executable, "-m", "onnxprune", *command], stdout=subprocess.DEVNULL)
    until, calls = time.monotonic() + 120, here / "calls"
    workers: dict[str, set[str]] = {}  # by who started them: the run itself measures too
    while not any(len(own) == 2 for own in workers.values()) and time.monotonic() < until:
        time.sleep(0.05)
        for line in calls.read_text().splitlines() if calls.exists() else ():
            pid, parent = line.split()
            workers.setdefault(parent, set()).add(pid)
    (boss,) = (parent for parent, own in workers.items() if len(own) == 2)
    os.kill(int(boss), signal.SIGKILL)
    process.communicate()
    while any(map(_runs, workers[boss])) and time.monotonic() < until:
        time.sleep(0.1)
    assert not [*filter(_runs, workers[boss])]


def _runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_a_worker_raises_is_one_line(run: Run) -> None:
    outcome = run(*SEARCH, "worker_metric:raises", "--jobs", 2)
    assert outcome.code == 2
    assert_one_line(outcome.err, "worker_metric:raises: raises KeyError: 'of a worker'")


def test_a_function_needs_no_module() -> None:
    def right(session: object) -> float:
        return float(len(str(type(session))))

    found = [onnxprune.sensitivity("chain.onnx", data="x.npy", metric=right, ratios=[0.5], jobs=j) for j in (1, 2)]
    assert found[0].groups == found[1].groups


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--jobs", "0"], "--jobs: must be at least 1"),
        (["--cluster", "nobody"], "dask://HOST:PORT or ray://HOST:PORT"),
    ],
)
def test_what_nobody_can_be_is_said(run: Run, options: list[str], says: str) -> None:
    assert_one_line(run(*SWEEP, *options).err, says)


def test_a_scheduler_that_does_not_answer_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("onnxprune.search.workers._PATIENCE", 0.5)
    outcome = run(*SWEEP, "--cluster", "dask://127.0.0.1:9")
    assert_one_line(outcome.err, "no scheduler with workers answers")


@pytest.mark.parametrize("error", [MetricError("a", where="b", hint="c"), KeptError("a")])
def test_errors_come_back_as_they_were(error: OnnxPruneError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is type(error)
    assert str(again) == str(error)
