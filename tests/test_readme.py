"""Every command that the README shows is run, and what it shows of the output is what comes out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from fixtures import build

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
COMMANDS = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
(TOML,) = (text for kind, text in BLOCKS if kind == "toml")
LOCAL = [c for c in COMMANDS if c.startswith("onnxprune") and "320n" not in c]
DOWNLOADED = [c for c in COMMANDS if c.startswith(("pip download", "unzip", "onnxprune")) and "model.onnx" not in c]
#: What a command prints, by what is in it; all others prune.
SAYS = {" diff ": "output error", " targets": "rk3588", " doctor": "rknn-toolkit2"}
OTHERS = {'pip install ".[test]"', "pytest"}  # .ci/run runs these two


def shell(command: str, folder: Path) -> str:
    """Run ``command`` as a shell would, with this interpreter's tools first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, shell=True, cwd=folder, env={**os.environ, "PATH": path}, check=True, capture_output=True
    )
    return done.stdout.decode()


def test_every_command_is_run_by_something() -> None:
    assert set(COMMANDS) - {""} == {*LOCAL, *DOWNLOADED, *OTHERS}


def test_commands_on_a_model(tmp_path: Path) -> None:
    onnx.save(build.unet(fold_bn=False, size=64), tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    for index, sample in enumerate(np.random.default_rng(0).standard_normal((10, 1, 1, 64, 64))):
        np.save(tmp_path / "calib" / f"{index}.npy", sample.astype(np.float32))
    (tmp_path / "ci.toml").write_text(TOML, encoding="utf-8")
    for command in LOCAL:
        says = next((text for part, text in SAYS.items() if part in command), "rewrite error")
        assert says in shell(command, tmp_path)
        if "--plan" in command:  # of the one before it
            assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "model.pruned.onnx").read_bytes()
    assert (tmp_path / "model.pruned.onnx").exists()
    for text in PYTHON:
        subprocess.run([sys.executable, "-c", text], cwd=tmp_path, check=True)
    assert (tmp_path / "small.plan.json").exists()


@pytest.mark.models
def test_first_real_run_prints_what_the_readme_shows(tmp_path: Path) -> None:
    printed = "".join(shell(command, tmp_path) for command in DOWNLOADED)
    shown = [line for kind, text in BLOCKS if kind == "text" for line in text.splitlines() if line not in ("", "...")]
    # What rounding decides (the two errors) differs from machine to machine.
    exact = [line for line in shown if not line.startswith(("rewrite error", "               ", "pruning error"))]
    assert [line for line in exact if line not in printed] == []
