"""Which widths a budget is spent on: the ways to choose them, in their order, and the best of what they give.

By score for cost, the widths of a descent are compared with those of one ratio for all, and the ones that lose less
score are taken. A target's own cost tells where its blocks end. A budget of another cost (MACs, say) is met in whole
blocks of the target, where that can be; else by what saves the target's cycles; else by any widths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from onnxprune.cost.chips import Cycles
from onnxprune.cost.macs_and_bytes import CostModel
from onnxprune.cost.sizes import Sizes
from onnxprune.errors import OptionError
from onnxprune.labels.groups import Groups
from onnxprune.labels.label_propagation import Trace
from onnxprune.widths import budget as budgets
from onnxprune.widths.alignment_steps import Alignment, Multiple, TargetBlocks, sizes_of
from onnxprune.widths.allowed_widths import Choices, Scores, choices
from onnxprune.widths.named_channels import NOBODY, Named
from onnxprune.widths.rounding_to_alignment import Allocation, Meet


@dataclass(frozen=True)
class Spending:
    """At most ``limit`` of ``cost``, with widths by ``scope``, multiples of ``align``, or else as ``target`` has them.

    ``allocate``: `onnxprune.widths.rounding_to_alignment.allocate`, but for what there is to choose from, and how.
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
    named: Named = field(default=NOBODY, repr=False)

    _sizes: dict[int, Sizes] = field(default_factory=dict, init=False, repr=False)

    def allocation(self) -> Allocation:
        """What goes. Raises OptionError where the budget cannot be met."""
        if self.target is None or self.align is not None:
            return self._aligned(Multiple(self.align or 1))
        blocks = TargetBlocks(self.trace, self.groups, self.target, sized=self._sized)
        stored = self._choices(replace(blocks, stored=True))
        if self.cost.stepped:
            how = self._uniform if self.scope == "group" else self._ranked
            return self._best([partial(how, stored), lambda: self._uniform(self._choices(blocks))])
        strict = replace(blocks, beside=self.cost)
        sizes, guide = self._sized(self.cost), self._sized(self.target)
        by_cycles = partial(budgets.guided, sizes, self.limit, guide, partial(self._ranked, stored))
        makers = [partial(self._aligned, strict), partial(self._aligned, blocks)]
        if self.scope == "cost":
            makers.insert(1, by_cycles)
        for make in makers:
            if isinstance(found := budgets.attempt(make), Allocation):
                return found
        return self._aligned(Multiple(1))

    def _sized(self, cost: CostModel) -> Sizes:
        """A cost by what blocks keep, which is everything: each is taken apart once."""
        if id(cost) not in self._sizes:
            self._sizes[id(cost)] = sizes_of(self.trace, self.groups, cost)
        return self._sizes[id(cost)].whole()

    def _choices(self, align: Alignment) -> list[Choices]:
        return choices(self.groups, self.scores, align, self.named)

    def _aligned(self, align: Alignment) -> Allocation:
        """The best in one alignment."""
        groups = self._choices(align)
        ranked, uniform = partial(self._ranked, groups), partial(self._uniform, groups)
        return self._best({"group": [uniform], "global": [ranked]}.get(self.scope, [ranked, uniform]))

    def _best(self, makers: Sequence[Callable[[], Allocation]]) -> Allocation:
        """What loses the least score, the first of equals. Raises OptionError, the first, where none can be made."""
        made = [budgets.attempt(make) for make in makers]
        found = [a for a in made if isinstance(a, Allocation)]
        if not found and isinstance(made[0], OptionError):
            raise made[0]
        return min(found, key=lambda a: self.groups.lost(self.scores, a.dead))

    def _ranked(self, groups: Sequence[Choices], meet: Meet | None = None) -> Allocation:
        met = meet or partial(budgets.meet, self._sized(self.cost), self.limit, by_cost=self.scope == "cost")
        return self.allocate(groups, ratio=0.0, scope="global", meet=met)

    def _uniform(self, groups: Sequence[Choices]) -> Allocation:
        by_ratio = partial(self.allocate, groups, scope="group")
        return budgets.uniform(self._sized(self.cost), self.limit, lambda ratio: by_ratio(ratio=ratio))
