"""Attention heads that may be removed whole: which rows of which blocks they are, if nothing needs all of them.

A head may not be removed if one of its channels is pinned, if an operator needs every row (a group convolution), or if
the rows of two layers are not the same heads. Such heads stay, and only lose some channels of each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxprune.labels.union import HeadUnits, Units, components


@dataclass(frozen=True, eq=False)
class Heads:
    """Rows of blocks that may be removed whole, one head at a time, as long as one head stays.

    ``blocks``: positions in a list of blocks; ``rows``: for each of them [heads, n], the rows of each head. ``places``:
    for each head the units that only mark its place, and that go with it.
    """

    blocks: tuple[int, ...]
    rows: tuple[NDArray[np.int64], ...] = field(repr=False)
    places: tuple[Units, ...] = field(repr=False)

    @property
    def count(self) -> int:
        """How many heads."""
        return len(self.places)


@dataclass(frozen=True)
class Constraint:
    """[*rows, n] units of which each row keeps the same number; ``whole``: of rows of heads whole ones may go too."""

    units: Units = field(repr=False)
    whole: bool


def find_heads(
    marked: HeadUnits, constraints: Sequence[Constraint], blocks: Sequence[Units], pinned: Collection[int]
) -> list[Heads]:
    """The heads of which every unit may go, in the order of their first blocks. ``blocks``: [rows, n] units each."""
    count = int(marked.of.max(initial=-1)) + 1
    if count == 0:
        return []
    stays = np.zeros(count + 1, np.bool_)  # the last: no head
    stays[marked.of[[0, *pinned]]] = True
    parts: list[NDArray[np.int64]] = []
    for constraint in constraints:
        head = marked.of[constraint.units]
        if (head >= 0).any():
            stays[_held(head, whole=constraint.whole)] = True
            parts.append(np.unique(head))
    inside = np.bincount(marked.of[(marked.of >= 0) & ~marked.place], minlength=count)
    rows = {i: marked.of[units] for i, units in enumerate(blocks)}
    rows = {i: head[:, 0] for i, head in rows.items() if (head >= 0).all() and (head == head[:, :1]).all()}
    for index, head in rows.items():
        np.subtract.at(inside, head, blocks[index].shape[1])
    stays[:-1] |= inside != 0
    family = components([(head, np.broadcast_to(head[:1], head.shape)) for head in rows.values()], count)
    size = np.bincount(family, minlength=count)
    open_ = size > 1
    open_[family[stays[:-1]]] = False
    for part in parts:  # something of it must stay: all heads pass through it, or none
        touched, heads = np.unique(family[part[part >= 0]], return_counts=True)
        open_[touched[heads != size[touched]]] = False
    own: dict[int, list[int]] = {}
    for index, head in rows.items():
        if open_[family[head[0]]]:
            own.setdefault(int(family[head[0]]), []).append(index)
    members = _by_number(family)
    places = _by_number(np.where(marked.place, marked.of, -1))
    found = (_family(members[f], {i: rows[i] for i in indices}, places) for f, indices in own.items())
    return [heads for heads in found if heads is not None]


def _by_number(numbers: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    """Positions by the number that stands there."""
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-2))
    return dict(zip(numbers[order][starts].tolist(), np.split(order, starts[1:]), strict=True))


def _held(head: NDArray[np.int64], *, whole: bool) -> NDArray[np.int64]:
    """Heads that must all stay for a constraint on units of heads [*rows, n]: of a single row, none."""
    flat = np.sort(head.reshape(-1, head.shape[-1]), axis=1)
    if (flat == flat[:1]).all():  # every row loses as much by any of them
        return np.zeros(0, np.int64)
    grid = flat[:, 0].reshape(head.shape[:-1])
    varies = sum(bool((grid != grid.take([0], axis)).any()) for axis in range(grid.ndim))
    if whole and varies <= 1 and (flat == flat[:, :1]).all() and (flat >= 0).all():  # rows of a rectangle go
        return np.zeros(0, np.int64)
    return np.unique(head)


def _family(
    heads: NDArray[np.int64], rows: Mapping[int, NDArray[np.int64]], places: Mapping[int, NDArray[np.int64]]
) -> Heads | None:
    """Heads whose blocks have all of them, each as often; ``rows``: by block, the head of each row."""
    counts = [np.bincount(np.searchsorted(heads, row), minlength=len(heads)) for row in rows.values()]
    if any((c != c[0]).any() for c in counts):
        return None
    by_head = tuple(np.argsort(row, kind="stable").reshape(len(heads), -1) for row in rows.values())
    return Heads(tuple(rows), by_head, tuple(places.get(int(h), np.zeros(0, np.int64)) for h in heads))
