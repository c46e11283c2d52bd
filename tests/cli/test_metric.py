"""A metric on the command line: how far it lets go, and what is said of one that is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxprune
from onnxprune.cost.macs_and_bytes import Macs
from onnxprune.planning.planner import Planner
from onnxprune.report import html
from onnxprune.widths.choose_channels import Choice
from tests.commands import AGAINST_THE_ORIGINAL, Run, assert_one_line, widths
from tests.models import build

METRICS = (
    AGAINST_THE_ORIGINAL
    + """

def each(session):
    return (outputs(session) == TRUE).mean((1, 2))


def one(session):
    return float(each(session).mean())


def wrong(session):
    return 1 - one(session)


def parts(session):
    return each(session), lambda rows: float(rows.mean())


def by_path(path: Path):
    assert path.suffix == ".onnx"
    return one(onnxruntime.InferenceSession(str(path)))


def raises(session):
    raise KeyError("no such image")


def nan(session):
    return float("nan")


def none(session):
    return None


def table(session):
    return np.zeros((3, 4))


def unlike(session, calls=[]):
    calls.append(1)
    return np.ones(10 + len(calls))
"""
)


@pytest.fixture(autouse=True)
def here(chain: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with CHAIN, samples of it, with labels and without, and `METRICS`."""
    monkeypatch.chdir(chain.parent)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "chain_metrics", raising=False)
    (chain.parent / "chain_metrics.py").write_text(METRICS, encoding="utf-8")
    x = np.random.default_rng(1).standard_normal((30, 3, 8, 8)).astype(np.float32)
    np.save("x.npy", x)
    active = onnxruntime.InferenceSession("chain.onnx")
    labels = np.stack([active.run(None, {"x": one[None]})[0][0].argmax(0) for one in x])
    np.savez("val.npz", x=x, labels=labels)
    return chain.parent


@pytest.mark.parametrize("name", ["each", "one", "parts", "by_path"])
def test_a_function_says_how_far_to_go(run: Run, name: str) -> None:
    args = ("--data", "x.npy", "--metric", f"chain_metrics:{name}", "--max-drop", 0.1, "--check-n", 1)
    outcome = run("chain.onnx", *args, "--json", "r.json")
    assert outcome.err == ""
    search = json.loads(Path("r.json").read_text())["search"]
    taken = search["trials"][search["taken"]]
    assert taken["holds"]
    assert taken["drop"] + (taken["error"] or 0) <= 0.1
    assert taken["macs"] < 1
    assert (taken["error"] is None) == (name in ("one", "by_path"))
    assert ("the error of the metric is not known" in outcome.out) == (taken["error"] is None)
    assert len(search["trials"]) <= 8
    macs = json.loads(Path("r.json").read_text())["macs"]
    assert macs["ratio"] == pytest.approx(taken["macs"], abs=1e-5)
    found = sys.modules["chain_metrics"].one(onnxruntime.InferenceSession("chain.pruned.onnx"))
    assert found == pytest.approx(taken["metric"], abs=1e-3)


@pytest.mark.parametrize("name", ["agreement", "kl", "cosine", "top1@val.npz", "miou@val.npz", "agreement@val.npz"])
def test_metrics_that_are_ready_need_no_code(run: Run, name: str) -> None:
    outcome = run("chain.onnx", "--data", "x.npy", "--metric", name, "--max-drop", 0.3, "--check-n", 1)
    assert outcome.err == ""
    assert f"metric: {name} {'0' if name == 'kl' else '1'} -> " in outcome.out
    assert " +- " in outcome.out
    assert sum(widths(Path("chain.pruned.onnx"))) < 16 + 32 + 4


