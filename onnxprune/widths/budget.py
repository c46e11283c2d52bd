"""Sizes that meet a budget of some cost, where the least score is lost for what is saved.

Widths are chosen by score lost for each unit of cost saved (`onnxprune.widths.greedy_descent`); or all at one ratio,
the smallest that meets the budget; or by another cost than that of the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from onnxprune.cost.chips import Cycles, Milliseconds
from onnxprune.cost.macs_and_bytes import COSTS, CostModel
from onnxprune.cost.sizes import Sizes
from onnxprune.errors import OptionError, nearest, thousands
from onnxprune.widths.allowed_widths import Item
from onnxprune.widths.greedy_descent import Descent
from onnxprune.widths.rounding_to_alignment import Allocation, Meet

#: A uniform ratio is found to this precision: 2 ** -_HALVINGS.
_HALVINGS = 12

#: Sums of costs that are equal differ by less.
_ROUNDING = 1 + 1e-9

#: A budget that is met by way of another cost is met to 2 ** -_GUIDED_HALVINGS of that.
_GUIDED_HALVINGS = 7


@dataclass(frozen=True)
class Budget:
    """What a model may cost: at most ``limit`` of ``cost``, or, up to 1, that share of what the original costs.

    Milliseconds are never a share.
    """

    cost: CostModel
    limit: float

    def __post_init__(self) -> None:
        """Raise OptionError for a limit that is none."""
        if not self.limit > 0:
            raise OptionError(f"must be positive, not {self.limit:g}", where="--budget", hint="macs=0.5 keeps half")

    @staticmethod
    def of(name: str, limit: float, target: Cycles | None = None) -> Budget:
        """By the name of a cost model, of ``target`` where it is one of a target's. Raises OptionError."""
        if name in ("cycles", "ms"):
            if target is None:
                hint = "give --target: onnxprune targets lists them"
                raise OptionError(f"{name} are those of a target", where="--budget", hint=hint)
            return Budget(target if name == "cycles" else Milliseconds(target), limit)
        if not name:
            raise OptionError("names no cost", where="--budget", hint="COST=LIMIT, as macs=0.5")
        if name not in COSTS:
            raise OptionError(
                f"no cost is called '{name}'", where="--budget", hint=nearest(name, [*COSTS, "cycles", "ms"])
            )
        return Budget(COSTS[name], limit)

    @staticmethod
    def parse(text: str, target: Cycles | None = None) -> Budget:
        """From ``COST=LIMIT``. Raises OptionError."""
        name, _, number = text.rpartition("=")
        try:
            return Budget.of(name, float(number), target)
        except ValueError:
            raise OptionError(f"'{text}' is not COST=LIMIT", where="--budget", hint="macs=0.5 keeps half") from None

    def amount(self, original: float) -> float:
        """The limit in units of the cost. Raises OptionError where nothing of the model has that cost."""
        if not original:
            raise OptionError(f"nothing in this model costs {self.cost.name}", where="--budget", hint="macs=0.5")
        return self.limit * original if self.limit <= 1 and self.cost.name != "ms" else self.limit

    def __str__(self) -> str:
        return f"{self.cost.name}={self.limit:g}"


def uniform(sizes: Sizes, target: float, by_ratio: Callable[[float], Allocation]) -> Allocation:
    """The smallest ratio, the same in every group, at which the cost is at most ``target``. Raises OptionError."""
    high = 1.0 - 2**-_HALVINGS
    least = by_ratio(high)
    _check(sizes.without(least.dead), target)
    return _smallest(sizes, target, by_ratio, high, _HALVINGS) or least


def guided(sizes: Sizes, target: float, guide: Sizes, ranked: Callable[[Meet], Allocation]) -> Allocation:
    """Widths that are chosen by the cost ``guide``, of which no more goes than brings that of ``sizes`` to ``target``.

    Raises OptionError where all that can go does not.
    """

    def at(ratio: float) -> Allocation:
        return ranked(partial(meet, guide.whole(), (1 - ratio) * guide.cost, by_cost=True))

    found = _smallest(sizes, target, at, 1.0, _GUIDED_HALVINGS)
    if found is None:
        raise OptionError("cannot be met by what saves cycles", where="--budget")
    return found


def _smallest(
    sizes: Sizes, target: float, by_ratio: Callable[[float], Allocation], high: float, halvings: int
) -> Allocation | None:
    """What the smallest ratio gives at which the cost is met, 0 if that does; one that cannot be had is too large."""
    whole = attempt(partial(by_ratio, 0.0))
    if not isinstance(whole, OptionError) and sizes.without(whole.dead) <= target * _ROUNDING:
        return whole
    low, least = 0.0, None
    for _ in range(halvings):
        middle = (low + high) / 2
        found = attempt(partial(by_ratio, middle))
        if isinstance(found, OptionError):
            high = middle
        elif sizes.without(found.dead) <= target * _ROUNDING:
            high, least = middle, found
        else:
            low = middle
    return least


def attempt(make: Callable[[], Allocation]) -> Allocation | OptionError:
    """What is made, or why it cannot be."""
    try:
        return make()
    except OptionError as error:
        return error


def _check(cost: float, target: float) -> None:
    if cost > target * _ROUNDING:
        raise OptionError(
            f"cannot be met: asked for {_amount(target)}, the least that can be left is {_amount(cost)}",
            where="--budget",
            hint="a larger budget, a smaller --align, a larger --max-ratio, or fewer layers excluded",
        )


def _amount(cost: float) -> str:
    return thousands(cost) if cost >= 1000 else f"{cost:.4g}"  # milliseconds may be few


def meet(sizes: Sizes, target: float, items: Sequence[Item], decided: Mapping[int, int], *, by_cost: bool) -> list[int]:
    """Channels that each row of each item keeps, so that the cost is at most ``target``. Raises OptionError.

    ``sizes``: of the items' units; nobody else's, as it is changed. ``decided``: what some items keep already; the
    others keep at least their floors. ``by_cost``: rank by score for cost saved; else for channels.
    """
    for index, item in enumerate(items):
        sizes.keep(index, decided.get(index, item.most))
    descent = Descent(items, sizes, [i for i in range(len(items)) if i not in decided], by_cost)
    descent.to(target * _ROUNDING)
    _check(sizes.cost, target)
    descent.improve(target * _ROUNDING)
    return list(sizes.kept)
