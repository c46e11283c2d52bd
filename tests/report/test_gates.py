"""Limits that a pipeline sets: each lets through or fails with one line; and what is written for machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from onnxprune.errors import OptionError
from onnxprune.report.gates import Requirement
from tests.cli.test_proof import corrupted
from tests.commands import CHAIN, Run, assert_one_line, files_in, put


@dataclass(frozen=True)
class Gate:
    """A limit on CHAIN at half of its width (224 of 704 parameters), whether it holds, and what is said if not."""

    args: Sequence[object]
    passes: bool
    says: Sequence[str] = ()

    def __str__(self) -> str:
        return " ".join(map(str, self.args))


GATES = (
    Gate(["--require", "params<=0.5"], passes=True),
    Gate(["--require", "params<=0.3"], passes=False, says=["params<=0.3", "704 -> 224"]),
    Gate(["--require", "params<=224"], passes=True),
    Gate(["--require", "params <= 223"], passes=False, says=["--require params<=223"]),
    Gate(["--require", "macs<=0.6", "--require", "bytes<=0.9", "--require", "channels>=0.5"], passes=True),
    Gate(["--require", "channels>=0.6"], passes=False, says=["48 -> 24"]),
    Gate(["--require", "macs<=0.6", "--require", "bytes<=0.1", "--require", "macs<=0.1"], passes=False, says=["; "]),
    Gate(["--require", "cycles<=0.5"], passes=False, says=["not measured"]),
    Gate(["--require", "cycles<=0.9", "--target", "rk3588", "--align", 1], passes=True),
    Gate(["--require", "cycles<=0.1", "--target", "rk3588", "--align", 1], passes=False, says=["cycles<=0.1", " -> "]),
    Gate(["--max-rewrite-error", "1e-3"], passes=True),
    Gate(["--max-rewrite-error", "1e-3", "--check-n", 0], passes=False, says=["not measured"]),
    Gate(["--min-cosine", 0.1], passes=True),
    Gate(["--min-cosine", 0.999], passes=False, says=["output 'y'", "on 3 random inputs"]),
    Gate(["--min-snr", -20], passes=True),
    Gate(["--min-snr", 60], passes=False, says=["dB"]),
    Gate(["--min-snr", 60, "--check-n", 0], passes=False, says=["--min-snr 60: not measured"]),
)


@pytest.mark.parametrize("gate", GATES, ids=str)
def test_a_gate_lets_through_or_fails_and_then_only_reports_are_written(run: Run, chain: Path, gate: Gate) -> None:
    before = files_in(chain.parent)
    outputs = ["--json", chain.with_name("r.json"), "--save-plan", chain.with_name("p.json")]
    outcome = run(chain, "--ratio", 0.5, *gate.args, *outputs)
    added = set(files_in(chain.parent)) - set(before)
    report = json.loads(chain.with_name("r.json").read_text())
    limits = [c for c in report["checks"] if c["name"] != "proof"]
    failed = "; ".join(f"{c['name']}: {c['found']}" for c in limits if not c["passed"])
    assert bool(failed) != gate.passes
    assert failed in outcome.err
    if gate.passes:
        assert (outcome.code, outcome.err) == (0, "")
        assert added == {"chain.pruned.onnx", "r.json", "p.json"}
        assert Path(report["output"]).name == "chain.pruned.onnx"
    else:
        assert outcome.code == 1
        assert "failed: no model was written" in outcome.out
        assert "prunable channels" in outcome.out
        assert_one_line(outcome.err, *map(str, gate.says))
        assert added == {"r.json"}
        assert report["output"] == ""


def test_a_rewrite_error_that_the_proof_lets_through_may_still_fail(
    run: Run, chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxprune.widths.choose_channels.rewriting.rewrite", corrupted)
    outcome = run(chain, "--rtol", 10, "--max-rewrite-error", "1e-3")
    assert outcome.code == 1
    assert_one_line(outcome.err, "--max-rewrite-error 0.001", "of the output's range")


@pytest.mark.parametrize("option", ["--min-cosine", "--min-snr", "--max-rewrite-error"])
def test_a_limit_that_is_no_number_is_a_usage_error(run: Run, chain: Path, option: str) -> None:
    outcome = run(chain, option, "nan")
    assert outcome.code == 2
    assert_one_line(outcome.err, option, "not nan")


@pytest.mark.parametrize("text", ["macs", "macs<0.5", "macs<=", "macs<=x", "macs<=nan", "size<=1", ""])
def test_a_requirement_that_is_none_is_a_usage_error(run: Run, chain: Path, text: str) -> None:
    with pytest.raises(OptionError):
        Requirement.parse(text)
    outcome = run(chain, "--require", text)
    assert outcome.code == 2
    assert_one_line(outcome.err, "--require")


def test_on_calibration_data_the_held_out_samples_count(run: Run, chain: Path) -> None:
    np.save(chain.with_name("x.npy"), np.random.default_rng(0).standard_normal((10, 3, 8, 8)).astype(np.float32))
    options = ["--data", chain.with_name("x.npy"), "--importance", "activation", "--check-n", 1]
    outcome = run(chain, "--ratio", 0.5, "--min-snr", 90, *options)
    assert outcome.code == 1
    assert_one_line(outcome.err, "on 2 held-out samples")


def cases(path: Path) -> dict[str, bool]:
    """The test cases of a JUnit file, and whether each passed; its counts agree."""
    suite = ET.parse(path).getroot()  # noqa: S314 (our own)
    assert (suite.tag, suite.get("name")) == ("testsuite", "onnxprune")
    found = {str(c.get("name")): c.find("failure") is None for c in suite.iter("testcase")}
    assert suite.get("tests") == str(len(found))
    assert suite.get("failures") == str(sum(not ok for ok in found.values()))
    return found


def test_junit_has_a_case_for_each_check(run: Run, chain: Path) -> None:
    junit = chain.with_name("j.xml")
    assert run(chain, "--ratio", 0.5, "--require", "macs<=0.9", "--min-cosine", 0.1, "--junit", junit).code == 0
    assert cases(junit) == {"proof": True, "--min-cosine 0.1": True, "--require macs<=0.9": True}


def test_junit_and_summary_tell_of_a_failure_and_the_model_is_not_written(run: Run, chain: Path) -> None:
    junit, summary = chain.with_name("j.xml"), chain.with_name("s.md")
    outcome = run(chain, "--require", "macs<=0.1", "--junit", junit, "--summary", summary, "--min-cosine", 0.1)
    assert outcome.code == 1
    assert cases(junit) == {"proof": True, "--min-cosine 0.1": True, "--require macs<=0.1": False}
    assert "❌ `--require macs<=0.1`" in summary.read_text(encoding="utf-8")
    assert sorted(p.name for p in chain.parent.iterdir()) == ["chain.onnx", "j.xml", "s.md"]


def test_junit_tells_of_a_failed_proof(run: Run, chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxprune.widths.choose_channels.rewriting.rewrite", corrupted)
    junit = chain.with_name("j.xml")
    assert run(chain, "--junit", junit).code == 1
    assert cases(junit) == {"proof": False}


def test_dry_run_checks_and_tells(run: Run, chain: Path) -> None:
    junit = chain.with_name("j.xml")
    assert run(chain, "--dry-run", "--junit", junit, "--require", "macs<=0.9").code == 0
    assert run(chain, "--dry-run", "--require", "macs<=0.1").code == 1
    assert sorted(p.name for p in chain.parent.iterdir()) == ["chain.onnx", "j.xml"]


def test_the_summary_is_appended_and_an_empty_path_is_none(run: Run, chain: Path) -> None:
    summary = chain.with_name("s.md")
    summary.write_text("# before\n", encoding="utf-8")
    for _ in range(2):
        assert run(chain, "--summary", summary, "--require", "macs<=0.9", "--check-n", 1).code == 0
    text = summary.read_text(encoding="utf-8")
    assert text.startswith("# before\n### onnxprune: chain.onnx\n")
    assert text.count("| parameters | 704 |") == 2
    assert text.count("✅ `--require macs<=0.9`") == 2
    assert run(chain, "--summary", "", "--check-n", 1).code == 0
    outcome = run(chain, "--summary", chain.parent, "--check-n", 1)
    assert outcome.code == 2
    assert_one_line(outcome.err, "name another --summary")


def test_junit_cannot_replace_the_model(run: Run, chain: Path) -> None:
    before = files_in(chain.parent)
    for more in ([], ["--dry-run"]):
        assert_one_line(run(chain, "--junit", chain, *more).err, "the model itself")
    assert files_in(chain.parent) == before


def test_diff_has_the_same_gates(run: Run, chain: Path) -> None:
    small, junit = chain.with_name("small.onnx"), chain.with_name("j.xml")
    run(chain, "--ratio", 0.5, "-o", small, "-q")
    assert run("diff", chain, small, "--require", "params<=0.5", "--min-cosine", 0.1, "--junit", junit).code == 0
    assert cases(junit) == {"--min-cosine 0.1": True, "--require params<=0.5": True}
    page = chain.with_name("d.html")
    outcome = run("diff", chain, small, "--min-snr", 60, "--report", page, "--lang", "en")
    assert outcome.code == 1
    assert "1 of 1 checks failed" in page.read_text(encoding="utf-8")
    assert "output error: 'y'" in outcome.out
    assert_one_line(outcome.err, "--min-snr 60: output 'y'")
    other = put(chain.with_name("other.onnx"), CHAIN.replace(" x)", " z)").replace("(x,", "(z,"))
    assert_one_line(run("diff", chain, other, "--min-cosine", 0.5).err, "not measured")