@pytest.mark.parametrize("name", ["agreement", "kl", "top1@mask.npz", "miou@mask.npz"])
def test_of_one_channel_no_class_is_chosen(run: Run, name: str) -> None:
    weights = "<float[8,3,1,1] a, float[1,8,1,1] b>"
    text = f"(float[N,3,8,8] x) => (float[N,1,8,8] y) {weights} {{ t = Conv(x, a) y = Conv(t, b) }}"
    onnx.save(build(text), "mask.onnx")
    images = np.random.default_rng(0).random((12, 3, 8, 8), np.float32)
    np.savez("mask.npz", x=images, labels=np.zeros((12, 1, 8, 8), np.int64))
    np.save("mask.npy", images)
    outcome = run("mask.onnx", "--data", "mask.npy", "--metric", name, "--max-drop", 1)
    assert outcome.code == 2
    assert_one_line(outcome.err, "has one channel", "cosine")


def test_decibels_of_noise_have_a_least_value_and_no_drop(run: Run) -> None:
    options = ("--data", "x.npy", "--metric", "snr", "--check-n", 1)
    assert run("chain.onnx", *options, "--min-metric", 5).err == ""
    assert_one_line(run("chain.onnx", *options, "--max-drop", 5).err, "--metric snr", "--min-metric")


def test_a_loss_may_grow_so_much(run: Run) -> None:
    options = ("--data", "x.npy", "--metric", "chain_metrics:wrong", "--max-drop", 0.2, "--check-n", 1)
    assert run("chain.onnx", *options, "--metric-lower-is-better").err == ""
    assert sum(widths(Path("chain.pruned.onnx"))) < 16 + 32 + 4


def test_more_may_go_where_more_may_be_lost(run: Run) -> None:
    left = []
    for permitted in (0.05, 0.3):
        run("chain.onnx", "--data", "x.npy", "--metric", "agreement", "--max-drop", permitted, "--json", "r.json")
        left.append(json.loads(Path("r.json").read_text())["macs"]["ratio"])
    assert left[1] < left[0]


@pytest.mark.parametrize(("cost", "key"), [("params", "parameters"), ("macs", "macs")])
def test_what_is_made_small_is_the_budget_that_was_met(run: Run, cost: str, key: str) -> None:
    options = ("--data", "x.npy", "--metric", "agreement", "--max-drop", 0.2, "--minimise", cost, "--json", "r.json")
    assert run("chain.onnx", *options).err == ""
    report = json.loads(Path("r.json").read_text())
    assert report["options"]["budget"].startswith(f"{cost}=")
    assert report[key]["ratio"] <= float(report["options"]["budget"].partition("=")[2])


