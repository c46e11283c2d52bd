"""What runs leave for each other: less is done again, nothing comes out otherwise, and strangers' files do no harm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from onnxprune.calibration import original_observed
from onnxprune.importance import reconstruction
from tests.commands import Run, assert_one_line

DATA = ("--data", "x.npy", "--check-n", "1")
CACHE = ("--cache", "kept")


@pytest.fixture(autouse=True)
def here(chain: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(chain.parent)
    np.save("x.npy", np.random.default_rng(1).standard_normal((30, 3, 8, 8)).astype(np.float32))
    return chain.parent


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was observed and scored."""
    done: list[str] = []

    def watch(module: ModuleType, name: str) -> None:
        real = getattr(module, name)

        def watched(*args: object, **given: object) -> object:
            done.append(name)
            return real(*args, **given)

        monkeypatch.setattr(module, name, watched)

    watch(original_observed, "observe")
    watch(reconstruction, "felt")
    return done


def entries() -> list[Path]:
    return sorted(Path("kept").iterdir(), key=lambda p: p.stat().st_size)


def pruned(run: Run, *args: object, says: str = "") -> bytes:
    outcome = run("chain.onnx", *DATA, *args, "-o", "p.onnx")
    assert outcome.code == 0, outcome.err
    assert ("note: an entry of --cache was damaged" in outcome.out) == bool(says)
    return Path("p.onnx").read_bytes()


def test_another_budget_target_and_metric_observe_and_score_nothing(run: Run, work: list[str]) -> None:
    alone = [pruned(run, "--budget", f"macs={left}") for left in (0.6, 0.4)]
    work.clear()
    assert pruned(run, "--budget", "macs=0.6", *CACHE) == alone[0]
    assert work == ["observe", "felt"]
    work.clear()
    assert pruned(run, "--budget", "macs=0.4", *CACHE) == alone[1]
    pruned(run, "--target", "rk3588", "--ratio", 0.5, *CACHE)
    pruned(run, "--metric", "agreement", "--max-drop", 0.3, "--confidence", 0, *CACHE)
    assert run("sensitivity", "chain.onnx", *DATA[:2], "--ratios", "0.5", *CACHE).err == ""
    assert work == []


@pytest.mark.parametrize(
    "other",
    [["--samples", "20"], ["--seed", "1"], ["--exclude", "Conv:a"], ["--no-fuse-bn"]],
    ids=lambda v: v[0],
)
def test_what_depends_on_something_else_is_made(run: Run, work: list[str], other: list[str]) -> None:
    pruned(run, "--ratio", 0.5, *CACHE)
    alone = pruned(run, "--ratio", 0.5, *other)
    work.clear()
    assert pruned(run, "--ratio", 0.5, *other, *CACHE) == alone
    assert ("felt" in work) == (other[0] != "--no-fuse-bn")  # the chain has none


def test_other_samples_and_another_model_are_observed(run: Run, work: list[str]) -> None:
    pruned(run, "--ratio", 0.5, *CACHE)
    x = np.load("x.npy")
    x[3, 0, 0, 0] += 1
    np.save("x.npy", x)
    work.clear()
    pruned(run, "--ratio", 0.5, *CACHE)
    assert work == ["observe", "felt"]


@pytest.mark.drawn
def test_drawn_inputs_are_kept_too(run: Run, work: list[str]) -> None:
    for ratio in (0.5, 0.3):
        assert run("chain.onnx", "--check-n", "1", "--ratio", ratio, *CACHE).code == 0
    assert work == ["observe", "felt"]


