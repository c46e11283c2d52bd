"""Importance from calibration data, against numpy, finite differences and PyTorch's recorded figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from fixtures.build import TAYLOR, labelled_unet
from onnxprune.errors import OptionError
from onnxprune.importance import criteria as scores
from onnxprune.importance.criterion import Subject
from onnxprune.importance.taylor import cross_entropy_gradient, moving_average
from onnxprune.labels.analysis import analyse
from onnxprune.model.files import load
from onnxprune.model.onnx_model import Model, from_proto
from onnxprune.running import batch_size as batching
from onnxprune.running import session as runtime
from tests.models import build
from tests.samples import from_arrays

Array = NDArray[Any]

DATA = ("activation", "apoz", "variance", "taylor")


@dataclass(frozen=True)
class Row:
    """A model with one group, and the tensors where its channels are read: [(tensor, axis)]."""

    name: str
    text: str = field(repr=False)
    reads: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        return self.name


HEAD = "(float[N,3,6,6] x) => (float[N,k,h,w] y)"
ROWS = (
    Row(
        "conv-relu",
        f"{HEAD} <float[8,3,3,3] w, float[8] b, float[4,8,1,1] v>{{ a = Conv(x, w, b)\nr = Relu(a)\ny = Conv(r, v) }}",
        (("r", 1),),
    ),
    Row(
        "batch-normalization",
        f"{HEAD} <float[8,3,3,3] w, float[8] s, float[8] o, float[8] m, float[8] var, float[4,8,1,1] v>"
        "{ a = Conv(x, w)\nn = BatchNormalization(a, s, o, m, var)\nr = Relu(n)\ny = Conv(r, v) }",
        (("r", 1),),
    ),
    Row(
        "residual",
        f"{HEAD} <float[8,3,1,1] w, float[8,8,1,1] v, float[4,8,1,1] u>"
        "{ a = Conv(x, w)\nr = Relu(a)\nb = Conv(r, v)\nc = Add(r, b)\ny = Conv(c, u) }",
        (("r", 1), ("c", 1)),
    ),
    Row(
        "depthwise",
        f"{HEAD} <float[8,3,1,1] w, float[8,1,3,3] v, float[4,8,1,1] u>"
        "{ a = Conv(x, w)\nb = Conv<group=8>(a, v)\nr = Relu(b)\ny = Conv(r, u) }",
        (("r", 1),),
    ),
    Row(
        "matmul",
        "(float[N,5,3] x) => (float[N,5,4] y) <float[3,8] w, float[8,4] v>"
        "{ a = MatMul(x, w)\nr = Relu(a)\ny = MatMul(r, v) }",
        (("r", 2),),
    ),
    Row(
        "flatten",
        "(float[N,3,2,2] x) => (float[N,4] y) <float[8,3,1,1] w, float[32,4] v>"
        "{ a = Conv(x, w)\nr = Relu(a)\nf = Flatten(r)\ny = MatMul(f, v) }",
        (("f", 1),),
    ),
    Row(
        "fixed-batch",
        "(float[2,3,6,6] x) => (float[2,4,4,4] y) <float[8,3,3,3] w, float[4,8,1,1] v>"
        "{ a = Conv(x, w)\nr = Relu(a)\ny = Conv(r, v) }",
        (("r", 1),),
    ),
)


def subject_of(model: Model, inputs: dict[str, Array], labels: Array | None = None, **more: Any) -> tuple[Subject, Any]:
    """The subject of ``inputs``, and the groups."""
    analysis = analyse(model)
    data = from_arrays(inputs, model, analysis.trace.shapes.inputs, labels=labels)
    return Subject(analysis.trace, data, **more), analysis.groups


def score(name: str, subject: Subject, groups: Any) -> list[Array]:
    return [np.asarray(s) for s in scores.score(subject, groups, scores.resolve(name)(subject))]


def samples_of(model: Model, count: int = 10) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    shapes = {i.name: [d or 1 for d in i.dims or ()][1:] for i in model.graph.inputs}
    return {n: rng.standard_normal((count, *s)).astype(np.float32) for n, s in shapes.items()}


def values_of(model: Model, inputs: dict[str, Array], names: list[str], batch: int) -> dict[str, Array]:
    """What tensors hold, over all samples."""
    with runtime.session(model, "test", outputs=names) as active:
        parts = [
            runtime.run(active, {n: a[i : i + batch] for n, a in inputs.items()}, "test")
            for i in range(0, len(next(iter(inputs.values()))), batch)
        ]
    return {n: np.concatenate([p[n] for p in parts]) for n in names}


# --- activations ----------------------------------------------------------------------------------------------------

STATISTICS: dict[str, Callable[[Array], Array]] = {
    "activation": lambda a: np.abs(a).mean(axis=1) / np.abs(a).mean(),
    "apoz": lambda a: (a != 0).mean(axis=1),
    "variance": lambda a: a.var(axis=1) / a.var(axis=1).mean(),
}


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_statistics_are_those_of_what_is_read(row: Row, name: str) -> None:
    """The mean over readers and the places that a channel has there, each scaled to mean 1 but for a share."""
    model = from_proto(build(row.text))
    inputs = samples_of(model)
    subject, groups = subject_of(model, inputs)
    (found,) = score(name, subject, groups)
    held = values_of(model, inputs, [n for n, _ in row.reads], 2)
    rows = [np.moveaxis(held[n], axis, 0).astype(np.float64) for n, axis in row.reads]
    figures = [STATISTICS[name](a.reshape(len(a), -1)).reshape(8, -1).mean(axis=1) for a in rows]
    np.testing.assert_allclose(found, np.mean(figures, axis=0), rtol=1e-4)


@pytest.mark.parametrize("name", DATA)
def test_scores_do_not_depend_on_how_many_samples_are_run_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = from_proto(build(ROWS[0].text))
    inputs = samples_of(model, 21)
    subject, groups = subject_of(model, inputs, labels=np.arange(21 * 16).reshape(21, 4, 4) % 4)
    (many,) = score(name, subject, groups)
    monkeypatch.setattr(batching, "BYTES", 0)
    (one,) = score(name, subject, groups)
    np.testing.assert_allclose(one, many, rtol=1e-4)


def test_channels_that_nothing_sums_over_are_scored_by_their_weights() -> None:
    text = "(float[N,3,6,6] x) => (float[N,1] y) <float[8,3,1,1] w> { a = Conv(x, w)\nr = Relu(a)\ny = Identity(s) }"
    text = text.replace("y = Identity(s)", "s = ReduceMax<keepdims=0, axes=[2, 3]>(r)\ny = ReduceMax<axes=[1]>(s)")
    model = from_proto(build(text))
    subject, groups = subject_of(model, samples_of(model))
    assert [g.width for g in groups] == [len(s) for s in score("activation", subject, groups)]


# --- taylor ---------------------------------------------------------------------------------------------------------


def test_taylor_agrees_with_pytorch_on_the_unet(tmp_path: Path) -> None:
    """Figures by bench/taylor_reference.py: cross entropy, two minibatches, BatchNormalization as nodes."""
    proto, images, labels = labelled_unet()
    onnx.save(proto, tmp_path / "unet.onnx")  # of a model in a file, weights stay there
    subject, groups = subject_of(load(tmp_path / "unet.onnx"), {"input": images}, labels, flops_reg=0.0)
    expected = json.loads(TAYLOR.read_text())
    assert [g.name for g in groups] == list(expected)
    for group, found in zip(groups, score("taylor", subject, groups), strict=True):
        np.testing.assert_allclose(found, expected[group.name], atol=1e-4, err_msg=group.name)


def cross_entropy(y: Array, labels: Array) -> Array:
    """[N]: summed over positions."""
    y = y.astype(np.float64)
    likely = np.take_along_axis(y, labels[:, None], axis=1)[:, 0] - np.log(np.exp(y).sum(axis=1))
    return np.asarray(-likely.reshape(len(y), -1).sum(axis=1))


@pytest.mark.parametrize("row", [r for r in ROWS if r.name in ("conv-relu", "fixed-batch")], ids=str)
def test_taylor_agrees_with_finite_differences(row: Row) -> None:
    """A filter that is a little larger makes its channel as much larger."""
    proto = build(row.text)
    model = from_proto(proto)
    inputs = samples_of(model, 8)
    labels = np.arange(8 * 16).reshape(8, 4, 4) % 4
    subject, groups = subject_of(model, inputs, labels, flops_reg=0.0)
    (found,) = score("taylor", subject, groups)
    step, slopes = 1e-2, []
    for channel in range(8):
        losses = []
        for sign in (1, -1):
            for tensor in proto.graph.initializer:
                if tensor.name in ("w", "b"):
                    array = numpy_helper.to_array(from_proto(build(row.text)).constant_protos[tensor.name]).copy()
                    array[channel] *= 1 + sign * step
                    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            losses.append(cross_entropy(values_of(from_proto(proto), inputs, ["y"], 2)["y"], labels))
        slopes.append(np.abs(losses[0] - losses[1]).mean())
    np.testing.assert_allclose(found, np.array(slopes) / np.linalg.norm(slopes), atol=5e-3)


@pytest.mark.parametrize("labelled", [True, False])
def test_a_channel_that_is_not_there_is_the_least(labelled: bool) -> None:
    proto, images, labels = labelled_unet()
    for tensor in proto.graph.initializer:
        if tensor.name == "down2.0.conv.weight":
            array = numpy_helper.to_array(tensor).copy()
            array[5] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    subject, groups = subject_of(from_proto(proto), {"input": images}, labels if labelled else None, flops_reg=0.0)
    (found,) = (s for g, s in zip(groups, score("taylor", subject, groups), strict=True) if g.name == "down2.0.conv")
    assert found[5] == 0
    assert (np.delete(found, 5) > 0).all()


def test_macs_speak_against_a_layer_by_their_share() -> None:
    model = from_proto(build(ROWS[0].text))
    inputs = samples_of(model)
    plain, priced = (score("taylor", *subject_of(model, inputs, flops_reg=reg))[0] for reg in (0.0, 0.5))
    share = 8 * 27 / (8 * 27 + 8 * 4)
    np.testing.assert_allclose(plain - priced, 0.5 * share, rtol=1e-6)


def test_moving_average_is_over_minibatches_of_eight() -> None:
    values = np.repeat([[1.0, 2.0], [3.0, 0.0], [5.0, 5.0]], [8, 8, 4], axis=0)
    np.testing.assert_allclose(moving_average(values), [0.81 + 0.27 + 0.5, 1.62 + 0.0 + 0.5])


def test_probabilities_and_scores_have_gradients_that_agree() -> None:
    """softmax' (d loss / d p) is d loss / d scores."""
    rng = np.random.default_rng(0)
    y, labels = rng.standard_normal((3, 5)), np.array([0, 4, 2])
    p = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
    g = cross_entropy_gradient(p, labels)
    through = p * (g - (g * p).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(through, cross_entropy_gradient(y, labels), atol=1e-12)


DECIDES = {
    "argmax": "i = ArgMax<axis=1, keepdims=0>(s)",
    "threshold": "i = Greater(s, limit)",
}


@pytest.mark.parametrize("last", DECIDES)
def test_gradients_are_taken_before_a_decision(last: str) -> None:
    """Of a model that gives classes, scores are those of the model that gives what they are chosen by."""
    body = "{ a = Conv(x, w)\nr = Relu(a)\ns = Conv(r, v)\n"
    head, held = "(float[N,3,6,6] x) => ", "<float[8,3,3,3] w, float[4,8,1,1] v, float limit = {0}>"
    kind = {"argmax": "int64[N,4,4]", "threshold": "bool[N,4,4,4]"}[last]
    plain = from_proto(build(f"{head}(float[N,4,4,4] y) {held} {body}y = Identity(s) }}"))
    decided = from_proto(build(f"{head}({kind} i) {held} {body}{DECIDES[last]} }}"))
    inputs = samples_of(plain)
    (expected,) = score("taylor", *subject_of(plain, inputs))
    (found,) = score("taylor", *subject_of(decided, inputs))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_gradients_are_taken_before_boxes_are_chosen() -> None:
    text = (
        "(float[1,3,4,4] x) => (float[n,4] y) <float[8,3,1,1] w, float[4,8,1,1] v, float[2,8,1,1] u,"
        "int64[3] boxes = {1, 16, 4}, int64[3] classes = {1, 2, 16}, int64[1] most = {5}, float[1] low = {-9},"
        "float[1] iou = {0.5},"
        "int64 two = {2}>"
        "{ a = Conv(x, w)\nr = Relu(a)\nb = Conv(r, v)\nc = Conv(r, u)\nbt = Transpose<perm=[0,2,3,1]>(b)\n"
        "bb = Reshape(bt, boxes)\ncc = Reshape(c, classes)\nk = NonMaxSuppression(bb, cc, most, iou, low)\n"
        "i = Gather<axis=1>(k, two)\nfirst = Squeeze(bb)\ny = Gather(first, i) }"
    )
    model = from_proto(build(text))
    (found,) = score("taylor", *subject_of(model, samples_of(model, 16)))
    assert (found > 0).all()


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DATA)
def test_without_data_the_way_out_is_said(name: str) -> None:
    model = from_proto(build(ROWS[0].text))
    analysis = analyse(model)
    with pytest.raises(OptionError, match=r"--importance: needs calibration data \(give --data"):
        scores.resolve(name)(Subject(analysis.trace))


