"""``sparsify`` and ``sparsity`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from tests.commands import Run, assert_one_line
from tests.models import build


def test_half_of_the_weights_become_zero_and_no_channel_goes(run: Run, chain: Path) -> None:
    out = chain.with_name("out.onnx")
    outcome = run("sparsify", chain, "--data", "none", "-o", out, "--require", "sparsity>=0.5")
    assert outcome.code == 0
    assert "channels removed: 0.00 %" in outcome.out
    assert "zeros: 50.00 % of 688 weights, unstructured" in outcome.out
    assert "of the 344 weights that must be zero, 344 are zero in what is written" in outcome.out
    found = run("sparsity", out, "--json", chain.with_name("s.json"))
    assert found.code == 0
    assert "50.00 % of 688 weights are zero" in found.out
    assert "onnxruntime: multiplies by zeros" in found.out
    told = json.loads(chain.with_name("s.json").read_text(encoding="utf-8"))
    assert (told["weights"], told["zeros"], len(told["layers"])) == (688, 344, 3)


@pytest.mark.parametrize(
    ("command", "said", "gate"),
    [
        ("sparsify", "zeros: none was set (asked for 50 %)", "sparsity>=0.5"),
        ("quantize", "bits: none of the weights are rounded", "bytes<=0.9"),
    ],
)
def test_where_no_layer_takes_them_that_is_said_and_a_gate_fails(
    run: Run, tmp_path: Path, command: str, said: str, gate: str
) -> None:
    text = """(float[1,3,8,8] x, bool c) => (float[1,3,8,8] y) <float[3,3,1,1] w> {
        y = If(c) <then_branch = one () => (float[1,3,8,8] t) { t = Conv(x, w) },
                   else_branch = two () => (float[1,3,8,8] e) { e = Relu(x) }> }"""
    onnx.save(build(text), tmp_path / "if.onnx")
    args = (command, tmp_path / "if.onnx", "--data", "none", "-o", tmp_path / "o.onnx")
    outcome = run(*args)
    assert outcome.code == 0
    assert said in outcome.out
    assert "next: the notes say why nothing was done" in outcome.out
    assert run(*args, "--require", gate).code == 1


def test_too_few_zeros_fail_the_gate(run: Run, chain: Path) -> None:
    outcome = run("sparsify", chain, "--data", "none", "--sparsity", 0.3, "--require", "sparsity>=0.5")
    assert outcome.code == 1
    assert "--require sparsity>=0.5" in outcome.err
    assert not chain.with_name("chain.pruned.onnx").exists()


def test_a_pattern_of_n_in_m_needs_no_share(run: Run, chain: Path) -> None:
    outcome = run("sparsify", chain, "--data", "none", "--pattern", "2:4", "-o", chain.with_name("out.onnx"))
    assert outcome.code == 0
    assert "2:4" in run("sparsity", chain.with_name("out.onnx")).out
    assert (
        "'Conv:a': no weight becomes zero, as the pattern 2:4 does not fit: their inputs are no multiple of 4"
        in outcome.out
    )


def test_prune_with_zeros_alone_removes_no_channel(run: Run, chain: Path) -> None:
    assert "channels removed: 0.00 %" in run(chain, "--data", "none", "--sparsity", 0.5, "--dry-run").out
    both = run(chain, "--data", "none", "--sparsity", 0.5, "--ratio", 0.5, "--dry-run").out
    assert "channels removed: 50.00 %" in both
    assert "zeros: 50.00 %" in both


@pytest.mark.parametrize("command", ["sparsify", "quantize"])
@pytest.mark.parametrize("asked", [("--ratio", 0.3), ("--budget", "macs=0.5"), ("--metric", "kl", "--max-drop", 1)])
def test_how_many_channels_go_is_not_asked_where_none_does(
    run: Run, chain: Path, command: str, asked: tuple[object, ...]
) -> None:
    outcome = run(command, chain, *asked)
    assert outcome.code == 2
    assert_one_line(outcome.err, f"{asked[0]} is about channels, and {command} removes none: prune takes both")


@pytest.mark.parametrize("command", ["sparsify", "quantize"])
def test_a_plan_is_applied_by_prune(run: Run, chain: Path, command: str) -> None:
    """One of channels would remove them, and make nothing zero."""
    assert run(chain, "--ratio", 0.5, "--save-plan", chain.with_name("p.json"), "-q").code == 0
    outcome = run(command, chain, "--plan", chain.with_name("p.json"))
    assert outcome.code == 2
    assert_one_line(outcome.err, "--plan: says what goes, and prune applies it")
