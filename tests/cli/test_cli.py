"""The command line: what it writes, what it says, and how it fails."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fixtures.build import unet
from onnxprune import __version__, pipeline
from onnxprune.cli import main as cli
from onnxprune.labels.rewrite import Refusal, Rewrite, rewrite
from onnxprune.labels.trace import Trace
from onnxprune.model import files
from onnxprune.model.mapped_weights import value_of
from onnxprune.options import Options
from onnxprune.running import session as runtime
from tests.commands import CHAIN, FIXED, SKIP, Outcome, Run, assert_one_line, files_in, put
from tests.models import build

NORM = """(float[1,3,8,8] x) => (float[1,4,8,8] y)
<float[16,3,1,1] w0, float[16] s, float[16] o, float[16] m, float[16] var, float[4,16,1,1] w1>
{ a = Conv(x, w0)
  b = BatchNormalization(a, s, o, m, var)
  y = Conv(b, w1) }"""


def weights(path: Path) -> dict[str, Any]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def widths(path: Path) -> list[int]:
    """Output channels of the weights of CHAIN."""
    held = weights(path)
    return [held[n].shape[0] for n in ("w0", "w1", "w2")]


# --- what it does ---------------------------------------------------------------------------------------------------


def test_prune_is_the_default_command_and_writes_beside_the_model(run: Run, chain: Path) -> None:
    outcome = run(chain)
    assert outcome.code == 0
    assert outcome.err == ""
    assert sorted(files_in(chain.parent)) == ["chain.onnx", "chain.pruned.onnx"]
    explicit = run("prune", chain, "-o", chain.with_name("other.onnx"))
    assert explicit.code == 0
    assert chain.with_name("other.onnx").read_bytes() == chain.with_name("chain.pruned.onnx").read_bytes()


def test_report_names_sizes_both_errors_and_the_file(run: Run, chain: Path) -> None:
    out = run(chain, "--ratio", "0.5").out
    for part in ("Conv:a", "16", "8", "parameters", "MACs", "bytes", "rewrite error", "pruning error: 'y'", "50.00 %"):
        assert part in out
    assert f"written: {chain.with_name('chain.pruned.onnx')}" in out


def test_half_of_every_group_goes(run: Run, chain: Path, tmp_path: Path) -> None:
    run(chain, "--ratio", "0.5", "-o", tmp_path / "out.onnx")
    assert widths(tmp_path / "out.onnx") == [8, 16, 4]


def test_dry_run_writes_nothing_and_says_so(run: Run, chain: Path, tmp_path: Path) -> None:
    before = files_in(tmp_path)
    outcome = run(chain, "--dry-run", "--json", tmp_path / "r.json", "--save-plan", tmp_path / "p.json")
    assert outcome.code == 0
    assert "dry run: no model was written" in outcome.out
    assert "JSON: " not in outcome.out
    assert files_in(tmp_path) == before


def test_quiet_is_silent(run: Run, chain: Path) -> None:
    assert run(chain, "-q") == Outcome(0, "", "")
    assert chain.with_name("chain.pruned.onnx").exists()


def test_verbose_shows_every_slice(run: Run, chain: Path) -> None:
    out = run(chain, "-v", "--ratio", "0.5").out
    for name in ("w0 axis 0, 16 -> 8", "b0 axis 0, 16 -> 8", "w1 axis 1, 16 -> 8", "w2 axis 1, 32 -> 16"):
        assert name in out


def test_version(run: Run) -> None:
    outcome = run("--version")
    assert outcome.code == 0
    assert __version__ in outcome.out


@pytest.mark.parametrize("args", [["--help"], ["-h"], ["prune", "--help"], ["inspect", "--help"]])
def test_help_names_options_and_exit_codes(run: Run, args: list[str]) -> None:
    outcome = run(*args)
    assert outcome.code == 0
    assert ("Exit codes: 0 done" if len(args) == 1 else "--exclude") in outcome.out


def test_without_arguments_the_usage_is_shown(run: Run) -> None:
    outcome = run()
    assert "onnxprune MODEL" in outcome.err
    assert outcome.code == 2


def test_report_document_has_the_documented_fields(run: Run, chain: Path, tmp_path: Path) -> None:
    run(chain, "--json", tmp_path / "r.json", "--ratio", "0.25", "--seed", "3")
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["format"], report["version"]) == ("onnxprune-report", 1)
    assert report["sha256"] == hashlib.sha256(chain.read_bytes()).hexdigest()
    assert report["output"] == str(tmp_path / "chain.pruned.onnx")
    assert report["options"]["ratio"] == report["asked"] == report["achieved"] == 0.25
    assert report["options"]["seed"] == 3
    for size in ("channels", "parameters", "macs", "file_bytes"):
        assert report[size].keys() == {"before", "after", "ratio"}
        assert report[size]["after"] < report[size]["before"]
    assert report["parameters"] == {"before": 704, "after": 432, "ratio": 0.613636}
    assert report["macs"] == {"before": 64 * 688, "after": 64 * 420, "ratio": 0.610465}
    assert [(g["name"], g["width"], g["kept"]) for g in report["groups"]] == [("Conv:a", 16, 12), ("Conv:c", 32, 24)]
    assert report["groups"][0].keys() == {*("name", "width", "kept", "asked", "achieved", "note", "scores", "removed")}
    assert [(p["name"], p["group"], p["feeds"]) for p in report["parts"]] == [
        ("Conv:a", 0, [1]),
        ("Conv:c", 1, [2]),
        ("Conv:y", None, []),
    ]
    assert [(x["weight"], x["after"]) for x in report["layers"]] == [
        ("w0", [12, 3, 1, 1]),
        ("w1", [24, 12, 1, 1]),
        ("w2", [4, 24, 1, 1]),
    ]
    assert [(s["tensor"], s["axis"], s["groups"]) for s in report["slices"]] == [
        ("w0", 0, ["Conv:a"]),
        ("b0", 0, ["Conv:a"]),
        ("w1", 0, ["Conv:c"]),
        ("w1", 1, ["Conv:a"]),
        ("w2", 1, ["Conv:c"]),
    ]
    assert report["proof"]["samples"] == 3
    assert report["proof"]["rewrite_error"] < 1e-5
    assert {"name", "max_abs", "relative", "cosine", "snr_db"} <= report["proof"]["pruning"][0].keys()
    assert {"onnxprune", "onnx", "onnxruntime", "numpy"} <= report["versions"].keys()
    assert report["seconds"].keys() == {"analyse", "choose", "rewrite", "prove"}


def test_report_page_is_written_with_the_model_in_the_language_asked_for(
    run: Run, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "r.html"
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    run(chain, "--report", page)
    text = page.read_text(encoding="utf-8")
    assert "How it was made" in text
    assert f"onnxprune {chain} --report {page}" in text
    monkeypatch.setenv("LANG", "zh_CN.UTF-8")
    run(chain, "--report", page)
    assert "生成方式" in page.read_text(encoding="utf-8")
    run(chain, "--report", page, "--lang", "en")
    assert "How it was made" in page.read_text(encoding="utf-8")


def test_dry_run_writes_the_report_page_alone(run: Run, chain: Path, tmp_path: Path) -> None:
    outcome = run(chain, "--dry-run", "--report", tmp_path / "r.html", "--json", tmp_path / "r.json", "--lang", "en")
    assert outcome.code == 0
    assert sorted(files_in(tmp_path)) == ["chain.onnx", "r.html"]
    assert "no model written" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_plan_document_has_the_documented_fields(run: Run, chain: Path, tmp_path: Path) -> None:
    run(chain, "--save-plan", tmp_path / "p.json", "--ratio", "0.5")
    plan = json.loads((tmp_path / "p.json").read_text())
    assert (plan["format"], plan["version"]) == ("onnxprune-plan", 1)
    assert plan["model"] == {"name": "chain.onnx", "sha256": hashlib.sha256(chain.read_bytes()).hexdigest()}
    assert plan["options"]["importance"] == "l2"
    assert {n: [(a["axis"], a["size"], len(a["keep"])) for a in axes] for n, axes in plan["initializers"].items()} == {
        "w0": [(0, 16, 8)],
        "b0": [(0, 16, 8)],
        "w1": [(0, 32, 16), (1, 16, 8)],
        "w2": [(1, 32, 16)],
    }
    assert plan["copies"] == {}


def test_applying_the_saved_plan_gives_the_same_bytes(run: Run, chain: Path, tmp_path: Path) -> None:
    plan = tmp_path / "p.json"
    run(chain, "--importance", "random", "--seed", "5", "--save-plan", plan, "-o", tmp_path / "a.onnx")
    outcome = run(chain, "--plan", plan, "-o", tmp_path / "b.onnx", "--save-plan", tmp_path / "q.json")
    assert outcome.code == 0
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert plan.read_bytes() == (tmp_path / "q.json").read_bytes()


def test_fresh_processes_write_the_same_bytes(tmp_path: Path) -> None:
    onnx.save(unet(fold_bn=False, size=32, base=8), tmp_path / "m.onnx")
    options = ["--importance", "random", "--seed", "7", "--align", "4", "--check-n", "1", "--scope", "global"]
    written = []
    for seed in ("1", "2"):
        out, plan = tmp_path / f"{seed}.onnx", tmp_path / f"{seed}.json"
        command = [sys.executable, "-m", "onnxprune", str(tmp_path / "m.onnx"), *options]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([*command, "-q", "-o", str(out), "--save-plan", str(plan)], check=True, env=environment)
        written.append((out.read_bytes(), plan.read_bytes()))
    assert written[0] == written[1]


def test_another_seed_chooses_others(run: Run, chain: Path, tmp_path: Path) -> None:
    for seed in (1, 2):
        run(chain, "--importance", "random", "--seed", seed, "-o", tmp_path / f"{seed}.onnx")
    assert (tmp_path / "1.onnx").read_bytes() != (tmp_path / "2.onnx").read_bytes()


# --- which channels -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """Options, and the widths of CHAIN (16, 32, 4) that they lead to."""

    name: str
    args: Sequence[object]
    widths: Sequence[int]

    def __str__(self) -> str:
        return self.name


CHOICES = (
    Choice("ratio-zero", ["--ratio", 0], [16, 32, 4]),
    Choice("exclude-node", ["--exclude", "Conv:a", "--ratio", 0.5], [16, 16, 4]),
    Choice("exclude-tensor", ["--exclude", "d", "--ratio", 0.5], [8, 32, 4]),
    Choice("exclude-weight", ["--exclude", "b0", "--ratio", 0.5], [16, 16, 4]),
    Choice("exclude-glob", ["--exclude", "Conv:[ac]", "--ratio", 0.5], [16, 32, 4]),
    Choice("exclude-twice", ["--exclude", "Conv:a", "--exclude", "c", "--ratio", 0.5], [16, 32, 4]),
    Choice("ratio-for", ["--ratio-for", "Conv:a=0.75", "--ratio", 0.25], [4, 24, 4]),
    Choice("ratio-for-last-wins", ["--ratio-for", "Conv:*=0.75", "--ratio-for", "c=0.5"], [4, 16, 4]),
    Choice("ratio-for-zero", ["--ratio-for", "Conv:a=0", "--ratio", 0.5], [16, 16, 4]),
    Choice("max-ratio", ["--ratio", 0.5, "--max-ratio", 0.25], [12, 24, 4]),
    Choice("at-least-one-stays", ["--ratio", 0.99], [1, 1, 4]),
    Choice("align", ["--ratio", 0.5, "--align", 4], [8, 16, 4]),
    Choice("align-rounds-over-the-network", ["--ratio", 0.25, "--align", 16], [16, 16, 4]),
    Choice("align-too-wide", ["--ratio", 0.5, "--align", 32], [16, 32, 4]),
)


@pytest.mark.parametrize("row", CHOICES, ids=str)
def test_options_lead_to_widths(run: Run, chain: Path, tmp_path: Path, row: Choice) -> None:
    outcome = run(chain, *row.args, "-o", tmp_path / "out.onnx", "--check-n", 1)
    assert outcome.code == 0
    assert widths(tmp_path / "out.onnx") == row.widths


def test_lossless_alone_leaves_what_nobody_misses_out(run: Run, tmp_path: Path) -> None:
    proto = build(CHAIN)
    for tensor, gone in ((proto.graph.initializer[0], 2), (proto.graph.initializer[2], 5)):
        array = numpy_helper.to_array(tensor).copy()
        array[:gone] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, tmp_path / "dead.onnx")

    done = run(tmp_path / "dead.onnx", "--lossless", "--json", tmp_path / "report.json")

    assert done.code == 0
    assert "lossless: 7 of the 7 removed channels were dead or constant" in done.out
    assert widths(tmp_path / "dead.pruned.onnx") == [14, 27, 4]
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["lossless"], report["asked"], report["options"]["ratio"]) == (7, 0, 0)
    assert report["proof"]["pruning"][0]["relative"] <= 1e-5
    assert "48 prunable channels in 2 groups, 7 of them lossless" in run("inspect", tmp_path / "dead.onnx").out


def test_lossless_with_a_ratio_removes_more(run: Run, chain: Path, tmp_path: Path) -> None:
    done = run(chain, "--lossless", "--ratio", 0.5)
    assert done.code == 0
    assert "lossless: 0 of the 24 removed channels were dead or constant" in done.out
    assert widths(tmp_path / "chain.pruned.onnx") == [8, 16, 4]


def test_global_scope_ranks_over_the_network(run: Run, tmp_path: Path) -> None:
    proto = build(CHAIN)
    scaled = {"w0": np.repeat([1.0, 0.01], 8), "w1": np.repeat([1.0, 0.9], 16)}
    for tensor in proto.graph.initializer:
        if tensor.name in scaled:
            rows = scaled[tensor.name].astype(np.float32)
            filled = rows[:, None, None, None] * np.ones(tuple(tensor.dims), np.float32)
            tensor.CopyFrom(numpy_helper.from_array(filled, tensor.name))
    onnx.save(proto, tmp_path / "m.onnx")
    run(tmp_path / "m.onnx", "--scope", "global", "--ratio", 8 / 48, "-o", tmp_path / "out.onnx")
    assert widths(tmp_path / "out.onnx") == [8, 32, 4]
    assert np.array_equal(weights(tmp_path / "out.onnx")["w0"], weights(tmp_path / "m.onnx")["w0"][:8])


@pytest.mark.parametrize("align", [4, 16])
@pytest.mark.parametrize("scope", ["group", "global"])
def test_align_rounds_every_group_and_still_meets_the_ratio(run: Run, tmp_path: Path, align: int, scope: str) -> None:
    onnx.save(unet(fold_bn=True, size=32, base=16), tmp_path / "m.onnx")
    run(tmp_path / "m.onnx", "--align", align, "--scope", scope, "--check-n", 1, "--json", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    for group in report["groups"]:
        assert group["kept"] == group["width"] or group["kept"] % align == 0
        stays = group["width"] <= align
        assert bool(group["note"]) == stays
        assert not stays or group["kept"] == group["width"]
    short = abs(report["achieved"] - 0.3) * report["channels"]["before"]
    assert short <= align / 2
    before, after = weights(tmp_path / "m.onnx"), weights(tmp_path / "m.pruned.onnx")
    changed = {b for n in before for a, b in zip(before[n].shape, after[n].shape, strict=True) if a != b}
    assert changed
    assert not {width for width in changed if width % align}


def test_a_group_too_narrow_for_align_is_left_and_said_so(run: Run, chain: Path, tmp_path: Path) -> None:
    outcome = run(chain, "--align", 16, "--ratio", 0.5, "--json", tmp_path / "r.json")
    notes = {g["name"]: g["note"] for g in json.loads((tmp_path / "r.json").read_text())["groups"]}
    assert notes == {"Conv:a": "cannot be narrower and a multiple of 16: left as it is", "Conv:c": ""}
    assert notes["Conv:a"] in outcome.out


@pytest.mark.parametrize("importance", ["l1", "l2", "fpgm", "bn", "random"])
def test_every_importance_runs(run: Run, tmp_path: Path, importance: str) -> None:
    path = put(tmp_path / "m.onnx", NORM)
    assert run(path, "--importance", importance).code == 0
    assert weights(tmp_path / "m.pruned.onnx")["w0"].shape[0] == 11


def test_own_importance_is_found_in_the_current_folder(
    run: Run, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import numpy as np\n\n\ndef last_go(weights):\n    return -np.arange(weights.width)\n"
    (tmp_path / "own_scores.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert run(chain, "--importance", "own_scores:last_go", "--ratio", 0.5).code == 0
    assert np.array_equal(weights(tmp_path / "chain.pruned.onnx")["w0"], weights(chain)["w0"][:8])


def test_batch_normalization_is_folded_unless_told_otherwise(run: Run, tmp_path: Path) -> None:
    path = put(tmp_path / "m.onnx", NORM)
    run(path, "-o", tmp_path / "folded.onnx")
    run(path, "-o", tmp_path / "kept.onnx", "--no-fuse-bn")
    assert [n.op_type for n in onnx.load(tmp_path / "folded.onnx").graph.node] == ["Conv", "Conv"]
    assert [n.op_type for n in onnx.load(tmp_path / "kept.onnx").graph.node] == ["Conv", "BatchNormalization", "Conv"]


def test_dynamic_inputs_take_a_shape(run: Run, tmp_path: Path) -> None:
    path = put(tmp_path / "m.onnx", SKIP)
    outcome = run(path, "--input-shape", "x:1,3,20,12")
    assert outcome.code == 0
    assert "x:1,3,20,12" in outcome.out
    dims = onnx.load(tmp_path / "m.pruned.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == [1, 3, "H", "W"]


# --- calibration data -----------------------------------------------------------------------------------------------


def test_calibration_data_is_read_and_reported(run: Run, chain: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((9, 3, 8, 8), np.uint8))
    report = tmp_path / "r.json"
    outcome = run(chain, "--data", tmp_path / "x.npy", "--samples", 4, "--std", "255", "--json", report)
    assert outcome.code == 0
    data = json.loads(report.read_text())["options"]["data"]
    expected = {"mean": [], "std": [255.0], "layout": None, "color": "RGB"}
    assert data == {"source": str(tmp_path / "x.npy"), "samples": 4, **expected}


@pytest.mark.parametrize("importance", ["activation", "apoz", "variance", "taylor", "reconstruction", "output"])
def test_every_importance_from_data_runs(run: Run, chain: Path, tmp_path: Path, importance: str) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32))
    outcome = run(chain, "--importance", importance, "--data", tmp_path / "x.npy", "--ratio", 0.5, "--check-n", 1)
    assert outcome.err == ""
    assert widths(tmp_path / "chain.pruned.onnx") == [8, 16, 4]


@pytest.mark.parametrize("own", ["by_weights", "whole"])
def test_own_importance_gets_the_data(
    run: Run, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    text = """
