"""Where zeros may lie among the weights of a layer, [groups, outputs, channels, taps].

unstructured   anywhere
N:M            at least M - N of each M channels in a row that one output reads at one tap (2:4: NVIDIA Ampere)
block:RxC      R outputs by C channels, at one tap; at the edges less
channel        whole outputs
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]

_N_OF_M = re.compile(r"(\d+):(\d+)")
_BLOCK = re.compile(r"block:(\d+)x(\d+)")


def at_least(share: float, size: int) -> int:
    """How many of ``size`` are ``share`` of them or more, but for what is rounding of ``share``."""
    return math.ceil(share * size - 1e-6)


@dataclass(frozen=True)
class Pattern:
    """``name`` as it is written; ``rows`` and ``columns``: of a block, 0 for all there are; ``kept``: N, of N:M."""

    name: str
    rows: int = 1
    columns: int = 1
    kept: int = 0

    @staticmethod
    def parse(text: str) -> Pattern:
        """Raises ValueError for what is none."""
        if text == "unstructured":
            return Pattern(text)
        if text == "channel":
            return Pattern(text, columns=0)
        if (found := _N_OF_M.fullmatch(text)) and 0 < int(found[1]) < int(found[2]):
            return Pattern(text, columns=int(found[2]), kept=int(found[1]))
        if (found := _BLOCK.fullmatch(text)) and int(found[1]) and int(found[2]):
            return Pattern(text, int(found[1]), int(found[2]))
        raise ValueError(f"'{text}' is not unstructured, N:M (as 2:4), block:RxC or channel")

    @property
    def share(self) -> float | None:
        """The share of zeros, where the pattern says it."""
        return 1 - self.kept / self.columns if self.kept else None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a layer can hold it: N:M needs whole rows of M channels; of one output there is nothing to choose."""
        return not shape[2] % self.columns if self.kept else self.columns > 0 or shape[0] * shape[1] > 1

    def keep(self, scores: Float, share: float) -> Mask:
        """Which weights stay where so large a share becomes zero, those of the largest scores (not negative)."""
        count = at_least(share, scores.size)
        if self.kept:
            found = self._of_each(scores)
            spare = int((~found).sum()) - count  # a share that is still growing
            return found | _largest(np.where(found, -1.0, scores), spare) if spare > 0 else found
        if self.name == "unstructured":
            return _largest(scores, max(scores.size - count, 1))  # a layer that is all zero would say the same always
        total, size = self._blocks(scores)
        order = np.argsort((total / np.maximum(size, 1)).reshape(-1), kind="stable")
        gone = np.cumsum(size.reshape(-1)[order])
        most = int(np.searchsorted(gone, count, side="right"))
        if most < len(gone) and gone[most] - count < count - (gone[most - 1] if most else 0):
            most += 1  # as near to the share as blocks allow
        stays = np.ones(total.size, np.bool_)
        stays[order[: min(most, len(order) - 1)]] = False
        return self._of_weights(stays.reshape(total.shape), scores.shape).copy()

    def means(self, scores: Float) -> Float:
        """The mean score of the block that each weight is in."""
        total, size = self._blocks(scores)
        return np.asarray(self._of_weights(total / np.maximum(size, 1), scores.shape))

    def _blocks(self, scores: Float) -> tuple[Float, Float]:
        """Of each block the sum of its scores, and how many they are: [groups, rows of blocks, columns, taps]."""
        groups, outputs, channels, taps = scores.shape
        r, c = self.rows, self.columns
        pad = [(0, 0), (0, -outputs % r), (0, -channels % c if c else 0), (0, 0)]
        parts = []
        for array in (scores, np.ones_like(scores)):
            whole = np.pad(array, pad)
            wide = whole.reshape(groups, -1, r, *((whole.shape[2] // c, c, taps) if c else (1, channels * taps, 1)))
            parts.append(wide.sum(axis=(2, 4)))
        return parts[0], parts[1]

    def _of_weights(self, blocks: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """What each weight's block has."""
        found = blocks.repeat(self.rows, axis=1)[:, : shape[1]]
        return np.broadcast_to(found.repeat(self.columns, axis=2)[:, :, : shape[2]] if self.columns else found, shape)

    def holds(self, weight: NDArray[Any]) -> bool:
        """Whether the zeros of [groups, outputs, channels, taps] lie so that hardware for N:M takes them."""
        if not self.kept or not self.fits(weight.shape):
            return False
        groups, outputs, _, taps = weight.shape
        rows = (weight != 0).reshape(groups, outputs, -1, self.columns, taps)
        return bool((rows.sum(axis=3) <= self.kept).all())

    def _of_each(self, scores: Float) -> Mask:
        groups, outputs, _, taps = scores.shape
        rows = scores.reshape(groups, outputs, -1, self.columns, taps)
        rank = np.argsort(np.argsort(-rows, axis=3, kind="stable"), axis=3, kind="stable")
        return np.asarray((rank < self.kept).reshape(scores.shape))


def _largest(scores: Float, count: int) -> Mask:
    """The ``count`` largest; of equals the first."""
    flat = scores.reshape(-1)
    found = np.zeros(flat.shape, np.bool_)
    if count > 0:
        limit = np.partition(flat, len(flat) - count)[len(flat) - count]
        found = flat > limit
        found[np.flatnonzero(flat == limit)[: count - int(found.sum())]] = True
    return found.reshape(scores.shape)
