"""Fixtures of several test modules."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxprune.cli import main as cli
from tests.commands import CHAIN, Outcome, Run, put


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command line in this process."""

    def call(*args: object) -> Outcome:
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(a) for a in args])
        captured = capsys.readouterr()
        return Outcome(int(exit_.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return put(tmp_path / "chain.onnx", CHAIN)
