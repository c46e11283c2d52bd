"""The trials of a search as a picture."""

from __future__ import annotations

from math import inf

from onnxprune.report.html.front import Front, dots, front
from onnxprune.search.smallest import SearchReport, Trial


def report(*trials: tuple[float, float, float | None, bool], taken: int = 0) -> SearchReport:
    made = tuple(Trial(c, c, c, c, 1 - d, d, e, h, None, 0.0) for c, d, e, h in trials)
    return SearchReport("m", "drop <= 0.02", 0.02, 1.0, "macs", 1.0, 10, made, taken)


def drawn(search: SearchReport) -> Front | None:
    return front([*dots(search)], search.permitted)


def test_less_is_to_the_left_and_more_is_lost_higher_up() -> None:
    found = drawn(report((0.5, 0.01, 0.005, True), (0.3, 0.03, None, False), (0.7, 0.02, 0.001, True)))
    assert found is not None
    half, third, most = found.marks
    assert third.x < half.x < most.x
    assert third.y < (found.limit or 0) <= most.y < half.y  # from the top
    assert third.low == third.high == third.y
    assert half.high < half.y < half.low
    assert [m.dot.kind for m in found.marks] == ["taken", "fails", "holds"]
    assert all(0 <= y <= found.height for m in found.marks for y in (m.low, m.high))
    assert found.line == f"M{third.x:g} {third.y:g}L{half.x:g} {half.y:g}"  # the third is beaten by the first


def test_what_cannot_be_drawn_is_left_out() -> None:
    assert drawn(report((0.5, 0.01, 0.005, True))) is None
    assert drawn(report((0.5, inf, None, True), (0.4, inf, None, True))) is None
    assert drawn(report((0.5, 0.0, 0.0, True), (0.4, 0.0, 0.0, True))) is not None
