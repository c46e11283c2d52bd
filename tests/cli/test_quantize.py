"""``quantize`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.commands import Run


def test_eight_bits_and_no_channel_goes(run: Run, chain: Path) -> None:
    np.save(chain.with_name("d.npy"), np.random.default_rng(0).standard_normal((24, 3, 8, 8)).astype(np.float32))
    outcome = run("quantize", chain, "--data", chain.with_name("d.npy"), "--json", chain.with_name("r.json"))
    assert outcome.code == 0
    assert "channels removed: 0.00 %" in outcome.out
    assert "bits: 688 weights of 3 layers, 8 bits each" in outcome.out
    assert "688 of these weights are on their grid; 688 bytes at these bits" in outcome.out
    assert "activations: 3 tensors, 8 bits each" in outcome.out
    told = json.loads(chain.with_name("r.json").read_text(encoding="utf-8"))["grids"]
    assert (told["weights"], told["missed"], told["bytes"]) == (688, 0, 688)


def test_without_data_weights_alone(run: Run, chain: Path) -> None:
    outcome = run("quantize", chain, "--data", "none", "--bits-for", "*=4", "--save-plan", chain.with_name("p.json"))
    assert outcome.code == 0
    assert "4 bits each" in outcome.out
    assert "344 bytes at these bits" in outcome.out
    assert "weights rounded, on random inputs" in outcome.out
    assert run("quantize", chain, "--data", "none", "--require", "packed<=0.26").code == 1
    assert run("quantize", chain, "--data", "none", "--weights", 4, "--require", "packed<=0.2", "--dry-run").code == 0
    again = run(chain, "--plan", chain.with_name("p.json"), "--data", "none", "-o", chain.with_name("b.onnx"))
    assert again.code == 0
    assert chain.with_name("b.onnx").read_bytes() == chain.with_name("chain.pruned.onnx").read_bytes()


def test_bits_beside_channels(run: Run, chain: Path) -> None:
    outcome = run(chain, "--ratio", 0.5, "--weights", 4, "--data", "none", "--dry-run")
    assert "channels removed: 50.00 %" in outcome.out
    assert "4 bits each" in outcome.out
    assert run(chain, "--weights", "4.5").code == 2
    assert run(chain, "--bits-for", "a=b").code == 2


def test_bytes_alone_choose_bits_by_layer(run: Run, chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(chain.parent)
    np.save(chain.with_name("d.npy"), np.random.default_rng(0).standard_normal((24, 3, 8, 8)).astype(np.float32))
    data = ("--data", chain.with_name("d.npy"), "--dry-run")
    outcome = run("quantize", chain, "--budget", "bytes=0.16", "--require", "packed<=0.16", *data)
    assert outcome.code == 0
    assert "channels removed: 0.00 %" in outcome.out
    Path("onnxprune.toml").write_text('budget = "macs=0.5"\n')  # of other commands
    assert "channels removed: 0.00 %" in run("quantize", chain, *data).out
    Path("onnxprune.toml").unlink()
    assert run(chain, "--weights", "mean:3", "--require", "packed<=0.16", *data).code == 0
    assert "--weights: auto says nothing of how many bytes" in run(chain, "--weights", "auto", *data).err
