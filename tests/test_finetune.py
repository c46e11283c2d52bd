"""The worked example of fine-tuning: what the document shows is in the script, which does what it says."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import onnxprune

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "finetune.py"
ROUNDS = ROOT / "examples" / "finetune_rounds.py"


def test_the_document_shows_what_the_script_does() -> None:
    shown = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "finetune.md").read_text(encoding="utf-8"), re.DOTALL)
    text = SCRIPT.read_text(encoding="utf-8") + ROUNDS.read_text(encoding="utf-8")
    assert len(shown) >= 5
    assert [block for block in shown if block not in text] == []


@pytest.mark.torch
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch to train")
def test_a_cut_network_is_what_was_pruned_and_training_brings_it_back(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(tmp_path)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    trained, cut, tuned = (
        float(v) for v in re.findall(r"^(?:trained|cut|fine-tuned): ([\d.]+)", done.stdout, re.MULTILINE)
    )
    (apart,) = re.findall(r"at most (\S+) from", done.stdout)
    assert float(apart) < 1e-4
    assert trained > 0.7
    assert cut < tuned - 0.2
    assert tuned > trained - 0.1
    found = onnxprune.diff(tmp_path / "pruned.onnx", tmp_path / "finetuned.onnx")
    assert (found.resized, found.added, found.removed) == ((), (), ())
    assert found.revalued


@pytest.mark.torch
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch to train")
def test_rounds_of_pruning_and_training_go_further_than_one_cut(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", str(ROUNDS), str(tmp_path)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    held = re.findall(r"^round \d+: \S+ of the MACs, drop \S+: (True|False)", done.stdout, re.MULTILINE)
    assert held[:-1] == ["True"] * (len(held) - 1)
    (macs,) = re.findall(r"^written: (\S+) of the MACs", done.stdout, re.MULTILINE)
    assert float(macs) < 0.2
    (before, after) = re.findall(r"^on other images: (\S+) -> (\S+)", done.stdout, re.MULTILINE)[0]
    assert float(after) > float(before) - 0.03
    assert (tmp_path / "small.onnx").exists()
