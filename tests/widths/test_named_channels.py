"""Channels that are named go, or stay, with all that hangs on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import onnxprune
from onnxprune.errors import OptionError
from tests.commands import CHAIN
from tests.models import build

GROUPED = """(float[1,3,8,8] x) => (float[1,4,8,8] y)
<float[8,3,1,1] w0, float[8,4,1,1] w1, float[4,8,1,1] w2>
{ a = Conv(x, w0)
  c = Conv<group=2>(a, w1)
  y = Conv(c, w2) }"""


def weight(model: ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def prune(model: ModelProto, **options: Any) -> onnxprune.Result:
    return onnxprune.prune(model, data="none", **options)


def test_only_what_is_named_goes_where_no_ratio_is_given() -> None:
    model = build(CHAIN)
    result = prune(model, remove={"Conv:a": [0, 3, 7]}, align=8)

    stays = [i for i in range(16) if i not in (0, 3, 7)]
    assert (weight(result.model, "w0") == weight(model, "w0")[stays]).all()
    assert (weight(result.model, "w1") == weight(model, "w1")[:, stays]).all()
    assert weight(result.model, "w2").shape == (4, 32, 1, 1)
    assert result.report.groups[0].note == "13 is no multiple of 8: only what is named goes"
    assert onnxprune.apply(model, result.plan, data="none").model == result.model


@pytest.mark.parametrize("options", [{}, {"align": 4}, {"scope": "global"}, {"scope": "cost"}, {"lossless": True}])
def test_named_channels_go_first_and_count(options: dict[str, Any]) -> None:
    model = build(CHAIN)
    result = prune(model, remove={"Conv:a": [1, 2]}, ratio=0.5, **options)
    rows = {row.tobytes() for row in weight(result.model, "w0")}
    assert not rows & {weight(model, "w0")[i].tobytes() for i in (1, 2)}
    assert 0.4 <= result.report.achieved <= 0.6


@pytest.mark.parametrize("options", [{"ratio": 0.5}, {"ratio": 0.9, "align": 4}, {"budget": "macs=0.3"}])
def test_channels_that_are_kept_stay_whatever_they_are_worth(options: dict[str, Any]) -> None:
    model = build(CHAIN)
    array = weight(model, "w0").copy()
    array[[3, 9]] *= 1e-4
    next(t for t in model.graph.initializer if t.name == "w0").CopyFrom(numpy_helper.from_array(array, "w0"))
    result = prune(model, keep={"a": [3, 9]}, **options)
    left = {row.tobytes() for row in weight(result.model, "w0")}
    assert {array[i].tobytes() for i in (3, 9)} <= left
    assert len(left) < 16


def test_all_blocks_of_a_group_convolution_lose_as_many() -> None:
    model = build(GROUPED)
    result = prune(model, remove={"Conv:a": [0, 5]})
    assert (weight(result.model, "w0") == weight(model, "w0")[[1, 2, 3, 4, 6, 7]]).all()
    with pytest.raises(OptionError, match=r"cannot go: .*name the same number of each block"):
        prune(model, remove={"Conv:a": [0]})
    assert len(weight(prune(model, remove={"Conv:a": [0]}, ratio=0.25).model, "w0")) == 6


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"remove": {"Conv:y": [0]}}, "--remove: channel 0 of 'Conv:y' must stay: is the graph output 'y'"),
        ({"remove": {"Conv:a": [16]}}, "--remove: 'Conv:a' has no channel 16: they are 0 to 15"),
        ({"keep": {"Conv:aa": [1]}}, "--keep: no node is called 'Conv:aa' (did you mean Conv:a"),
        ({"remove": {"Conv:a": [1]}, "keep": {"b": [1]}}, "channel 1 of 'Conv:a' is to stay by --keep b"),
        (
            {"remove": {"Conv:a": list(range(16))}},
            "channels of 'Conv:a' cannot go: Conv:a: cannot follow: nothing would",
        ),
    ],
)
def test_what_cannot_be_is_told_in_one_line(options: dict[str, Any], says: str) -> None:
    with pytest.raises(OptionError) as error:
        prune(build(CHAIN), **options)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
