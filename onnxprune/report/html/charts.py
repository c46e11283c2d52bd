"""The geometry of the page's charts, as SVG path data: plain numbers in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

#: The lane diagram: pixels between lanes, the height of a row in its own units, and the most lanes that are drawn;
#: what needs more shares the last.
STEP, ROW, MOST_LANES = 8, 40, 12

#: Above this many rows the lines of one row are one path, which cannot be lit up by source.
MOST_TRACED = 400

#: Bars of a score chart; of more channels, each bar is several.
MOST_BARS = 66

#: Up to so many bars stand apart.
MOST_APART = 40

#: The height of a score chart, in its own units; of a logarithmic one, what it holds.
HEIGHT, DECADES = 26, 4

#: Where half of the scores are below this share of the largest, bars from zero up would not be seen.
_SKEWED = 0.1


@dataclass(frozen=True)
class Line:
    """Path data of one row that belongs to the lane of part ``source``; -1: of several. ``back``: it leads upwards."""

    source: int
    path: str
    back: bool = False


@dataclass(frozen=True)
class _Lane:
    source: int
    stops: frozenset[int]
    column: int = 0

    @property
    def first(self) -> int:
        return min(self.source, *self.stops)

    @property
    def last(self) -> int:
        return max(self.source, *self.stops)

    @property
    def back(self) -> bool:
        return self.last == self.source


@dataclass(frozen=True)
class Diagram:
    """Lines joining the rows of a list, each row drawn by itself: ``rows[i]`` in a box ``width`` by `ROW`."""

    width: int
    dot: int
    rows: tuple[tuple[Line, ...], ...] = field(repr=False)


def diagram(feeds: Sequence[Sequence[int]]) -> Diagram:
    """Row i is joined to each row of ``feeds[i]``: straight to the next, on a lane beside to those further on."""
    lanes = _placed(_lanes(feeds))
    columns = max((lane.column + 1 for lane in lanes), default=0)
    dot = STEP * columns + STEP
    rows: list[list[Line]] = [[] for _ in feeds]
    for lane in lanes:
        for row in range(lane.first, lane.last + 1):
            path = _crossing(lane, row, dot - STEP * (lane.column + 1), dot)
            rows[row].append(Line(lane.source, path, lane.back))
    for row, targets in enumerate(feeds):
        if row + 1 in targets:
            half = ROW // 2
            rows[row].append(Line(row, f"M{dot} {half}V{ROW}"))
            rows[row + 1].append(Line(row, f"M{dot} 0V{half}"))
    if len(rows) > MOST_TRACED:
        rows = [[_merged(lines, back=back) for back in (False, True)] for lines in rows]
    return Diagram(dot + STEP, dot, tuple(tuple(line for line in lines if line.path) for lines in rows))


def _merged(lines: Sequence[Line], *, back: bool) -> Line:
    return Line(-1, "".join(dict.fromkeys(line.path for line in lines if line.back == back)), back)


def _lanes(feeds: Sequence[Sequence[int]]) -> Iterator[_Lane]:
    for source, targets in enumerate(feeds):
        for stops in (frozenset(t for t in targets if t > source + 1), frozenset(t for t in targets if t < source)):
            if stops:
                yield _Lane(source, stops)


def _placed(lanes: Iterable[_Lane]) -> list[_Lane]:
    """Each in the innermost column that is free over its rows; all that lead back to one part share theirs."""
    ordered = sorted(lanes, key=lambda e: (e.first, e.last, e.source))
    shared = {lane.first: lane.last for lane in ordered if lane.back}
    ends: list[int] = []
    column_of: dict[int, int] = {}
    found = []
    for lane in ordered:
        column = column_of.get(lane.first) if lane.back else None
        if column is None:
            column = next((c for c, end in enumerate(ends) if end <= lane.first), len(ends))
            column = min(column, MOST_LANES - 1)
            ends[column:] = [shared[lane.first] if lane.back else lane.last, *ends[column + 1 :]]
            if lane.back:
                column_of[lane.first] = column
        found.append(replace(lane, column=column))
    return found


def _crossing(lane: _Lane, row: int, x: int, dot: int) -> str:
    half, bend = ROW // 2, 8
    down = f"M{dot} {half}H{x + bend}Q{x} {half} {x} {half + bend}V{ROW}"
    up = f"M{x} 0V{half - bend}Q{x} {half} {x + bend} {half}H{dot}"
    if row == lane.first:
        return down
    if row == lane.last:
        return up
    return f"M{x} 0V{ROW}" + (up if row in lane.stops else "")


@dataclass(frozen=True)
class Scores:
    """Sorted scores as two paths of bars, of what went and of what stays, in a box ``width`` by ``height``.

    ``cut``: where one ends and the other begins, or None where they are mixed (several blocks, lossless channels);
    ``below`` and ``above``: the scores beside it.
    """

    width: int
    height: int
    removed: str
    kept: str
    low: float
    high: float
    cut: float | None = None
    below: float = 0.0
    above: float = 0.0


def skewed(groups: Iterable[Sequence[float]]) -> bool:
    """Whether the scores of most groups are small beside the largest: then charts had better be logarithmic."""
    middle = [float(np.median(s)) / top if (top := max(s)) > 0 else 1.0 for s in groups if len(s)]
    return bool(middle) and float(np.median(middle)) < _SKEWED


def scores(values: Sequence[float], removed: Sequence[int], *, logarithmic: bool = False) -> Scores:
    """The chart of one group's scores, lowest first, from zero up or of `DECADES`; each bar is 1 wide."""
    value = np.asarray(values)
    gone = np.zeros(len(value), np.bool_)
    gone[list(removed)] = True
    order = np.lexsort((~gone, value))
    value, gone = value[order], gone[order]
    bars = min(len(value), MOST_BARS)
    edges = np.linspace(0, len(value), bars + 1).astype(int)
    top = float(value[-1]) or 1.0
    shares = [max(0.0, float(value[a:b].mean())) / top for a, b in pairwise(edges)]
    if logarithmic:
        shares = [1 + np.log10(max(s, 10**-DECADES)) / DECADES for s in shares]
    tall = [max(0.5, HEIGHT * s) for s in shares]
    went = [bool(gone[a:b].mean() >= 0.5) for a, b in pairwise(edges)]
    gap = 0.2 if bars <= MOST_APART else 0.0
    paths = [_bars(tall, [w == side for w in went], gap) for side in (True, False)]
    count = int(gone.sum())
    clean = 0 < count < len(value) and bool(gone[:count].all())
    beside = (float(value[count - 1]), float(value[count])) if clean else (0.0, 0.0)
    cut = bars * count / len(value) - gap / 2 if clean else None
    return Scores(bars, HEIGHT, paths[0], paths[1], float(value[0]), float(value[-1]), cut, *beside)


