"""The options about bits: how many for weights and activations, and what a grid of so many is like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxprune.errors import OptionError
from onnxprune.option_declarations import bits_of, option

#: Fewer bits than these are no grid around 0, and more need none.
FEWEST, MOST = 2, 16

#: How a range is found, beside a percentile, and what share of the numbers the percentile is, if nothing is said.
RANGES, PERCENTILE = ("mse", "minmax", "percentile"), 99.9


@dataclass(frozen=True)
class BitsRequest:
    """The options about bits, checked. ``weights`` and ``activations``: None where they stay as they are.

    ``own``: other bits for some layers, 0 for none. ``per``: "tensor", "channel", or as many input channels as share a
    scale. ``ranges``: "mse", "minmax", or a percentile. ``symmetric``: None for weights of more than a few bits.
    """

    weights: int | None
    activations: int | None
    own: tuple[tuple[str, int], ...]
    symmetric: bool | None
    per: str | int
    ranges: str | float

    def to_json(self) -> dict[str, Any]:
        """As plan and report write them."""
        return {
            "weights": self.weights,
            "activations": self.activations,
            **({"bits_for": dict(self.own)} if self.own else {}),
            **({} if self.symmetric is None else {"symmetric": self.symmetric}),
            "weights_per": self.per if isinstance(self.per, str) else f"group:{self.per}",
            "ranges": self.ranges if isinstance(self.ranges, str) else f"percentile:{self.ranges:g}",
        }


@dataclass(frozen=True, kw_only=True)
class BitOptions:
    """Numbers of few bits."""

    weights: int | None = option(
        None,
        "--weights",
        kind=int,
        metavar="BITS",
        help="Round the weights of Conv, ConvTranspose, Gemm and MatMul to so many bits, 2 to 16. [default: none]",
    )
    activations: int | None = option(
        None,
        "--activations",
        kind=int,
        metavar="BITS",
        help="Solve them for inputs of so many bits, 2 to 16, whose ranges are taken from samples. [default: none]",
    )
    bits_for: Mapping[str, int] | Sequence[tuple[str, int]] = option(
        (),
        "--bits-for",
        multiple=True,
        metavar="GLOB=BITS",
        read=bits_of,
        help="Other bits for the weights of some layers, 0 for none. Repeatable.",
    )
    symmetric: bool | None = option(
        None,
        "--symmetric/--asymmetric",
        kind=bool,
        help="Whether 0 is the middle of every grid. [default: for weights of 5 bits or more; else a zero point]",
    )
    weights_per: str = option(
        "channel",
        "--weights-per",
        metavar="PART",
        shown=True,
        help="What has a scale of its own: tensor, channel (each output), or group:N (N inputs of it).",
    )
    ranges: str = option(
        "mse",
        "--ranges",
        metavar="HOW",
        shown=True,
        help="How wide grids are: mse (least error), minmax, or percentile:P.",
    )

    def bits_asked(self) -> BitsRequest | None:
        """What is asked of bits, None for nothing. Raises OptionError."""
        given = self.bits_for
        own = tuple(given.items() if isinstance(given, Mapping) else given)
        if self.weights is None and self.activations is None and not own:
            others = {
                "--symmetric/--asymmetric": self.symmetric is not None,
                "--weights-per": self.weights_per != "channel",
                "--ranges": self.ranges != "mse",
            }
            for where in (name for name, said in others.items() if said):
                raise OptionError("says nothing of how many bits", where=where, hint="give --weights too")
            return None
        every = {"--weights": self.weights, "--activations": self.activations}
        every |= {f"--bits-for {glob}": bits or None for glob, bits in own}
        for where, bits in every.items():
            if bits is not None and not FEWEST <= bits <= MOST:
                hint = "--bits-for GLOB=0 leaves layers as they are"
                raise OptionError(f"must be {FEWEST} to {MOST}, not {bits}", where=where, hint=hint)
        return BitsRequest(
            self.weights, self.activations, own, self.symmetric, _part(self.weights_per), _ranges(self.ranges)
        )


def _part(text: str) -> str | int:
    if text in ("tensor", "channel"):
        return text
    name, _, number = text.partition(":")
    if name != "group" or not number.isdecimal() or not int(number):
        raise OptionError(f"must be tensor, channel or group:N, not {text}", where="--weights-per")
    return int(number)


def _ranges(text: str) -> str | float:
    name, colon, number = text.partition(":")
    try:
        share = float(number) if colon else PERCENTILE
    except ValueError:
        share = 0.0
    if name not in RANGES or (colon and name != "percentile") or not 50 < share <= 100:
        raise OptionError(f"must be mse, minmax or percentile:P, not {text}", where="--ranges", hint="percentile:99.9")
    return share if name == "percentile" else name
