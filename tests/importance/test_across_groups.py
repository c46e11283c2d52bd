"""Scores of weights, made comparable between groups: what their readers miss."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune import pipeline
from onnxprune.importance import across_groups as readers
from onnxprune.labels.analysis import analyse
from onnxprune.labels.groups import Groups
from onnxprune.model.onnx_model import from_proto
from onnxprune.options import Options
from onnxprune.widths.budget import Budget
from tests.models import build


def groups_of(text: str) -> Groups:
    return analyse(from_proto(build(text))).groups


#: A stage of 8 channels that two layers and a residual addition read, 8 inside it, and 24 beside the 8 at the end.
NET = groups_of(
    "(float[1,3,6,6] x) => (float y) <float[8,3,1,1] a, float[8,8,1,1] b, float[8,8,1,1] c, float[24,8,1,1] d,"
    "float[4,32,1,1] e>"
    "{ h = Conv(x, a)\ni = Conv(h, b)\nj = Conv(i, c)\nk = Add(h, j)\nl = Conv(k, d)\nm = Concat<axis=1>(k, l)\n"
    "y = Conv(m, e) }"
)


@pytest.mark.parametrize(("group", "weight"), [(0, 1 + 1 + 8 / 32), (1, 1.0), (2, 24 / 32)])
def test_losing_a_part_costs_each_reader_the_logarithm_of_the_share_kept(group: int, weight: float) -> None:
    rng = np.random.default_rng(0)
    scores = [rng.uniform(0.5, 2, g.width) for g in NET]
    found = readers.comparable(NET, scores)[group]
    gone = np.argsort(scores[group])[: NET.groups[group].width // 2]
    kept = 1 - scores[group][gone].sum() / scores[group].sum()
    assert found[gone].sum() == pytest.approx(-weight * np.log(kept), rel=1e-3)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.lists(st.floats(-3, 3, width=32), min_size=8, max_size=8))
def test_the_order_within_a_group_stays_whatever_the_scores(values: list[float]) -> None:
    score = np.asarray(values)
    found = readers.comparable(NET, [score, score, np.ones(24)])[0]
    assert np.isfinite(found).all()
    ranked = found[np.argsort(score, kind="stable")]
    assert (np.diff(ranked) >= 0).all()


def test_groups_whose_readers_are_no_weights_count_as_read_once() -> None:
    net = groups_of(
        "(float[1,6,8] x) => (float y) <float[8,8] a, float[8,8] b>"
        "{ q = MatMul(x, a)\nk = MatMul(x, b)\nt = Transpose<perm=[0,2,1]>(k)\ny = MatMul(q, t) }"
    )
    (found,) = readers.comparable(net, [np.ones(g.width) for g in net])
    half = np.argsort(found, kind="stable")[: len(found) // 2]
    assert found[half].sum() == pytest.approx(np.log(2), rel=1e-3)


def test_without_data_what_many_layers_read_is_narrowed_less_than_what_one_reads() -> None:
    text = (
        "(float[1,8,8,8] x) => (float y) <float[32,8,3,3] a, float[32,32,3,3] b, float[32,32,3,3] c,"
        "float[32,32,3,3] d, float[32,32,3,3] e, float[8,32,3,3] f>"
        "{ h = Conv<pads=[1,1,1,1]>(x, a)\ni = Conv<pads=[1,1,1,1]>(h, b)\nj = Conv<pads=[1,1,1,1]>(i, c)\n"
        "k = Add(h, j)\nl = Conv<pads=[1,1,1,1]>(k, d)\nm = Conv<pads=[1,1,1,1]>(l, e)\nn = Add(k, m)\n"
        "y = Conv<pads=[1,1,1,1]>(n, f) }"
    )
    options = Options(budget=Budget.of("macs", 0.6), scope="cost", check_n=1)
    report = pipeline.prune(from_proto(build(text)), options).report
    stage, *inside = [g.kept for g in report.groups]
    assert stage > max(inside)