def test_ways_to_choose_are_tried_at_two_shares_and_not_at_each(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save("many.npy", np.random.default_rng(2).standard_normal((100, 3, 8, 8)).astype(np.float32))
    asked: list[float] = []
    distance = Planner.distance

    def counted(planner: Planner, choice: Choice) -> float:
        asked.append(planner.left(Macs(), choice))
        return distance(planner, choice)

    monkeypatch.setattr(Planner, "distance", counted)
    args = ("--data", "many.npy", "--metric", "agreement", "--max-drop", 0.08, "--trials", "t.jsonl")
    assert run("chain.onnx", *args, "-o", "a.onnx").err == ""
    assert asked == pytest.approx([0.5, 0.5, 0.35, 0.35], abs=0.04)
    assert run("chain.onnx", *args, "--resume", "-o", "b.onnx").err == ""
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


def test_what_lies_behind_a_metric_is_read_whole(run: Run) -> None:
    args = ("--data", "x.npy", "--samples", "10", "--metric", "top1@val.npz", "--max-drop", 0.3, "--json", "r.json")
    assert run("chain.onnx", *args).err == ""
    assert json.loads(Path("r.json").read_text())["search"]["samples"] == 30


@pytest.mark.parametrize("asked", [["--sparsity", "0.7"], ["--weights", "3", "--activations", "5"]])
def test_zeros_and_bits_are_measured_with_the_channels(run: Run, asked: list[str]) -> None:
    args = ("chain.onnx", "--data", "x.npy", "--metric", "cosine@val.npz", *asked, "--confidence", 0)
    assert run(*args, "--max-drop", 0.08, "--json", "r.json", "--save-plan", "p.json").err == ""
    told = json.loads(Path("r.json").read_text())
    search = told["search"]
    trials, taken = search["trials"], search["trials"][search["taken"]]
    assert trials[0]["macs"] == 1
    assert trials[0]["drop"] > 0.001  # what they cost alone
    assert taken["holds"]
    assert taken["macs"] < 1
    assert all(t["drop"] > trials[0]["drop"] / 2 for t in trials)
    if "--sparsity" in asked:
        assert told["zeros"]["missed"] == 0
        found = onnxprune.diff("chain.onnx", "chain.pruned.onnx", data="val.npz")  # what was judged is what is written
        assert 1 - found.outputs[0].cosine == pytest.approx(taken["drop"], abs=0.02)
    else:
        assert told["grids"]["missed"] == 0
        assert {n["bits"] for n in json.loads(Path("p.json").read_text())["activations"].values()} == {5, 8}
    again = run("chain.onnx", "--data", "x.npy", "--plan", "p.json", "-o", "again.onnx")
    assert again.err == ""
    assert sum(widths(Path("again.onnx"))) == sum(widths(Path("chain.pruned.onnx")))


def test_where_no_channel_may_go_zeros_and_bits_are_the_answer(run: Run) -> None:
    args = (
        "--data",
        "x.npy",
        "--metric",
        "cosine",
        "--weights",
        "8",
        "--max-drop",
        0.02,
        "--exclude",
        "*",
        "--json",
        "r.json",
    )
    assert run("chain.onnx", *args).err == ""
    told = json.loads(Path("r.json").read_text())
    assert told["macs"]["ratio"] == 1
    assert told["grids"]["weights"] > 0
    assert told["search"]["taken"] == 0


def test_what_zeros_and_bits_cost_alone_may_be_too_much(run: Run) -> None:
    args = ("--data", "x.npy", "--metric", "cosine", "--weights", "2", "--max-drop", 0.0001)
    outcome = run("chain.onnx", *args)
    assert outcome.code == 1
    assert_one_line(outcome.err, "what is asked of the weights does not keep drop <= 0.0001", "more bits")


@pytest.mark.parametrize("samples", [30, 4])
def test_the_plan_makes_the_same_file_again(run: Run, samples: int) -> None:
    """With few samples, too, of which the metric has them all, and without it drawn inputs judge."""
    data = ("--data", "x.npy", "--samples", samples)
    run("chain.onnx", *data, "--metric", "cosine", "--max-drop", 0.3, "--confidence", 0, "--save-plan", "p.json")
    assert run("chain.onnx", *data, "--plan", "p.json", "-o", "again.onnx").err == ""
    assert Path("again.onnx").read_bytes() == Path("chain.pruned.onnx").read_bytes()


def test_a_test_metric_steers_nothing_and_is_told_apart(run: Run) -> None:
    options = ("--data", "x.npy", "--metric", "agreement", "--max-drop", 0.2)
    plain = run("chain.onnx", *options)
    tested = run("chain.onnx", *options, "--test-metric", "top1@val.npz", "--report", "r.html", "--lang", "en")
    assert [line for line in plain.out.splitlines() if line.startswith("metric")] == [
        line for line in tested.out.splitlines() if line.startswith("metric")
    ]
    assert "test: top1@val.npz 1 -> " in tested.out
    assert "which steered nothing" in tested.out
    assert "On samples that steered nothing: top1@val.npz" in Path("r.html").read_text(encoding="utf-8")


def test_where_nothing_holds_no_model_is_written(run: Run) -> None:
    outcome = run("chain.onnx", "--data", "x.npy", "--metric", "chain_metrics:each", "--max-drop", 0)
    assert outcome.code == 1
    assert_one_line(outcome.err, "no smaller model keeps drop <= 0", "a larger --max-drop")
    assert not Path("chain.pruned.onnx").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["chain_metrics:raises", "--max-drop", "1"], "raises KeyError: 'no such image'"),
        (["chain_metrics:nan", "--max-drop", "1"], "gives NaN"),
        (["chain_metrics:none", "--max-drop", "1"], "gives a NoneType, not a number"),
        (["chain_metrics:table", "--max-drop", "1"], "gives an array of shape [3, 4]"),
        (["chain_metrics:unlike", "--max-drop", "1"], "gives 12 samples, and 11 of the original"),
        (["chain_metrics:gone", "--max-drop", "1"], "cannot load 'chain_metrics:gone'"),
        (["agreemnt", "--max-drop", "1"], "did you mean agreement?"),
        (["top1", "--max-drop", "1"], "top1@FILE.npz"),
        (["top1@x.npy", "--max-drop", "1"], "has no array 'labels'"),
        (["agreement"], "--metric: needs one limit"),
        (["agreement", "--max-drop", "1", "--min-metric", "0"], "--metric: needs one limit"),
        (["agreement", "--max-drop", "1", "--ratio", "0.5"], "give one of them"),
        (["agreement", "--max-drop", "1", "--minimise", "cycles"], "give --target"),
        (["agreement", "--max-drop", "1", "--evaluations", "0"], "--evaluations"),
        (["agreement", "--min-metric", "2"], "which is not as good as asked for"),
    ],
    ids=lambda v: v if isinstance(v, str) else v[0],
)
def test_a_metric_that_is_wrong_is_one_line(run: Run, options: list[str], says: str) -> None:
    outcome = run("chain.onnx", "--data", "x.npy", "--check-n", 0, "--metric", *options)
    assert outcome.code in (1, 2)
    assert_one_line(outcome.err, says)
    assert not Path("chain.pruned.onnx").exists()


