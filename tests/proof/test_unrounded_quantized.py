"""Quantized models are proven without the rounding of activations: as tightly as others, and no swap is missed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from fixtures.skeleton import load_skeleton
from onnxprune.labels.analysis import analyse
from onnxprune.model.onnx_model import Model, from_proto
from onnxprune.options import Options
from onnxprune.pipeline import attempt
from onnxprune.proof.exact import RTOL, prove
from tests.models import build, sandwich, too_new
from tests.property import remove, some

ZOO = Path(__file__).parents[2] / "fixtures" / "zoo"
STEP = ("float s = {0.02}", "uint8 z = {120}")
QDQ = "qw = DequantizeLinear<axis=0>(w1, vars, v)\nq = QuantizeLinear(h, s, z)\nd = DequantizeLinear(q, s, z)\n"
QDQ += (
    "c = Conv(d, qw)\nq2 = QuantizeLinear(c, s, z)\nm = MaxPool<kernel_shape=[2,2]>(q2)\ng = DequantizeLinear(m, s, z)"
)
CODES = "q = QuantizeLinear(h, s, z)\nc = QLinearConv(q, s, z, w1, vars, v, s, z, b)\n"
CODES += "m = com.microsoft.QLinearAdd(c, s, z, c, s, z, s, z)\ng = DequantizeLinear(m, s, z)"
WEIGHTS = ("int8[8,8,1,1] w1", "float[8] vars", "int8[8] v")
MODELS = {
    "qdq": sandwich(QDQ, *WEIGHTS, *STEP),
    # onnx 1.16 infers nothing behind QLinearAdd
    "codes": sandwich(CODES, *WEIGHTS, "int32[8] b", "uint8[2,8,6,6] m", *STEP).replace("float y", "float[n,c,h,w] y"),
}


def roll(model: ModelProto, name: str) -> Model:
    """The model with the elements of a vector in other places."""
    broken = ModelProto()
    broken.CopyFrom(model)
    tensor = next(t for t in broken.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(tensor), 1), name))
    return Model(broken)


def runnable(name: str) -> ModelProto:
    """One of the models; skips the test where an onnxruntime of the lower bounds has no such kernel."""
    model = build(MODELS[name])
    if (reason := too_new(model)) is not None:
        pytest.skip(reason)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_rounding_is_taken_out_of_the_proof(name: str) -> None:
    proof = attempt(from_proto(runnable(name)), Options(ratio=0.4)).report.proof
    assert proof is not None
    assert proof.rtol == RTOL
    assert max(proof.rewrite_error, proof.inside_error) < 1e-5
    assert proof.steps is not None
    assert proof.steps.most <= 1


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("vector", ["vars", "v"])
def test_scale_or_zero_point_of_another_channel_is_found(name: str, vector: str) -> None:
    removal = remove(runnable(name), some(1, 0.4))
    analysis = analyse(from_proto(removal.given))
    for pruned, sound in ((Model(removal.pruned), True), (roll(removal.pruned, vector), False)):
        parts = (analysis.trace, analysis.severed, analysis.flat, removal.dead, pruned)
        proof = prove(*parts, samples=1, seed=0, rtol=None, atol=0.0)
        assert (proof.failures() == []) == sound


def test_what_reads_codes_as_integers_is_proven_as_it_is() -> None:
    text = sandwich("q = QuantizeLinear(h, s, z)\nc = ConvInteger(q, w1, z)\ng = Cast<to=1>(c)", WEIGHTS[0], *STEP)
    proof = attempt(from_proto(build(text)), Options(ratio=0.4)).report.proof
    assert proof is not None
    assert proof.steps is None
    assert proof.rtol > RTOL


def test_report_says_by_how_many_steps_codes_differ() -> None:
    model = from_proto(load_skeleton(ZOO / "own_lenet5_view.ts17-qdq.onnx"))
    notes = attempt(model, Options(ratio=0.4)).report.notes
    assert any("rounded, all codes agree" in note or "of codes differ" in note for note in notes)
