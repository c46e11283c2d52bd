"""The options about zeros: how many weights become zero, where, and how they are chosen."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxprune.option_declarations import in_pairs, option, shares_of

if TYPE_CHECKING:
    from onnxprune.constraints.request import ZerosRequest


@dataclass(frozen=True, kw_only=True)
class ZeroOptions:
    """Options for weights that become zero."""

    sparsity: float | None = option(
        None,
        "--sparsity",
        kind=float,
        help="Share of the weights of Conv, ConvTranspose, Gemm and MatMul to set to zero. [default: none]",
    )
    pattern: str = option(
        "unstructured",
        "--pattern",
        metavar="NAME",
        shown=True,
        help="Where zeros may lie: unstructured, N:M (2:4 keeps two of every four), block:RxC, or channel (whole "
        "outputs, which keep their place).",
    )
    sparsity_for: Mapping[str, float] | Sequence[tuple[str, float]] = option(
        (),
        "--sparsity-for",
        multiple=True,
        metavar="GLOB=S",
        read=shares_of,
        help="Use another share of zeros for matching layers. Repeatable.",
    )
    sparsity_scope: str | None = option(
        None,
        "--sparsity-scope",
        kind=("layer", "global"),
        help="layer: the same share of zeros in every layer; global: more zeros where they cost least. [default: "
        "global]",
    )
    sparsity_criterion: str | None = option(
        None,
        "--sparsity-criterion",
        metavar="NAME",
        help="How the weights to zero are chosen: reconstruction, l1, l2, random, or module:function. [default: "
        "reconstruction; with --data none: l1]",
    )
    mask: str | os.PathLike[str] | None = option(
        None,
        "--mask",
        metavar="FILE.npz",
        help="Take the zeros from this file: an array for each weight, 0 where the weight becomes zero.",
    )

    def zeros_asked(self, *, solved: bool, seed: int) -> ZerosRequest | None:
        """The request, or None for no zeros. ``solved``: whether weights are solved anew. Raises OptionError."""
        from onnxprune.constraints.request import zeros_asked  # noqa: PLC0415 (--help must not wait for it)

        return zeros_asked(
            sparsity=self.sparsity,
            pattern=self.pattern,
            sparsity_for=in_pairs(self.sparsity_for, "--sparsity-for"),
            scope=self.sparsity_scope,
            criterion=self.sparsity_criterion,
            mask=None if self.mask is None else os.fspath(self.mask),
            solved=solved,
            seed=seed,
        )
