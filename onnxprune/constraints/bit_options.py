"""The options about bits: how many for weights and for activations, and which grids they have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from onnxprune.errors import OptionError
from onnxprune.option_declarations import bits_of, in_pairs, option

#: Fewer bits than these are no grid around 0, and more need none.
FEWEST, MOST = 2, 16

#: What may be chosen from where bits are chosen by layer: more are as good as floats.
LEVELS = (2, 3, 4, 5, 6, 7, 8)

#: The word for bits that a budget of bytes decides.
AUTO = "auto"

#: How a range is found, beside a percentile, and what share of the numbers the percentile is, if nothing is said.
RANGES, PERCENTILE = ("mse", "minmax", "percentile"), 99.9


@dataclass(frozen=True)
class ByLayer:
    """Bits that are chosen layer by layer at the least cost: ``mean`` bits on average, or ``limit`` bytes.

    ``limit``: bytes of all parameters, as ``--require packed`` counts them; up to 1, a share of their size in single
    precision. ``levels``: the numbers of bits to choose from.
    """

    mean: float | None = None
    limit: float | None = None
    levels: tuple[int, ...] = LEVELS

    @property
    def where(self) -> str:
        """The option that sets the amount."""
        return "--weights" if self.limit is None else "--budget"

    def to_json(self) -> dict[str, Any]:
        """As plan and report write it."""
        if self.limit is None:
            return {"weights": f"mean:{self.mean:g}"}
        return {"weights": AUTO, "weights_budget": f"bytes={self.limit:g}"}


@dataclass(frozen=True)
class BitsRequest:
    """The checked options about bits. ``weights`` and ``activations`` are None where they are not to be rounded.

    ``own``: other bits for some layers, 0 for none. ``per``: "tensor", "channel", or how many input channels share a
    scale. ``ranges``: "mse", "minmax", or a percentile. ``symmetric``: None for symmetric where weights have enough
    bits.
    """

    weights: int | ByLayer | None
    activations: int | None
    own: tuple[tuple[str, int], ...]
    symmetric: bool | None
    per: str | int
    ranges: str | float
    power_of_two: bool

    @property
    def needs_samples(self) -> Mapping[str, str]:
        """What nothing but samples can decide: by option, what it does with them."""
        weights = {"--weights": "chooses bits by what they cost on samples"} if self.by_layer else {}
        return weights | ({"--activations": "takes ranges from samples"} if self.activations else {})

    @property
    def by_layer(self) -> bool:
        """Whether bits of weights are chosen layer by layer."""
        return isinstance(self.weights, ByLayer)

    def to_json(self) -> dict[str, Any]:
        """As plan and report write them."""
        return {
            **(self.weights.to_json() if isinstance(self.weights, ByLayer) else {"weights": self.weights}),
            "activations": self.activations,
            **({"bits_for": dict(self.own)} if self.own else {}),
            **({} if self.symmetric is None else {"symmetric": self.symmetric}),
            "weights_per": self.per if isinstance(self.per, str) else f"group:{self.per}",
            "ranges": self.ranges if isinstance(self.ranges, str) else f"percentile:{self.ranges:g}",
            **({"power_of_two": True} if self.power_of_two else {}),
        }


@dataclass(frozen=True, kw_only=True)
class BitOptions:
    """Options for weights and activations of few bits."""

    weights: int | str | None = option(
        None,
        "--weights",
        metavar="BITS",
        help="Round the weights of Conv, ConvTranspose, Gemm and MatMul to this many bits, 2 to 16. mean:2.5 chooses "
        "bits layer by layer for that average, auto for what --budget bytes= allows. [default: none]",
    )
    activations: int | None = option(
        None,
        "--activations",
        kind=int,
        metavar="BITS",
        help="Take ranges of activations of this many bits, 2 to 16, from samples, and solve the weights for them. "
        "[default: none]",
    )
    bits_for: Mapping[str, int] | Sequence[tuple[str, int]] = option(
        (),
        "--bits-for",
        multiple=True,
        metavar="GLOB=BITS",
        read=bits_of,
        help="Use another number of bits for the weights of matching layers, 0 for none. Repeatable.",
    )
    symmetric: bool | None = option(
        None,
        "--symmetric/--asymmetric",
        kind=bool,
        help="Whether grids are symmetric around 0, or have a zero point. [default: symmetric for weights of 5 bits "
        "or more]",
    )
    weights_per: str = option(
        "channel",
        "--weights-per",
        metavar="PART",
        shown=True,
        help="What has a scale of its own: tensor, channel (each output), or group:N (N inputs of an output).",
    )
    ranges: str = option(
        "mse",
        "--ranges",
        metavar="HOW",
        shown=True,
        help="How the range of a grid is chosen: mse (least error), minmax, or percentile:P.",
    )
    power_of_two: bool = option(
        False,
        "--power-of-two",
        kind=bool,
        help="Use powers of two as scales, which hardware applies by shifting.",
    )

    def bits_asked(self, *, limit: float | None, levels: tuple[int, ...]) -> BitsRequest | None:
        """The request, or None where nothing is asked of bits. Raises OptionError.

        ``limit``: the budget of bytes that `AUTO` may spend. ``levels``: the bits that the format can store.
        """
        own = in_pairs(self.bits_for, "--bits-for")
        if self.weights is None and self.activations is None and not own:
            others = {
                "--symmetric/--asymmetric": self.symmetric is not None,
                "--weights-per": self.weights_per != "channel",
                "--ranges": self.ranges != "mse",
                "--power-of-two": self.power_of_two,
            }
            for where in (name for name, said in others.items() if said):
                raise OptionError("says nothing of how many bits", where=where, hint="give --weights too")
            return None
        weights = _weights(self.weights, limit, levels)
        equal = None if isinstance(weights, ByLayer) else weights
        every = {"--weights": equal, "--activations": self.activations}
        every |= {f"--bits-for {glob}": bits or None for glob, bits in own}
        for where, bits in every.items():
            if bits is not None and not FEWEST <= bits <= MOST:
                hint = "--bits-for GLOB=0 leaves layers as they are"
                raise OptionError(f"must be {FEWEST} to {MOST}, not {bits}", where=where, hint=hint)
        part, ranges = _part(self.weights_per), _ranges(self.ranges)
        return BitsRequest(weights, self.activations, own, self.symmetric, part, ranges, self.power_of_two)


def _weights(given: int | str | None, limit: float | None, levels: tuple[int, ...]) -> int | ByLayer | None:
    """How many bits, or how they are chosen."""
    if given is None or isinstance(given, int):
        return given
    if given == AUTO:
        if limit is None:
            hint = "--budget bytes=0.1, or --weights mean:3"
            raise OptionError("auto says nothing of how many bytes may be left", where="--weights", hint=hint)
        return ByLayer(limit=limit, levels=levels)
    name, colon, number = given.rpartition(":")
    try:
        bits = float(number)
    except ValueError:
        bits = math.nan
    if not colon and bits.is_integer():
        return int(bits)
    if name != "mean" or not levels[0] <= bits <= levels[-1]:
        what = f"must be a whole number, mean:BITS of {levels[0]} to {levels[-1]}, or {AUTO}, not {given}"
        raise OptionError(what, where="--weights", hint="4, mean:2.5, or auto with --budget bytes=0.1")
    return ByLayer(mean=bits, levels=levels)


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
