"""``onnxprune prune``: what it writes, and what it says."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from fixtures.build import unet
from onnxprune import __version__
from tests.commands import FIXED, Outcome, Run, files_in, put, widths


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


def test_dry_run_writes_no_model_and_no_plan_and_says_so(run: Run, chain: Path, tmp_path: Path) -> None:
    before = files_in(tmp_path)
    outcome = run(chain, "--dry-run", "--save-plan", tmp_path / "p.json")
    assert outcome.code == 0
    assert "dry run: no model was written" in outcome.out
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


def test_dry_run_writes_reports(run: Run, chain: Path, tmp_path: Path) -> None:
    outcome = run(chain, "--dry-run", "--report", tmp_path / "r.html", "--json", tmp_path / "r.json", "--lang", "en")
    assert outcome.code == 0
    assert sorted(files_in(tmp_path)) == ["chain.onnx", "r.html", "r.json"]
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["output"] == ""
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
