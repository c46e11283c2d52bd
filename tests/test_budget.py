"""Budgets: what the widths cost is at most what was asked, and little score is lost for it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from fixtures import build as models
from onnxprune import budget as budgets
from onnxprune import pipeline, scores
from onnxprune.allocate import allocate
from onnxprune.budget import Budget
from onnxprune.choose import Analysis, analyse
from onnxprune.cost import COSTS, Macs
from onnxprune.errors import OptionError
from onnxprune.model import from_proto
from onnxprune.options import Options
from onnxprune.scores.subject import Subject
from tests.models import build


def chain() -> ModelProto:
    weights = "float[6,3,3,3] w0, float[5,6,3,3] w1, float[6,5,1,1] w2, float[4,6,3,3] w3"
    nodes = "a = Conv(x, w0)\nb = Relu(a)\nc = Conv(b, w1)\nd = Conv(c, w2)\ne = Relu(d)\ny = Conv(e, w3)"
    return build(f"(float[1,3,12,12] x) => (float y) <{weights}> {{ {nodes} }}")


@pytest.mark.parametrize("scope", ["group", "global", "cost"])
@pytest.mark.parametrize("align", [1, 8])
@pytest.mark.parametrize("name", COSTS)
def test_what_is_left_costs_at_most_the_budget_and_hardly_less(name: str, align: int, scope: str) -> None:
    model = from_proto(models.unet(fold_bn=True, size=32))
    options = Options(budget=Budget.of(name, 0.5), align=align, scope=scope, check_n=1)
    report = pipeline.prune(model, options).report
    share = {"macs": report.macs, "params": report.parameters, "bytes": report.file_bytes}[name].ratio
    slack = 0.01 if align == 1 else 0.06  # one step of a wide layer; bytes of the file hold names too
    assert 0.5 - slack <= share <= 0.5 + (0.005 if name == "bytes" else 0)
    if scope != "group":
        assert not [g for g in report.groups if g.kept != g.width and g.kept % align]


def test_a_number_above_one_is_an_amount() -> None:
    model = from_proto(models.unet(fold_bn=True, size=32))
    report = pipeline.prune(model, Options(budget=Budget.of("params", 1_000_000), check_n=1)).report
    assert 980_000 <= report.parameters.after <= 1_000_000


def test_groups_that_are_excluded_or_have_a_ratio_of_their_own_keep_what_they_are_told() -> None:
    model = from_proto(models.unet(fold_bn=True, size=32))
    options = Options(
        budget=Budget.of("macs", 0.6), scope="cost", exclude=("down1.*",), ratio_for=(("down3.*", 0.25),), check_n=1
    )
    report = pipeline.prune(model, options).report
    assert report.macs.ratio <= 0.6
    widths = {g.name: (g.width, g.kept) for g in report.groups}
    assert not [n for n in widths if n.startswith("down1.")]
    assert {kept / width for n, (width, kept) in widths.items() if n.startswith("down3.")} == {0.75}


def test_a_budget_that_cannot_be_met_says_what_is_the_least() -> None:
    model = from_proto(models.unet(fold_bn=True, size=32))
    for scope in ("group", "cost"):
        with pytest.raises(OptionError, match=r"--budget: cannot be met: .* the least that can be left"):
            pipeline.prune(model, Options(budget=Budget.of("macs", 0.2), scope=scope, max_ratio=0.2))


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_limits_that_are_none_are_refused(limit: float) -> None:
    with pytest.raises(OptionError, match="must be positive"):
        Budget.of("macs", limit)


def exhaustive(analysis: Analysis, losses: list[NDArray[np.float64]], target: float) -> float:
    """The least score that any widths lose at a cost of at most ``target``."""
    blocks = [b.units for g in analysis.groups for b in g.blocks]
    best = np.inf
    for kept in itertools.product(*(range(1, b.shape[1] + 1) for b in blocks)):
        dead = np.concatenate([b[0, k:] for b, k in zip(blocks, kept, strict=True)])
        lost = sum(float(loss[k]) for loss, k in zip(losses, kept, strict=True))
        if lost < best and budgets.cost_of(analysis.trace, Macs(), dead) <= target:
            best = lost
    return best


@pytest.mark.parametrize("share", [0.7, 0.5, 0.3])
def test_score_lost_is_near_the_least_that_any_widths_lose(share: float) -> None:
    analysis = analyse(from_proto(chain()), Options())
    trace, groups = analysis.trace, analysis.groups
    found = scores.score(Subject(trace), groups, scores.resolve("l1")(Subject(trace)))
    target = share * budgets.cost_of(trace, Macs(), np.zeros(0, np.int64))
    losses = [np.concatenate([[0.0], np.cumsum(np.sort(s))])[::-1] for s in found]

    def meet(*given: object) -> list[int]:
        return budgets.meet(trace, Macs(), target, *given, by_cost=True)  # type: ignore[arg-type]

    dead = allocate(groups, found, ratio=0, align=1, scope="cost", max_ratio=0.9, ratio_of={}, meet=meet).dead
    assert budgets.cost_of(trace, Macs(), dead) <= target
    lost = sum(float(s[np.isin(g.units, dead)].sum()) for g, s in zip(groups, found, strict=True))
    assert lost <= 1.2 * exhaustive(analysis, losses, target)
