"""Trials are rows: a kill loses what was running and nothing else, and tables merge by concatenation."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.commands import AGAINST_THE_ORIGINAL, Run, assert_one_line

METRIC = (
    AGAINST_THE_ORIGINAL
    + """

def each(session):
    with Path("calls").open("a") as calls:
        calls.write("called\\n")
    return (outputs(session) == TRUE).mean((1, 2))
"""
)
SEARCH = ("chain.onnx", "--data", "x.npy", "--check-n", "1", "--metric", "trial_metric:each", "--max-drop", "0.1")
TABLE = ("--trials", "t.jsonl")


@pytest.fixture(autouse=True)
def here(chain: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(chain.parent)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "trial_metric", raising=False)
    (chain.parent / "trial_metric.py").write_text(METRIC, encoding="utf-8")
    np.save("x.npy", np.random.default_rng(1).standard_normal((30, 3, 8, 8)).astype(np.float32))
    return chain.parent


def lines(path: str = "t.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def calls() -> int:
    return len(Path("calls").read_text().splitlines())


def test_every_finished_trial_is_a_line_and_none_is_run_again(run: Run) -> None:
    first = run(*SEARCH, *TABLE, "-o", "a.onnx")
    assert first.err == ""
    trials, made = lines(), calls()
    assert len({t["key"] for t in trials}) == len(trials) == made - 1  # and the original
    again = run(*SEARCH, *TABLE, "--resume", "-o", "b.onnx")
    assert again.err == ""
    assert calls() == made + 1  # the original
    assert lines() == trials
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()
    assert [x for x in first.out.splitlines() if x.startswith("tried: ")] == [
        x for x in again.out.splitlines() if x.startswith("tried: ")
    ]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs kill -9")
def test_killed_at_any_moment_it_goes_on_and_comes_to_the_same(run: Run) -> None:
    run(*SEARCH, "--trials", "whole.jsonl", "-o", "whole.onnx")
    command = [sys.executable, "-m", "onnxprune", *SEARCH, *TABLE, "--resume", "-o", "killed.onnx"]
    for wanted in (1, 3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until:
            if Path("t.jsonl").exists() and Path("t.jsonl").read_bytes().count(b"\n") >= wanted:
                break
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with Path("t.jsonl").open("a") as table:
        table.write(json.dumps(lines()[0])[:100])  # as a kill in the middle of a write leaves it
    assert run(*SEARCH, *TABLE, "--resume", "-o", "killed.onnx").err == ""
    keys = [json.loads(x)["key"] for x in Path("t.jsonl").read_text().splitlines() if x.endswith("}")]
    assert len(keys) == len(set(keys))
    assert set(keys) == {t["key"] for t in lines("whole.jsonl")}
    assert Path("killed.onnx").read_bytes() == Path("whole.onnx").read_bytes()


def test_another_limit_takes_the_same_rows(run: Run) -> None:
    run(*SEARCH, *TABLE)
    made = calls()
    run(*SEARCH[:-1], "0.11", *TABLE, "--resume")
    assert calls() - made <= 1 + 4  # the first four are known


@pytest.mark.parametrize("other", [["--seed", "1"], ["--align", "4"], ["--no-compensate"], ["--samples", "20"]])
def test_what_would_come_to_something_else_is_run(run: Run, other: list[str]) -> None:
    run(*SEARCH, *TABLE)
    known = {t["key"] for t in lines()}
    run(*SEARCH, *TABLE, "--resume", *other)
    assert {t["key"] for t in lines()} > known


def test_a_sweep_of_groups_is_rows_as_well(run: Run) -> None:
    args = ("sensitivity", "chain.onnx", "--data", "x.npy", "--metric", "trial_metric:each", "--ratios", "0.25,0.5")
    run(*args, *TABLE, "--csv", "a.csv")
    made = calls()
    assert len(lines()) == 4
    run(*args, *TABLE, "--resume", "--csv", "b.csv")
    assert calls() == made + 1  # the original
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()


def test_tables_are_shown_and_merge_by_concatenation(run: Run) -> None:
    run(*SEARCH, *TABLE)
    half = Path("t.jsonl").read_text().splitlines(keepends=True)
    Path("both.jsonl").write_text("".join(half + half[:2]))
    outcome = run("trials", "both.jsonl", "t.jsonl")
    assert outcome.err == ""
    assert f"{len(half)} trials, of which " in outcome.out
    fronts = [line for line in outcome.out.splitlines() if line.endswith("*")]
    assert 1 <= len(fronts) <= len(half)


def test_a_table_is_a_page_too(run: Run) -> None:
    run(*SEARCH, *TABLE)
    run("sensitivity", "chain.onnx", "--data", "x.npy", "--metric", "trial_metric:each", "--ratios", "0.25", *TABLE)
    for language, word in (("en", "Beaten by none"), ("zh", "未被超过")):
        assert run("trials", "t.jsonl", "--report", "t.html", "--lang", language).err == ""
        page = Path("t.html").read_text(encoding="utf-8")
        assert word in page
        searched = [t for t in lines() if t.get("cost") is not None]
        assert page.count("<circle ") == len(searched) >= 2
        assert "trials t.jsonl --report t.html" in page
        assert "Conv:<wbr>a" in page
    assert_one_line(run("trials", "t.jsonl", "--report", "t.jsonl").err, "t.jsonl: is a table that is read")
    assert lines()


def test_what_is_no_table_is_said(run: Run) -> None:
    Path("no.jsonl").write_text('{"a": 1}\n')
    assert_one_line(run("trials", "no.jsonl").err, "no.jsonl, line 1: is no trial")
    assert_one_line(run("trials", "gone.jsonl").err, "gone.jsonl: cannot be read")
    assert_one_line(run(*SEARCH, "--resume").err, "give --trials too")