@pytest.mark.parametrize("options", [["--max-drop", 1], ["--min-metric", 1], ["--test-metric", "agreement"]])
def test_a_limit_without_a_metric_is_refused(run: Run, options: list[object]) -> None:
    assert_one_line(run("chain.onnx", *options).err, "give --metric")


def test_what_is_ready_needs_samples_of_the_users(run: Run) -> None:
    assert_one_line(run("chain.onnx", "--metric", "agreement", "--max-drop", 1).err, "needs samples of yours")


@pytest.mark.drawn
def test_a_metric_that_fails_is_no_reason_to_try_without_drawn_inputs(run: Run) -> None:
    outcome = run("chain.onnx", "--metric", "chain_metrics:raises", "--max-drop", 1)
    assert_one_line(outcome.err, "raises KeyError")


def test_a_file_names_no_metric_to_be_run_unless_it_is_trusted(run: Run) -> None:
    Path("onnxprune.toml").write_text('metric = "chain_metrics:each"\nmax-drop = 0.2\ndata = "x.npy"\n')
    assert_one_line(run("chain.onnx").err, "'metric' names code to run")
    assert run("chain.onnx", "--trust-config").err == ""


def test_a_ratio_on_the_command_line_is_instead_of_the_files_metric(run: Run) -> None:
    Path("onnxprune.toml").write_text('metric = "agreement"\nmax-drop = 0.2\ndata = "x.npy"\n')
    outcome = run("chain.onnx", "--ratio", 0.5)
    assert outcome.code == 0
    assert "metric:" not in outcome.out


def test_a_plan_says_already_how_much_goes(run: Run) -> None:
    run("chain.onnx", "--ratio", 0.5, "--save-plan", "p.json")
    Path("chain.pruned.onnx").unlink()
    options = ("--metric", "chain_metrics:each", "--max-drop", 1)
    assert_one_line(run("chain.onnx", "--plan", "p.json", *options).err, "so does the plan")


def test_in_python_a_metric_is_a_function(here: Path) -> None:
    x = np.load("x.npy")

    def scores(active: onnxruntime.InferenceSession) -> float:
        return float(np.mean([active.run(None, {"x": one[None]})[0] for one in x]) ** 2)

    result = onnxprune.prune("chain.onnx", data="x.npy", metric=scores, max_drop=1.0, check_n=1)
    assert result.report.search is not None
    assert result.report.search.best.holds
    assert onnx.load(here / "chain.onnx") != result.model
    assert "scores" in html.page(result.report, "zh")
