"""Rounds of pruning and of training that is the user's: how far they go, what is written, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune.plans.plan_file import Plan
from tests.commands import Run, assert_one_line, widths

FUNCTIONS = """
import os
import signal
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper


def same(model, plan, number):
    kept = {n: len(axes) for n, axes in plan.initializers.items()}
    with Path("rounds").open("a") as rounds:
        rounds.write(f"{number} {sorted(kept)} {len(model.graph.initializer)}\\n")
    return model


def by_path(path: Path, plan, number):
    assert path.exists()
    model = onnx.load(path)
    onnx.save(model, "trained.onnx")  # in the same place each time
    return "trained.onnx"


def notes(model, plan, number):
    die = Path("die").read_text() if Path("die").exists() else ""
    with Path("calls").open("a") as calls:
        calls.write(f"{number}\\n")
    if number == 2 and die == "training":
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 2 and die == "metric":
        import onnxprune.search.smallest as smallest

        smallest.Measuring.judged = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
    return model


def forgets(model, plan, number):
    for tensor in model.graph.initializer if number == 2 else ():
        tensor.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(tensor), tensor.name))
    return model


def whole(model, plan, number):
    return onnx.load("chain.onnx")


def other_output(model, plan, number):
    model.graph.output[0].name = "b"
    return model


def none(model, plan, number):
    return None


def raises(model, plan, number):
    raise KeyError("no such epoch")
