"""The property on every exported graph in the zoo, over a grid of ratios, multiples and scopes; one analysis a file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fixtures.skeleton import load_skeleton
from onnxprune.importance import criteria as scores
from onnxprune.importance.criterion import Subject
from onnxprune.labels.analysis import Analysis, analyse
from onnxprune.labels.groups import Group
from onnxprune.model import onnx_model as model
from onnxprune.model.onnx_model import Model
from onnxprune.options import Options
from onnxprune.planning.planner import Planner
from onnxprune.progress import silent
from onnxprune.proof import exact
from onnxprune.widths.alignment_steps import Multiple, step_of
from onnxprune.widths.choose_channels import choose
from onnxprune.widths.plan_contest import Way
from onnxprune.widths.request import Request
from onnxprune.widths.rounding_to_alignment import DEFAULT_MAX_RATIO

ZOO = sorted((Path(__file__).parents[1] / "fixtures" / "zoo").glob("*.onnx"))

Flags = NDArray[np.bool_]


def _cases() -> Iterator[Any]:
    """The grid; of every file a third is ``slow``, another third in the next file, and the rest is ``grid``."""
    grid = [*product((0.1, 0.3, 0.5, 0.9), (1, 8, 16), ("global", "group"))]
    for number, path in enumerate(ZOO):
        for place, (ratio, align, scope) in enumerate(grid):
            mark = pytest.mark.grid if (place + place // 6 + number) % 3 else pytest.mark.slow
            yield pytest.param(path, ratio, align, scope, marks=mark, id=f"{path.stem}-{ratio}-{align}-{scope}")


@pytest.fixture(scope="module")
def analysed(request: pytest.FixtureRequest) -> tuple[Model, Analysis]:
    loaded = model.from_proto(load_skeleton(request.param))
    return loaded, analyse(loaded)


@pytest.mark.parametrize(("analysed", "ratio", "align", "scope"), [*_cases()], indirect=["analysed"])
def test_grid(analysed: tuple[Model, Analysis], ratio: float, align: int, scope: str) -> None:
    _, analysis = analysed
    options = Options(ratio=ratio, align=align, scope=scope, check_n=1)

    request, subject = options.request, Subject(analysis.trace)
    choice = choose(analysis, request, subject, Way("l2", scope), scores.resolve("l2")(subject))
    pruned = Planner(analysis, options, None, silent).cut(choice, lossless=False)[1]

    model.check(pruned.skeleton(), "the pruned model", full=True)
    gone = np.zeros(analysis.trace.units, np.bool_)
    gone[choice.dead] = True
    groups = list(choice.groups)
    assert not [(g.name, *w) for g in groups for w in changed_widths(g, gone) if w[1] % align]
    assert_ratio_is_met(groups, gone, request)
    if is_proved(ratio, align, scope):
        proof = exact.prove(
            analysis.trace, analysis.severed, analysis.flat, choice.dead, pruned, samples=1, seed=0, rtol=None, atol=0.0
        )
        assert not proof.failures()


def is_proved(ratio: float, align: int, scope: str) -> bool:
    """Whether numbers are run: half of the grid, low ratios by group and high ones globally, at 8 the other way."""
    return ((ratio > 0.4) == (scope == "global")) != (align == 8)


def changed_widths(group: Group, gone: Flags) -> list[tuple[str, int]]:
    """Constants of ``group`` that get narrower, and how many of its channels each keeps."""
    own = np.zeros_like(gone)
    own[group.units] = True
    parts = [p for p in group.slices if p.role in ("out", "in") and (own & gone)[p.units].any()]
    return [(p.constant, int((own & ~gone)[p.units].sum())) for p in parts]


def assert_ratio_is_met(groups: list[Group], gone: Flags, request: Request) -> None:
    """Removed is what was asked for, or all that may go if that is less, give or take half of the largest step.

    At align 1 every group loses at least its ratio, and less than a channel a row more.
    """
    removed = sum(int(gone[g.units].sum()) for g in groups)
    asked = request.ratio * sum(g.width for g in groups)
    sizes, rooms, wanted = [0], [0], [0.0]
    for group in groups:
        steps = [step_of(block, Multiple(request.align or 1).places(group)) for block in group.blocks]
        together = len(steps) == 1 or all(b.width % s == 0 for b, s in zip(group.blocks, steps, strict=True))
        for block, step in zip(group.blocks, steps, strict=True):
            least = max(step, step * -int(-(1 - max(DEFAULT_MAX_RATIO, request.ratio)) * block.width // step))
            if together and least < block.width:
                sizes.append(step * block.rows)
                rooms.append((block.width - least) * block.rows)
                wanted.append(min(rooms[-1], request.ratio * block.units.size))
    half = max(sizes) / 2 + 1e-6
    within_reach = min(asked, sum(rooms)) if request.scope == "global" else sum(wanted)
    if request.align == 1 and request.scope == "group":
        more = sum(block.rows for group in groups for block in group.blocks)
        assert within_reach - 1e-6 <= removed <= asked + more
    else:
        assert within_reach - half <= removed <= asked + half
