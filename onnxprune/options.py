"""How to prune: the command line's options as one value, checked where it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxprune.calibration.samples import Data
from onnxprune.cost.chips import Cycles
from onnxprune.errors import OptionError
from onnxprune.model.graph import Shape
from onnxprune.widths import plan_contest as candidates
from onnxprune.widths.budget import Budget
from onnxprune.widths.plan_contest import Way


@dataclass(frozen=True)
class Options:
    """How to prune. The fields are the command line's options; README.md describes them."""

    ratio: float = 0.3
    lossless: bool = False
    align: int | None = None
    importance: str | None = None
    scope: str | None = None
    budget: Budget | None = None
    target: Cycles | None = None
    compensate: bool = True
    exclude: tuple[str, ...] = ()
    ratio_for: tuple[tuple[str, float], ...] = ()
    max_ratio: float | None = None
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    fuse_bn: bool = True
    seed: int = 0
    check_n: int = 3
    rtol: float | None = None
    atol: float = 0.0
    data: Data | None = None
    recover: int = 0
    flops_reg: float = 0.001

    def __post_init__(self) -> None:
        """Raise OptionError for values out of range."""
        _in_range("--ratio", self.ratio)
        for glob, value in self.ratio_for:
            _in_range(f"--ratio-for {glob}", value)
        if self.max_ratio is not None:
            _in_range("--max-ratio", self.max_ratio)
        if self.align is not None and self.align < 1:
            raise OptionError(f"must be at least 1, not {self.align}", where="--align")
        if self.check_n < 0:
            raise OptionError(f"must not be negative, as {self.check_n} is", where="--check-n")
        if self.recover < 0:
            raise OptionError(f"must not be negative, as {self.recover} is", where="--recover")
        if self.recover and self.data is None:
            raise OptionError("trains on calibration samples", where="--recover", hint="give --data too")
        if self.scope not in (None, *candidates.SCOPES):
            raise OptionError(f"must be {', '.join(candidates.SCOPES)}, not {self.scope}", where="--scope")
        if self.budget is not None and self.lossless:
            raise OptionError("asks for nothing more than --lossless does", where="--budget", hint="give one of them")

    @property
    def ways(self) -> tuple[Way, ...]:
        """The ways of choosing to try: several where nothing is said and there is calibration data to judge by."""
        priced = self.budget is not None and self.target is not None
        return candidates.ways(self.importance, self.scope, judged=self.data is not None, priced=priced)

    def to_json(self) -> dict[str, Any]:
        """As plan and report write them."""
        return {
            "ratio": None if self.budget else self.ratio,
            "lossless": self.lossless,
            "align": self.align if self.align or self.target else 1,
            "importance": self.ways[0].importance if len(self.ways) == 1 else "auto",
            "scope": self.ways[0].scope if len(self.ways) == 1 else self.scope or "auto",
            "budget": str(self.budget) if self.budget else None,
            "target": str(self.target) if self.target else None,
            "compensate": self.compensate,
            **({"recover": self.recover} if self.recover else {}),
            "exclude": list(self.exclude),
            "ratio_for": dict(self.ratio_for),
            "max_ratio": self.max_ratio,
            "input_shapes": {n: list(s) for n, s in self.input_shapes.items()},
            "fuse_bn": self.fuse_bn,
            "seed": self.seed,
            **({"flops_reg": self.flops_reg} if self.importance == "taylor" else {}),
            **({"data": self.data.to_json()} if self.data else {}),
        }


def ratio_or_default(ratio: float | None, *, lossless: bool, budget: object = None) -> float:
    """The ratio given, or what goes where none is: nothing more with ``lossless``. Raises OptionError."""
    if ratio is not None and budget is not None:
        raise OptionError("is instead of --ratio", where="--budget", hint="give one of them")
    return ratio if ratio is not None else 0.0 if lossless else 0.3


def _in_range(where: str, value: float) -> None:
    if not 0 <= value < 1:
        raise OptionError(
            f"must be at least 0 and less than 1, not {value:g}", where=where, hint="0.3 removes 30 % of the channels"
        )
