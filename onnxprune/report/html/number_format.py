"""How numbers are written on the page: each kind in one way."""

from __future__ import annotations

import math

_MINUS, _THIN, _SPACE = "\u2212", "\u202f", "\u00a0"


def count(number: int) -> str:
    """A number with thousands apart."""
    return f"{number:,}".replace(",", _THIN)


def percent(share: float, digits: int = 1) -> str:
    """A share."""
    return f"{100 * share:.{digits}f}{_SPACE}%"


def change(ratio: float) -> str:
    """What is left, as how much more or less that is."""
    moved = 100 * (ratio - 1)
    return f"{'+' if moved > 0 else _MINUS}{abs(moved):.1f}{_SPACE}%"


def short(number: float) -> str:
    """Three digits."""
    return _signed(f"{number:.3g}")


def error(number: float) -> str:
    """A relative error, as the terminal writes it."""
    return f"{number:.1e}" if number else "0"


def decibel(number: float) -> str:
    """A signal-to-noise ratio; infinite where nothing differs."""
    return ("∞" if number > 0 else f"{_MINUS}∞") if math.isinf(number) else _signed(f"{number:.1f}")


def cosine(number: float) -> str:
    """A cosine."""
    return _signed(f"{number:.4f}")


def dims(shape: tuple[int, ...]) -> str:
    """A shape, as Netron writes it."""
    return "\u00d7".join(map(str, shape))


def _signed(text: str) -> str:
    return _MINUS + text[1:] if text.startswith("-") else text
