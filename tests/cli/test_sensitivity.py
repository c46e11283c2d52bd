"""What each group costs alone: the table, the CSV, the JSON and the page."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxprune
from tests.commands import Run, assert_one_line, put_branched
from tests.models import build


@pytest.fixture(autouse=True)
def here(chain: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(chain.parent)
    np.save("x.npy", np.random.default_rng(1).standard_normal((30, 3, 8, 8)).astype(np.float32))
    return chain.parent


def found(run: Run, *args: object) -> dict[str, Any]:
    outcome = run("sensitivity", "chain.onnx", "--data", "x.npy", *args, "--json", "s.json")
    assert outcome.err == ""
    told: dict[str, Any] = json.loads(Path("s.json").read_text())
    return told


def test_each_group_is_cut_alone_at_each_ratio(run: Run) -> None:
    told = found(run, "--csv", "sens.csv")
    assert [(g["name"], g["width"]) for g in told["groups"]] == [("Conv:a", 16), ("Conv:c", 32)]
    assert [[s["kept"] for s in g["steps"]] for g in told["groups"]] == [[14, 12, 11, 9, 8], [28, 25, 22, 19, 16]]
    for group in told["groups"]:
        raw, solved = ([s[key]["metric"] for s in group["steps"]] for key in ("raw", "solved"))
        assert raw[-1] > raw[0]
        assert sum(solved) < sum(raw)
    header, *rows = csv.reader(Path("sens.csv").read_text().splitlines())
    assert header == ["layername", "0.1", "0.2", "0.3", "0.4", "0.5"]
    assert [float(v) for v in rows[1][1:]] == pytest.approx(
        [s["solved"]["metric"] for s in told["groups"][1]["steps"]], rel=1e-4
    )


def test_one_group_alone_is_what_prune_makes_of_it(run: Run) -> None:
    """As cut, the figure is that of the file that `prune` writes with this group's ratio and no other."""
    told = found(run, "--ratios", "0.5", "--metric", "cosine")
    args = ("--ratio", 0, "--ratio-for", "Conv:c=0.5", "--importance", "output", "--scope", "group", "--no-compensate")
    assert run("chain.onnx", "--data", "x.npy", *args, "--json", "r.json").err == ""
    (error,) = json.loads(Path("r.json").read_text())["learnt"]["final"]
    assert told["groups"][1]["steps"][0]["raw"]["metric"] == pytest.approx(error["cosine"], abs=0.05)


def test_ratios_widths_and_exclusions_are_those_that_are_asked_for(run: Run) -> None:
    told = found(run, "--ratios", "0.4", "--ratios-for", "Conv:a=0.25,0.75", "--align", 8, "--csv", "sens.csv")
    assert told["ratios"] == [0.25, 0.4, 0.75]
    assert [[(s["ratio"], s["kept"]) for s in g["steps"]] for g in told["groups"]] == [
        [(0.25, 16), (0.75, 8)],
        [(0.4, 16)],
    ]
    assert Path("sens.csv").read_text().splitlines()[2].startswith("Conv:c,,")
    assert [g["name"] for g in found(run, "--exclude", "Conv:a", "--ratios", "0.5")["groups"]] == ["Conv:c"]


@pytest.mark.parametrize(("mode", "metric"), [("raised", "noise"), ("dropped", "cosine")])
def test_a_group_is_left_once_its_metric_has_moved_by_the_threshold(run: Run, mode: str, metric: str) -> None:
    whole = found(run, "--metric", metric, "--ratios", "0.25,0.5,0.75")
    moved = [abs(s["solved"]["metric"] - whole["original"]) for s in whole["groups"][0]["steps"]]
    assert moved[0] < moved[1]
    threshold = (moved[0] + moved[1]) / 2
    some = found(run, "--metric", metric, "--ratios", "0.25,0.5,0.75", "--early-stop", mode, "--threshold", threshold)
    assert [s["ratio"] for s in some["groups"][0]["steps"]] == [0.25, 0.5]


