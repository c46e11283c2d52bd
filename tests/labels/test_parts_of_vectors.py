"""A vector whose parts are taken apart is cut once, and what nobody reads of it is no channel."""

from __future__ import annotations

from onnxprune import pipeline
from onnxprune.model.onnx_model import from_proto
from onnxprune.options import Options
from tests.rows import ROWS


def test_parameters_go_down_and_nothing_is_copied() -> None:
    proto = next(r for r in ROWS if r.name == "a vector whose parts are read elsewhere").model()
    result = pipeline.prune(from_proto(proto), Options(ratio=0.5))
    assert {t.name: list(t.dims) for t in result.model.proto.graph.initializer}["v"] == [4]
    assert len(result.model.proto.graph.initializer) <= len(proto.graph.initializer) + 2  # bounds of slices


def test_what_nobody_reads_is_no_channel() -> None:
    proto = next(r for r in ROWS if r.name == "a vector of which a part is read").model()
    report = pipeline.prune(from_proto(proto), Options(ratio=0.5)).report
    assert [(g.width, g.kept) for g in report.groups] == [(8, 4)]
    assert report.parameters.after < report.parameters.before
