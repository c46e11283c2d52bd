"""Bits of layers together take what they may, and no other choice loses less for it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxprune.constraints.cheapest_bits import Losses, cheapest, held

LEVELS = (2, 3, 4, 6, 8)


def drawn(seed: int, layers: int = 5) -> dict[str, Losses]:
    """Layers unlike in size and in what rounding costs them; about a quarter is left of a loss by each bit more."""
    rng = np.random.default_rng(seed)
    found = {}
    for i in range(layers):
        first, size = 10.0 ** rng.uniform(-4, 0), int(rng.integers(10, 5000))
        found[f"w{i}"] = Losses(size, {b: first * 4.0**-b * rng.uniform(0.7, 1.3) for b in LEVELS})
    return found


def total(layers: dict[str, Losses], bits: dict[str, int]) -> int:
    return sum(held(layer.size, bits[n]) for n, layer in layers.items())


def lost(layers: dict[str, Losses], bits: dict[str, int]) -> float:
    return sum(layer.by_bits[bits[n]] for n, layer in layers.items())


def test_bytes_are_rounded_up() -> None:
    assert [held(8, 3), held(9, 3), held(1, 2)] == [3, 4, 1]


@pytest.mark.parametrize("seed", range(8))
def test_no_choice_is_better(seed: int) -> None:
    layers = drawn(seed)
    most = 0.45 * total(layers, dict.fromkeys(layers, 8))
    bits = cheapest(layers, most)
    assert total(layers, bits) <= most
    every = (dict(zip(layers, c, strict=True)) for c in itertools.product(LEVELS, repeat=len(layers)))
    best = min(lost(layers, b) for b in every if total(layers, b) <= most)
    assert lost(layers, bits) == pytest.approx(best)


def test_many_bytes_are_counted_in_units_and_never_too_many() -> None:
    layers = {n: Losses(1000 * layer.size + 7, layer.by_bits) for n, layer in drawn(3, 40).items()}
    most = 0.4 * total(layers, dict.fromkeys(layers, 8))
    bits = cheapest(layers, most)
    assert 0.995 * most < total(layers, bits) <= most
    assert lost(layers, bits) < lost(layers, dict.fromkeys(layers, 3)) / 2


def test_a_layer_that_holds_most_leaves_no_room_unused() -> None:
    layers = {"small": Losses(8, {2: 5.0, 8: 0.0}), "large": Losses(800, {2: 6.0, 8: 0.0})}
    assert cheapest(layers, 802) == {"small": 2, "large": 8}
    assert cheapest(layers, 801) == {"small": 8, "large": 2}


def test_all_of_the_most_bits_and_all_of_the_least() -> None:
    layers = drawn(1)
    assert set(cheapest(layers, 1e9).values()) == {8}
    assert set(cheapest(layers, 0).values()) == {2}
