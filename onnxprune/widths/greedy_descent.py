"""From all channels down to a budget, on costs that go in steps: a greedy descent, and a local search behind it.

Each step takes the width at which a block loses the least score for what is saved. Costs are staircases: a channel
less may save nothing, and sixteen less a whole block. So the step looks ahead, past the next edges. Where no block
saves anything alone, two that share a node are narrowed together.

What a step saves depends on its neighbours' widths, and mostly shrinks with them: a price that was computed earlier is
a lower bound, and is computed anew when its turn comes. The search then trades on true costs: one block wider for one
or two others narrower, or the other way round, as long as the score gains and the budget holds.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from onnxprune.cost.sizes import Sizes
from onnxprune.widths.allowed_widths import Item

#: Edges are looked for at so many doublings of a step; further ones only where these save nothing.
_REACH = 4

#: Rounds of the search, and trades that are tried on true costs in each, for each block.
_ROUNDS, _TRIALS = 8, 6

#: A round that gains no larger share of the score is the last.
_LITTLE = 1e-4

#: Neighbours of a block that are tried together with it.
_COUPLED = 4


class Step(NamedTuple):
    """Other widths of some blocks: the score that is lost (or, below 0, gained), and the cost saved (or paid)."""

    lost: float
    saved: float
    kept: tuple[tuple[int, int], ...]  # (block, what each of its rows keeps)


@dataclass
class Descent:
    """Blocks on their way down. ``sizes`` has what each keeps; those of ``open_`` may change.

    ``by_cost``: steps are ranked by the score lost for cost saved; else for channels.
    """

    items: Sequence[Item] = field(repr=False)
    sizes: Sizes
    open_: Sequence[int]
    by_cost: bool
    total: float = field(init=False)

    def __post_init__(self) -> None:
        """Nothing has gone yet."""
        self.total = self.sizes.cost

    def to(self, target: float) -> None:
        """Narrow blocks until the cost is at most ``target``, or nothing saves anything any more."""
        self._heap: list[tuple[float, int]] = []
        self._stuck: set[int] = set()
        for index in self.open_:
            self._offer(index)
        while self.total > target and (step := self._cheapest()) is not None:
            self._take(step)
            for index in sorted((self._stuck & self._near(step)) | {i for i, _ in step.kept}):
                self._offer(index)

    def _offer(self, index: int) -> None:
        """Put the next step of a block up, if it has one."""
        step = self._next(index)
        if step is None:
            self._stuck.add(index)
        else:
            self._stuck.discard(index)
            heapq.heappush(self._heap, (self._price(step), index))

    def _cheapest(self) -> Step | None:
        """The step with the lowest price as of now."""
        while self._heap:
            _, index = heapq.heappop(self._heap)
            step = self._next(index)
            if step is None:
                self._stuck.add(index)
            elif self._heap and self._price(step) > self._heap[0][0]:
                heapq.heappush(self._heap, (self._price(step), index))
            else:
                return step
        return self._together()

    def improve(self, target: float) -> None:
        """Trade widths while that gains score and the cost stays at most ``target``; by channels, only give back."""
        for _ in range(_ROUNDS):
            gained = self._round(target, trade=self.by_cost)
            if gained <= _LITTLE * self._kept():
                break

    # --- steps --------------------------------------------------------------------------------------------------------

    def _price(self, step: Step) -> float:
        if self.by_cost:
            return step.lost / step.saved
        channels = sum(self.items[i].keeps(self.sizes.kept[i] - kept) for i, kept in step.kept)
        return step.lost / max(channels, 1)

    def _step(self, *kept: tuple[int, int]) -> Step:
        lost = sum(float(self.items[i].loss[k] - self.items[i].loss[self.sizes.kept[i]]) for i, k in kept)
        return Step(lost, -self.sizes.change(dict(kept)), kept)

    def _next(self, index: int) -> Step | None:
        """The best narrower width of a block that saves anything."""
        found: list[Step] = []
        ahead = _REACH if self.by_cost and self.sizes.model.stepped else 1
        for tried, kept in enumerate(narrower(self.items[index], self.sizes.kept[index]), 1):
            step = self._step((index, kept))
            if step.saved > 0:
                found.append(step)
            if tried >= ahead and found:
                break
        return min(found, key=self._price, default=None)

    def _together(self) -> Step | None:
        """The best step of two blocks that share a node, where none saves anything alone."""
        found: list[Step] = []
        open_ = set(self.open_)
        for one in self.open_:
            for other in self.sizes.beside(one):
                if one < other and other in open_:
                    pairs = zip(*(_first(self.items[i], self.sizes.kept[i]) for i in (one, other)), strict=False)
                    steps = (self._step((one, a), (other, b)) for a, b in pairs)
                    found += [next((s for s in steps if s.saved > 0), Step(0, 0, ()))]
        return min((s for s in found if s.saved > 0), key=self._price, default=None)

    def _near(self, step: Step) -> set[int]:
        return {other for index, _ in step.kept for other in self.sizes.beside(index)}

    def _take(self, step: Step) -> None:
        for index, kept in step.kept:
            self.total += self.sizes.change({index: kept})
            self.sizes.keep(index, kept)

    # --- the search ---------------------------------------------------------------------------------------------------

    def _kept(self) -> float:
        """The score of all that is kept."""
        return sum(float(i.loss[0] - i.loss[k]) for i, k in zip(self.items, self.sizes.kept, strict=True))

    def _round(self, target: float, *, trade: bool) -> float:
        """Take the trades that gain most, each block once; the score gained."""
        up, down = self._alone(wider), self._alone(_first) if trade else {}
        ups, downs = _flat(up), _flat(down)
        for one, other in self._coupled() if trade else ():
            ups += [s for s in self._both(up[one], up[other]) if s.lost < 0]
            downs += [s for s in self._both(down[one], down[other]) if s.saved > 0]
            ups += [s for a, b in ((one, other), (other, one)) for s in self._both(up[a], down[b]) if s.lost < 0]
        trades = sorted(_trades(downs, ups, target - self.total), key=lambda s: s.lost)
        moved: set[int] = set()
        gained = 0.0
        for found in trades[: _TRIALS * max(len(self.open_), 8)]:
            if moved.isdisjoint(i for i, _ in found.kept):
                now = self._step(*found.kept)
                if now.lost < -1e-12 and self.total - now.saved <= target:
                    self._take(now)
                    gained -= now.lost
                    moved.update(i for i, _ in found.kept)
        return gained

    def _alone(self, widths: Callable[[Item, int], list[int]]) -> dict[int, list[Step]]:
        """The steps of each block to other widths."""
        return {i: [self._step((i, k)) for k in widths(self.items[i], self.sizes.kept[i])] for i in self.open_}

    def _coupled(self) -> Iterator[tuple[int, int]]:
        """Pairs of blocks that share a node, so that what one saves depends on the other."""
        open_ = set(self.open_)
        for one in self.open_:
            for other in [i for i in self.sizes.beside(one) if i > one and i in open_][:_COUPLED]:
                yield one, other

    def _both(self, first: Sequence[Step], second: Sequence[Step]) -> Iterator[Step]:
        """The nearest steps of two blocks, taken together."""
        for one, other in itertools.product(first[:2], second[:2]):
            yield self._step(*one.kept, *other.kept)


def _flat(steps: Mapping[int, list[Step]]) -> list[Step]:
    return [step for found in steps.values() for step in found]


def narrower(item: Item, now: int) -> list[int]:
    """Widths to try below, the widest first: a step away, and at the next multiples of each doubling of a step."""
    found, size = {item.floor}, item.step
    while size < now:
        found.update(((now - 1) // size * size, (now - size) // item.step * item.step))
        size *= 2
    return sorted((w for w in found if item.floor <= w < now), reverse=True)


def wider(item: Item, now: int) -> list[int]:
    """Widths to try above, the narrowest first."""
    found, size = {item.most}, item.step
    while size <= item.most:
        found.update(((now // size + 1) * size, now + size))
        size *= 2
    return sorted(w for w in found if now < w <= item.most and (w % item.step == 0 or w == item.most))[:_REACH]


def _first(item: Item, now: int) -> list[int]:
    return narrower(item, now)[:_REACH]


def _trades(down: Sequence[Step], up: Sequence[Step], slack: float) -> Iterator[Step]:
    """Steps that together gain score and pay for themselves, if what each saves does not depend on the others.

    A step up for nothing; for one step down; for two; and two for one.
    """
    yield from (s for s in up if -s.saved <= slack and s.lost < 0)
    saving, gaining = _Best([(d.saved, d.lost, d) for d in down]), _Best([(u.saved, u.lost, u) for u in up])
    for one in up:
        yield from _completed(one, saving, -one.saved - slack)
    for one in down:
        yield from _completed(one, gaining, -one.saved - slack)
    cheapest = sorted((d for d in down if d.saved > 0 and len(d.kept) == 1), key=lambda d: d.lost / d.saved)[:_REACH]
    for one in (u for u in up if len(u.kept) == 1):
        for other in cheapest:
            if _apart(one, other):
                yield from _completed(_both(one, other), saving, -one.saved - other.saved - slack)
    dearest = sorted((u for u in up if u.saved < 0 and len(u.kept) == 1), key=lambda u: u.lost / -u.saved)[:_REACH]
    for one in (d for d in down if len(d.kept) == 1):
        for other in dearest:
            if _apart(one, other):
                yield from _completed(_both(one, other), gaining, -one.saved - other.saved - slack)


def _both(one: Step, other: Step) -> Step:
    return Step(one.lost + other.lost, one.saved + other.saved, (*one.kept, *other.kept))


def _apart(one: Step, other: Step) -> bool:
    return {i for i, _ in one.kept}.isdisjoint(i for i, _ in other.kept)


def _completed(one: Step, others: _Best, needed: float) -> Iterator[Step]:
    """``one`` and the step that loses least of those that save what is ``needed``, if that gains score."""
    for other in others.saving(needed):
        if _apart(one, other):
            if one.lost + other.lost < 0:
                yield _both(one, other)
            break


class _Best:
    """Of steps that save at least so much, those that lose the least, of different blocks."""

    def __init__(self, entries: Sequence[tuple[float, float, Step]]) -> None:
        ranked = sorted(entries, key=lambda e: -e[0])
        self._saved = -np.asarray([e[0] for e in ranked])
        self._best: list[tuple[Step, ...]] = []
        best: list[Step] = []
        for _, _, step in ranked:
            rest = [s for s in best if s.kept[0][0] != step.kept[0][0] or s.lost < step.lost]
            known = any(s.kept[0][0] == step.kept[0][0] for s in rest)
            best = rest if known else sorted([*rest, step], key=lambda s: s.lost)[:_REACH]
            self._best.append(tuple(best))

    def saving(self, needed: float) -> tuple[Step, ...]:
        """Steps that save at least ``needed``, the least lost first."""
        count = int(np.searchsorted(self._saved, -needed, side="right"))
        return self._best[count - 1] if count else ()
