"""The options of a run, each described once.

The command line, the file of options and the keyword arguments of `onnxprune.prune` are all made from the fields of
these dataclasses. This module imports nothing heavy before an object is made, so that --help does not have to wait.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypeAlias

from onnxprune.calibration.data_options import NO_DATA, Data
from onnxprune.constraints.bit_options import AUTO, LEVELS, BitOptions, BitsRequest
from onnxprune.constraints.zero_options import ZeroOptions
from onnxprune.errors import OptionError
from onnxprune.formats.format_options import STORED, FormatOptions
from onnxprune.option_declarations import ensure_types, in_pairs, option, positions_of, ratios_of, shapes_of, values_of
from onnxprune.progress import Progress, silent
from onnxprune.widths.metric_options import MetricOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from onnxprune.constraints.request import ZerosRequest
    from onnxprune.cost.chips import Cycles
    from onnxprune.widths.budget import Budget
    from onnxprune.widths.request import Request

#: Where calibration data is (see README.md), arrays in memory, {input: [N, ...]}, or `Data`, which says how to read it;
#: "none" for none at all. Without any, inputs are drawn.
DataSource: TypeAlias = "str | os.PathLike[str] | Mapping[str, NDArray[Any]] | Data"


#: Options that give positions by name.
_NAMED = ("remove", "keep", "keep_outputs")


@dataclass(frozen=True, kw_only=True)
class ApplyOptions(FormatOptions):
    """The options that do not choose channels: inputs, data, how weights are solved, and how the result is proven."""

    input_shapes: Mapping[str, Sequence[int]] = option(
        {},
        "--input-shape",
        multiple=True,
        metavar="NAME:DIMS",
        read=shapes_of,
        shared=True,
        help="Shape of a dynamic input, as images:1,3,224,224. Repeatable.",
    )
    custom: Sequence[str] = option(
        (),
        "--custom",
        multiple=True,
        metavar="DOMAIN::OP=KIND",
        shared=True,
        help="Declare what an operator does: elementwise, channelwise (works on each channel of axis 1 by "
        "itself) or opaque. Repeatable.",
    )
    input_values: Mapping[str, float] = option(
        {},
        "--input-value",
        multiple=True,
        metavar="NAME=NUMBER",
        read=values_of,
        shared=True,
        help="Feed this number to an input of one element, as sr=16000. Repeatable.",
    )
    data: DataSource | None = None
    compensate: bool = option(
        True,
        "--compensate/--no-compensate",
        kind=bool,
        help="Solve anew the weights that read removed channels, on calibration data or drawn inputs. [default: do]",
    )
    recover: int = option(
        0,
        "--recover",
        kind=int,
        metavar="STEPS",
        help="With --data: then train for this many steps to reproduce the original's outputs. [default: 0]",
    )
    fuse_bn: bool = option(
        True,
        "--fuse-bn/--no-fuse-bn",
        kind=bool,
        help="Fold each BatchNormalization into the layer before it. [default: fold]",
    )
    check_n: int = option(
        3, "--check-n", kind=int, shown=True, help="Number of seeded inputs to prove the cut on; 0 skips the proof."
    )
    rtol: float | None = option(
        None,
        "--rtol",
        kind=float,
        help="Largest rewrite error that the proof accepts, as a share of the output's range. [default: by precision]",
    )
    atol: float = option(
        0.0, "--atol", kind=float, shown=True, help="Absolute rewrite error that the proof always accepts."
    )
    seed: int = option(
        0,
        "--seed",
        kind=int,
        shown=True,
        shared=True,
        help="Seed of the proof's inputs, of drawn inputs and of random importance.",
    )
    progress: Progress = field(default=silent, repr=False, compare=False)
    #: ``data``, and how to read it.
    reading: Data | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raise OptionError for values out of range."""
        ensure_types(self)
        shapes = {name: tuple(shape) for name, shape in self.input_shapes.items()}
        object.__setattr__(self, "input_shapes", shapes)
        object.__setattr__(self, "reading", reading_of(self.data))
        for name in ("check_n", "recover", "seed"):
            if (value := getattr(self, name)) < 0:
                raise OptionError(f"must not be negative, as {value} is", where=f"--{name.replace('_', '-')}")
        if self.recover and (self.reading is None or self.reading.drawn):
            raise OptionError("trains on calibration samples", where="--recover", hint="give --data too")


