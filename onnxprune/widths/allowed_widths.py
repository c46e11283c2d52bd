"""What may go of blocks and heads, and which widths are multiples of what the hardware computes in.

Every block may keep all of its n channels, or a multiple of its step; the step is such that every width it is part of
becomes what it should be a multiple of. Where heads go, steps are counted anew over the rows that are left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import OptionError
from onnxprune.labels.attention_heads import Heads
from onnxprune.labels.groups import Group, Groups
from onnxprune.labels.union import Units
from onnxprune.widths.alignment_steps import Alignment, Place, aligns, can_shrink, step, uses
from onnxprune.widths.named_channels import NOBODY, Named

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Ranked:
    """A block's channels, or what is left of them once whole rows have gone.

    ``units``: [rows, n], least important first, and ``value``, their scores; ``head``: [rows], the head that a row is
    of, or -1; ``uses``: [places, rows], how often a unit of each row stands in each width that must be a multiple of
    ``aligns``, [places]. ``must`` and ``stays``: [rows], how many of a row are named to go, and to stay.
    """

    units: NDArray[np.int64] = field(repr=False)
    value: NDArray[np.float64] = field(repr=False)
    head: NDArray[np.int64] = field(repr=False)
    uses: NDArray[np.int64] = field(repr=False)
    aligns: NDArray[np.int64] = field(repr=False)
    must: NDArray[np.int64] = field(repr=False)
    stays: NDArray[np.int64] = field(repr=False)

    @property
    def rows(self) -> int:
        """Rows that are left."""
        return int(self.units.shape[0])

    @property
    def width(self) -> int:
        """Channels in a row."""
        return int(self.units.shape[1])

    @cached_property
    def step(self) -> int:
        """Each row keeps all its channels or a multiple of these: then all widths are multiples as wanted."""
        return step(self.uses, self.aligns)

    @cached_property
    def loss(self) -> NDArray[np.float64]:
        """By k: the score lost when each row keeps k of its channels."""
        return np.concatenate([[0.0], np.cumsum(self.value.sum(axis=0))])[::-1]

    def without(self, heads: NDArray[np.int64]) -> Ranked:
        """The rows that are of none of ``heads``."""
        stays = ~np.isin(self.head, heads)
        return replace(
            self,
            units=self.units[stays],
            value=self.value[stays],
            head=self.head[stays],
            uses=self.uses[:, stays],
            must=self.must[stays],
            stays=self.stays[stays],
        )


@dataclass(frozen=True)
class Item:
    """A block to allocate: of ``ratio`` of its channels, but for ``least`` of all rows together, which must stay."""

    group: int
    ratio: float
    least: float
    ranked: Ranked = field(repr=False)
    fixed: bool = False  # nothing can go
    spare: int = 0  # of each row, how many must go as far as widths allow, with ``bottom`` left of all rows together
    bottom: float = 0.0

    @property
    def units(self) -> NDArray[np.int64]:
        """[rows, n], least important first."""
        return self.ranked.units

    @property
    def value(self) -> NDArray[np.float64]:
        """[rows, n]: their scores."""
        return self.ranked.value

    @property
    def head(self) -> NDArray[np.int64]:
        """[rows]: the head that a row is of, or -1."""
        return self.ranked.head

    @property
    def rows(self) -> int:
        """Rows that are left."""
        return self.ranked.rows

    @property
    def width(self) -> int:
        """Channels in a row."""
        return self.ranked.width

    @property
    def step(self) -> int:
        """Each row keeps all its channels or a multiple of these."""
        return self.width if self.fixed else self.ranked.step

    @property
    def loss(self) -> NDArray[np.float64]:
        """By k: the score lost when each row keeps k of its channels."""
        return self.ranked.loss

    @cached_property
    def floor(self) -> int:
        """The least count that may stay in each row: at least a step, and no less than ``least`` over all.

        What is named stays too, and goes, whatever else is asked.
        """
        stays = math.ceil(int(self.ranked.stays.max(initial=0)) / self.step) * self.step
        return min(self.most, max(self._at_least(self.least), stays))

    @cached_property
    def most(self) -> int:
        """The largest count that may stay in each row."""
        most = math.ceil((self.width - self.spare) / self.step) * self.step
        most = min(self.width, max(most, self._at_least(self.bottom)))
        left = self.width - int(self.ranked.must.max(initial=0))
        if left >= most:
            return most
        return int(left // self.step * self.step or left)

    def _at_least(self, total: float) -> int:
        least = math.ceil(total / self.rows - 1e-9)
        return min(self.width, max(self.step, math.ceil(least / self.step) * self.step))

    def keeps(self, k: int) -> int:
        """Channels kept over all rows."""
        return k * self.rows

    def without(self, heads: NDArray[np.int64]) -> Item:
        """The item without the rows of ``heads``."""
        return replace(self, ranked=self.ranked.without(heads))


@dataclass(frozen=True)
class Family:
    """Heads over ``items``. ``places``: by head, the units that go with it; ``uses``: [places, heads] as an item's."""

    items: tuple[int, ...]
    places: tuple[NDArray[np.int64], ...] = field(repr=False)
    uses: NDArray[np.int64] = field(repr=False)
    aligns: NDArray[np.int64] = field(repr=False)

    def fits(self, items: Sequence[Item], kept: Sequence[int], gone: NDArray[np.int64]) -> bool:
        """Whether widths are multiples when ``gone`` go and each row of what is left of ``items`` keeps ``kept``."""
        touched = self.uses[:, gone].any(axis=1)
        left = np.delete(self.uses, gone, axis=1).sum(axis=1)
        return (
            all(k % i.step == 0 and k >= i.floor for i, k in zip(items, kept, strict=True))
            and not (left[touched] % self.aligns[touched]).any()
        )


