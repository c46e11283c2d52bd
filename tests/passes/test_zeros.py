"""Zeros that a run makes: where they are asked for, in the file, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

import onnxprune
from onnxprune import OptionError, PlanError
from onnxprune.model.onnx_model import from_proto
from onnxprune.plans.plan_file import load_plan
from onnxprune.proof.weights import prove_zeros
from tests.models import build

NET = """(float[N,8,8,8] x) => (float y)
<float[16,8,3,3] w0, float[16] b0, float[16] s, float[16] o, float[16] m, float[16] v, float[16,16,3,3] w1,
 float[16,1,3,3] w2, float[16,16,2,2] w3, float[5,16] w4, float[5] b4>
{ a = Conv<pads=[1,1,1,1]>(x, w0, b0)
  n = BatchNormalization(a, s, o, m, v)
  r = Relu(n)
  c = Conv<pads=[1,1,1,1]>(r, w1)
  d = Conv<group=16, pads=[1,1,1,1]>(c, w2)
  q = Relu(d)
  t = ConvTranspose<strides=[2,2]>(q, w3)
  p = GlobalAveragePool(t)
  f = Flatten(p)
  y = Gemm<transB=1>(f, w4, b4) }"""
WEIGHTS = ("w0", "w1", "w2", "w3", "w4")


def net(text: str = NET) -> ModelProto:
    model = build(text)
    for tensor in model.graph.initializer:
        if tensor.name == "v":  # variances are positive
            tensor.CopyFrom(numpy_helper.from_array(np.full(16, 2.0, np.float32), "v"))
    return model


def samples(count: int = 64, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    mixed = rng.standard_normal((count, 3, 8, 8)).astype(np.float32)
    return {"x": np.einsum("oc,nchw->nohw", rng.standard_normal((8, 3)).astype(np.float32), mixed)}


def weights(model: ModelProto) -> dict[str, NDArray[Any]]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.name in WEIGHTS}


def share(model: ModelProto) -> float:
    found = weights(model).values()
    return sum(int((w == 0).sum()) for w in found) / sum(w.size for w in found)


@pytest.mark.parametrize("given", ["samples", "none"])
@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("criterion", [None, "l1", "random"])
def test_as_many_weights_are_zero_as_were_asked_for(given: str, scope: str, criterion: str | None) -> None:
    data = samples() if given == "samples" else "none"
    result = onnxprune.prune(net(), sparsity=0.6, sparsity_scope=scope, sparsity_criterion=criterion, data=data)
    assert share(result.model) == pytest.approx(0.6, abs=2e-3)
    assert result.report.zeros is not None
    assert (result.report.zeros.missed, result.report.channels.ratio) == (0, 1)
    for name, mask in result.plan.masks.items():
        assert (weights(result.model)[name][~mask] == 0).all()


def test_solving_the_others_is_worth_it() -> None:
    errors = {}
    for criterion in ("l1", "reconstruction"):
        recovered = onnxprune.prune(
            net(), sparsity=0.6, sparsity_criterion=criterion, data=samples(256)
        ).report.recovered
        assert recovered is not None
        errors[criterion] = recovered.final[0].snr_db
    cut = onnxprune.prune(net(), sparsity=0.6, compensate=False, data=samples(256)).report.recovered
    assert cut is not None
    assert errors["reconstruction"] > errors["l1"] > cut.final[0].snr_db


def test_two_of_four_where_channels_allow() -> None:
    result = onnxprune.prune(net(), pattern="2:4", data=samples())
    found = result.report.sparsity
    assert found is not None
    assert {la.weight: "2:4" in la.patterns for la in found.layers} == {n: n != "w2" for n in WEIGHTS}
    assert any("the pattern 2:4 does not fit" in note for note in result.report.notes)
    assert found.patterns == ("2:4", "4:8")


def test_whole_outputs_are_zero_in_place() -> None:
    model = onnxprune.prune(net(), sparsity=0.5, pattern="channel", sparsity_scope="layer", data="none").model
    w1 = weights(model)["w1"].reshape(16, -1)
    assert (w1 == 0).all(axis=1).sum() == 8
    assert w1.shape == (16, 144)


def test_zeros_of_their_own_for_some_layers() -> None:
    result = onnxprune.prune(net(), sparsity=0.5, sparsity_for={"w0": 0.0, "w4": 0.25}, data="none")
    found = weights(result.model)
    assert (found["w0"] != 0).all()
    assert np.mean(found["w4"] == 0) == 0.25
    assert {"w0", "w4"} & result.plan.masks.keys() == {"w4"}


def test_channels_go_first_and_the_rest_is_sparse() -> None:
    result = onnxprune.prune(net(), ratio=0.25, sparsity=0.5, data=samples())
    assert result.report.achieved >= 0.25
    assert result.report.parameters.ratio < 1
    assert share(result.model) == pytest.approx(0.5, abs=3e-3)


def test_masks_are_taken_from_a_file_and_cut_with_the_channels(tmp_path: Path) -> None:
    mask = np.random.default_rng(1).random((16, 16, 3, 3)) < 0.5
    np.savez(tmp_path / "m.npz", w1=mask)
    result = onnxprune.prune(net(), mask=tmp_path / "m.npz", data=samples())
    assert (weights(result.model)["w1"][~mask] == 0).all()
    assert result.plan.masks.keys() == {"w1"}
    cut = onnxprune.prune(net(), ratio=0.25, mask=tmp_path / "m.npz", data="none")
    kept = {a.axis: a.keep for a in cut.plan.initializers["w1"]}
    own = mask[kept.get(0, np.arange(16))][:, kept.get(1, np.arange(16))]
    assert (cut.plan.masks["w1"] == own).all()
    np.savez(tmp_path / "m.npz", w1=mask[:3])
    with pytest.raises(OptionError, match="the mask of 'w1' is"):
        onnxprune.prune(net(), mask=tmp_path / "m.npz", data="none")


def test_zeros_stay_through_training() -> None:
    text = NET.replace("t = ConvTranspose<strides=[2,2]>(q, w3)", "t = Conv(q, w3)")
    result = onnxprune.prune(net(text), sparsity=0.8, recover=16, data=samples())
    assert result.report.zeros is not None
    assert result.report.zeros.missed == 0
    assert share(result.model) == pytest.approx(0.8, abs=3e-3)


@pytest.mark.parametrize("data", ["samples", "none"])
def test_a_plan_makes_the_same_zeros_again(tmp_path: Path, data: str) -> None:
    given: Any = samples() if data == "samples" else "none"
    first = onnxprune.prune(net(), ratio=0.25, sparsity=0.5, data=given)
    first.save(tmp_path / "a.onnx", plan=tmp_path / "p.json")
    again = onnxprune.apply(net(), tmp_path / "p.json", data=given)
    assert again.plan.to_json() == first.plan.to_json()
    for name, mask in first.plan.masks.items():
        assert (weights(onnx.load(tmp_path / "a.onnx"))[name][~mask] == 0).all()
        assert (weights(again.model)[name][~mask] == 0).all()
    text = (tmp_path / "p.json").read_text(encoding="utf-8")
    (tmp_path / "p.json").write_text(text.replace('"keep": "e', '"keep": "x'), encoding="utf-8")
    with pytest.raises(PlanError):
        load_plan(tmp_path / "p.json")


def test_a_criterion_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_zeros.py").write_text("def last(weight):\n    return weight.size - weight * 0\n", encoding="utf-8")
    (tmp_path / "bad_zeros.py").write_text("def flat(weight):\n    return weight.reshape(-1)\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert share(onnxprune.prune(net(), sparsity=0.5, sparsity_criterion="own_zeros:last").model) == pytest.approx(
        0.5, abs=0.01
    )
    with pytest.raises(OptionError, match="must give numbers"):
        onnxprune.prune(net(), sparsity=0.5, sparsity_criterion="bad_zeros:flat", data="none")


def test_where_gradients_cannot_be_run_zeros_are_spread_without_them() -> None:
    text = """(float[1,3,8,8] x) => (float[1,4,8,8] y, float z)
        <float[8,3,1,1] w0, float[4,8,1,1] w1, float[8,4] w2> {
        a = Conv(x, w0)
        y = Conv(a, w1)
        z = com.microsoft.FusedMatMul(x, w2) }"""
    data = {"x": np.random.default_rng(0).standard_normal((70, 3, 8, 8)).astype(np.float32)}
    result = onnxprune.prune(build(text), sparsity=0.5, data=data)
    assert result.report.zeros is not None
    assert result.report.zeros.masked


def test_shared_weights_are_zero_for_both_readers() -> None:
    model = build("(float[N,8,8,8] x) => (float y) <float[8,8,1,1] w> { a = Conv(x, w)\nb = Relu(a)\ny = Conv(b, w) }")
    result = onnxprune.prune(model, sparsity=0.5, data=samples())
    assert np.mean(numpy_helper.to_array(result.model.graph.initializer[0]) == 0) == 0.5


def test_the_proof_finds_a_weight_that_is_not_zero() -> None:
    model = from_proto(net())
    mask = np.ones((16, 8, 3, 3), np.bool_)
    mask[0, 0, 0, 0] = False
    assert prove_zeros(model, {"w0": mask}).missed == 1
    assert prove_zeros(model, {"w0": ~mask}).masked == mask.size - 1
    assert prove_zeros(model, {"gone": mask}).where == "gone"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sparsity": 1.0}, "less than 1"),
        ({"pattern": "2:4", "sparsity": 0.7}, "is a share of 0.5"),
        ({"pattern": "5:4"}, "is not unstructured"),
        ({"pattern": "channel"}, "says nothing of how many zeros"),
        ({"sparsity": 0.5, "sparsity_criterion": "rando"}, "did you mean random"),
        ({"sparsity": 0.5, "sparsity_criterion": "reconstruction", "data": "none"}, "solves weights anew"),
        ({"sparsity_for": {"nobody": 0.5}, "data": "none"}, "no node or tensor matches"),
    ],
    ids=str,
)
def test_options_that_cannot_be_met_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        onnxprune.prune(net(), **options)


HEAD = "(float[1,3,8,8] x) => (float[1,4,8,8] y) <float[16,3,1,1] w0, float[4,16,1,1] w1>"
BLOCK = '\n<domain: "custom", opset_import: ["" : 17]> Block (X, W) => (Y) { C = Conv(X, W)\nY = Relu(C) }'
ONES = f"Constant<value = float[4,16,1,1] {{{', '.join('1' * 64)}}}>()"
BRANCHES = f"""(float[1,3,8,8] x, bool c) => (float[1,4,8,8] y) <float[16,3,1,1] w0> {{
    r = Conv(x, w0)
    y = If(c) <then_branch = one () => (float[1,4,8,8] t) {{ w1 = {ONES}\n t = Conv(r, w1) }},
               else_branch = two () => (float[1,4,8,8] e) {{ w2 = {ONES}\n e = Conv(r, w2) }}> }}"""
OUTPUT = f"""(float[1,3,8,8] x) => (float[1,4,8,8] y, float[4,16,1,1] w1) <float[16,3,1,1] w0>
{{ w1 = {ONES}\n r = Conv(x, w0)\n y = Conv(r, w1) }}"""
LEFT = "(float[6,2] x) => (float[4,2] y) <float[8,6] w0, float[4,8] w1> { h = MatMul(w0, x)\n y = MatMul(w1, h) }"


@pytest.mark.parametrize(
    ("text", "zeros", "of", "says"),
    [
        (f"{HEAD} {{ r = custom.Block(x, w0)\n y = custom.Block(r, w1) }}{BLOCK}", 56, 112, ()),
        (BRANCHES, 24, 176, ("'Conv:If:y/then/t' and 1 more: weights are in a branch of an If",)),
        (OUTPUT, 24, 112, ("'Conv:y': weights are graph outputs too",)),
        (LEFT, 0, 0, ("'MatMul:h' and 1 more: constants on the left",)),
        ("(float[6,2] x) => (float[6,2] y) { y = Relu(x) }", 0, 0, ("no layer has weights of its own",)),
    ],
    ids=["functions", "branches", "outputs", "left", "none"],
)
def test_what_is_said_of_zeros_is_true_of_all_weights(
    text: str, zeros: int, of: int, says: tuple[str, ...], tmp_path: Path
) -> None:
    """As many as `onnxprune sparsity` finds in what is written; what has none of them is named."""
    result = onnxprune.prune(build(text), ratio=0.0, sparsity=0.5, data="none")
    told = result.report.sparsity
    assert (told.zeros, told.size) == (zeros, of) if told is not None else (zeros, of) == (0, 0)
    result.save(tmp_path / "m.onnx")
    found = onnxprune.sparsity(tmp_path / "m.onnx")
    assert (found.zeros, found.size) == (zeros, of)
    notes = [n for n in result.report.notes if "none are rounded or made zero" in n]
    assert len(notes) == len(says)
    assert all(n.startswith(s) for n, s in zip(notes, says, strict=True))
