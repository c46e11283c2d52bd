"""Every exported graph in the zoo, pruned in this process: valid, exact, smaller, or said why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.skeleton import load_skeleton
from onnxprune import pipeline
from onnxprune.model import onnx_model as model
from onnxprune.options import Options
from onnxprune.report import model_reports
from tests.models import too_new

ZOO = sorted((Path(__file__).parents[1] / "fixtures" / "zoo").glob("*.onnx"))


@pytest.mark.parametrize(
    "path",
    # Two thirds of them take a minute, and the grid has them all.
    [pytest.param(p, id=p.stem, marks=[] if number % 3 == 0 else pytest.mark.slow) for number, p in enumerate(ZOO)],
)
def test_pruned_by_three_tenths(path: Path) -> None:
    proto = load_skeleton(path)
    if reason := too_new(proto):
        pytest.skip(reason)
    loaded = model.from_proto(proto)
    options = Options(ratio=0.3, scope="group", check_n=1)

    result = pipeline.prune(loaded, options)

    report = result.report
    assert report.proof is not None
    assert not report.proof.failures()
    model.check(result.model.proto, path.name, full=True)
    if report.channels.before:
        assert report.parameters.after < report.parameters.before
        assert report.macs.after < report.macs.before
        assert report.achieved >= 0.3 or any(g.kept == 1 for g in report.groups)
    else:
        assert result.model.proto == loaded.proto
        found = model_reports.inspect(loaded, input_shapes=options.input_shapes)
        assert found.held
        assert all(held.reasons for held in found.held)


def test_the_zoo_is_there() -> None:
    assert len(ZOO) == 86
