"""Calibration data on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.commands import Run, assert_one_line, weights, widths


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
        (["--recover", "3"], "give --data too"),
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
