"""What widths are multiples of: a number, or what a target computes in at each place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from onnxprune import pipeline
from onnxprune.cost.chips import Cycles, find
from onnxprune.labels.analysis import analyse
from onnxprune.model.onnx_model import Model, from_proto
from onnxprune.options import Options
from onnxprune.widths.alignment_steps import Place, TargetBlocks, step_of, uses
from onnxprune.widths.budget import Budget
from tests.models import build

CHAIN = "a = Conv(x, w)\ny = Conv(a, v)"


@dataclass(frozen=True)
class Row:
    """A network [1, 3, 32, 32] -> y, and in which steps each of its blocks can be narrower."""

    name: str
    weights: str
    nodes: str
    target: str
    steps: tuple[int, ...]

    def model(self) -> Model:
        return from_proto(build(f"(float[1,3,32,32] x) => (float y) <{self.weights}> {{ {self.nodes} }}"))

    def __str__(self) -> str:
        return f"{self.name}-{self.target}"


WIDE = "float[128,3,3,3] w, float[9,128,3,3] v"
DEPTHWISE = "float[128,3,3,3] w, float[128,1,3,3] d, float[9,128,3,3] v"
JOINED = "float[64,3,3,3] w, float[64,3,3,3] u, float[9,128,3,3] v"
THROUGH = "a = Conv(x, w)\nb = Conv<group = 128>(a, d)\ny = Conv(b, v)"
CONCAT = "a = Conv(x, w)\nb = Conv(x, u)\nc = Concat<axis = 1>(a, b)\ny = Conv(c, v)"
ROWS = (
    Row("an output is an input", WIDE, CHAIN, "rk3588 fp16", (32,)),
    Row("an output is an input", WIDE, CHAIN, "rk3588 int8", (32,)),
    Row("an output is an input", WIDE, CHAIN, "rk3566 fp16", (16,)),
    Row("an output is an input", WIDE, CHAIN, "rk3566 int8", (32,)),
    Row("an output is an input", WIDE, CHAIN, "tensorrt int8", (32,)),
    Row("depthwise", DEPTHWISE, THROUGH, "rk3588 fp16", (64,)),
    Row("depthwise", DEPTHWISE, THROUGH, "rk3566 fp16", (32,)),
    Row("each part of a Concat", JOINED, CONCAT, "rk3588 fp16", (32, 32)),
    Row("each part of a Concat", JOINED, CONCAT, "ethos-u int8", (16, 16)),
    Row("too narrow, and half a block saves", "float[32,3,3,3] w, float[9,32,3,3] v", CHAIN, "rk3588 fp16", (16,)),
    Row("so narrow that nothing saves", "float[16,3,3,3] w, float[9,16,3,3] v", CHAIN, "rk3588 int8", (32,)),
)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_widths_fill_the_blocks_of_all_that_makes_or_reads_them(row: Row) -> None:
    analysis = analyse(row.model())
    chip, _, dtype = row.target.rpartition(" ")
    blocks = TargetBlocks(analysis.trace, analysis.groups, Cycles.of(find(chip), dtype))
    found = [step_of(block, blocks.places(group)) for group in analysis.groups for block in group.blocks]
    assert tuple(found) == row.steps


def test_products_that_cost_nothing_known_still_fill_the_blocks() -> None:
    text = "(float[4,8] x) => (float y) <float[8,96] a, float[96,4] b> { h = MatMul(x, a)\ny = MatMul(h, b) }"
    report = pipeline.prune(
        from_proto(build(text)), Options(ratio=0.4, target=Cycles.of(find("rk3588"), "fp16"))
    ).report
    assert [g.kept for g in report.groups] == [64]


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_by_ratio_widths_are_whole_blocks_and_say_so_where_they_cannot_be(dtype: str) -> None:
    weights = "float[128,3,3,3] w, float[24,128,3,3] v, float[9,24,3,3] u"
    model = from_proto(
        build(f"(float[1,3,32,32] x) => (float y) <{weights}> {{ a = Conv(x, w)\nb = Conv(a, v)\ny = Conv(b, u) }}")
    )
    report = pipeline.prune(model, Options(ratio=0.3, target=Cycles.of(find("rk3588"), dtype))).report
    wide, narrow = report.groups
    assert wide.kept == 96
    assert narrow.kept == {"fp16": 16, "int8": 24}[dtype]
    assert ("cannot be narrower and save cycles on rk3588 int8" in narrow.note) == (dtype == "int8")
    assert report.costs["cycles"].ratio < 0.9


def test_what_is_too_narrow_in_its_parts_is_said_of_the_parts() -> None:
    weights = "float[32,3,1,1] w, float[16,16,1,1] v, float[9,32,1,1] u, int64[2] s = {16, 16}"
    body = "a = Conv(x, w)\nb, c = Split<axis=1>(a, s)\nd = Conv(c, v)\ne = Add(c, d)\nf = Concat<axis=1>(b, e)"
    model = from_proto(build(f"(float[1,3,8,8] x) => (float y) <{weights}> {{ {body}\ny = Conv(f, u) }}"))
    (group,) = pipeline.prune(model, Options(ratio=0.5, align=16)).report.groups
    assert group.kept == group.width == 32
    assert group.note == "cannot be narrower and a multiple of 16 in each of its 2 parts: left as it is"


def wide() -> Model:
    weights = "float[128,3,3,3] w, float[128,128,3,3] v, float[9,128,3,3] u"
    return from_proto(
        build(f"(float[1,3,32,32] x) => (float y) <{weights}> {{ a = Conv(x, w)\nb = Conv(a, v)\ny = Conv(b, u) }}")
    )


@pytest.mark.parametrize(
    ("align", "dtype", "budget", "told"),
    [
        (16, "int8", None, True),
        (16, "int8", 0.6, False),  # chosen by cost, multiples of 16 end at the edges by themselves
        (32, "int8", None, False),
        (64, "fp16", None, False),
        (None, "int8", None, False),
    ],
)
def test_an_alignment_that_wastes_the_target_is_told_what_its_own_blocks_would_give(
    align: int | None, dtype: str, budget: float | None, told: bool
) -> None:
    target = Cycles.of(find("rk3588"), dtype)
    limit = Budget.of("cycles", budget, target) if budget else None
    ratio = None if budget else 0.35
    report = pipeline.prune(wide(), Options(ratio=ratio, align=align, target=target, budget=limit, check_n=0)).report
    notes = [n for n in report.notes if "computes in 32 channels: --align 32 leaves" in n]
    assert bool(notes) == told
    if align is not None:
        assert not [g for g in report.groups if g.kept % align]


def test_an_alignment_given_with_a_target_is_kept() -> None:
    target = Cycles.of(find("rk3588"), "int8")
    report = pipeline.prune(wide(), Options(ratio=0.3, align=1, target=target, check_n=0)).report
    assert {g.kept for g in report.groups} <= {89, 90}


def test_a_head_that_takes_nothing_with_it_stands_nowhere() -> None:
    """As in a ViT whose heads are sizes of a Reshape only."""
    none = np.zeros(0, np.int64)
    assert uses(none, [Place(np.arange(1, 5), 8)]).shape == (1, 0)
