"""How many bits each layer's weights get: where they cost least, by what was seen of the original.

A layer's loss at so many bits is the error that is left when its weights are rounded for its inputs and its bias is
solved anew, weighed by how far the model's outputs move with its own (`onnxprune.calibration.output_curvature`). What
bits together cost the least: `onnxprune.constraints.cheapest_bits`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from onnxprune.constraints.bit_options import BitsRequest, ByLayer
from onnxprune.constraints.cheapest_bits import Losses, cheapest, held
from onnxprune.constraints.patterns import Mask
from onnxprune.constraints.quadratic import Float, Quadratic
from onnxprune.constraints.rounding import WeightGrid
from onnxprune.constraints.zeros import Zeros
from onnxprune.cost.macs_and_bytes import parameters
from onnxprune.errors import OptionError, first_and_more, thousands
from onnxprune.model.onnx_model import Model
from onnxprune.passes.bits import GridAllocator
from onnxprune.passes.zeros import Layer, ZerosAllocator, taps_of

#: From so many bits on a loss is not worked out: a bit more leaves a quarter of it.
_WORKED_OUT = 5

#: Bits of layers whose loss nothing tells, and bytes of a number that has no grid.
UNKNOWN, SINGLE = 8, 4


@dataclass(frozen=True)
class _Open:
    """A layer whose bits are to be chosen: ``start`` is what would be written without a grid, 0 outside of ``mask``."""

    layer: Layer
    quadratic: Quadratic = field(repr=False)
    start: Float = field(repr=False)
    mask: Mask | None = field(repr=False)
    grid: Callable[[int], WeightGrid] = field(repr=False)

    def rounded(self, bits: int) -> Float:
        """The weights at so many bits, as rows of ``quadratic``."""
        w, _ = self.grid(bits).solved(self.quadratic, self.start, self.mask, taps_of(self.layer, self.quadratic))
        return w

    def losses(self, levels: tuple[int, ...]) -> Losses:
        """By bits, never more with more of them."""
        found = {b: self.quadratic.error(self.rounded(b)) for b in levels if b <= _WORKED_OUT}
        for less, more in pairwise(levels):
            found[more] = min(found.get(more, found[less] / 4 ** (more - less)), found[less])
        return Losses(self.layer.weight.size, found)


@dataclass(frozen=True)
class BitAllocator:
    """Chooses with what is known of the errors of layers, for grids as ``numbers`` has them.

    ``original``: what bytes are a share of.
    """

    errors: ZerosAllocator
    numbers: GridAllocator
    original: Model = field(repr=False)

    def chosen(
        self, model: Model, request: BitsRequest, zeros: Mapping[str, Zeros]
    ) -> tuple[dict[str, int], tuple[str, ...]]:
        """Bits by weight, where ``request`` names no others, and notes. ``zeros``: what is asked beside, by node label.

        Raises OptionError where so few cannot be had.
        """
        how = request.weights
        assert isinstance(how, ByLayer)
        every = {la.name: la for la in self.errors.layers(model)}
        named = self.numbers.own({n: la.product for n, la in every.items()}, request)
        layers = {n: la for n, la in every.items() if n not in named}
        felt = {n: self.errors.felt.get(la.product.node.label) for n, la in layers.items()}
        known = {n: self._open(model, layers[n], g, request, zeros) for n, g in felt.items() if g is not None}
        unknown = dict.fromkeys((n for n in layers if n not in known), UNKNOWN)
        sizes = {n: la.weight.size for n, la in every.items()}
        if how.limit is None:
            most = float(sum(np.ceil((how.mean or 0) * sizes[n] / 8) for n in layers))
        else:
            whole = SINGLE * parameters(self.original.graph)
            most = how.limit * whole if how.limit <= 1 else how.limit
            most -= SINGLE * (parameters(model.graph) - sum(sizes.values()))
            most -= sum(held(sizes[n], bits or 8 * SINGLE) for n, bits in named.items())
        most -= sum(held(sizes[n], bits) for n, bits in unknown.items())
        losses = {}
        for done, (name, one) in enumerate(known.items(), 1):
            losses[name] = one.losses(how.levels)
            self.errors.progress("bits of each layer", done, len(known))
        bits = cheapest(losses, most)
        left = most - sum(held(sizes[n], b) for n, b in bits.items())
        if left < 0:
            hint = "more bytes, or fewer bits by --bits-for"
            what = f"cannot be met: the least that layers can have are {thousands(-left)} bytes more than that leaves"
            raise OptionError(what, where=how.where, hint=hint)
        if not unknown:
            return bits, ()
        who = first_and_more([layers[n].product.node.label for n in unknown])
        return {**bits, **unknown}, (f"{who}: {UNKNOWN} bits, as nothing tells what fewer would cost",)

    def _open(self, model: Model, layer: Layer, felt: Float, request: BitsRequest, zeros: Mapping[str, Zeros]) -> _Open:
        """One layer, with likely zeros where some are asked for."""
        quadratic, mask = self.errors.quadratic(layer, felt), None
        start = quadratic.best
        if (asked := zeros.get(layer.product.node.label)) is not None:
            mask = layer.rowed(_likely(asked, layer), quadratic.h)
            start = quadratic.descended(mask, np.where(mask, start, 0.0), _STEPS)
            quadratic = replace(quadratic, best=start)

        def grid(bits: int) -> WeightGrid:
            return self.numbers.grid(model, layer.product, bits, request)

        return _Open(layer, quadratic, start, mask, grid)


#: Steps of least squares on likely zeros.
_STEPS = 10


def _likely(zeros: Zeros, layer: Layer) -> Mask:
    """Which weights [groups, outputs, channels, taps] stay: as given, or the largest."""
    if zeros.mask is not None:
        return zeros.mask.reshape(layer.weight.shape)
    return zeros.pattern.keep(np.abs(layer.weight), zeros.share)
