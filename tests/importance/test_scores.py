"""Importance of channels, against numpy written out for each shape of group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from onnxprune.errors import ModelError, OptionError
from onnxprune.importance import criteria as scores
from onnxprune.importance.criterion import Subject
from onnxprune.importance.group_weights import GroupWeights
from onnxprune.labels.analysis import Analysis, analyse
from onnxprune.model import onnx_model as files
from tests.models import build

Array = NDArray[Any]


@dataclass(frozen=True)
class Row:
    """A model with one group, and the filters of its channels: matrices [width, elements], one a weight."""

    name: str
    text: str = field(repr=False)
    filters: Callable[[Mapping[str, Array]], list[Array]]

    def __str__(self) -> str:
        return self.name


def rows(array: Array, axis: int = 0) -> Array:
    """[width, elements]: what belongs to each position of ``axis``."""
    return np.stack([array.take(i, axis).reshape(-1) for i in range(array.shape[axis])])


def of_blocks(array: Array, group: int) -> Array:
    """ConvTranspose's [C, O/group, ...]: rows of one group make the outputs of that group."""
    return np.concatenate([rows(block, 1) for block in np.split(array, group)])


HEAD = "(float[1,3,6,6] x) => (float y)"
ROWS = (
    Row("conv", f"{HEAD} <float[8,3,3,3] w, float[8] b, float[4,8,1,1] v> {{ a = Conv(x, w, b)\ny = Conv(a, v) }}",
        lambda w: [rows(w["w"])]),
    Row("residual", f"{HEAD} <float[8,3,1,1] w, float[8,8,1,1] v, float[4,8,1,1] u>"
        "{ a = Conv(x, w)\nb = Conv(a, v)\nc = Add(a, b)\ny = Conv(c, u) }",
        lambda w: [rows(w["w"]), rows(w["v"])]),
    Row("depthwise", f"{HEAD} <float[8,3,1,1] w, float[8,1,3,3] v, float[4,8,1,1] u>"
        "{ a = Conv(x, w)\nb = Conv<group=8>(a, v)\ny = Conv(b, u) }",
        lambda w: [rows(w["w"]), rows(w["v"])]),
    Row("conv-transpose", f"{HEAD} <float[3,8,3,3] w, float[4,8,1,1] v> {{ a = ConvTranspose(x, w)\ny = Conv(a, v) }}",
        lambda w: [rows(w["w"], 1)]),
    Row("conv-transpose-group", "(float[1,6,6,6] x) => (float y) <float[6,4,3,3] w, float[4,8,1,1] v>"
        "{ a = ConvTranspose<group=2>(x, w)\ny = Conv(a, v) }",
        lambda w: [of_blocks(w["w"], 2)]),
    Row("conv-group", "(float[1,6,6,6] x) => (float y) <float[8,3,3,3] w, float[4,8,1,1] v>"
        "{ a = Conv<group=2>(x, w)\ny = Conv(a, v) }",
        lambda w: [rows(w["w"])]),
    Row("gemm", "(float[2,5] x) => (float y) <float[5,8] w, float[8] b, float[8,4] v>"
        "{ a = Gemm(x, w, b)\ny = MatMul(a, v) }",
        lambda w: [rows(w["w"], 1)]),
    Row("gemm-transposed", "(float[2,5] x) => (float y) <float[8,5] w, float[8,4] v>"
        "{ a = Gemm<transB=1>(x, w)\ny = MatMul(a, v) }",
        lambda w: [rows(w["w"])]),
    Row("batch-normalization", f"{HEAD} <float[8,3,1,1] w,"
        "float[8] s, float[8] o, float[8] m, float[8] var, float[4,8,1,1] v>"
        "{ a = Conv(x, w)\nb = BatchNormalization(a, s, o, m, var)\ny = Conv(b, v) }",
        lambda w: [rows(w["w"])]),
)  # fmt: skip


def l1(filters: Array) -> Array:
    return np.array([np.abs(f).sum() for f in filters])


def l2(filters: Array) -> Array:
    return np.array([np.sqrt((f**2).sum()) for f in filters])


def fpgm(filters: Array) -> Array:
    return np.array([sum(np.sqrt(((f - g) ** 2).sum()) for g in filters) for f in filters])


def analysed(text: str, seed: int = 0) -> Analysis:
    return analyse(files.from_proto(build(text)), seed=seed)


