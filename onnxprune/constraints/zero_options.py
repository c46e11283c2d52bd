"""The options about zeros: how many weights, where they may be, and which."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxprune.option_declarations import option, shares_of

if TYPE_CHECKING:
    from onnxprune.constraints.request import ZerosRequest


@dataclass(frozen=True, kw_only=True)
class ZeroOptions:
    """Weights that become zero."""

    sparsity: float | None = option(
        None,
        "--sparsity",
        kind=float,
        help="Share of the weights of Conv, ConvTranspose, Gemm and MatMul that become zero. [default: none]",
    )
    pattern: str = option(
        "unstructured",
        "--pattern",
        metavar="NAME",
        shown=True,
        help="Where zeros may be: unstructured, N:M (2:4: two of each four stay), block:RxC, or channel (in place).",
    )
    sparsity_for: Mapping[str, float] | Sequence[tuple[str, float]] = option(
        (),
        "--sparsity-for",
        multiple=True,
        metavar="GLOB=S",
        read=shares_of,
        help="Another share of zeros for some layers. Repeatable.",
    )
    sparsity_scope: str | None = option(
        None,
        "--sparsity-scope",
        kind=("layer", "global"),
        help="The same share of zeros in every layer, or where it costs least. [default: global]",
    )
    sparsity_criterion: str | None = option(
        None,
        "--sparsity-criterion",
        metavar="NAME",
        help="Which weights become zero: reconstruction, l1, l2, random, or module:function. [default: reconstruction; "
        "with --data none: l1]",
    )
    mask: str | os.PathLike[str] | None = option(
        None,
        "--mask",
        metavar="FILE.npz",
        help="Zeros that are given: arrays by weight, 0 where it becomes zero.",
    )

    def zeros_asked(self, *, solved: bool, seed: int) -> ZerosRequest | None:
        """The request, None where there is none. ``solved``: whether weights are solved anew. Raises OptionError."""
        from onnxprune.constraints.request import zeros_asked  # noqa: PLC0415 (--help must not wait for it)

        own = self.sparsity_for
        return zeros_asked(
            sparsity=self.sparsity,
            pattern=self.pattern,
            sparsity_for=tuple(own.items() if isinstance(own, Mapping) else own),
            scope=self.sparsity_scope,
            criterion=self.sparsity_criterion,
            mask=None if self.mask is None else os.fspath(self.mask),
            solved=solved,
            seed=seed,
        )
