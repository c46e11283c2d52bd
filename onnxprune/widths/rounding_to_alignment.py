"""How many channels of each block stay: the ratio asked for, on widths that are multiples as an alignment says.

Knows blocks and scores, and nothing of where either came from. Every block may keep all of its n channels, or a
multiple of its step; the step is such that every width it is part of is what it should be a multiple of. Where any
width will do, every block loses at least its ratio, in whole channels. Else what is asked for over the network is met
as nearly as the widths allow: some blocks are rounded down and others up, where the score lost is least. Lossless units
go before all others, whatever their scores.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from onnxprune.widths.allowed_widths import Choices, Family, Item

#: Above this table size the rounding is chosen greedily.
_MAX_TABLE = 50_000_000

#: Whatever is asked for, a ranking over the whole network leaves this share of each block: a floor.
DEFAULT_MAX_RATIO = 0.9


#: (items, {position: kept}) -> kept of each: decides for those that are not decided yet.
Meet = Callable[[Sequence[Item], Mapping[int, int]], list[int]]


@dataclass(frozen=True)
class Allocation:
    """The units that go, and by group index why a group is as wide as it is, where that is not what was asked."""

    dead: NDArray[np.int64] = field(repr=False)
    notes: Mapping[int, str]


def allocate(
    groups: Sequence[Choices],
    *,
    ratio: float,
    scope: str,
    max_ratio: float | None,
    ratio_of: Mapping[int, float],
    lossless: NDArray[np.int64] | None = None,
    meet: Meet | None = None,
) -> Allocation:
    """Choose widths. ``ratio_of``: another ratio for some groups, by index. ``scope``: 'group' or 'global'.

    ``lossless``: as many of these units go as widths allow, even where the ratio asks for fewer. ``meet``: decides
    instead of ``ratio`` and ``scope`` what groups without a ratio of their own keep; heads stay then.
    """
    cap = max_ratio if max_ratio is not None else max(DEFAULT_MAX_RATIO, ratio)
    own_cap = max_ratio if max_ratio is not None else 1.0
    items: list[Item] = []
    families: list[Family] = []
    notes: dict[int, str] = {}
    for group in groups:
        asked = ratio_of.get(group.group, ratio)
        limit = own_cap if group.group in ratio_of else cap
        families += group.families(len(items))
        blocks = [
            Item(group.group, asked, (1 - limit) * b.units.size, b, fixed=bool(group.stuck)) for b in group.blocks
        ]
        items += blocks if lossless is None else [_without_lossless(item, lossless, max_ratio) for item in blocks]
        if group.stuck and asked:
            notes[group.group] = group.stuck
    own = [i for i, item in enumerate(items) if item.group in ratio_of]
    rest = [i for i, item in enumerate(items) if item.group not in ratio_of]
    ranked = frozenset(rest) if scope == "global" or meet else frozenset()
    dead = [_heads_by_ratio(items, f) for f in families if f.items[0] not in ranked]
    kept = {i: item.most for i, item in enumerate(items)}
    for part in (own, [] if ranked else rest):
        kept.update(zip(part, _by_group([items[i] for i in part]), strict=True))
    if meet is not None:
        kept, ranked = dict(enumerate(meet(items, {i: kept[i] for i in own}))), frozenset()
    dead += _over_network(items, kept, sorted(ranked), [f for f in families if f.items[0] in ranked], ratio)
    dead += [item.units[:, : item.width - kept[i]].reshape(-1) for i, item in enumerate(items)]
    return Allocation(np.sort(np.concatenate(dead)) if dead else np.zeros(0, np.int64), notes)


def _heads_by_ratio(items: list[Item], family: Family) -> NDArray[np.int64]:
    """Take the heads off ``items`` that cost less score than as many channels spread over all heads would.

    Returns their units. What is left of each item has the ratio that is still to be met.
    """
    own = [items[i] for i in family.items]
    worth = np.sum([np.bincount(i.head, i.value.sum(axis=1)) for i in own], axis=0)
    order = np.argsort(worth, kind="stable")
    best, chosen = (math.inf, math.inf), (own, order[:0])
    for count in range(len(order)):
        gone = order[:count]
        left = [_left(item, gone) for item in own]
        if min(i.ratio for i in left) < 0 or np.isinf(worth[gone]).any():
            break
        if count and not family.fits(left, [i.width for i in left], gone):
            continue
        gap, loss = np.sum([_interpolated(item) for item in left], axis=0)
        price = (round(float(gap), 6), float(loss + worth[gone].sum()))
        if price < best:
            best, chosen = price, (left, gone)
    for index, item in zip(family.items, chosen[0], strict=True):
        items[index] = item
    return _units_of(own, family, chosen[1])


def _left(item: Item, gone: NDArray[np.int64]) -> Item:
    """The item without some heads, and with the ratio that the rest must lose."""
    left = item.without(gone)
    ratio = 1 - (1 - item.ratio) * item.units.size / left.units.size
    return replace(left, ratio=0.0 if abs(ratio) < 1e-9 else ratio)


def _interpolated(item: Item) -> tuple[float, float]:
    """How far the widths allowed are from what is asked, and the score lost, between two widths in proportion."""
    allowed = np.unique([*range(item.floor, item.width + 1, item.step), item.width])
    wanted = (1 - item.ratio) * item.width
    loss = np.interp(wanted, allowed, item.loss[allowed])
    return max(0.0, allowed[0] - wanted) * item.rows, float(loss)


def _units_of(items: Sequence[Item], family: Family, gone: NDArray[np.int64]) -> NDArray[np.int64]:
    """All units of heads ``gone``."""
    found = [i.units[np.isin(i.head, gone)].reshape(-1) for i in items] + [family.places[h] for h in gone]
    return np.concatenate(found)


def _without_lossless(item: Item, lossless: NDArray[np.int64], max_ratio: float | None) -> Item:
    """The item with no more left than widths allow once its lossless units have gone: as many of each row."""
    spare = int(np.isin(item.units, lossless).sum(axis=1).min())
    return replace(item, spare=spare, bottom=0.0 if max_ratio is None else (1 - max_ratio) * item.units.size)


def _by_group(items: Sequence[Item]) -> list[int]:
    """Each block near its own ratio: the width below it at align 1, else one of the two around it, by the total."""
    low, high = [], []
    for item in items:
        wanted = (1 - item.ratio) * item.width
        below = max(item.floor, math.floor(wanted / item.step + 1e-9) * item.step)
        exact = not len(item.ranked.aligns) or below >= wanted - 1e-9
        above = below if exact else min(item.width, below + item.step)
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


@dataclass(frozen=True, order=True)
class Move:
    """One step of a ranking: ``item`` keeps ``after`` of each row, or a head goes (``after`` is -1)."""

    price: float  # score lost by channel
    item: int
    after: int
    size: int  # channels
    head: int = -1


def _over_network(
    items: list[Item], kept: dict[int, int], ranked: Sequence[int], families: Sequence[Family], ratio: float
) -> list[NDArray[np.int64]]:
    """One ranking: take a step or a head where a channel costs the least score, until the ratio is met.

    Changes ``kept``, and ``items`` that lose heads; returns the units of these heads.
    """
    left = sum(ratio * i.units.size - i.keeps(i.width - i.most) for i in (items[n] for n in ranked))
    families_of = {i: f for f in families for i in f.items}
    gone: dict[int, list[int]] = {f.items[0]: [] for f in families}
    whole = list(items)
    heap: list[Move] = []

    def offer(index: int) -> None:
        """The cheapest move of an item, or of all items of a family; what leaving is nearer to the ratio is none."""
        family = families_of.get(index)
        moves = [m for i in (family.items if family else (index,)) if (m := _step_off(items[i], kept[i], i))]
        if family and (move := _head_off(items, kept, family, gone[family.items[0]])):
            moves.append(move)
        if fitting := [m for m in moves if m.size <= 2 * left]:
            heapq.heappush(heap, min(fitting))

    for index in ranked:
        if index not in families_of or index == families_of[index].items[0]:
            offer(index)
    while heap and left > 0:
        move = heapq.heappop(heap)
        if move.size <= 2 * left:
            left -= move.size
            if move.head >= 0:
                family = families_of[move.item]
                gone[family.items[0]].append(move.head)
                for i in family.items:
                    items[i] = items[i].without(np.asarray([move.head]))
            else:
                kept[move.item] = move.after
        offer(move.item)
    return [
        _units_of([whole[i] for i in f.items], f, np.asarray(gone[f.items[0]], np.int64))
        for f in families
        if gone[f.items[0]]
    ]


def _step_off(item: Item, now: int, index: int) -> Move | None:
    """The next narrower width of an item."""
    after = (now - 1) // item.step * item.step
    if after < item.floor:
        return None
    size = item.keeps(now - after)
    return Move(float((item.loss[after] - item.loss[now]) / size), index, after, size)


def _head_off(items: Sequence[Item], kept: Mapping[int, int], family: Family, gone: Sequence[int]) -> Move | None:
    """The head that costs the least, where widths allow it to go and another stays."""
    own = [items[i] for i in family.items]
    counts = [kept[i] for i in family.items]
    present = np.unique(own[0].head)
    if len(present) < 2:
        return None
    worth = [np.bincount(i.head, i.value[:, i.width - k :].sum(axis=1)) for i, k in zip(own, counts, strict=True)]
    head = int(present[np.argmin(np.sum(worth, axis=0)[present])])
    if np.isinf(np.sum(worth, axis=0)[head]):  # all hold channels that are named to stay
        return None
    left = [i.without(np.asarray([head])) for i in own]
    if not family.fits(left, counts, np.asarray([*gone, head])):
        return None
    size = sum((i.rows - rest.rows) * k for i, rest, k in zip(own, left, counts, strict=True))
    return Move(float(np.sum(worth, axis=0)[head] / size), family.items[0], -1, size, head)