def test_a_metric_of_ones_own_is_measured(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    text = """
import numpy as np

X = np.ones((4, 1, 3, 8, 8), np.float32)


def size(session):
    return [float(np.abs(session.run(None, {"x": x})[0]).mean()) for x in X]
"""
    (here / "sens_metric.py").write_text(text)
    told = found(run, "--metric", "sens_metric:size", "--ratios", "0.5")
    assert told["samples"] == 4
    assert told["groups"][0]["steps"][0]["raw"]["error"] is not None


def test_the_table_says_both_and_the_page_shows_both(run: Run) -> None:
    outcome = run("sensitivity", "chain.onnx", "--data", "x.npy", "--report", "s.html", "--lang", "zh")
    assert "Conv:c" in outcome.out
    assert "10 points in " in outcome.out
    text = Path("s.html").read_text(encoding="utf-8")
    assert "敏感度报告" in text
    assert text.count('class="curve"') == 2
    assert "color-mix" in text


def test_weights_alone_have_one_curve_for_metrics_of_ones_own(run: Run) -> None:
    outcome = run("sensitivity", "chain.onnx", "--data", "none")
    assert_one_line(outcome.err, "needs samples of yours")


def test_a_model_with_branches_is_measured_with_them(run: Run, tmp_path: Path) -> None:
    model, data = put_branched(tmp_path)
    outcome = run("sensitivity", model, "--data", data, "--ratios", "0.5")
    assert outcome.err == ""
    assert "Conv:a" in outcome.out
    asked = ["--data", data, "--metric", "snr", "--min-metric", "5", "-o", tmp_path / "p.onnx"]
    assert run(model, *asked).err == ""


def test_an_output_without_a_row_for_each_sample_counts_for_nothing() -> None:
    text = """(float[1,3,8,8] x) => (float[1,4,8,8] y, float[2,1,4] state) <float[8,3,1,1] w0, float[4,8,1,1] w1,
        int64[3] s = {1, 4, 64}, int64[1] z = {0}> {
        a = Conv(x, w0)
        b = Relu(a)
        y = Conv(b, w1)
        r = Reshape(y, s)
        m = ReduceMean<axes=[2], keepdims=0>(r)
        u = Unsqueeze(m, z)
        state = Concat<axis=0>(u, u) }"""
    x = np.random.default_rng(0).standard_normal((70, 1, 3, 8, 8)).astype(np.float32)
    both = build(text)
    alone = onnx.ModelProto.FromString(both.SerializeToString())
    del alone.graph.output[1], alone.graph.node[3:]
    found, wanted = (onnxprune.sensitivity(m, data={"x": x}, ratios=[0.5]).groups for m in (both, alone))
    assert [s.raw.metric for g in found for s in g.steps] == [s.raw.metric for g in wanted for s in g.steps]


def test_in_python(here: Path) -> None:
    told = onnxprune.sensitivity(here / "chain.onnx", data="x.npy", ratios=[0.5], ratios_for={"Conv:a": [0.25]})
    assert [g.steps[0].kept for g in told.groups] == [12, 16]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--ratios", "1.5"], "--ratios: must be between 0 and 1"),
        (["--ratios", "a"], "is not numbers separated by commas"),
        (["--ratios-for", "Conv:a"], "is not GLOB=RATIOS"),
        (["--ratios-for", "Conv:z=0.5"], "no node or tensor matches"),
        (["--threshold", "1"], "give --early-stop"),
        (["--metric", "noize"], "did you mean noise?"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_what_is_wrong_is_one_line(run: Run, options: list[str], says: str) -> None:
    outcome = run("sensitivity", "chain.onnx", "--data", "x.npy", *options)
    assert outcome.code == 2
    assert_one_line(outcome.err, says)


def test_where_nothing_can_go_there_are_no_rows(run: Run) -> None:
    told = found(run, "--exclude", "Conv:*")
    assert told["groups"] == []
