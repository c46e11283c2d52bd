"""What a run asks of widths and channels: how much goes, at which cost, in which multiples, chosen in which ways."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnxprune.cost.chips import Cycles, costs
from onnxprune.errors import OptionError
from onnxprune.widths import plan_contest
from onnxprune.widths.budget import Budget
from onnxprune.widths.plan_contest import Way


@dataclass(frozen=True)
class Request:
    """The checked options about widths. ``ways``: the ways to choose, several where data can judge between them."""

    ratio: float
    lossless: bool
    align: int | None
    target: Cycles | None
    budget: Budget | None
    ratio_for: tuple[tuple[str, float], ...]
    max_ratio: float | None
    ways: tuple[Way, ...]
    scope: str | None
    remove: tuple[tuple[str, tuple[int, ...]], ...] = ()
    keep: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __post_init__(self) -> None:
        """Raise OptionError for values out of range."""
        _in_range("--ratio", self.ratio)
        for glob, value in self.ratio_for:
            _in_range(f"--ratio-for {glob}", value)
        if self.max_ratio is not None:
            _in_range("--max-ratio", self.max_ratio)
        if self.align is not None and self.align < 1:
            raise OptionError(f"must be at least 1, not {self.align}", where="--align")
        if self.scope not in (None, *plan_contest.SCOPES):
            raise OptionError(f"must be {', '.join(plan_contest.SCOPES)}, not {self.scope}", where="--scope")
        if self.budget is not None and self.lossless:
            raise OptionError("asks for nothing more than --lossless does", where="--budget", hint="give one of them")

    @property
    def exact(self) -> bool:
        """Whether only lossless channels go, so that there is nothing to compensate for."""
        return self.ratio == 0 and self.budget is None and not self.ratio_for and not self.remove

    @property
    def only_named(self) -> bool:
        """Whether only channels that the user named go; widths are not rounded then."""
        return self.ratio == 0 and self.budget is None and not self.ratio_for and not self.lossless

    def to_json(self) -> dict[str, Any]:
        """The request as plans and reports write it."""
        alone = self.ways[0] if len(self.ways) == 1 else None
        return {
            "ratio": None if self.budget else self.ratio,
            "lossless": self.lossless,
            "align": self.align if self.align or self.target else 1,
            "importance": alone.importance if alone else "auto",
            "scope": alone.scope if alone else self.scope or "auto",
            "budget": str(self.budget) if self.budget else None,
            "target": str(self.target) if self.target else None,
        }


def asked(
    *,
    ratio: float | None,
    target: str | Cycles | None,
    dtype: str | None,
    budget: str | Budget | None,
    importance: str | None,
    judged: bool,
    weights: bool = False,
    **given: Any,
) -> Request:
    """Make the request from the options. Raises OptionError where these contradict each other.

    ``judged``: whether there is data to judge plans by. ``weights``: whether zeros or grids are asked for, in which
    case no channels go unless an option asks for it.
    """
    if ratio is not None and budget is not None:
        raise OptionError("is instead of --ratio", where="--budget", hint="give one of them")
    priced = costs(target, dtype) if target is None or isinstance(target, str) else target
    limit = Budget.parse(budget, priced) if isinstance(budget, str) else budget
    share = ratio if ratio is not None else 0.0 if given["lossless"] or weights else 0.3
    chosen = share > 0 or limit is not None or bool(given["ratio_for"])
    judged = judged and (chosen or not weights)  # where no channel goes there is nothing to judge
    ways = plan_contest.ways(importance, given["scope"], judged=judged, priced=limit is not None and priced is not None)
    return Request(ratio=share, target=priced, budget=limit, ways=ways, **given)


def bytes_left(budget: str | Budget | None) -> float | None:
    """The limit of a budget of bytes; None for other budgets, and for none. Raises OptionError."""
    given = budget if isinstance(budget, Budget) or budget is None or "bytes" not in budget else Budget.parse(budget)
    return given.limit if isinstance(given, Budget) and given.cost.name == "bytes" else None


def _in_range(where: str, value: float) -> None:
    if not 0 <= value < 1:
        raise OptionError(
            f"must be at least 0 and less than 1, not {value:g}", where=where, hint="0.3 removes 30 % of the channels"
        )
