"""Several ways to choose channels: the nearest of those that can be planned."""

from __future__ import annotations

import pytest

from onnxprune.errors import OptionError
from onnxprune.progress import silent
from onnxprune.widths.plan_contest import AUTO, Way, best

#: What is planned is the way itself, at these distances; ways that are not here cannot meet the budget.
WAYS = (*AUTO, Way("l2", "group"), Way("l1", "global"))
FAR = {WAYS[0]: 3.0, WAYS[2]: 1.0}


def plan(way: Way) -> Way:
    if way not in FAR:
        raise OptionError(f"cannot be met by {way}", where="--budget")
    return way


def test_ways_that_cannot_meet_the_budget_are_left_out_and_told() -> None:
    found = best(WAYS, plan, FAR.__getitem__, silent)
    assert found.best == WAYS[2]
    assert [t.distance for t in found.tried] == [3.0, 1.0]
    assert [m.split("'")[1] for m in found.missed] == [str(WAYS[1]), str(WAYS[3])]


@pytest.mark.parametrize("ways", [WAYS[1:2], (WAYS[1], WAYS[3])])
def test_a_budget_that_no_way_meets_is_refused(ways: tuple[Way, ...]) -> None:
    with pytest.raises(OptionError, match="cannot be met by importance reconstruction, scope cost"):
        best(ways, plan, FAR.__getitem__, silent)