@dataclass(frozen=True)
class Choices:
    """What a group may keep: its blocks and its heads.

    ``stuck``: why nothing of it can go, where widths do not allow it; it has no heads to take off then.
    """

    group: int
    blocks: tuple[Ranked, ...]
    heads: tuple[Heads, ...]
    places: Sequence[Place] = field(repr=False)
    stuck: str = ""

    def families(self, start: int) -> list[Family]:
        """Its heads, over items that are numbered from ``start`` on."""
        return [family_of(heads, self.places, start) for heads in self.heads]


def choices(groups: Groups, scores: Sequence[Scores], align: Alignment, named: Named = NOBODY) -> list[Choices]:
    """What every group may keep at ``align``, whatever is asked for. ``scores``: by group, [width].

    Raises OptionError where what is ``named`` contradicts itself.
    """
    found = []
    for group, score in zip(groups, scores, strict=True):
        places = align.places(group)
        blocks = tuple(
            ranked(group, index, score, groups.lossless, places, named) for index in range(len(group.blocks))
        )
        if places and not can_shrink([b.width for b in blocks], [b.step for b in blocks]):
            parts = f" in each of its {len(blocks)} parts" if len(blocks) > 1 else ""
            stuck = f"cannot be narrower and {align}{parts}: left as it is"
            found.append(Choices(group.index, blocks, (), places, stuck))
        else:
            found.append(Choices(group.index, blocks, group.heads, places))
    return found


def ranked(
    group: Group, index: int, scores: Scores, lossless: Units, places: Sequence[Place], named: Named = NOBODY
) -> Ranked:
    """Block ``index`` of a group. What is named to go comes first, and what is to stay costs more than all else."""
    block = group.blocks[index]
    # Below every score: these come first in their block, and their block first in a ranking over the network.
    first = min(float(scores.min(initial=0.0)), 0.0) - 1.0
    value = scores[np.searchsorted(group.units, block.units)]
    if len(lossless):
        value = np.where(np.isin(block.units, lossless), first, value)
    must, stays = np.isin(block.units, named.gone), np.isin(block.units, named.kept)
    value = np.where(must, first - 1.0, np.where(stays, np.inf, value))
    if (must.sum(axis=1).max() + stays.sum(axis=1).max()) > block.width:
        what = f"of '{group.name}' more is to go and to stay than equal counts in its {block.rows} rows allow"
        raise OptionError(what, where="--remove", hint="name the same count in each row")
    order = np.argsort(value, axis=1, kind="stable")
    head = np.full(block.rows, -1)
    for heads in group.heads:
        for at, rows in zip(heads.blocks, heads.rows, strict=True):
            if at == index:
                head[rows] = np.arange(heads.count)[:, None]
    return Ranked(
        np.take_along_axis(block.units, order, axis=1),
        np.take_along_axis(value, order, axis=1),
        head,
        uses(block.units[:, 0], places),
        aligns(places),
        must.sum(axis=1),
        stays.sum(axis=1),
    )


def family_of(heads: Heads, places: Sequence[Place], start: int) -> Family:
    """Heads of a group whose items are numbered from ``start`` on, and that is part of ``places``."""
    used = np.stack([uses(own, places).sum(axis=1) for own in heads.places], axis=1)
    return Family(tuple(start + b for b in heads.blocks), heads.places, used, aligns(places))
