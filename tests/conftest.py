"""Fixtures of several test modules."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from onnxprune import options
from onnxprune.calibration.data_options import Data
from onnxprune.cli import main as cli
from onnxprune.cli.printing import table_style
from tests.commands import CHAIN, Outcome, Run, put


@pytest.fixture(autouse=True)
def weights_only(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without data, weights stay as they are, but where a test is marked ``drawn``: most are about structure."""
    said = options.reading_of

    def reading_of(given: options.DataSource | None) -> Data | None:
        reading = said(given)
        return None if reading is not None and reading.drawn else reading

    if request.node.get_closest_marker("drawn") is None:
        monkeypatch.setattr(options, "reading_of", reading_of)


@pytest.fixture(autouse=True)
def quick_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """No stage is long enough for a line of its own, however busy the machine is."""
    monkeypatch.setattr(table_style, "LONG", math.inf)


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
