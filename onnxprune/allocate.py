"""How many channels of each block stay: the ratio asked for, on widths that are multiples of ``align``.

Knows blocks and scores, and nothing of where either came from. Every block may keep all of its n channels, or a
multiple of its step; the step is such that every width it is part of becomes a multiple of ``align``. What is asked
for over the network is met as nearly as these widths allow: some blocks are rounded down and others up, where the
score lost is least. Lossless units go before all others, whatever their scores.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from onnxprune.groups import Block, Group, Groups

Scores = NDArray[np.float64]

#: Above this table size the rounding is chosen greedily.
_MAX_TABLE = 50_000_000

#: Whatever is asked for, a ranking over the whole network leaves this share of each block: a floor.
DEFAULT_MAX_RATIO = 0.9


@dataclass(frozen=True)
class Item:
    """A block to allocate: ``loss[k]`` is the score lost when each row keeps k of its n channels."""

    group: int
    rows: int
    width: int
    step: int
    ratio: float
    most: int  # the largest count that may stay
    loss: NDArray[np.float64] = field(repr=False)
    order: NDArray[np.int64] = field(repr=False)  # [rows, n]: units, least important first

    def keeps(self, k: int) -> int:
        """Channels kept over all rows."""
        return k * self.rows


@dataclass(frozen=True)
class Allocation:
    """The units that go, and by group index why a group is as wide as it is, where that is not what was asked."""

    dead: NDArray[np.int64] = field(repr=False)
    notes: Mapping[int, str]


def step_of(group: Group, block: Block, align: int) -> int:
    """The smallest count per row whose multiples make every width that the block is part of a multiple of ``align``."""
    step = 1
    if align == 1:
        return step
    inside = np.unique(block.units[:, 0])
    for part in group.slices:
        if part.role in ("out", "in") and part.units.ndim == 1:
            per_unit = int(np.isin(part.units, inside).sum())
            if per_unit:
                step = math.lcm(step, align // math.gcd(align, per_unit))
    return step


def allocate(
    groups: Groups,
    scores: Sequence[Scores],
    *,
    ratio: float,
    align: int,
    scope: str,
    max_ratio: float | None,
    ratio_of: Mapping[int, float],
    all_lossless: bool = False,
) -> Allocation:
    """Choose widths. ``ratio_of``: another ratio for some groups, by index. ``scope``: 'group' or 'global'.

    ``all_lossless``: as many lossless units go as widths allow, even where the ratio asks for fewer.
    """
    cap = max_ratio if max_ratio is not None else max(DEFAULT_MAX_RATIO, ratio)
    items: list[Item] = []
    notes: dict[int, str] = {}
    for group, score in zip(groups, scores, strict=True):
        asked = ratio_of.get(group.index, ratio)
        blocks = [_item(group, block, score, groups.lossless, align, asked) for block in group.blocks]
        if align > 1 and not _can_shrink(blocks):
            blocks = [replace(item, step=item.width) for item in blocks]
            notes.update({group.index: f"cannot be narrower and a multiple of {align}: left as it is"} if asked else {})
        items.extend(
            _without_lossless(item, groups.lossless, max_ratio) for item in blocks
        ) if all_lossless else items.extend(blocks)
    own = [i for i in items if i.group in ratio_of]
    rest = [i for i in items if i.group not in ratio_of]
    kept = dict(zip(map(id, own), _by_group(own, cap if max_ratio is not None else 1.0), strict=True))
    chosen = _by_group(rest, cap) if scope == "group" else _over_network(rest, ratio, cap)
    kept.update(zip(map(id, rest), chosen, strict=True))
    dead = [item.order[:, : item.width - kept[id(item)]].reshape(-1) for item in items]
    return Allocation(np.sort(np.concatenate(dead)) if dead else np.zeros(0, np.int64), notes)


def _item(group: Group, block: Block, scores: Scores, lossless: NDArray[np.int64], align: int, ratio: float) -> Item:
    # Below every score: these come first in their block, and their block first in a ranking over the network.
    first = min(float(scores.min(initial=0.0)), 0.0) - 1.0
    value = np.where(np.isin(block.units, lossless), first, scores[np.searchsorted(group.units, block.units)])
    order = np.argsort(value, axis=1, kind="stable")
    ranked = np.take_along_axis(value, order, axis=1)
    lost = np.concatenate([[0.0], np.cumsum(ranked.sum(axis=0))])  # by how many go
    return Item(
        group.index,
        block.rows,
        block.width,
        step_of(group, block, align),
        ratio,
        block.width,
        lost[::-1],
        np.take_along_axis(block.units, order, axis=1),
    )


def _without_lossless(item: Item, lossless: NDArray[np.int64], max_ratio: float | None) -> Item:
    """The item with no more left than widths allow once its lossless units have gone: as many of each row."""
    count = int(np.isin(item.order, lossless).sum(axis=1).min())
    most = math.ceil((item.width - count) / item.step) * item.step
    return replace(item, most=min(item.width, max(most, _floor(item, 1.0 if max_ratio is None else max_ratio))))


def _can_shrink(blocks: Sequence[Item]) -> bool:
    """Whether a group can be narrower and all its widths multiples: blocks add up, so each of several must be one."""
    alone = len(blocks) == 1
    return any(i.width > i.step for i in blocks) and (alone or all(i.width % i.step == 0 for i in blocks))


def _floor(item: Item, cap: float) -> int:
    """The least count that may stay: at least a step, and not less than the cap leaves."""
    least = math.ceil((1 - cap) * item.width - 1e-9)
    return min(item.width, max(item.step, math.ceil(least / item.step) * item.step))


def _by_group(items: Sequence[Item], cap: float) -> list[int]:
    """Each block near its own ratio: one of the two widths around it, so that the total is met."""
    low, high = [], []
    for item in items:
        wanted = (1 - item.ratio) * item.width
        floor = _floor(item, cap)
        below = max(floor, math.floor(wanted / item.step + 1e-9) * item.step)
        above = below if below >= wanted - 1e-9 else min(item.width, below + item.step)
        if item.width - below < 1e-9 or item.ratio == 0:
            below = above = item.width
        low.append(min(below, item.most))
        high.append(min(above, item.most))
    target = sum((1 - i.ratio) * i.width * i.rows for i in items) - sum(
        i.keeps(k) for i, k in zip(items, low, strict=True)
    )
    sizes = np.asarray([i.keeps(h - lo) for i, lo, h in zip(items, low, high, strict=True)], np.int64)
    gains = np.asarray([i.loss[lo] - i.loss[h] for i, lo, h in zip(items, low, high, strict=True)])
    up = _round_up(sizes, gains, target)
    return [h if u else lo for lo, h, u in zip(low, high, up, strict=True)]


def _round_up(sizes: NDArray[np.int64], gains: NDArray[np.float64], target: float) -> NDArray[np.bool_]:
    """Which entries to take: sizes that add up as nearly as can be to ``target``, and of these the largest gain."""
    chosen = np.zeros(len(sizes), np.bool_)
    open_ = np.flatnonzero(sizes)
    if not len(open_) or target <= 0:
        return chosen
    unit = int(np.gcd.reduce(sizes[open_]))
    weights = sizes[open_] // unit
    goal = target / unit
    if (weights == weights[0]).all():
        count = min(len(open_), math.floor(goal / weights[0] + 0.5 + 1e-9))
        chosen[open_[np.argsort(-gains[open_], kind="stable")[:count]]] = True
        return chosen
    capacity = min(int(weights.sum()), math.ceil(goal) + int(weights.max()))
    if capacity * len(open_) > _MAX_TABLE:
        left = goal
        for index in np.argsort(-gains[open_] / weights, kind="stable"):
            if weights[index] <= 2 * left:
                chosen[open_[index]] = True
                left -= weights[index]
        return chosen
    return _knapsack(open_, weights, gains, goal, capacity, chosen)


def _knapsack(
    entries: NDArray[np.int64],
    weights: NDArray[np.int64],
    gains: NDArray[np.float64],
    goal: float,
    capacity: int,
    chosen: NDArray[np.bool_],
) -> NDArray[np.bool_]:
    best = np.full(capacity + 1, -np.inf)
    best[0] = 0
    taken = np.zeros((len(entries), capacity + 1), np.bool_)
    for row, (entry, weight) in enumerate(zip(entries, weights, strict=True)):
        candidate = np.full(capacity + 1, -np.inf)
        candidate[weight:] = best[: capacity + 1 - weight] + gains[entry]
        taken[row] = candidate > best
        best = np.where(taken[row], candidate, best)
    totals = np.flatnonzero(np.isfinite(best))
    distance = np.abs(totals - goal)
    nearest = totals[distance <= distance.min() + 1e-9]
    total = int(nearest[np.argmax(best[nearest])])
    for row in range(len(entries) - 1, -1, -1):
        if taken[row, total]:
            chosen[entries[row]] = True
            total -= int(weights[row])
    return chosen


def _over_network(items: Sequence[Item], ratio: float, cap: float) -> list[int]:
    """One ranking: take steps off the block where a channel costs the least score, until the ratio is met."""
    kept = [i.most for i in items]
    total = sum(i.keeps(i.width) for i in items)
    left = ratio * total - (total - sum(i.keeps(n) for i, n in zip(items, kept, strict=True)))
    heap: list[tuple[float, int, int]] = []

    def offer(index: int) -> None:
        item, now = items[index], kept[index]
        after = (now - 1) // item.step * item.step
        if after >= _floor(item, cap):
            price = (item.loss[after] - item.loss[now]) / item.keeps(now - after)
            heapq.heappush(heap, (float(price), index, after))

    for index in range(len(items)):
        offer(index)
    while heap and left > 0:
        _, index, after = heapq.heappop(heap)
        size = items[index].keeps(kept[index] - after)
        if size <= 2 * left:  # else leaving it is nearer to what was asked
            kept[index] = after
            left -= size
            offer(index)
    return kept
