"""Zeros as a constraint on a layer: which weights become zero, and least squares for the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from onnxprune.calibration.least_squares import Moments
from onnxprune.constraints.masks import alternating
from onnxprune.constraints.patterns import Mask, Pattern
from onnxprune.constraints.quadratic import Float, Quadratic, with_bias

#: The least ridge by which masks and codes are chosen where least squares without them did not choose one.
RIDGE = 1e-3


@dataclass(frozen=True)
class Zeros:
    """A ``share`` of zeros in ``pattern``, or the zeros where ``mask`` [groups, m, n] is false, if it is given.

    ``taps``: how many columns each channel has.
    """

    pattern: Pattern
    share: float
    taps: int
    mask: Mask | None = field(default=None, repr=False)

    def chosen(self, fit: Moments, prior: Float, ridge: float | None, felt: Float) -> Mask:
        """The mask, by what ``fit`` says of the layer.

        ``ridge``: what least squares without zeros took; ``felt``: as of `Quadratic`.
        """
        if self.mask is not None:
            return self.mask
        strength = ridge or max(RIDGE, fit.by_chance)
        return alternating(Quadratic.of(fit, prior, strength, felt), self.pattern, self.share, self.taps)


def solver(fit: Moments, prior: Float, mask: Mask, felt: Float) -> Callable[[float], Float]:
    """From the strength of a ridge to the weights and the bias that are best on a mask."""

    def solve(strength: float) -> Float:
        return with_bias(fit, Quadratic.of(fit, prior, strength, felt).on(mask))

    return solve
