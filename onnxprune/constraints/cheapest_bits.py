"""How many bits each layer gets, so that all together take so many bytes and cost the least.

Errors of layers add up, so this is a knapsack with a choice for each layer. A few layers may hold most of the weights,
and a descent step by step would leave room that a bit less for one of them makes; so it is solved by dynamic
programming over the bytes beyond the fewest, in whole units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

#: What may be spent is counted in at most so many units.
_UNITS = 20_000


@dataclass(frozen=True)
class Losses:
    """The loss of a layer of ``size`` weights, by bits."""

    size: int
    by_bits: Mapping[int, float] = field(repr=False)


def held(size: int, bits: int) -> int:
    """The bytes that ``size`` weights take at ``bits`` bits."""
    return -(-bits * size // 8)


def cheapest(layers: Mapping[str, Losses], most: float) -> dict[str, int]:
    """The bits of each layer at the least loss within ``most`` bytes; the fewest bits, if even these take more."""
    fewest = {n: min(layer.by_bits) for n, layer in layers.items()}
    free = most - sum(held(layer.size, fewest[n]) for n, layer in layers.items())
    if free <= 0:
        return fewest
    unit = max(1.0, free / _UNITS)
    room = int(free / unit)
    lost, taken = np.zeros(room + 1), []  # by units that may be spent: the least loss of the layers so far
    for name, layer in layers.items():
        levels = sorted(layer.by_bits)
        more = [math.ceil((held(layer.size, b) - held(layer.size, fewest[name])) / unit) for b in levels]
        totals = np.stack([_later(lost, m) + layer.by_bits[b] for m, b in zip(more, levels, strict=True)])
        best = totals.argmin(axis=0)
        lost = np.take_along_axis(totals, best[None], 0)[0]
        taken.append((name, levels, more, best.astype(np.int8)))
    found = {}
    for name, levels, more, best in reversed(taken):
        place = int(best[room])
        found[name] = levels[place]
        room -= more[place]
    return {n: found[n] for n in layers}


def _later(lost: NDArray[np.float64], units: int) -> NDArray[np.float64]:
    """Moved up by so many units; what cannot be afforded is lost."""
    return np.concatenate([np.full(min(units, len(lost)), np.inf), lost[: max(len(lost) - units, 0)]])
