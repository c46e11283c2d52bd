"""Small whole networks, each of a kind that rows of single operators do not show: what goes, and that it is exact."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from fixtures import CASES
from onnxprune.model.files import load
from onnxprune.options import Options
from onnxprune.pipeline import prune
from tests.models import too_new


@dataclass(frozen=True)
class Case:
    """A file of `fixtures/cases`: its prunable channels, and its MACs as they are."""

    name: str
    prunable: int
    macs: int
    limit: float = 1e-6

    def __str__(self) -> str:
        return self.name


ROWS = (
    Case("correlation", 80, 4_147_200),
    Case("deform_conv", 128, 20_653_536),
    Case("dynamic_quantization", 128, 106_496),
    Case("grid_sample", 120, 9_031_680),
    Case("int4_blocks", 164, 183_296),
    Case("max_unpool", 64, 5_783_552),
    Case("qonnx", 48, 1_290_560),
    Case("qonnx_maps", 96, 4_387_056),
    Case("sequence", 56, 622_592),
    Case("sparse_weights", 128, 6_656),
)


@pytest.mark.parametrize("case", ROWS, ids=str)
def test_case_is_pruned_exactly(case: Case) -> None:
    model = load(CASES / f"{case.name}.onnx")
    if reason := too_new(model.proto):
        pytest.skip(reason)
    report = prune(model, Options(ratio=0.4)).report

    assert (report.channels.before, report.macs.before) == (case.prunable, case.macs)
    assert report.channels.after < 0.7 * case.prunable
    assert report.proof is not None
    assert max(report.proof.rewrite_error, report.proof.inside_error) < case.limit


def test_sparse_weights_are_pruned_as_dense_ones_and_stay_sparse() -> None:
    sparse, dense = (load(CASES / f"sparse_weights{kind}.onnx") for kind in ("", "_dense"))
    both = [prune(model, Options(ratio=0.4)) for model in (sparse, dense)]
    first, second = (result.model.graph.constants for result in both)
    assert {shape for _, shape in first.values()} == {shape for _, shape in second.values()}
    assert len(both[0].model.proto.graph.sparse_initializer) == len(sparse.proto.graph.sparse_initializer) > 0
    assert both[0].report.file_bytes.after < both[0].report.file_bytes.before
