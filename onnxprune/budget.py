"""Sizes that meet a budget of some cost, where the least score is lost for what is saved.

Steps are taken off one block after another, the cheapest first: by score lost for each unit of cost that it saves, or
for each channel. What a step saves depends on its neighbours' sizes, and never grows as they shrink, so that a price
that was computed earlier is a lower bound: it is computed anew when its turn comes.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.allocate import Allocation
from onnxprune.cost import COSTS, CostModel
from onnxprune.errors import OptionError, nearest
from onnxprune.sizing import Sizes
from onnxprune.trace import Trace
from onnxprune.widths import Item

#: A uniform ratio is found to this precision: 2 ** -_HALVINGS.
_HALVINGS = 12


@dataclass(frozen=True)
class Budget:
    """What a model may cost: at most ``limit`` of ``cost``, or, up to 1, that share of what the original costs."""

    cost: CostModel
    limit: float

    def __post_init__(self) -> None:
        """Raise OptionError for a limit that is none."""
        if not self.limit > 0:
            raise OptionError(f"must be positive, not {self.limit:g}", where="--budget", hint="macs=0.5 keeps half")

    @staticmethod
    def of(name: str, limit: float) -> Budget:
        """By the name of a cost model. Raises OptionError."""
        if name not in COSTS:
            raise OptionError(f"no cost is called '{name}'", where="--budget", hint=nearest(name, COSTS))
        return Budget(COSTS[name], limit)

    @staticmethod
    def parse(text: str) -> Budget:
        """From ``COST=LIMIT``. Raises OptionError."""
        name, _, number = text.rpartition("=")
        try:
            return Budget.of(name, float(number))
        except ValueError:
            raise OptionError(f"'{text}' is not COST=LIMIT", where="--budget", hint="macs=0.5 keeps half") from None

    def amount(self, original: float) -> float:
        """The limit in units of the cost."""
        return self.limit * original if self.limit <= 1 else self.limit

    def __str__(self) -> str:
        return f"{self.cost.name}={self.limit:g}"


def cost_of(trace: Trace, cost: CostModel, dead: NDArray[np.int64]) -> float:
    """What a model costs without the units ``dead``."""
    gone = np.zeros(trace.units, np.bool_)
    gone[dead] = True
    sizes = Sizes(trace, [np.flatnonzero(~gone)[None], dead[None]], cost)
    sizes.keep(1, 0)
    return sizes.cost


def uniform(trace: Trace, cost: CostModel, target: float, by_ratio: Callable[[float], Allocation]) -> Allocation:
    """The smallest ratio, the same in every group, at which the cost is at most ``target``. Raises OptionError."""
    low, high = 0.0, 1.0 - 2**-_HALVINGS
    least = by_ratio(high)
    _check(cost_of(trace, cost, least.dead), target)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = by_ratio(middle)
        if cost_of(trace, cost, found.dead) <= target:
            high, least = middle, found
        else:
            low = middle
    return least


def _check(cost: float, target: float) -> None:
    if cost > target * (1 + 1e-9):
        raise OptionError(
            f"cannot be met: {target:.4g} is asked for, and {cost:.4g} the least that can be left",
            where="--budget",
            hint="a larger budget, a larger --max-ratio, or fewer layers excluded",
        )


def meet(
    trace: Trace,
    cost: CostModel,
    target: float,
    items: Sequence[Item],
    decided: Mapping[int, int],
    *,
    by_cost: bool,
) -> list[int]:
    """Channels that each row of each item keeps, so that ``cost`` is at most ``target``. Raises OptionError.

    ``decided``: what some items keep already; the others keep at least their floors. ``by_cost``: rank by score for
    cost saved; else for channels.
    """
    sizes = Sizes(trace, [i.units for i in items], cost)
    for index, item in enumerate(items):
        sizes.keep(index, decided.get(index, item.most))
    open_ = [i for i in range(len(items)) if i not in decided]
    total = sizes.cost
    heap: list[tuple[float, int, int]] = []

    def price(index: int, after: int) -> float:
        item, now = items[index], sizes.kept[index]
        lost = item.loss[after] - item.loss[now]
        saved = -sizes.change(index, after) if by_cost else item.keeps(now - after)
        return float(lost) / saved if saved > 0 else float("inf")

    def offer(index: int) -> None:
        item, now = items[index], sizes.kept[index]
        after = (now - 1) // item.step * item.step
        if after >= items[index].floor and (found := price(index, after)) < float("inf"):
            heapq.heappush(heap, (found, index, after))

    for index in open_:
        offer(index)
    while heap and total > target:
        _, index, after = heapq.heappop(heap)
        now = price(index, after)
        if now == float("inf"):
            continue
        if heap and now > heap[0][0]:
            heapq.heappush(heap, (now, index, after))
            continue
        total += sizes.change(index, after)
        sizes.keep(index, after)
        offer(index)
    _check(total, target)
    _give_back(items, open_, sizes, target)
    return list(sizes.kept)


def _give_back(items: Sequence[Item], open_: Sequence[int], sizes: Sizes, target: float) -> None:
    """The last step may have saved more than was needed: put back what still fits, the dearest first."""
    total = sizes.cost
    gains = []
    for index in open_:
        item = items[index]
        now = sizes.kept[index]
        back = min(item.most, (now // item.step + 1) * item.step)
        if back > now:
            gains.append((float(item.loss[back] - item.loss[now]), index, back))
    for _, index, back in sorted(gains, reverse=True):
        more = sizes.change(index, back)
        if total + more <= target:
            total += more
            sizes.keep(index, back)
