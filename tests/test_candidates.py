"""Several ways to choose channels: the nearest of those that can be planned."""

from __future__ import annotations

import pytest

from onnxprune.candidates import AUTO, Way, best
from onnxprune.errors import OptionError
from onnxprune.progress import silent

#: What is planned is the way itself, at these distances; ways that are not here cannot meet the budget.
FAR = {AUTO[0]: 3.0, AUTO[2]: 1.0}


def plan(way: Way) -> Way:
    if way not in FAR:
        raise OptionError(f"cannot be met by {way}", where="--budget")
    return way


def test_ways_that_cannot_meet_the_budget_are_left_out_and_told() -> None:
    nearest, tried, missed = best(AUTO, plan, FAR.__getitem__, silent)
    assert nearest == AUTO[2]
    assert [t.distance for t in tried] == [3.0, 1.0]
    assert [m.split("'")[1] for m in missed] == [str(AUTO[1]), str(AUTO[3])]


@pytest.mark.parametrize("ways", [AUTO[1:2], (AUTO[1], AUTO[3])])
def test_a_budget_that_no_way_meets_is_refused(ways: tuple[Way, ...]) -> None:
    with pytest.raises(OptionError, match="cannot be met by output, global"):
        best(ways, plan, FAR.__getitem__, silent)