import numpy as np

from onnxprune.importance.criterion import Criterion


def by_weights(weights):
    return np.arange(weights.width) * -weights.data.count


def prepare(subject):
    count = sum(len(feeds["x"]) for feeds in subject.data.batches(3))
    return lambda groups: [np.arange(group.width) * -count for group in groups]


whole = Criterion(prepare, needs_data=True)
"""
    (tmp_path / "own_data_scores.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    np.save(tmp_path / "x.npy", np.zeros((4, 3, 8, 8), np.float32))
    name = f"own_data_scores:{own}"
    assert run(chain, "--importance", name, "--data", "x.npy", "--ratio", 0.5, "--check-n", 1).code == 0
    assert np.array_equal(weights(tmp_path / "chain.pruned.onnx")["w0"], weights(chain)["w0"][:8])


def test_what_is_odd_about_calibration_data_is_noted(run: Run, chain: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((9, 3, 8, 8), np.uint8))
    assert "note: calibration pixels are fed as 0..255" in run(chain, "--data", tmp_path / "x.npy").out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--data", "nowhere"], "nowhere: no such file"),
        (["--data", "x.npy", "--mean", "1;2"], "'1;2' is not numbers separated by commas"),
        (["--data", "x.npy", "--samples", "0"], "--samples: must be at least 1"),
        (["--std", "255"], "give --data too"),
        (["--importance", "apoz"], "--importance: needs calibration data"),
    ],
    ids=["missing", "mean", "samples", "no-data", "needs-data"],
)
def test_calibration_data_that_is_wrong_is_one_line(
    run: Run, chain: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], says: str
) -> None:
    monkeypatch.chdir(chain.parent)
    np.save("x.npy", np.zeros((9, 3, 8, 8), np.float32))
    outcome = run(chain, *options)
    assert outcome.code == 2
    assert_one_line(outcome.err, says)
    assert not chain.with_name("chain.pruned.onnx").exists()


# --- the proof ------------------------------------------------------------------------------------------------------


def test_check_n_zero_proves_nothing_and_says_so(run: Run, chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "session", None)
    outcome = run(chain, "--check-n", 0)
    assert outcome.code == 0
    assert "not checked" in outcome.out


def test_what_nothing_here_can_run_is_refused_or_pruned_without_proof(run: Run, tmp_path: Path) -> None:
    """onnxruntime has kernels of this operator for GPUs alone."""
    proto = build(CHAIN)
    proto.graph.node.add(op_type="GroupNorm", domain="com.microsoft", input=["x", "s", "s"], output=["z"])
    proto.graph.node[-1].attribute.extend(helper.make_attribute(n, v) for n, v in (("groups", 1), ("activation", 0)))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(8, np.float32), "s"))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [None] * 4))
    onnx.save(proto, tmp_path / "m.onnx")
    refused = run(tmp_path / "m.onnx")
    assert refused.code == 2
    assert_one_line(refused.err, "m.onnx", "GroupNorm", "nor does onnx's reference", "--check-n 0")
    assert run("inspect", tmp_path / "m.onnx").code == 0
    assert run(tmp_path / "m.onnx", "--check-n", 0).code == 0
    assert widths(tmp_path / "m.pruned.onnx") != widths(tmp_path / "m.onnx")


def corrupted(trace: Trace, dead: np.ndarray[Any, np.dtype[np.int64]]) -> Rewrite | Refusal:
    """A rewrite that is wrong in one kept weight."""
    good = rewrite(trace, dead)
    assert isinstance(good, Rewrite)
    wrong = {n: value_of(v).copy() for n, v in good.edits.constants.items()}
    wrong["w1"].flat[0] += 1
    return replace(good, edits=replace(good.edits, constants=wrong))


def test_a_failed_proof_writes_no_model_and_reports_the_figures(
    run: Run, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxprune.widths.choose_channels.rewriting.rewrite", corrupted)
    before = files_in(tmp_path)
    outputs = ("--json", tmp_path / "r.json", "--save-plan", tmp_path / "p.json", "--report", tmp_path / "r.html")
    outcome = run(chain, *outputs)
    assert outcome.code == 1
    assert "failed: no model was written" in outcome.out
    assert f"report: {tmp_path / 'r.html'}" in outcome.out
    assert "plan: " not in outcome.out
    assert_one_line(outcome.err, "'y'", "rewrite error", "no model was written")
    assert set(files_in(tmp_path)) - set(before) == {"r.json", "r.html"}
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["output"] == ""
    assert report["proof"]["rewrite_error"] > report["proof"]["rtol"]
    (check,) = report["checks"]
    assert (check["name"], check["passed"]) == ("proof", False)
    assert "tensor 'y'" in check["found"]


def test_a_wide_limit_accepts_the_same_error(run: Run, chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.widths.choose_channels.rewriting.rewrite", corrupted)
    assert run(chain, "--rtol", 10).code == 0
    assert run(chain, "--atol", 1000).code == 0


def test_a_limit_below_rounding_is_taken_at_its_word(run: Run, tmp_path: Path) -> None:
    onnx.save(unet(fold_bn=False, size=32, base=8), tmp_path / "m.onnx")
    before = files_in(tmp_path)
    outcome = run(tmp_path / "m.onnx", "--rtol", "1e-12", "--check-n", 1)
    assert outcome.code == 1
    assert_one_line(outcome.err, "--rtol")
    assert files_in(tmp_path) == before


# --- files ----------------------------------------------------------------------------------------------------------


def test_external_data_is_written_and_read_again(run: Run, tmp_path: Path) -> None:
    onnx.save(unet(fold_bn=True, size=32, base=8), tmp_path / "m.onnx")
    run(tmp_path / "m.onnx", "-o", tmp_path / "whole.onnx", "--check-n", 1)
    run(tmp_path / "m.onnx", "-o", tmp_path / "parts.onnx", "--check-n", 1, "--save-as-external-data")
    assert sorted(files_in(tmp_path)) == ["m.onnx", "parts.onnx", "parts.onnx.data", "whole.onnx"]
    assert (tmp_path / "parts.onnx").stat().st_size < (tmp_path / "whole.onnx").stat().st_size / 4
    whole, parts = weights(tmp_path / "whole.onnx"), weights(tmp_path / "parts.onnx")
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    for name in ("whole", "parts"):
        assert run(tmp_path / f"{name}.onnx", "-q", "--check-n", 1, "-o", tmp_path / f"{name}.2.onnx").code == 0
    assert (tmp_path / "whole.2.onnx").read_bytes() == (tmp_path / "parts.2.onnx").read_bytes()


def test_an_existing_output_is_replaced(run: Run, chain: Path, tmp_path: Path) -> None:
    (tmp_path / "out.onnx").write_bytes(b"older")
    assert run(chain, "-o", tmp_path / "out.onnx").code == 0
    onnx.checker.check_model(str(tmp_path / "out.onnx"))


@pytest.mark.parametrize("full_at", ["onnx", "text"])
@pytest.mark.parametrize("external", [[], ["--save-as-external-data"]], ids=["whole", "external"])
def test_a_full_disk_leaves_nothing_half_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: str, external: list[str]
) -> None:
    onnx.save(unet(fold_bn=True, size=32, base=8), tmp_path / "m.onnx")
    (tmp_path / "out.onnx").write_bytes(b"older")
    before = files_in(tmp_path)
    places = {
        "onnx": ["onnxprune.model.onnx_model.raw", "onnxprune.model.mapped_weights.raw"],
        "text": ["pathlib.Path.write_text"],
    }

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # part of it arrived

    for place in places[full_at]:
        monkeypatch.setattr(place, full)
    outputs = ["-o", tmp_path / "out.onnx", "--json", tmp_path / "r.json", "--save-plan", tmp_path / "p.json"]
    outputs += ["--report", tmp_path / "r.html"]
    outcome = run(tmp_path / "m.onnx", "--check-n", 0, *outputs, *external)
    assert outcome.code == 2
    assert_one_line(outcome.err, "out.onnx" if full_at == "onnx" else "p.json", "No space left on device")
    assert files_in(tmp_path) == before


def test_a_name_that_cannot_be_taken_is_said(
    run: Run, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    before = files_in(tmp_path)
    outcome = run(chain, "-o", tmp_path / "out.onnx")
    assert outcome.code == 2
    assert_one_line(outcome.err, "out.onnx", "Read-only file system")
    assert files_in(tmp_path) == before


# --- nothing to prune -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [[], ["--scope", "global"], ["--align", 16], ["--no-fuse-bn"]], ids=str)
def test_a_model_with_nothing_prunable_is_written_as_it_is(run: Run, tmp_path: Path, args: list[object]) -> None:
    path = put(tmp_path / "m.onnx", FIXED)
    outcome = run(path, *args)
    assert outcome.code == 0
    assert "nothing in this model can be pruned" in outcome.out
    assert onnx.load(tmp_path / "m.pruned.onnx") == onnx.load(path)


def test_excluding_all_leaves_the_model_as_it_is(run: Run, chain: Path) -> None:
    assert "nothing in this model can be pruned" in run(chain, "--exclude", "*").out
    assert onnx.load(chain.with_name("chain.pruned.onnx")) == onnx.load(chain)


# --- inspect --------------------------------------------------------------------------------------------------------


def test_inspect_lists_groups_and_what_is_held(run: Run, chain: Path, tmp_path: Path) -> None:
    outcome = run("inspect", chain, "--json", tmp_path / "i.json")
    assert outcome.code == 0
    assert "48 prunable channels in 2 groups" in outcome.out
    assert "is the graph output 'y'" in outcome.out
    found = json.loads((tmp_path / "i.json").read_text())
    assert found["format"] == "onnxprune-inspection"
    first = found["groups"][0]
    assert (first["name"], first["width"], first["nodes"]) == ("Conv:a", 16, ["Conv:a", "Relu:b", "Conv:c"])
    assert [(i["name"], i["axis"], i["size"], i["role"]) for i in first["initializers"]] == [
        ("w0", 0, 16, "out"),
        ("b0", 0, 16, "elementwise"),
        ("w1", 1, 16, "in"),
    ]
    assert first["parameters"] == 16 * 3 + 16 + 32 * 16
    assert first["macs"] == 64 * (16 * 3 + 32 * 16)
    assert [(h["node"], h["width"], h["held"]) for h in found["held"]] == [("Conv:y", 4, 4)]
    assert sorted(files_in(tmp_path)) == ["chain.onnx", "i.json"]


def test_inspect_takes_exclude_and_input_shape(run: Run, tmp_path: Path) -> None:
    path = put(tmp_path / "m.onnx", SKIP)
    out = run("inspect", path, "--exclude", "w0", "--input-shape", "x:1,3,8,8", "-v").out
    assert "0 prunable channels in 0 groups" in out
    assert "is excluded by 'w0'" in out


# --- errors ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refused:
    """Something that cannot be done, and what the one line on stderr says."""

    name: str
    arrange: Callable[[Path], Sequence[object]]
    says: Sequence[str]

    def __str__(self) -> str:
        return self.name


def given(*args: object, text: str = CHAIN) -> Callable[[Path], Sequence[object]]:
    """Options for a good model; strings of the form {dir}/x are below its folder."""

    def arrange(folder: Path) -> Sequence[object]:
        return [put(folder / "m.onnx", text), *(str(a).replace("{dir}", str(folder)) for a in args)]

    return arrange


def content(data: bytes) -> Callable[[Path], Sequence[object]]:
    def arrange(folder: Path) -> Sequence[object]:
        (folder / "m.onnx").write_bytes(data)
        return [folder / "m.onnx"]

    return arrange


def truncated(share: float) -> Callable[[Path], Sequence[object]]:
    data = build(CHAIN).SerializeToString()
    return content(data[: int(share * len(data))])


def edited(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], Sequence[object]]:
    def arrange(folder: Path) -> Sequence[object]:
        proto = build(CHAIN)
        change(proto)
        (folder / "m.onnx").write_bytes(proto.SerializeToString())
        return [folder / "m.onnx"]

    return arrange


def dangling(proto: onnx.ModelProto) -> None:
    proto.graph.node[2].input[0] = "nowhere"


def not_a_number(name: str, *args: object) -> Callable[[Path], Sequence[object]]:
    def change(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            if tensor.name == name:
                array = numpy_helper.to_array(tensor).copy()
                array.flat[1] = np.nan
                tensor.CopyFrom(numpy_helper.from_array(array, name))

    return lambda folder: [*edited(change)(folder), *args]


def external(location: str, size: int | None, *, link: bool = False) -> Callable[[Path], Sequence[object]]:
    """CHAIN with w1 in a file of ``size`` bytes (None: no file); ``link``: a link to a file elsewhere."""

    def arrange(folder: Path) -> Sequence[object]:
        (folder / "inner").mkdir()
        proto = build(CHAIN)
        tensor = next(t for t in proto.graph.initializer if t.name == "w1")
        data = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        where = location.replace("{dir}", str(folder))
        for key, value in (("location", where), ("offset", "0"), ("length", str(len(data)))):
            tensor.external_data.add(key=key, value=value)
        target = folder / "inner" / where
        if link:
            (folder / "elsewhere.data").write_bytes(data)
            target.symlink_to(folder / "elsewhere.data")
        elif size is not None:
            target.write_bytes((data * 2)[:size])
        (folder / "inner" / "m.onnx").write_bytes(proto.SerializeToString())
        return [folder / "inner" / "m.onnx"]

    return arrange


def with_plan(text: str, change: Callable[[str], str] = str) -> Callable[[Path], Sequence[object]]:
    """CHAIN, and a plan that was made for ``text`` and then edited."""

    def arrange(folder: Path) -> Sequence[object]:
        other = put(folder / "other.onnx", text)
        plan = pipeline.prune(files.load(other), Options(check_n=0)).plan.to_json()
        (folder / "plan.json").write_text(change(plan))
        return [put(folder / "m.onnx", CHAIN), "--plan", folder / "plan.json"]

    return arrange


def folder_in_place(folder: Path) -> Sequence[object]:
    (folder / "out.onnx").mkdir()
    return [put(folder / "m.onnx", CHAIN), "-o", folder / "out.onnx"]


def link_to_itself(folder: Path) -> Sequence[object]:
    path = put(folder / "m.onnx", CHAIN)
    (folder / "link.onnx").symlink_to(path)
    return [path, "-o", folder / "link.onnx"]


WIDER = CHAIN.replace("32", "48")
REFUSED = (
    Refused("no-such-file", lambda folder: [folder / "none.onnx"], ["none.onnx", "cannot read", "No such file"]),
    Refused("no-such-folder", lambda folder: [folder / "no" / "m.onnx"], ["m.onnx: cannot read the model"]),
    Refused("a-folder", lambda folder: [folder], ["cannot read the model"]),
    Refused("text-file", content(b"not a model at all\n" * 9), ["m.onnx", "not an ONNX"]),
    Refused("json-file", content(b'{"a": 1}'), ["m.onnx", "not an ONNX"]),
    Refused("png-file", content(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), ["m.onnx", "not an ONNX"]),
    Refused("empty-file", content(b""), ["m.onnx", "not an ONNX"]),
    Refused("truncated-early", truncated(0.1), ["m.onnx", "truncated", "export or copy it again"]),
    Refused("truncated-in-half", truncated(0.5), ["m.onnx", "truncated", "export or copy it again"]),
    Refused("truncated-late", truncated(0.98), ["m.onnx", "truncated", "export or copy it again"]),
    Refused("checker-fails", edited(dangling), ["m.onnx", "onnx.checker", "nowhere", "repair"]),
    Refused("no-opset", edited(lambda m: m.ClearField("opset_import")), ["m.onnx", "onnx.checker"]),
    Refused("nan-weight", not_a_number("w1"), ["w1", "NaN", "repair or export"]),
    Refused("nan-weight-random", not_a_number("w1", "--importance", "random"), ["w1", "NaN"]),
    Refused("nan-bias", not_a_number("b0"), ["b0", "NaN"]),
    Refused("nan-in-a-held-weight", not_a_number("w2"), ["w2", "NaN"]),
    Refused("external-missing", external("w.data", None), ["m.onnx", "w1", "w.data", "missing", "copy it beside"]),
    Refused("external-too-short", external("w.data", 100), ["m.onnx", "w1", "w.data", "copy it again"]),
    Refused("external-outside", external("../w.data", 2048), ["m.onnx", "w1", "outside", "move the data"]),
    Refused("external-absolute", external("{dir}/w.data", 2048), ["m.onnx", "w1", "outside", "move the data"]),
    Refused("external-link", external("w.data", None, link=True), ["m.onnx", "w1", "outside", "move the data"]),
    Refused("no-output-folder", given("-o", "{dir}/no/out.onnx"), ["out.onnx", "cannot write", "no folder", "no'"]),
    Refused("output-below-a-file", given("-o", "{dir}/m.onnx/out.onnx"), ["out.onnx", "cannot write"]),
    Refused("output-is-a-folder", folder_in_place, ["out.onnx", "is a folder", "name a file"]),
    Refused("output-is-the-model", given("-o", "{dir}/m.onnx"), ["m.onnx", "the model itself", "name another"]),
    Refused("output-links-to-the-model", link_to_itself, ["link.onnx", "the model itself"]),
    Refused("plan-over-the-model", given("--save-plan", "{dir}/m.onnx"), ["m.onnx", "the model itself"]),
    Refused("report-over-the-model", given("--json", "{dir}/m.onnx"), ["m.onnx", "the model itself"]),
    Refused("no-report-folder", given("--json", "{dir}/no/r.json"), ["r.json", "cannot write"]),
    Refused("page-over-the-model", given("--report", "{dir}/m.onnx", "--dry-run"), ["m.onnx", "the model itself"]),
    Refused("one-path-twice", given("--json", "{dir}/a", "--save-plan", "{dir}/a"), ["a", "twice", "name another"]),
    Refused("ratio-one", given("--ratio", 1), ["--ratio", "less than 1", "30 %"]),
    Refused("ratio-negative", given("--ratio", "-0.1"), ["--ratio", "at least 0"]),
    Refused("ratio-nan", given("--ratio", "nan"), ["--ratio", "less than 1"]),
    Refused("ratio-text", given("--ratio", "much"), ["--ratio", "much"]),
    Refused("ratio-for-out-of-range", given("--ratio-for", "a=1.5"), ["--ratio-for a", "less than 1"]),
    Refused("ratio-for-form", given("--ratio-for", "a"), ["--ratio-for", "GLOB=RATIO"]),
    Refused("max-ratio-out-of-range", given("--max-ratio", 1), ["--max-ratio", "less than 1"]),
    Refused("align-zero", given("--align", 0), ["--align", "at least 1"]),
    Refused("cycles-of-nothing", given("--budget", "cycles=0.5"), ["--budget", "those of a target", "--target"]),
    Refused("dtype-of-nothing", given("--dtype", "int8"), ["--dtype", "--target"]),
    Refused("unknown-target", given("--target", "z80"), ["--target", "z80", "rk3588"]),
    Refused("dtype-that-it-has-not", given("--target", "rk3588", "--dtype", "fp32"), ["--dtype", "fp16, int8"]),
    Refused("no-clock", given("--target", "tensorrt", "--budget", "ms=5"), ["tensorrt", "no clock", "clock_mhz"]),
    Refused("check-n-negative", given("--check-n", "-1"), ["--check-n", "negative"]),
    Refused("unknown-scope", given("--scope", "layer"), ["--scope", "layer"]),
    Refused("unknown-option", given("--prune-harder"), ["--prune-harder", "--help"]),
    Refused("unknown-importance", given("--importance", "l3"), ["--importance", "l3", "l1, l2", "module:function"]),
    Refused("unknown-module", given("--importance", "no_such:f"), ["--importance", "no_such", "PYTHONPATH"]),
    Refused("unknown-function", given("--importance", "json:no_such"), ["--importance", "no_such"]),
    Refused("not-a-function", given("--importance", "sys:path"), ["--importance", "not a function"]),
    Refused("wrong-scores", given("--importance", "tests.cli.test_cli:one_score"), ["--importance", "[1]", "[16]"]),
    Refused("exclude-matches-nothing", given("--exclude", "zz*"), ["--exclude", "zz*", "onnxprune inspect"]),
    Refused("ratio-for-matches-nothing", given("--ratio-for", "zz*=0.5"), ["--ratio-for", "zz*", "onnxprune inspect"]),
    Refused("unknown-input", given("--input-shape", "z:1,3,8,8"), ["--input-shape", "'z'", "inputs: x"]),
    Refused("declared-otherwise", given("--input-shape", "x:1,3,9,9"), ["--input-shape", "1,3,9,9", "1,3,8,8"]),
    Refused("another-rank", given("--input-shape", "x:1,3,8"), ["--input-shape", "1,3,8"]),
    Refused("shape-form", given("--input-shape", "x:1,3,a,8"), ["--input-shape", "NAME:1,3,224,224"]),
    Refused("shape-of-nothing", given("--input-shape", "x:1,3,0,8"), ["--input-shape", "NAME:1,3,224,224"]),
    Refused("refused-shape", given("--input-shape", "x:1,3,9,9", text=SKIP), ["m.onnx", "9,9", "--input-shape"]),
    Refused("plan-missing", given("--plan", "{dir}/none.json"), ["none.json", "cannot read the plan"]),
    Refused("plan-for-wider", with_plan(WIDER), ["plan.json", "initializer 'w1' is [32, 16", "made for other.onnx"]),
    Refused("plan-for-another", with_plan(NORM), ["plan.json", "made for other.onnx"]),
    Refused("plan-of-json", with_plan(CHAIN, lambda _: "[]"), ["plan.json", "is not a plan", "--save-plan"]),
    Refused("plan-of-text", with_plan(CHAIN, lambda _: "hello"), ["plan.json", "is not a plan", "--save-plan"]),
    Refused("plan-from-the-future", with_plan(CHAIN, lambda p: p.replace('"version": 1', '"version": 9')), ["version"]),
)


def one_score(_: object) -> list[float]:
    return [1.0]


@pytest.mark.parametrize("row", REFUSED, ids=str)
def test_errors_are_one_line_and_leave_no_file(run: Run, tmp_path: Path, row: Refused) -> None:
    args = row.arrange(tmp_path)
    before = files_in(tmp_path)
    outcome = run(*args)
    assert outcome.code == 2
    assert outcome.out == ""
    assert_one_line(outcome.err, *row.says)
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(
    "row", [r for r in REFUSED if r.name in ("text-file", "truncated-in-half", "external-missing")], ids=str
)
def test_inspect_fails_as_prune_does(run: Run, tmp_path: Path, row: Refused) -> None:
    path, *_ = row.arrange(tmp_path)
    outcome = run("inspect", path, "--json", tmp_path / "i.json")
    assert outcome.code == 2
    assert_one_line(outcome.err, *row.says)
    assert not (tmp_path / "i.json").exists()


def test_a_bug_keeps_its_traceback(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline, "attempt", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main([str(chain)])


def test_module_runs_as_the_command_does(chain: Path) -> None:
    command = [sys.executable, "-m", "onnxprune", str(chain), "--ratio", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert_one_line(done.stderr, "--ratio")


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Forty samples for `chain`."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32))
    return tmp_path / "x.npy"


def test_data_alone_compares_plans_and_compensates_the_best(run: Run, chain: Path, samples: Path) -> None:
    outcome = run(chain, "--data", samples, "--ratio", "0.4", "--json", samples.with_suffix(".json"))
    report = json.loads(samples.with_suffix(".json").read_text())
    learnt = report["learnt"]
    ways = [f"importance {name}, scope cost" for name in ("output", "reconstruction")]
    assert [t["way"] for t in learnt["tried"]] == ways
    assert 0 < learnt["solved"] <= learnt["layers"]
    assert (learnt["samples"], learnt["held_out"]) == (40, 8)
    (before,), (after,) = learnt["pruned"], learnt["final"]
    assert after["snr_db"] > before["snr_db"]
    assert f"compensated: {learnt['solved']} of {learnt['layers']} layers solved anew" in outcome.out
    assert outcome.out.count("tried: ") == 2
    assert outcome.out.count("% of the signal on held-out samples, taken") == 1
    assert "dB by compensation, on 8" in outcome.out
    assert "on 8 held-out of 40 samples" in outcome.out
    assert report["options"]["importance"] == report["options"]["scope"] == "auto"


def test_recover_trains_what_was_compensated(run: Run, chain: Path, samples: Path) -> None:
    options = ("--data", samples, "--importance", "l2", "--ratio", "0.6", "--json", samples.with_suffix(".json"))
    outcome = run(chain, *options, "--recover", "20")
    learnt = json.loads(samples.with_suffix(".json").read_text())["learnt"]
    assert learnt["steps"] == 20
    assert "trained: 20 steps on the original's outputs" in outcome.out
    run(chain, *options)
    plain = json.loads(samples.with_suffix(".json").read_text())["learnt"]
    assert plain["steps"] == plain["best_step"] == 0
    assert learnt["final"][0]["snr_db"] >= plain["final"][0]["snr_db"]


def test_recover_to_no_avail_is_said(run: Run, chain: Path, samples: Path) -> None:
    outcome = run(chain, "--data", samples, "--importance", "l2", "--ratio", "0", "--recover", "2")
    assert "trained: 2 steps on the original's outputs, to no avail: left as it was" in outcome.out


def test_recover_takes_no_negative_number(run: Run, chain: Path, samples: Path) -> None:
    outcome = run(chain, "--data", samples, "--recover", "-1")
    assert outcome.code == 2
    assert_one_line(outcome.err, "--recover", "must not be negative, as -1 is")


def test_recover_needs_data(run: Run, chain: Path) -> None:
    outcome = run(chain, "--recover", "20")
    assert outcome.code == 2
    assert_one_line(outcome.err, "--recover", "--data")


def test_no_compensate_leaves_every_weight_that_stays_as_it_is(run: Run, chain: Path, samples: Path) -> None:
    options = ("--data", samples, "--importance", "l2", "--ratio", "0.5", "--no-fuse-bn")
    run(chain, *options, "--no-compensate", "-o", samples.with_name("a.onnx"))
    run(chain, "--importance", "l2", "--ratio", "0.5", "--no-fuse-bn", "-o", samples.with_name("b.onnx"))
    assert samples.with_name("a.onnx").read_bytes() == samples.with_name("b.onnx").read_bytes()


def test_with_data_the_same_run_writes_the_same_bytes(run: Run, chain: Path, samples: Path) -> None:
    written = [samples.with_name(f"{i}.onnx") for i in range(2)]
    for path in written:
        run(chain, "--data", samples, "--budget", "macs=0.5", "-o", path)
    assert written[0].read_bytes() == written[1].read_bytes()


def test_a_plan_is_compensated_again_on_other_data(run: Run, chain: Path, samples: Path) -> None:
    run(chain, "--ratio", "0.5", "--save-plan", samples.with_name("p.json"))
    outcome = run(chain, "--plan", samples.with_name("p.json"), "--data", samples, "-o", samples.with_name("c.onnx"))
    assert "layers solved anew" in outcome.out
    assert "tried: " not in outcome.out


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("macs", "'macs' is not COST=LIMIT"),
        ("macs=half", "'macs=half' is not COST=LIMIT"),
        ("time=0.5", "no cost is called 'time'"),
        ("macs=0", "must be positive"),
        ("macs=0.0001", "--budget: cannot be met"),
    ],
)
def test_budgets_that_make_no_sense_are_one_line(run: Run, chain: Path, value: str, message: str) -> None:
    outcome = run(chain, "--budget", value)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_scope_cost_alone_keeps_the_macs_that_the_ratio_would(run: Run, chain: Path, tmp_path: Path) -> None:
    shares = {}
    for scope in ("group", "cost"):
        run(chain, "--ratio", "0.5", "--scope", scope, "--json", tmp_path / "r.json")
        shares[scope] = json.loads((tmp_path / "r.json").read_text())["macs"]["ratio"]
    assert shares["cost"] <= shares["group"] + 1e-9
