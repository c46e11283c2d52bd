"""The proof on the command line, and what it says where it fails."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fixtures.build import unet
from onnxprune.labels.label_propagation import Trace
from onnxprune.labels.rewrite import Refusal, Rewrite, rewrite
from onnxprune.model.mapped_weights import value_of
from onnxprune.running import session as runtime
from tests.commands import CHAIN, Run, assert_one_line, files_in, widths
from tests.models import build


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
