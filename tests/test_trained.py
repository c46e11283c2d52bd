"""The models that the project answers for: the seed's U-Net, and trained ones that nobody made for us."""

from __future__ import annotations

import pytest
from onnx import ModelProto

from fixtures import build, trained
from onnxprune import pipeline
from onnxprune.model import files
from onnxprune.model import onnx_model as model
from onnxprune.options import Options
from tests.models import too_new


@pytest.mark.parametrize("up", ["bilinear", "convt"])
@pytest.mark.parametrize("fold_bn", [False, True], ids=["with-bn", "folded"])
def test_seed_unet_keeps_multiples_of_16(up: build.Upsampling, fold_bn: bool) -> None:
    unet = model.from_proto(build.unet(fold_bn=fold_bn, up=up, size=128))

    report = pipeline.prune(unet, Options(ratio=0.3, align=16)).report

    assert [g.kept for g in report.groups if g.kept % 16] == []
    assert abs(report.achieved - 0.3) <= 0.02
    assert report.proof is not None
    assert report.proof.rewrite_error <= 1e-5
    assert report.proof.inside_error <= 1e-5
    assert sum(c.startswith("folded") for c in report.changes) == (0 if fold_bn else 18)


def whole(of: model.Model) -> ModelProto:
    """The model with its weights in it."""
    proto = ModelProto()
    proto.ParseFromString(b"".join(of.pieces()))
    return proto


@pytest.mark.models
@pytest.mark.parametrize("key", trained.MODELS)
def test_trained_model_comes_out_valid_exact_and_smaller(key: str) -> None:
    loaded = files.load(trained.path(key))
    if reason := too_new(whole(loaded)):
        pytest.skip(reason)

    result = pipeline.prune(loaded, Options(ratio=0.3, scope="group"))

    model.check(whole(result.model), key, full=True)
    assert result.model.proto.metadata_props == loaded.proto.metadata_props
    assert [i.SerializeToString() for i in result.model.proto.graph.output] == [
        o.SerializeToString() for o in loaded.proto.graph.output
    ]
    proof = result.report.proof
    assert proof is not None
    assert proof.inside_error <= 1e-4
    assert not proof.failures()
    assert result.report.parameters.ratio <= 0.60