def _pairs(
    given: Mapping[str, Sequence[int]] | Sequence[tuple[str, Sequence[int]]], where: str
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Positions by name, ascending and each once; a name that is given twice has the positions of both.

    Raises OptionError where a name has no positions, or a negative one.
    """
    found: dict[str, set[int]] = {}
    for name, positions in in_pairs(given, where):
        whole = isinstance(positions, Iterable) and all(isinstance(p, Integral) for p in positions)
        found.setdefault(name, set()).update(int(p) for p in positions if whole)
    if any(not positions or min(positions) < 0 for positions in found.values()):
        raise OptionError("takes positions from 0 on, and one at least", where=where, hint="NAME=0,3,17-21")
    return tuple((name, tuple(sorted(positions))) for name, positions in found.items())


def reading_of(given: DataSource | None) -> Data | None:
    """Turn ``data`` as a user gave it into a `Data`: of drawn inputs for None, and None for "none"."""
    if isinstance(given, Data):
        return given
    if given is None:
        return Data(None)
    if isinstance(given, str) and given == NO_DATA:
        return None
    arrays = isinstance(given, Mapping) and all(hasattr(a, "shape") for a in given.values())
    if not arrays and not isinstance(given, (str, os.PathLike)):
        hint = "it takes a path, 'none', or arrays as {input: [N, ...]}"
        raise OptionError(f"{given!r:.60} is of the wrong type", where="--data", hint=hint)
    return Data(given if isinstance(given, Mapping) else os.fspath(given))


@dataclass(frozen=True, kw_only=True)
class Options(BitOptions, ZeroOptions, MetricOptions, ApplyOptions):
    """All options of `onnxprune.prune`. README.md describes them; `request` holds those about widths, checked."""

    ratio: float | None = option(
        None,
        "--ratio",
        kind=float,
        help="Share of the prunable channels to remove. [default: 0.3, or 0 with --lossless, --sparsity or --weights]",
    )
    lossless: bool = option(
        False,
        "--lossless",
        kind=bool,
        help="Remove every channel that is dead or constant; with --ratio, remove these first.",
    )
    align: int | None = option(
        None,
        "--align",
        kind=int,
        help="Make every width that changes a multiple of this. [default: 1, or what the target computes in]",
    )
    importance: str | None = option(
        None,
        "--importance",
        help="How channels are scored: auto, output, reconstruction, activation, apoz, variance, taylor; from weights "
        "alone: l1, l2, fpgm, bn, random; or module:function. [default: auto; with --data none: l2]",
    )
    scope: str | None = option(
        None,
        "--scope",
        kind=("group", "global", "cost"),
        help="group: the same ratio in every group; global: one ranking over the network by score; cost: one ranking "
        "by score for the cost saved. [default: cost; with --data none or an --importance of yours: group, unless a "
        "--budget is given with a --target]",
    )
    target: str | Cycles | None = option(
        None,
        "--target",
        metavar="NAME",
        shared=True,
        help="The chip to prune for: a name that `onnxprune targets` lists, or a .toml file.",
    )
    dtype: str | None = option(
        None,
        "--dtype",
        kind=("fp16", "int8", "fp32"),
        shared=True,
        help="Data type that the target computes in. [default: the target's first]",
    )
    budget: str | Budget | None = option(
        None,
        "--budget",
        metavar="COST=LIMIT",
        help="Instead of --ratio: how much may be left of macs, params, bytes (of weights), activations (bytes "
        "written) or the target's cycles, as a share (macs=0.5) or a number; or ms=5, milliseconds at the "
        "target's clock. With --weights auto, bytes count the bits chosen.",
    )
    whole_branches: bool = option(
        True,
        "--whole-branches/--no-whole-branches",
        kind=bool,
        help="With --budget and --data: allow whole residual branches to go, where that stays nearer to the original. "
        "[default: allow]",
    )
    exclude: Sequence[str] = option(
        (),
        "--exclude",
        multiple=True,
        metavar="GLOB",
        shared=True,
        help="Do not prune the channels of matching nodes or tensors. Repeatable.",
    )
    ratio_for: Mapping[str, float] | Sequence[tuple[str, float]] = option(
        (),
        "--ratio-for",
        multiple=True,
        metavar="GLOB=R",
        read=ratios_of,
        help="Use another ratio for matching nodes. Repeatable.",
    )
    remove: Mapping[str, Sequence[int]] | Sequence[tuple[str, Sequence[int]]] = option(
        (),
        "--remove",
        multiple=True,
        metavar="NODE=CHANNELS",
        read=positions_of,
        help="Remove these output channels of a node, as conv1=0,3,17-21, and all that depends on them: only these, "
        "or, with --ratio or --budget, these first. Repeatable.",
    )
    keep: Mapping[str, Sequence[int]] | Sequence[tuple[str, Sequence[int]]] = option(
        (),
        "--keep",
        multiple=True,
        metavar="NODE=CHANNELS",
        read=positions_of,
        help="Never remove these output channels of a node. Repeatable.",
    )
    outputs: Sequence[str] = option(
        (),
        "--outputs",
        multiple=True,
        metavar="NAME",
        shared=True,
        help="Cut the model first: this tensor, or this node's output, becomes a graph output, and what follows it is "
        "dropped. Repeatable.",
    )
    keep_outputs: Mapping[str, Sequence[int]] | Sequence[tuple[str, Sequence[int]]] = option(
        (),
        "--keep-outputs",
        multiple=True,
        metavar="NAME=ROWS",
        read=positions_of,
        help="Keep only these rows of a graph output along its channels, as scores=0,5: its shape changes. Repeatable.",
    )
    max_ratio: float | None = option(
        None,
        "--max-ratio",
        kind=float,
        help="Remove at most this share of any one group. [default: 0.9, or RATIO if larger]",
    )
    flops_reg: float = option(
        0.001,
        "--flops-reg",
        kind=float,
        shown=True,
        help="With --importance taylor: how strongly a layer's share of the MACs lowers its channels' scores.",
    )
    #: What is asked of widths and channels.
    request: Request = field(init=False, repr=False, compare=False)
    #: What is asked of the weights that stay, None for nothing.
    zeros: ZerosRequest | None = field(init=False, repr=False, compare=False)
    #: What is asked of their bits, None for nothing.
    bits: BitsRequest | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raise OptionError for values out of range, and for names that nobody knows."""
        from onnxprune.widths.request import asked, bytes_left  # noqa: PLC0415 (--help must not wait for it)

        super().__post_init__()
        spent = bytes_left(self.budget) if self.weights == AUTO else None  # on bits, and else on channels
        budget = None if spent else self.budget
        for name in _NAMED:
            object.__setattr__(self, name, _pairs(getattr(self, name), f"--{name.replace('_', '-')}"))
        for name in ("outputs", "exclude"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        named = budget is None and (self.remove or self.keep_outputs)
        judged = self.reading is not None
        zeros = self.zeros_asked(solved=judged and self.compensate, seed=self.seed)
        object.__setattr__(self, "zeros", zeros)
        object.__setattr__(self, "bits", self.bits_asked(limit=spent, levels=STORED.get(self.format, LEVELS)))
        for where, what, hint in self._contradictions():
            raise OptionError(what, where=where, hint=hint)
        request = asked(
            ratio=0.0 if self.ratio is None and named else self.ratio,
            lossless=self.lossless,
            align=self.align,
            target=self.target,
            dtype=self.dtype,
            budget=budget,
            importance=self.importance,
            scope=self.scope,
            ratio_for=in_pairs(self.ratio_for, "--ratio-for"),
            max_ratio=self.max_ratio,
            remove=self.remove,
            keep=self.keep,
            judged=judged,
            weights=self.weighed and self.limit is None,
        )
        object.__setattr__(self, "request", request)

    def _contradictions(self) -> Iterator[tuple[str, str, str]]:
        """Which options contradict others: where, what is wrong there, and a hint."""
        if self.limit is not None and (self.ratio is not None or self.budget is not None or self.lossless):
            yield "--metric", "says how far to go, and so do --ratio, --budget and --lossless", "give one of them"
        if self.weighed and self.finetune is not None:
            hint = "run sparsify or quantize on what it writes"
            yield "--finetune", "trains weights, and zeros and bits would be lost", hint
        if self.bits is not None and self.reading is None:
            for where, what in self.bits.needs_samples.items():
                yield where, what, "give --data, or leave --data none out: inputs are drawn then"

    @property
    def weighed(self) -> bool:
        """Whether the remaining weights are to get zeros or grids."""
        return self.zeros is not None or self.bits is not None

    def to_json(self) -> dict[str, Any]:
        """The options as plans and reports write them; those that change nothing are left out."""
        return {
            **self.request.to_json(),
            **(self.zeros.to_json() if self.zeros else {}),
            **(self.bits.to_json() if self.bits else {}),
            **self.format_to_json(),
            "compensate": self.compensate,
            **({"recover": self.recover} if self.recover else {}),
            **({} if self.whole_branches else {"whole_branches": False}),
            "exclude": list(self.exclude),
            "ratio_for": dict(self.request.ratio_for),
            "max_ratio": self.max_ratio,
            **{n: {k: list(v) for k, v in getattr(self, n)} for n in _NAMED if getattr(self, n)},
            **({"outputs": list(self.outputs)} if self.outputs else {}),
            "input_shapes": {n: list(s) for n, s in self.input_shapes.items()},
            **({"custom": list(self.custom)} if self.custom else {}),
            **({"input_values": dict(self.input_values)} if self.input_values else {}),
            "fuse_bn": self.fuse_bn,
            "seed": self.seed,
            **self.metric_to_json(),
            **({"flops_reg": self.flops_reg} if self.importance == "taylor" else {}),
            **({"data": self.reading.to_json()} if self.reading else {}),
        }
