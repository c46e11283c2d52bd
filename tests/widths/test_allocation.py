"""How many channels stay, on groups made by hand: against every choice there is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.labels.attention_heads import Heads
from onnxprune.labels.groups import Block, Group, Groups, Slice
from onnxprune.widths.alignment_steps import Multiple, step_of
from onnxprune.widths.allowed_widths import Scores, choices
from onnxprune.widths.rounding_to_alignment import Allocation, allocate


@dataclass(frozen=True)
class Shape:
    """One block: ``rows`` of ``width`` units, each unit ``repeat`` times in the weight that makes it."""

    width: int
    rows: int = 1
    repeat: int = 1


def made(shapes: Sequence[Shape]) -> Groups:
    """A group for each shape; units are numbered on."""
    groups, start = [], 1
    for index, shape in enumerate(shapes):
        units = np.arange(start, start + shape.rows * shape.width, dtype=np.int64)
        start += len(units)
        part = Slice((f"w{index}", -1, -1), 0, np.repeat(units, shape.repeat), "out")
        block = Block(units.reshape(shape.rows, shape.width))
        groups.append(Group(index, f"g{index}", units, (block,), (part,), ()))
    return Groups(tuple(groups), ())


def run(
    groups: Groups,
    scores: Sequence[Scores],
    *,
    ratio: float = 0.5,
    align: int = 1,
    scope: str = "group",
    max_ratio: float | None = None,
    ratio_of: Mapping[int, float] | None = None,
) -> Allocation:
    return allocate(
        choices(groups, scores, Multiple(align)),
        ratio=ratio,
        scope=scope,
        max_ratio=max_ratio,
        ratio_of=ratio_of or {},
    )


def kept(groups: Groups, allocation: Allocation) -> list[int]:
    """Units that stay in each row; all rows of a group keep as many."""
    found = []
    for group in groups:
        counts = {int((~np.isin(row, allocation.dead)).sum()) for row in group.blocks[0].units}
        assert len(counts) == 1
        found.append(counts.pop())
    return found


def loss(groups: Groups, scores: Sequence[Scores], counts: Sequence[int]) -> float:
    """The least score that can go when each row keeps so many."""
    total = 0.0
    for group, score, count in zip(groups, scores, counts, strict=True):
        ranked = np.sort(score.reshape(group.blocks[0].units.shape), axis=1)
        total += float(ranked[:, : ranked.shape[1] - count].sum())
    return total


def neighbours(width: int, ratio: float, step: int) -> list[int]:
    """The widths allowed that are nearest to what is asked: one below, one above, or that itself."""
    allowed = [k for k in range(1, width + 1) if k % step == 0 or k == width]
    wanted = (1 - ratio) * width
    below = [k for k in allowed if k <= wanted + 1e-9][-1:]
    above = [k for k in allowed if k >= wanted - 1e-9][:1]
    return sorted({*below, *above})


def every_choice(shapes: Sequence[Shape], ratio: float, align: int) -> Iterator[tuple[int, ...]]:
    steps = [align // math.gcd(align, s.rows * s.repeat) for s in shapes]
    return itertools.product(*(neighbours(s.width, ratio, step) for s, step in zip(shapes, steps, strict=True)))


def cases(
    count: int, *, rows: bool, seed: int = 0, aligns: Sequence[int] = (1, 2, 4, 8, 16)
) -> Iterator[tuple[list[Shape], list[Scores], float, int]]:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        shapes = [
            Shape(int(rng.integers(1, 40)), int(rng.integers(1, 4)) if rows else 1, int(rng.choice([1, 1, 2, 4])))
            for _ in range(int(rng.integers(1, 8)))
        ]
        scores = [rng.uniform(0, 2, s.rows * s.width) for s in shapes]
        yield shapes, scores, float(rng.choice([0.1, 0.25, 0.3, 0.5, 0.8])), int(rng.choice(aligns))


@pytest.mark.parametrize("rows", [False, True], ids=["single-rows", "tied-rows"])
def test_nearest_total_and_least_loss_among_the_nearest(rows: bool) -> None:
    for shapes, scores, ratio, align in cases(150, rows=rows, aligns=(2, 4, 8, 16)):
        groups = made(shapes)
        target = sum((1 - ratio) * g.width for g in groups)

        def quality(counts: Sequence[int]) -> tuple[float, float]:
            total = sum(c * s.rows for c, s in zip(counts, shapes, strict=True))  # noqa: B023 (called in this round)
            return round(abs(total - target), 6), round(loss(groups, scores, counts), 6)  # noqa: B023

        counts = kept(groups, run(groups, scores, ratio=ratio, align=align))
        best = min(quality(choice) for choice in every_choice(shapes, ratio, align))
        assert quality(counts) == best, (shapes, ratio, align, counts)


def test_unaligned_each_row_loses_its_ratio_and_less_than_a_channel_more() -> None:
    for shapes, scores, ratio, align in cases(50, rows=True, aligns=(1,)):
        groups = made(shapes)
        for shape, count in zip(shapes, kept(groups, run(groups, scores, ratio=ratio, align=align)), strict=True):
            excess = (1 - ratio) * shape.width - count
            assert -1e-9 <= excess < 1 or count == 1


def test_what_goes_has_the_least_scores_of_its_row() -> None:
    for shapes, scores, ratio, align in cases(50, rows=True, seed=1):
        groups = made(shapes)
        dead = run(groups, scores, ratio=ratio, align=align).dead
        assert np.array_equal(dead, np.unique(dead))
        for group, score in zip(groups, scores, strict=True):
            for row, values in zip(group.blocks[0].units, score.reshape(group.blocks[0].units.shape), strict=True):
                goes = np.isin(row, dead)
                assert values[goes].max(initial=-1) <= values[~goes].min(initial=np.inf)


@dataclass(frozen=True)
class Row:
    """Widths, what is asked, and what stays in each row."""

    name: str
    shapes: Sequence[Shape]
    stays: Sequence[int]
    ratio: float = 0.5
    align: int = 1
    scope: str = "group"
    max_ratio: float | None = None
    ratio_of: Mapping[int, float] | None = None
    noted: Sequence[int] = ()

    def __str__(self) -> str:
        return self.name


A16, A48 = Shape(16), Shape(48)
ROWS = (
    Row("halves", [A16, A48], [8, 24]),
    Row("nothing-asked", [A16, A48], [16, 48], ratio=0),
    Row("nothing-asked-aligned", [Shape(17), Shape(9)], [17, 9], ratio=0, align=4),
    Row("multiples", [A16, A48], [8, 24], align=8),
    Row("a-width-that-is-no-multiple-may-stay", [Shape(17)], [17], ratio=0.01, align=16),
    Row("and-where-more-is-asked-becomes-one", [Shape(17)], [16], ratio=0.05, align=16),
    Row("too-narrow-stays-and-is-noted", [Shape(8), Shape(64)], [8, 32], align=16, noted=[0]),
    Row("as-wide-as-the-step-stays-and-is-noted", [A16, Shape(64)], [16, 32], align=16, noted=[0]),
    Row("others-make-up-for-what-stays", [A16, Shape(80)], [16, 32], align=16, noted=[0]),
    Row("repeated-units-need-smaller-steps", [Shape(8, repeat=4)], [4], align=16),
    Row("unless-the-repeat-does-not-divide", [Shape(32, repeat=3)], [16], align=16),
    Row("one-always-stays", [Shape(1), Shape(2), Shape(3)], [1, 1, 1], ratio=0.99),
    Row("one-of-each-row-stays", [Shape(4, rows=3)], [1], ratio=0.99),
    Row("a-step-always-stays", [A16], [8], ratio=0.99, align=8),
    Row("cap", [A16, A48], [12, 36], max_ratio=0.25),
    Row("cap-is-rounded-up-to-a-multiple", [A16, A48], [16, 40], max_ratio=0.25, align=8, noted=[]),
    Row("ratio-of-its-own", [A16, A48], [4, 24], ratio_of={0: 0.75}),
    Row("own-ratio-of-zero", [A16, A48], [16, 24], ratio_of={0: 0.0}),
    Row("own-ratio-above-the-floor", [Shape(100), A48], [2, 24], ratio_of={0: 0.98}),
    Row("cap-holds-own-ratios-too", [A16, A48], [12, 36], ratio_of={0: 0.75}, max_ratio=0.25),
    Row("own-ratio-under-global", [A16, A48], [4, 24], ratio_of={0: 0.75}, scope="global"),
    Row("global-leaves-a-tenth", [Shape(20), Shape(20)], [2, 2], ratio=0.9, scope="global"),
    Row("no-groups", [], []),
)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_widths(row: Row) -> None:
    groups = made(row.shapes)
    scores = [np.ones(g.width) for g in groups]
    allocation = run(
        groups,
        scores,
        ratio=row.ratio,
        align=row.align,
        scope=row.scope,
        max_ratio=row.max_ratio,
        ratio_of=row.ratio_of,
    )
    assert kept(groups, allocation) == row.stays
    assert sorted(allocation.notes) == list(row.noted)
    assert all("left as it is" in note for note in allocation.notes.values())


def test_rounding_goes_where_least_is_lost() -> None:
    groups = made([Shape(24), Shape(24)])
    low, high = np.full(24, 1.0), np.full(24, 2.0)
    assert kept(groups, run(groups, [low, high], ratio=0.5, align=8)) == [8, 16]
    assert kept(groups, run(groups, [high, low], ratio=0.5, align=8)) == [16, 8]


def test_ties_are_broken_by_order() -> None:
    groups = made([Shape(6)])
    assert run(groups, [np.ones(6)]).dead.tolist() == [1, 2, 3]


def test_step_is_the_least_that_makes_every_width_a_multiple() -> None:
    units = np.arange(1, 9, dtype=np.int64)
    slices = tuple(
        Slice((name, -1, -1), axis, np.repeat(units, repeat), role)
        for name, axis, repeat, role in (("w", 0, 1, "out"), ("v", 1, 4, "in"), ("b", 0, 3, ""), ("s", 0, 5, "scale"))
    )
    block = Block(units.reshape(1, -1))
    group = Group(0, "g", units, (block,), slices, ())
    assert step_of(block, Multiple(16).places(group)) == 16
    assert step_of(block, Multiple(16).places(Group(0, "g", units, (block,), slices[1:], ()))) == 4
    assert step_of(block, Multiple(1).places(group)) == 1


def blocks_of(*widths: int) -> Groups:
    """One group: a weight whose outputs are blocks of these widths."""
    units = np.arange(1, sum(widths) + 1, dtype=np.int64)
    ends = np.cumsum(widths)
    blocks = tuple(Block(units[e - w : e].reshape(1, -1)) for e, w in zip(ends, widths, strict=True))
    return Groups((Group(0, "g", units, blocks, (Slice(("w", -1, -1), 0, units, "out"),), ()),), ())


@pytest.mark.parametrize("scope", ["group", "global"])
@pytest.mark.parametrize(
    ("widths", "stays"), [((16, 32), 24), ((8, 40, 16), 32), ((10, 22), 32), ((4, 60), 64), ((8, 8), 16)]
)
def test_blocks_of_one_weight_add_up_to_a_multiple(scope: str, widths: Sequence[int], stays: int) -> None:
    groups = blocks_of(*widths)
    allocation = run(groups, [np.ones(sum(widths))], align=8, scope=scope)
    assert sum(widths) - len(allocation.dead) == stays
    assert bool(allocation.notes) == (stays == sum(widths))


# --- whole heads ----------------------------------------------------------------------------------------------------


def attention(heads: int, dim: int, value_dim: int) -> Groups:
    """Q and K: units 1.., V: units after them, [heads, dim] each; then a place for each head."""
    sizes = (heads * dim, heads * value_dim)
    units = np.arange(1, sum(sizes) + 1, dtype=np.int64)
    query, value = units[: sizes[0]], units[sizes[0] :]
    blocks = (Block(query.reshape(heads, -1)), Block(value.reshape(heads, -1)))
    slices = tuple(Slice((n, -1, -1), 1, u, "out") for n, u in (("wq", query), ("wk", query), ("wv", value)))
    places = tuple(np.asarray([units[-1] + 1 + h]) for h in range(heads))
    rows = np.arange(heads).reshape(-1, 1)
    return Groups((Group(0, "g", units, blocks, slices, (), (Heads((0, 1), (rows, rows), places),)),), ())


def heads_gone(groups: Groups, allocation: Allocation) -> list[int]:
    """The heads of which nothing is left; of the others every row keeps as many."""
    (group,) = groups
    (family,) = group.heads
    gone = [h for h, place in enumerate(family.places) if np.isin(place, allocation.dead).all()]
    for block in group.blocks:
        left = (~np.isin(block.units, allocation.dead)).sum(axis=1)
        assert not left[gone].any()
        assert len(set(np.delete(left, gone).tolist())) == 1
        assert np.delete(left, gone).min() > 0
    return gone


def head_scores(heads: int, dim: int, value_dim: int, worst: int, seed: int = 0) -> Scores:
    """About 1 for every channel, and less by far for those of one head."""
    rng = np.random.default_rng(seed)
    parts = [
        rng.uniform(0.9, 1, (heads, d)) * np.where(np.arange(heads) == worst, 0.01, 1)[:, None]
        for d in (dim, value_dim)
    ]
    return np.concatenate([p.reshape(-1) for p in parts])


@pytest.mark.parametrize("scope", ["group", "global"])
@pytest.mark.parametrize("align", [1, 8])
def test_a_head_that_matters_least_goes_whole(scope: str, align: int) -> None:
    groups = attention(4, 8, 16)
    allocation = run(groups, [head_scores(4, 8, 16, worst=2)], ratio=0.25, align=align, scope=scope)
    assert heads_gone(groups, allocation) == [2]
    assert np.isin(groups.groups[0].units, allocation.dead).sum() == 24


@pytest.mark.parametrize("scope", ["group", "global"])
def test_a_head_and_channels_of_the_others_go_where_more_is_asked(scope: str) -> None:
    groups = attention(4, 8, 16)
    allocation = run(groups, [head_scores(4, 8, 16, worst=0)], ratio=0.5, scope=scope)
    assert heads_gone(groups, allocation) == [0]
    assert abs(np.isin(groups.groups[0].units, allocation.dead).sum() - 48) <= 3


def test_channels_go_where_every_head_has_some_that_matter_little() -> None:
    groups = attention(4, 8, 16)
    scores = np.concatenate([np.tile(np.linspace(0.01, 1, d), 4) for d in (8, 16)])
    for scope in ("group", "global"):
        assert heads_gone(groups, run(groups, [scores], ratio=0.25, scope=scope)) == []


@pytest.mark.parametrize("scope", ["group", "global"])
def test_heads_go_only_where_widths_stay_multiples(scope: str) -> None:
    rng = np.random.default_rng(5)
    for heads, dim, value_dim in ((3, 8, 8), (4, 12, 20), (6, 16, 32), (8, 5, 16), (2, 16, 16)):
        groups = attention(heads, dim, value_dim)
        for align in (4, 16):
            scores = head_scores(heads, dim, value_dim, worst=1) * rng.uniform(0.1, 1, groups.width)
            allocation = run(groups, [scores], ratio=0.4, align=align, scope=scope)
            heads_gone(groups, allocation)
            for part in groups.groups[0].slices:
                left = int((~np.isin(part.units, allocation.dead)).sum())
                assert left == len(part.units) or left % align == 0


def test_heads_lose_no_more_score_than_channels_alone_would() -> None:
    rng = np.random.default_rng(6)
    went = 0
    for _ in range(60):
        heads, dim = int(rng.integers(2, 6)), int(rng.integers(2, 9))
        groups = attention(heads, dim, dim)
        scores = rng.uniform(0, 1, groups.width) * np.tile(np.repeat(rng.uniform(0.05, 1, heads), dim), 2)
        allocation = run(groups, [scores], ratio=0.5)
        went += len(heads_gone(groups, allocation))
        alone = Groups((replace(groups.groups[0], heads=()),), ())
        other = run(alone, [scores], ratio=0.5)
        lost, wanted = (scores[np.isin(groups.groups[0].units, a.dead)].sum() for a in (allocation, other))
        removed, asked = (int(np.isin(groups.groups[0].units, a.dead).sum()) for a in (allocation, other))
        assert removed != asked or lost <= wanted + 1e-9
    assert went > 0


# --- one ranking over the network -----------------------------------------------------------------------------------


def ranked(groups: Groups, scores: Sequence[Scores], ratio: float) -> list[int]:
    """The least important of all channels, but for a tenth of each group."""
    order = sorted(
        (float(v), g.index, i) for g, s in zip(groups, scores, strict=True) for i, v in enumerate(np.sort(s))
    )
    stays = [g.width for g in groups]
    left = round(ratio * groups.width)
    for _, index, _ in order:
        if left and stays[index] - 1 >= max(1, math.ceil(0.1 * groups.groups[index].width - 1e-9)):
            stays[index] -= 1
            left -= 1
    return stays


def test_global_scope_is_a_ranking_of_all_channels() -> None:
    for shapes, scores, ratio, _ in cases(100, rows=False, seed=2):
        groups = made([Shape(s.width) for s in shapes])
        counts = kept(groups, run(groups, scores, ratio=ratio, scope="global"))
        wanted = ranked(groups, scores, ratio)
        exact = abs(ratio * groups.width % 1 - 0.5) > 1e-9
        assert counts == wanted or not exact


@pytest.mark.parametrize("align", [4, 16])
def test_global_scope_keeps_multiples_and_meets_the_ratio(align: int) -> None:
    rng = np.random.default_rng(3)
    for _ in range(30):
        shapes = [Shape(align * int(rng.integers(4, 9))) for _ in range(6)]
        groups = made(shapes)
        scores = [rng.uniform(0, 1, s.width) for s in shapes]
        counts = kept(groups, run(groups, scores, ratio=0.4, align=align, scope="global"))
        assert all(c % align == 0 for c in counts)
        assert abs(sum(counts) - 0.6 * groups.width) <= align / 2


def test_global_scope_takes_from_where_channels_matter_least() -> None:
    groups = made([Shape(10), Shape(10)])
    scores: list[NDArray[np.float64]] = [np.linspace(0.1, 0.2, 10), np.linspace(1, 2, 10)]
    assert kept(groups, run(groups, scores, ratio=0.25, scope="global")) == [5, 10]