def test_an_operator_without_gradient_is_named() -> None:
    text = ROWS[0].text.replace("r = Relu(a)", "r = com.microsoft.QuickGelu(a)")
    model = from_proto(build(text))
    with pytest.raises(OptionError, match=r"node 'QuickGelu:r': com.microsoft.QuickGelu has no gradient in onnx-ad"):
        score("taylor", *subject_of(model, samples_of(model)))


def test_softmax_as_it_was_before_opset_13_has_the_gradient_of_today() -> None:
    text = (
        "(float[N,2,3] x) => (float[N,2,2] y) <float[3,8] w, float[8,2] v, int64[3] s = {-1, 2, 2}>"
        "{ a = MatMul(x, w)\nr = Relu(a)\nm = MatMul(r, v)\nz = Reshape(m, s)\ny = Softmax<axis=2>(z) }"
    )
    old, new = (from_proto(build(text, opset=opset)) for opset in (11, 13))
    (expected,) = score("taylor", *subject_of(new, samples_of(new)))
    (found,) = score("taylor", *subject_of(old, samples_of(old)))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_gradients_take_sparse_weights_and_an_input_that_is_an_output_too() -> None:
    body = "<float[8,3,3,3] w, float[4,8,1,1] v> { a = Conv(x, w)\nr = Relu(a)\ny = Conv(r, v) }"
    plain = build(f"(float[N,3,6,6] x) => (float[N,4,4,4] y) {body}")
    dense = next(t for t in plain.graph.initializer if t.name == "v")
    odd = onnx.ModelProto()
    odd.CopyFrom(plain)
    values = numpy_helper.from_array(numpy_helper.to_array(dense).ravel(), "v")
    places = numpy_helper.from_array(np.arange(32), "p")
    odd.graph.initializer.remove(dense)
    odd.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4, 8, 1, 1]))
    odd.graph.output.append(odd.graph.input[0])
    models = [from_proto(plain), from_proto(odd)]
    (expected,), (found,) = (score("taylor", *subject_of(m, samples_of(m))) for m in models)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_model_that_rounds_has_no_gradients() -> None:
    text = ROWS[0].text.replace("y = Conv(r, v)", "z = Conv(r, v)\ny = Round(z)")
    model = from_proto(build(text))
    with pytest.raises(OptionError, match="all gradients are 0"):
        score("taylor", *subject_of(model, samples_of(model)))


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (np.arange(10), r"labels have shape \[10\], and the first output \[10, 4, 4, 4\]"),
        (np.full((10, 4, 4), 4), r"labels are not all in 0\.\.3"),
        (np.full((10, 4, 4), -1), r"labels are not all in 0\.\.3"),
    ],
    ids=["shape", "too-large", "negative"],
)
def test_labels_that_do_not_fit_are_said(labels: Array, says: str) -> None:
    model = from_proto(build(ROWS[0].text))
    with pytest.raises(OptionError, match=says):
        score("taylor", *subject_of(model, samples_of(model), labels))


def test_what_onnx_ad_cannot_do_is_said_in_its_words() -> None:
    text = (
        "(float[5,1,3] x) => (float[5,1,1,4] y) <float[3,8] w, float[1,16,8] i, float[1,16,4] r>"
        "{ a = MatMul(x, w)\ny = LSTM<hidden_size=4, clip=1.0>(a, i, r) }"
    )
    model = from_proto(build(text))
    with pytest.raises(OptionError, match="onnx-ad gives no gradients: LSTM with clip is not differentiated"):
        score("taylor", *subject_of(model, samples_of(model, 5)))


def test_a_model_of_which_nothing_can_go_needs_no_gradients() -> None:
    model = from_proto(build("(float[N,3] x) => (float[N,4] y) <float[3,4] w> { y = MatMul(x, w) }"))
    assert score("taylor", *subject_of(model, samples_of(model))) == []