"""
ROUNDS = ("chain.onnx", "--data", "x.npy", "--check-n", "1", "--metric", "agreement", "--confidence", "0", "--max-drop")


@pytest.fixture(autouse=True)
def here(chain: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(chain.parent)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "round_functions", raising=False)
    Path("round_functions.py").write_text(FUNCTIONS, encoding="utf-8")
    np.save("x.npy", np.random.default_rng(1).standard_normal((30, 3, 8, 8)).astype(np.float32))
    return chain.parent


def found(run: Run, function: str, *args: object, drop: float = 0.06) -> dict[str, object]:
    outcome = run(*ROUNDS, drop, "--finetune", f"round_functions:{function}", *args, "-o", "p.onnx", "--json", "r.json")
    assert outcome.err == ""
    told: dict[str, object] = json.loads(Path("r.json").read_text())
    return told


@pytest.mark.parametrize("function", ["same", "by_path"])
def test_it_goes_on_until_the_metric_says_stop_and_the_best_that_held_is_written(run: Run, function: str) -> None:
    told = found(run, function, "--trials", "t.jsonl")
    search = told["search"]
    assert isinstance(search, dict)
    trials = search["trials"]
    held = [t["holds"] for t in trials]
    assert held == [True] * (len(held) - 1) + [False]
    assert search["taken"] == len(held) - 2 >= 1
    left = [t["macs"] for t in trials]
    assert all(0.5 <= b / a <= 0.75 for a, b in zip([1.0, *left], left, strict=False))
    macs = told["macs"]
    assert isinstance(macs, dict)
    assert macs["ratio"] == pytest.approx(left[search["taken"]], rel=1e-3)
    onnx.checker.check_model(onnx.load("p.onnx"), full_check=True)
    rows = [json.loads(line) for line in Path("t.jsonl").read_text().splitlines()]
    assert [r["round"] for r in rows] == [*range(1, len(held) + 1)]
    assert len({r["key"] for r in rows}) == len(rows)
    assert "*" in run("trials", "t.jsonl").out
    if function == "same":
        assert [line.split()[0] for line in Path("rounds").read_text().splitlines()] == [str(r["round"]) for r in rows]


def test_a_round_of_bad_training_ends_it(run: Run) -> None:
    told = found(run, "forgets", drop=0.6)
    search = told["search"]
    assert isinstance(search, dict)
    assert [t["holds"] for t in search["trials"]] == [True, False]
    assert search["taken"] == 0
    assert "1 rounds of pruning and training" in str(told["notes"])


def test_where_the_first_round_is_too_much_no_model_is_written(run: Run) -> None:
    outcome = run(*ROUNDS, 0.001, "--step", "0.5", "--finetune", "round_functions:same")
    assert outcome.code == 1
    assert_one_line(outcome.err, "the first round does not keep drop <= 0.001", "a smaller --step")
    assert not Path("chain.pruned.onnx").exists()


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("whole", "in shape [32, 16, 1, 1], not ["),
        ("other_output", "gives a model with other outputs"),
        ("none", "gives no model"),
        ("raises", "raises KeyError: 'no such epoch'"),
        ("gone", "cannot load"),
    ],
)
def test_what_comes_back_is_checked(run: Run, function: str, says: str) -> None:
    outcome = run(*ROUNDS, 0.4, "--finetune", f"round_functions:{function}")
    assert outcome.code == 2
    assert_one_line(outcome.err, says)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--step", "0.6"], "--step: must be in (0, 0.5]"),
        (["--resume"], "give --trials too"),
        (["--keep", "Conv:a=0"], "names positions or outputs"),
        (["--format", "sparse"], "training comes after it"),
    ],
)
def test_what_rounds_cannot_do_is_said(run: Run, options: list[str], says: str) -> None:
    assert_one_line(run(*ROUNDS, 0.4, "--finetune", "round_functions:same", *options).err, says)


def lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs kill -9")
@pytest.mark.parametrize("at", ["training", "metric", "plan"])
def test_killed_it_trains_nothing_twice_and_comes_to_the_same(run: Run, at: str) -> None:
    """In the middle of the training of a round; when its model is there and is not measured; when all is done."""
    args = (*ROUNDS, "0.06", "--finetune", "round_functions:notes")
    whole = run(*args, "--trials", "whole.jsonl", "-o", "whole.onnx", "--save-plan", "whole.json")
    assert whole.err == ""
    trained = len(lines("calls"))
    assert trained >= 3
    Path("calls").unlink()
    command = [*args, "--trials", "t.jsonl", "--resume", "-o", "p.onnx", "--save-plan", "p.json"]
    if at == "plan":
        run(*command)
        assert lines("calls") == [str(n + 1) for n in range(trained)]
    else:
        Path("die").write_text(at)
        process = subprocess.run([sys.executable, "-m", "onnxprune", *command], check=False, capture_output=True)
        assert process.returncode != 0
        Path("die").unlink()
        assert len(lines("t.jsonl")) == 1
    again = run(*command)
    assert again.err == ""
    twice = at == "training"  # what was not finished
    assert sorted(lines("calls")) == sorted([*(["2"] if twice else []), *(str(n + 1) for n in range(trained))])
    assert Path("p.onnx").read_bytes() == Path("whole.onnx").read_bytes()
    plans = [json.loads(Path(f"{name}.json").read_text()) for name in ("p", "whole")]
    assert plans[0]["initializers"] == plans[1]["initializers"]
    assert [x for x in again.out.splitlines() if x.startswith(("tried: ", "metric: ", "MACs"))] == [
        x for x in whole.out.splitlines() if x.startswith(("tried: ", "metric: ", "MACs"))
    ]
    rows = [[json.loads(x)["key"] for x in lines(table)] for table in ("t.jsonl", "whole.jsonl")]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_what_was_kept_and_is_gone_or_another_is_made_again(run: Run) -> None:
    told = found(run, "same", "--trials", "t.jsonl")
    kept = sorted(Path().glob("t.jsonl.*.onnx"))
    assert len(kept) == len(lines("t.jsonl")) >= 3
    by_round = {json.loads(x)["round"]: f"t.jsonl.{json.loads(x)['key'][:16]}.onnx" for x in lines("t.jsonl")}
    Path(by_round[1]).unlink()
    Path(by_round[2]).write_bytes(b"no model")
    Path("rounds").unlink()
    outcome = run(
        *ROUNDS, 0.06, "--finetune", "round_functions:same", "--trials", "t.jsonl", "--resume", "-o", "q.onnx"
    )
    assert_one_line(outcome.err, "not an ONNX file")
    Path(by_round[2]).unlink()
    Path("rounds").unlink()
    again = found(run, "same", "--trials", "t.jsonl", "--resume")
    assert again["search"]["taken"] == told["search"]["taken"]  # type: ignore[index]
    assert [line.split()[0] for line in lines("rounds")] == ["2"]


@pytest.mark.slow
def test_another_training_is_run(run: Run) -> None:
    found(run, "same", "--trials", "t.jsonl")
    Path("rounds").unlink()
    found(run, "same", "--trials", "t.jsonl", "--resume", "--step", "0.4")
    assert len(lines("rounds")) >= 2


def test_it_needs_a_metric(run: Run) -> None:
    assert_one_line(run("chain.onnx", "--finetune", "round_functions:same").err, "says nothing without a metric")


@pytest.mark.parametrize(
    ("option", "says"),
    [
        (["--evaluations", "3"], "--evaluations: says nothing without a metric"),
        (["--minimise", "bytes"], "--minimise: says nothing without a metric"),
        (["--confidence", "0"], "--confidence: says nothing without a metric"),
        (["--step", "0.2"], "--step: says nothing without a metric"),
        (["--step", "0.2", *ROUNDS[3:], "1"], "--step: says nothing without rounds of training"),
        (["--trials", "t.jsonl"], "--trials: is about trials, and there are none"),
        (["--jobs", "2"], "--jobs: is about trials, and there are none"),
        (["--cluster", "dask://here:1"], "--cluster: is about trials, and there are none"),
    ],
    ids=lambda found: " ".join(found) if isinstance(found, list) else "",
)
def test_what_is_about_a_search_needs_one(run: Run, option: list[str], says: str) -> None:
    assert_one_line(run("chain.onnx", *option).err, says)
    assert not Path("t.jsonl").exists()


def test_in_python() -> None:
    seen: list[tuple[int, str]] = []

    def train(model: onnx.ModelProto, plan: Plan, number: int) -> onnx.ModelProto:
        seen.append((number, plan.model_sha256))
        return model

    result = onnxprune.prune(
        "chain.onnx", data="x.npy", metric="agreement", max_drop=0.1, confidence=0, finetune=train, test_metric="cosine"
    )
    assert [n for n, _ in seen] == [*range(1, len(seen) + 1)]
    assert len({sha256 for _, sha256 in seen}) == len(seen)  # each of the model of the round before
    assert result.report.search is not None
    assert result.report.search.test is not None
    result.save("p.onnx")
    assert sum(widths(Path("p.onnx"))) < 16 + 32 + 4
