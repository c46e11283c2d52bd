"""Which widths a budget is spent on: the ways to choose them, in their order, and the best of what they give.

By score for cost, the widths of a descent are compared with those of one ratio for all, and the ones that lose less
score are taken. A target's own cost tells where its blocks end. A budget of another cost (MACs, say) is met in whole
blocks of the target, where that can be; else by what saves the target's cycles; else by any widths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from onnxprune import budget as budgets
from onnxprune.alignment import Alignment, Multiple, TargetBlocks
from onnxprune.allocate import Allocation, Meet
from onnxprune.cost import CostModel
from onnxprune.errors import OptionError
from onnxprune.groups import Groups
from onnxprune.targets import Cycles
from onnxprune.trace import Trace
from onnxprune.widths import Scores


@dataclass(frozen=True)
class Spending:
    """At most ``limit`` of ``cost``, with widths by ``scope``, multiples of ``align``, or else as ``target`` has them.

    ``allocate``: `onnxprune.allocate.allocate` of these groups, but for the scores, the alignment, and how.
    """

    trace: Trace = field(repr=False)
    groups: Groups = field(repr=False)
    scores: Sequence[Scores] = field(repr=False)
    allocate: Callable[..., Allocation] = field(repr=False)
    cost: CostModel
    limit: float
    scope: str
    align: int | None
    target: Cycles | None

    def allocation(self) -> Allocation:
        """What goes. Raises OptionError where the budget cannot be met."""
        if self.target is None or self.align is not None:
            return self._in(Multiple(self.align or 1))
        blocks = TargetBlocks(self.trace, self.groups, self.target)
        stored = replace(blocks, stored=True)
        if self.cost.stepped:
            how = self._uniform if self.scope == "group" else self._ranked
            return self._best([partial(how, stored), partial(self._uniform, blocks)])
        strict, any_ = replace(blocks, beside=self.cost), Multiple(1)
        by_cycles = partial(
            budgets.guided, self.trace, self.cost, self.limit, self.target, partial(self._ranked, stored)
        )
        others = [by_cycles] if self.scope == "cost" else []
        for make in [partial(self._in, strict), *others, partial(self._in, blocks)]:
            if isinstance(found := budgets.attempt(make), Allocation):
                return found
        return self._in(any_)

    def _in(self, align: Alignment) -> Allocation:
        """The best in one alignment."""
        ranked, uniform = partial(self._ranked, align), partial(self._uniform, align)
        return self._best({"group": [uniform], "global": [ranked]}.get(self.scope, [ranked, uniform]))

    def _best(self, makers: Sequence[Callable[[], Allocation]]) -> Allocation:
        """What loses the least score, the first of equals. Raises OptionError, the first, where none can be made."""
        made = [budgets.attempt(make) for make in makers]
        found = [a for a in made if isinstance(a, Allocation)]
        if not found and isinstance(made[0], OptionError):
            raise made[0]
        return min(found, key=lambda a: self.groups.lost(self.scores, a.dead))

    def _ranked(self, align: Alignment, meet: Meet | None = None) -> Allocation:
        met = meet or partial(budgets.meet, self.trace, self.cost, self.limit, by_cost=self.scope == "cost")
        return self.allocate(self.scores, align=align, ratio=0.0, scope="global", meet=met)

    def _uniform(self, align: Alignment) -> Allocation:
        def by_ratio(ratio: float) -> Allocation:
            return self.allocate(self.scores, align=align, ratio=ratio, scope="group")

        return budgets.uniform(self.trace, self.cost, self.limit, by_ratio)