@pytest.mark.parametrize("which", [0, -1], ids=["scores", "observations"])
@pytest.mark.parametrize("how", ["cut", "flipped", "foreign", "empty"])
def test_a_damaged_entry_is_made_anew_and_said_once(run: Run, which: int, how: str) -> None:
    whole = pruned(run, "--ratio", 0.5, *CACHE)
    path = entries()[which]
    data = path.read_bytes()
    damaged = {
        "cut": data[: len(data) // 2],
        "flipped": data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 4]) + data[len(data) // 2 + 1 :],
        "foreign": entries()[-1 - which if which else -1].read_bytes(),
        "empty": b"",
    }[how]
    path.write_bytes(damaged)
    assert pruned(run, "--ratio", 0.5, *CACHE, says="damaged") == whole
    assert pruned(run, "--ratio", 0.5, *CACHE) == whole


def test_an_entry_whose_checksums_are_right_is_compared_with_the_model(run: Run) -> None:
    """Every number of its description changed, one at a time: nothing is believed, nothing falls over."""
    whole = pruned(run, "--ratio", 0.5, *CACHE)
    path = entries()[-1]
    with zipfile.ZipFile(path) as archive:
        pieces = {name: archive.read(name) for name in archive.namelist()}
    told = json.loads(pieces["facts.json"])
    tensors = told["facts"]["tensors"]
    changes = [
        ("any_batch", 7),
        ("parts", []),
        ("moments", {}),
        ("moments", dict.fromkeys(told["facts"]["moments"], -1)),
        ("tensors", {}),
        ("tensors", None),
        ("tensors", {n: [[0, "<f4", [10**12]]] for n in tensors}),
        ("tensors", {n: [[b, "|O", s] for b, _, s in batches] for n, batches in tensors.items()}),
        ("tensors", {n: [[b, c, [*reversed(s)]] for b, c, s in batches] for n, batches in tensors.items()}),
    ]
    for name, value in changes:
        other = {**told, "facts": {**told["facts"], name: value}}
        with zipfile.ZipFile(path, "w") as archive:
            for piece, data in {**pieces, "facts.json": json.dumps(other).encode()}.items():
                archive.writestr(piece, data)
        assert pruned(run, "--ratio", 0.5, *CACHE, says="damaged") == whole
    rows = next(i for i, n in enumerate(tensors) if n.startswith("rows "))
    with zipfile.ZipFile(path, "w") as archive:  # positions that no tensor has
        for piece, data in pieces.items():
            archive.writestr(piece, b"\x7f" * len(data) if piece == f"t{rows}" else data)
    assert pruned(run, "--ratio", 0.5, *CACHE, says="damaged") == whole


def test_what_is_packed_is_not_unpacked(run: Run) -> None:
    pruned(run, "--ratio", 0.5, *CACHE)
    path = entries()[-1]
    with zipfile.ZipFile(path) as archive:
        pieces = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for piece, data in pieces.items():
            archive.writestr(piece, data)
    pruned(run, "--ratio", 0.5, *CACHE, says="damaged")


def test_a_place_that_is_no_folder_is_one_line(run: Run) -> None:
    outcome = run("chain.onnx", *DATA, "--cache", "x.npy")
    assert outcome.code == 2
    assert_one_line(outcome.err, "--cache x.npy: cannot be a folder")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="whoever may write everywhere")
def test_where_nothing_can_be_written_the_run_goes_on(run: Run) -> None:  # pragma: no cover
    Path("kept").mkdir(mode=0o500)
    outcome = run("chain.onnx", *DATA, "--ratio", 0.5, *CACHE)
    assert outcome.code == 0
    assert "note: nothing was kept in --cache" in outcome.out


def test_runs_at_the_same_time_do_not_mind_each_other() -> None:
    command = [sys.executable, "-m", "onnxprune", "chain.onnx", *DATA, *CACHE, "-q", "-o"]
    runs = [subprocess.Popen([*command, f"{i}.onnx"], stderr=subprocess.PIPE) for i in range(3)]
    assert [p.communicate()[1] for p in runs] == [b"", b"", b""]
    assert len({Path(f"{i}.onnx").read_bytes() for i in range(3)}) == 1
    assert len(entries()) == 2  # and nothing half written: what was seen, and scores
