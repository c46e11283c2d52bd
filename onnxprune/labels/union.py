"""Joining labels into units, and units into heads.

Labels that are one channel are a *unit*. Units whose rows were said to go together are a *head*: they may go as a
whole, beside one by one. An attention head is all of its dimensions in Q, K and V, and its *places*: what stands for
the head in tensors that tell heads apart and not their dimensions (the attention matrix, a bias table, a temperature).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from onnxprune.labels.labels import FIXED, Labels

Units = NDArray[np.int64]

#: [rows, m] and [rows, n]: a row is gone if and only if its partner is.
Pair = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class HeadUnits:
    """Which units are heads. ``of``: by unit, the number of its head, or -1; ``place``: whether it is only a place.

    A place only marks where its head is; it goes with the head, and never alone.
    """

    of: NDArray[np.int64] = field(repr=False)
    place: NDArray[np.bool_] = field(repr=False)
    pairs: tuple[Pair, ...] = field(repr=False)

    def completed(self, dead: Units) -> Units:
        """``dead``, together with the places of heads that lose all other units."""
        gone = np.zeros(len(self.of), np.bool_)
        gone[dead] = True
        count = -1
        while count != (count := int(gone.sum())):
            for one, other in _both_ways(self.pairs):
                reached = other[gone[one].all(axis=1)]
                gone[reached[self.place[reached]]] = True
        return np.flatnonzero(gone)

    def torn(self, dead: Units) -> Units:
        """The units of rows that would go while their partners stay, or stay while these go."""
        stays = np.ones(len(self.of), np.bool_)
        stays[dead] = False
        found = [np.zeros(0, np.int64)]
        for a, b in self.pairs:
            torn = stays[a].any(axis=1) != stays[b].any(axis=1)
            found += [a[torn].reshape(-1), b[torn].reshape(-1)]
        return np.unique(np.concatenate(found))

    def meet(self, rows: Units) -> bool:
        """Whether each row of [rows, n] is of one head, or of one unit; what always stays meets any."""
        mark = np.where(self.of[rows] < 0, rows, -1 - self.of[rows])  # heads below 0, units above
        low = np.where(rows == FIXED, len(self.of), mark).min(axis=1)
        high = np.where(rows == FIXED, -1 - len(self.of), mark).max(axis=1)
        return bool(rows.size) and bool((low >= high).all())


def join(
    equal: Sequence[tuple[Labels, Labels]], rows: Sequence[Pair], rectangles: Sequence[Labels], labels: int
) -> tuple[Units, Labels]:
    """[labels] -> unit, from labels that are ``equal`` and ``rows`` that go together; and labels that so must stay.

    Rows of one unit that go together are one unit. Where a row of a rectangle [rows, n] is one unit, every row is, as
    all rows that stay are equally long. Units are numbered by their first labels: unit 0 is what stays.
    """
    pairs, stay = list(equal), [np.zeros(0, np.int64)]
    while True:
        unit = components(pairs, labels)
        more = []
        for a, b in rows:
            alone = _single(unit[a]) & _single(unit[b])
            first, second = a[alone, 0], b[alone, 0]
            fixed = (first == FIXED) != (second == FIXED)
            stay += [first[fixed], second[fixed]]
            new = ~fixed & (unit[first] != unit[second])
            if new.any():
                more.append((first[new], second[new]))
        for block in rectangles:
            alone = _single(unit[block])
            if alone.any() and not alone.all() and (block != FIXED).all():
                more.append((block, np.broadcast_to(block[:, :1], block.shape)))
        if not more:
            return unit, np.unique(np.concatenate(stay))
        pairs += more


def heads_of(pairs: Sequence[Pair], units: int) -> HeadUnits:
    """Units, as rows that go together: a head is all that hangs together."""
    place, inside = np.zeros(units, np.bool_), np.zeros(units, np.bool_)
    open_ = tuple((a, b) for a, b in pairs if not (_single(a) & _single(b)).all())
    for one, other in _both_ways(open_):
        place[one[_single(one) & ~_single(other)]] = True
        inside[one[~_single(one)]] = True
    both = [np.concatenate(pair, axis=1) for pair in open_]
    of = components([(rows, np.broadcast_to(rows[:, :1], rows.shape)) for rows in both], units)
    return HeadUnits(np.where(place | inside, of, -1), place, open_)


def components(pairs: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], count: int) -> NDArray[np.int64]:
    """[count] the number of each node's connected component, numbered in the order of their first members."""
    first, second = (
        np.concatenate([np.zeros(0, np.int64), *(pair[side].reshape(-1) for pair in pairs)]) for side in (0, 1)
    )
    edges = coo_matrix((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
    _, raw = connected_components(edges, directed=False)
    _, index, inverse = np.unique(raw, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(index))[inverse.reshape(-1)], np.int64)


def _single(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which rows are of one unit."""
    return np.asarray((rows == rows[:, :1]).all(axis=1))


def _both_ways(pairs: Sequence[Pair]) -> list[Pair]:
    return [way for a, b in pairs for way in ((a, b), (b, a))]
