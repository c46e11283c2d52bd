"""What a network does with integers, as plain values: each step's numbers are all here, and nothing of a float model.

A tensor of integers (`Code`) stands for scale * (q - zero). Codes of activations are unsigned, from 0 on: of a signed
grid, code and zero point are both 2^(bits - 1) larger. Sums have zero point 0 and, where weights have one scale an
output, one scale a channel.

From a sum to codes of a grid (Jacob et al. 2018, arXiv 1712.05877): r = scale of the sum / scale of the grid is a whole
multiplier of up to 31 bits and a right shift, r = M / 2^s, and

    half-up      clip(zero + floor((q M + 2^(s-1)) / 2^s))                                       one rounding
    gemmlowp     clip(zero + away(half_up(q M / 2^f) / 2^(s-f))), f = min(s, bits of M)          two roundings

where half_up is gemmlowp's SaturatingRoundingDoublingHighMul, and away its RoundingDivideByPOT: halves away from 0.
Fewer bits of M are taken where q is so large that q M would not fit into 62.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.formats.format_options import Rounding
from onnxprune.model.graph import Shape

Ints = NDArray[np.int64]
Float = NDArray[np.float64]

#: Bits of a multiplier, and of a product with it.
_MULTIPLIER, _PRODUCT = 31, 61


@dataclass(frozen=True)
class Code:
    """The tensor ``name`` of integers ``low`` to ``high``; ``scale``: float64, of a shape that broadcasts to it."""

    name: str
    scale: Float = field(repr=False)
    zero: int
    low: int
    high: int

    @property
    def dtype(self) -> np.dtype[Any]:
        """The smallest type that holds them, of those that there are kernels for."""
        if self.low >= 0 and self.high <= 255:
            return np.dtype(np.uint8)
        fits = self.low >= -(2**31) and self.high < 2**31
        return np.dtype(np.int32 if fits else np.int64)

    @property
    def is_codes(self) -> bool:
        """Whether it is what products take: 8 bits, one scale."""
        return self.scale.size == 1 and self.dtype == np.uint8

    @property
    def size(self) -> int:
        """The largest distance from zero."""
        return max(self.high - self.zero, self.zero - self.low)

    def to_json(self) -> dict[str, Any]:
        """As metadata and manifests tell it."""
        scale = self.scale.reshape(-1)[0].item() if self.scale.size == 1 else self.scale.tolist()
        return {"scale": scale, "zero_point": self.zero, "type": self.dtype.name}


@dataclass(frozen=True)
class Convolve:
    """``out`` = sum of (x - zero) * weight [outputs, inputs/group, *kernel], and ``bias`` [outputs] if there is one."""

    out: str
    x: Code
    weight: Ints = field(repr=False)
    bias: Ints | None = field(repr=False)
    strides: Shape
    pads: Shape
    dilations: Shape
    group: int


@dataclass(frozen=True)
class Multiply:
    """``out`` = (a - zero) @ (b - zero) + ``bias``; one of them may be weights, with zero point 0."""

    out: str
    a: Code | Ints
    b: Code | Ints
    bias: Ints | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Spread:
    """``out``: x with ``strides`` - 1 zero points behind each position; ``size``: of its spatial axes."""

    out: str
    x: Code
    strides: Shape
    size: Shape


@dataclass(frozen=True)
class Add:
    """``out`` = sum of (x - zero) * multiplier over ``terms``, and ``constant``."""

    out: str
    terms: Sequence[tuple[Code, Ints]]
    constant: Ints | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Times:
    """``out`` = (a - zero) * (b - zero), by position."""

    out: str
    a: Code
    b: Code | Ints


@dataclass(frozen=True)
class Requantize:
    """``out`` = clip(zero + round((x - zero of x) * multiplier / 2^shift), 0, high); the module says how it rounds."""

    out: str
    x: Code
    multiplier: Ints = field(repr=False)
    shift: Ints = field(repr=False)
    bits: int
    zero: int
    high: int
    rounding: Rounding


@dataclass(frozen=True)
class Clamp:
    """``out`` = min(max(x, low), high)."""

    out: str
    x: Code
    low: Ints = field(repr=False)
    high: Ints = field(repr=False)


@dataclass(frozen=True)
class Look:
    """``out`` = table[x]."""

    out: str
    x: Code
    table: Ints = field(repr=False)


@dataclass(frozen=True)
class Largest:
    """``out``: the largest of each window; ``size``: of its spatial axes."""

    out: str
    x: Code
    kernel: Shape
    strides: Shape
    pads: Shape
    dilations: Shape
    size: Shape


@dataclass(frozen=True)
class Extreme:
    """``out``: the largest (``op`` ReduceMax) or the least (ReduceMin) over ``axes``."""

    out: str
    x: Code
    op: str
    axes: Shape
    keepdims: bool


@dataclass(frozen=True)
class Sum:
    """``out`` = sum of x - zero over ``axes``."""

    out: str
    x: Code
    axes: Shape
    keepdims: bool


@dataclass(frozen=True)
class Mix:
    """``out`` = matrix of axis a applied to x - zero along a, for each spatial axis: [new size, size]."""

    out: str
    x: Code
    matrices: Sequence[Ints] = field(repr=False)


@dataclass(frozen=True)
class Move:
    """``outs``: what ONNX's operator ``op`` gives of integers as they are; inputs are names or constants."""

    outs: tuple[str, ...]
    op: str
    inputs: tuple[str | NDArray[Any], ...]
    attrs: Mapping[str, Any]


Step = Convolve | Multiply | Spread | Add | Times | Requantize | Clamp | Look | Largest | Extreme | Sum | Mix | Move


@dataclass(frozen=True)
class Program:
    """``steps`` in order; ``codes``: of the model's tensors, by its names.

    ``inputs``: with their shapes, None for a batch of any size; ``outputs``: with their ranks; ``kinds``: element types
    of those that were integers before; ``opset``: of `Move`.
    """

    steps: tuple[Step, ...] = field(repr=False)
    codes: Mapping[str, Code] = field(repr=False)
    inputs: Mapping[str, tuple[int | None, ...]]
    outputs: Mapping[str, int]
    kinds: Mapping[str, int]
    rounding: Rounding
    opset: int

    def tensors(self) -> dict[str, Code]:
        """All that is known of integers, by the names of `steps`."""
        found = {c.name: c for c in self.codes.values()}
        for step in self.steps:
            parts = [getattr(step, name, None) for name in ("x", "a", "b")]
            parts += [c for c, _ in getattr(step, "terms", ())]
            found.update((c.name, c) for c in parts if isinstance(c, Code))
            if isinstance(step, Requantize):
                found.setdefault(step.out, Code(step.out, np.ones(1), step.zero, 0, step.high))
        return found


def multiplier_of(ratio: Float, size: int, high: int) -> tuple[Ints, Ints, int]:
    """M and s with ratio = M / 2^s, and the bits of M, for integers up to ``size`` and codes up to ``high``."""
    bits = min(_MULTIPLIER, _PRODUCT - max(size, 1).bit_length())
    exponent = np.frexp(ratio)[1]
    shift = np.clip(bits - exponent, 1, _PRODUCT - high.bit_length())
    found = np.rint(ratio * 2.0**shift).astype(np.int64)
    over = found >= 2**bits  # rounding made it one bit longer
    shift = np.where(over & (shift > 1), shift - 1, shift)
    return np.rint(ratio * 2.0**shift).astype(np.int64), shift.astype(np.int64), bits