def _bars(tall: Sequence[float], drawn: Sequence[bool], gap: float) -> str:
    """An outline for each of the bars that are ``drawn``; where bars touch, for each run of them."""
    path = ""
    for i, y in enumerate(tall):
        if drawn[i]:
            starts = bool(gap) or not i or not drawn[i - 1]
            ends = bool(gap) or i + 1 == len(tall) or not drawn[i + 1]
            path += f"M{i} {HEIGHT}" if starts else ""
            path += f"V{round(HEIGHT - y, 1):g}h{1 - gap:g}" + (f"V{HEIGHT}" if ends else "")
    return path


@dataclass(frozen=True)
class Dots:
    """Points of two series over the same positions, and the heights of the lines of a scale."""

    width: float
    height: float
    first: tuple[tuple[float, float], ...]
    second: tuple[tuple[float, float], ...]
    scale: tuple[tuple[float, float], ...]  # (y, value)


def dots(first: Sequence[float], second: Sequence[float]) -> Dots:
    """Two series, finite, on one scale with round numbers."""
    width, height = 640, 150
    both = [*first, *second]
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 1000) if (max(both) - min(both)) / s <= 5)
    low, high = np.floor(min(both) / step) * step, np.ceil(max(both) / step) * step
    high = max(high, low + step)

    def y(value: float) -> float:
        return round(height - 4 - (height - 8) * (value - float(low)) / float(high - low), 1)

    def at(series: Sequence[float]) -> tuple[tuple[float, float], ...]:
        return tuple((round((i + 0.5) * width / len(series), 1), y(v)) for i, v in enumerate(series))

    lines = tuple((y(float(v)), float(v)) for v in np.arange(low, high + step / 2, step))
    return Dots(width, height, at(first), at(second), lines)


@dataclass(frozen=True)
class Curves:
    """A line for each name over the same positions, and the heights and places of both scales."""

    width: float
    height: float
    paths: tuple[tuple[str, str], ...] = field(repr=False)
    scale: tuple[tuple[float, float], ...]  # (y, value)
    across: tuple[tuple[float, float], ...]  # (x, value)


def curves(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    across: Sequence[float],
) -> Curves | None:
    """Lines from the corner (0, 0), where nothing is cut and nothing lost; None where nothing is lost anywhere."""
    width, height = 640, 220
    top = max((y for _, points in series for _, y in points if np.isfinite(y)), default=0.0)
    if not top > 0:
        return None
    right = max(across)

    def at(point: tuple[float, float]) -> str:
        x, y = point
        return f"{width * x / right:.1f} {height - (height - 8) * min(y, top) / top:.1f}"

    paths = tuple((name, "M" + "L".join(map(at, [(0.0, 0.0), *points]))) for name, points in series if points)
    scale = tuple((round(height - (height - 8) * share, 1), top * share) for share in (0.0, 0.25, 0.5, 0.75, 1.0))
    return Curves(width, height, paths, scale, tuple((round(width * x / right, 1), x) for x in across))