def score(analysis: Analysis, name: str, seed: int = 0) -> list[Array]:
    subject = Subject(analysis.trace, seed=seed)
    return [np.asarray(s) for s in scores.score(subject, analysis.groups, scores.resolve(name)(subject))]


def constants(analysis: Analysis) -> dict[str, Array]:
    model = analysis.trace.model
    return {n: model.array(n).astype(np.float64) for n in model.graph.constants}


@pytest.mark.parametrize("criterion", [l1, l2, fpgm], ids=lambda c: c.__name__)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_weights_of_a_channel_are_measured(row: Row, criterion: Callable[[Array], Array]) -> None:
    """The mean over the weights that make it, each scaled to mean 1."""
    analysis = analysed(row.text)
    (group,) = analysis.groups
    (found,) = score(analysis, criterion.__name__)
    measured = [criterion(f) for f in row.filters(constants(analysis))]
    assert [len(m) for m in measured] == [group.width] * len(measured)
    np.testing.assert_allclose(found, np.mean([m / m.mean() for m in measured], axis=0), rtol=1e-9)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_bn_is_the_size_of_the_scale_and_l2_where_there_is_none(row: Row) -> None:
    analysis = analysed(row.text)
    (found,) = score(analysis, "bn")
    held = constants(analysis)
    scale = np.abs(held["s"]) / np.abs(held["s"]).mean() if "s" in held else score(analysis, "l2")[0]
    np.testing.assert_allclose(found, scale, rtol=1e-9)


@pytest.mark.parametrize(
    "row", [r for r in ROWS if r.name in ("conv", "conv-transpose", "conv-group", "gemm")], ids=str
)
def test_scores_follow_the_filters(row: Row) -> None:
    proto = build(row.text)
    (group,) = analysed(row.text).groups
    makers = {s.constant for s in group.slices if s.role == "out"}
    (tensor,) = (t for t in proto.graph.initializer if t.name in makers)
    axis = next(s.axis for s in group.slices if s.constant == tensor.name)
    turned = np.flip(numpy_helper.to_array(tensor), axis)
    before = score(analysed(row.text), "l2")[0]
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(turned), tensor.name))
    after = analyse(files.from_proto(proto))
    np.testing.assert_allclose(score(after, "l2")[0], before[::-1], rtol=1e-9)


def test_random_is_uniform_and_a_function_of_seed_and_group() -> None:
    two = "{ a = Conv(x, w)\nb = Conv(a, v)\ny = Conv(b, u) }"
    analysis = analysed(f"{HEAD} <float[999,3,1,1] w, float[999,999,1,1] v, float[4,999,1,1] u> {two}")
    first, second = score(analysis, "random", 3)
    assert first.min() >= 0
    assert first.max() < 1
    assert abs(first.mean() - 0.5) < 0.05
    assert not np.array_equal(first, second)
    assert np.array_equal(score(analysis, "random", 3)[0], first)
    assert not np.array_equal(score(analysis, "random", 4)[0], first)


def test_scores_are_finite_for_weights_of_zeros() -> None:
    proto = build(ROWS[0].text)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(np.zeros_like(numpy_helper.to_array(tensor)), tensor.name))
    analysis = analyse(files.from_proto(proto))
    for name in (n for n, c in scores.CRITERIA.items() if not c.needs_data):
        assert np.isfinite(score(analysis, name)[0]).all()


def test_infinite_weights_name_the_tensor() -> None:
    proto = build(ROWS[0].text)
    for tensor in proto.graph.initializer:
        if tensor.name == "w":
            tensor.CopyFrom(numpy_helper.from_array(np.full((8, 3, 3, 3), np.inf, np.float32), "w"))
    analysis = analyse(files.from_proto(proto))
    with np.errstate(invalid="ignore"), pytest.raises(ModelError, match="tensor 'w': has NaN or infinite weights"):
        score(analysis, "l2")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda w: np.ones(w.width + 1), r"gives shape \[9\], not \[8\], for group 'Conv:a'"),
        (lambda w: np.full(w.width, np.nan), "gives scores that are not finite for group 'Conv:a'"),
    ],
    ids=["shape", "nan"],
)
def test_wrong_scores_name_the_group(wrong: Callable[[GroupWeights], Array], says: str) -> None:
    analysis = analysed(ROWS[0].text)
    subject = Subject(analysis.trace)
    with pytest.raises(OptionError, match=says):
        scores.score(subject, analysis.groups, scores.of_weights(wrong)(subject))
