"""The options about a metric: what judges a pruned model, how much of it may go, and what is made small."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from onnxprune.errors import OptionError
from onnxprune.option_declarations import numbers_of, option

#: One that is ready (``top1@val.npz``), ``module:function``, or the function.
MetricSource: TypeAlias = "str | Callable[..., Any]"

#: What may be made small: costs of a budget.
MINIMISED = ("macs", "params", "bytes", "cycles", "ms")


#: What `sensitivity` measures where no metric is named, and the ratios.
METRIC, RATIOS = "noise", (0.1, 0.2, 0.3, 0.4, 0.5)

#: Whether a group's larger ratios are left out once its metric has dropped, or risen, by more than the threshold.
STOPS = ("dropped", "raised")

#: What is said of a metric, or of the search by one.
_OF_A_METRIC = ("max_drop", "min_metric", "test_metric", "finetune", "step", "minimise", "evaluations", "drop",
                "confidence", "metric_lower_is_better")  # fmt: skip
OF_TRIALS = ("trials", "resume", "jobs", "cluster")

#: What a drop counts in.
_DROPS = ("absolute", "relative")


@dataclass(frozen=True)
class Limit:
    """What a metric has to keep: one of ``max_drop`` and ``min_metric``.

    ``relative``: a drop is a share of the original's metric; ``lower``: less of the metric is better; ``confidence``:
    in standard errors.
    """

    max_drop: float | None
    min_metric: float | None
    relative: bool
    lower: bool
    confidence: float

    def __post_init__(self) -> None:
        """Raise OptionError for values out of range."""
        for name, value in (("--max-drop", self.max_drop), ("--confidence", self.confidence)):
            if value is not None and not 0 <= value < math.inf:
                raise OptionError(f"must be at least 0, not {value:g}", where=name)
        if self.min_metric is not None and not math.isfinite(self.min_metric):
            raise OptionError(f"must be a number, not {self.min_metric:g}", where="--min-metric")

    def __str__(self) -> str:
        sign = "<=" if self.lower else ">="
        if self.min_metric is not None:
            return f"metric {sign} {self.min_metric:g}"
        return f"drop <= {self.max_drop:g}{' of the original' if self.relative else ''}"


@dataclass(frozen=True, kw_only=True)
class MetricOptions:
    """How far to go, by a metric of the user's own."""

    metric: MetricSource | None = option(
        None,
        "--metric",
        metavar="NAME",
        help="Instead of --ratio: prune as far as this metric allows. module:function of your own, or agreement, kl, "
        "snr, cosine (with the original, on --data), top1@FILE.npz, miou@FILE.npz (with labels).",
    )
    max_drop: float | None = option(
        None,
        "--max-drop",
        kind=float,
        metavar="D",
        help="Find the smallest model that loses at most this much of --metric.",
    )
    min_metric: float | None = option(
        None,
        "--min-metric",
        kind=float,
        metavar="M",
        help="Find the smallest model whose --metric is at least this good.",
    )
    metric_lower_is_better: bool = option(
        False,
        "--metric-lower-is-better",
        kind=bool,
        help="Say that a smaller --metric is better, as an error or a loss is.",
    )
    drop: str = option(
        "absolute",
        "--drop",
        kind=_DROPS,
        shown=True,
        help="How --max-drop counts: in units of the metric, or as a share of the original's.",
    )
    confidence: float = option(
        1.0,
        "--confidence",
        kind=float,
        shown=True,
        help="By how many standard errors the drop must stay below its limit; 0 takes it as measured.",
    )
    test_metric: MetricSource | None = option(
        None,
        "--test-metric",
        metavar="NAME",
        help="Report a second metric, on samples that had no influence on the result.",
    )
    minimise: str | None = option(
        None,
        "--minimise",
        kind=MINIMISED,
        help="The cost that --metric makes as small as it can. [default: macs, or cycles with a target]",
    )
    evaluations: int = option(
        8, "--evaluations", kind=int, shown=True, help="How many pruned models --metric may judge."
    )

    finetune: MetricSource | None = option(
        None,
        "--finetune",
        metavar="MODULE:FUNCTION",
        help="Prune in rounds and train between them: the function is given the pruned model, its plan and the number "
        "of the round, and returns a model of the same shapes.",
    )
    step: float = option(
        0.3,
        "--step",
        kind=float,
        metavar="S",
        shown=True,
        help="Share of what is left that each round of --finetune removes.",
    )
    trials: str | os.PathLike[str] | None = option(
        None, "--trials", metavar="PATH", help="Append every finished trial to this table (JSON lines)."
    )
    resume: bool = option(False, "--resume", kind=bool, help="Do not repeat trials that --trials holds already.")
    cache: str | os.PathLike[str] | None = option(
        None,
        "--cache",
        metavar="DIR",
        help="Keep statistics of the calibration data, and scores, in this folder: a run with another budget, target "
        "or metric starts from there.",
    )
    jobs: int = option(
        1,
        "--jobs",
        kind=int,
        metavar="N",
        shown=True,
        help="Number of processes that run trials, each with one thread.",
    )
    cluster: str | None = option(
        None,
        "--cluster",
        metavar="URL",
        help="Run trials on a cluster instead: dask://HOST:PORT of a scheduler, or ray://HOST:PORT.",
    )

    @property
    def limit(self) -> Limit | None:
        """What the metric has to keep. Raises OptionError for values that contradict each other or are out of range."""
        if self.metric is None:
            self._refuse(_OF_A_METRIC, "says nothing without a metric", "give --metric")
            return None
        if (self.max_drop is None) == (self.min_metric is None):
            hint = "--max-drop 0.01, or --min-metric 0.9"
            raise OptionError("needs one limit, of its drop or of itself", where="--metric", hint=hint)
        if self.finetune is not None:
            self._check_rounds()
        else:
            self._refuse(("step",), "says nothing without rounds of training", "give --finetune")
        if self.evaluations < 1:
            raise OptionError(f"must be at least 1, not {self.evaluations}", where="--evaluations")
        if self.drop not in _DROPS:
            raise OptionError(f"must be absolute or relative, not {self.drop}", where="--drop")
        if self.minimise not in (None, *MINIMISED):
            raise OptionError(f"must be {', '.join(MINIMISED)}, not {self.minimise}", where="--minimise")
        return Limit(
            max_drop=self.max_drop,
            min_metric=self.min_metric,
            relative=self.drop == "relative",
            lower=self.metric_lower_is_better,
            confidence=self.confidence,
        )

    def refuse_trials(self) -> None:
        """Raise OptionError for what is about trials, where there are none."""
        if self.metric is None:
            self._refuse(OF_TRIALS, "is about trials, and there are none", "give --metric")

    @classmethod
    def without_metric(cls) -> dict[str, Any]:
        """Options, by name, of a run that no metric steers."""
        names = ("metric", *_OF_A_METRIC, *OF_TRIALS)
        return {f.name: f.default for f in fields(cls) if f.name in names}

    def _refuse(self, names: Sequence[str], what: str, hint: str) -> None:
        """Raise OptionError if one of these is not what it is by itself."""
        usual = self.without_metric()
        where = next((name for name in names if getattr(self, name) != usual[name]), None)
        if where is not None:
            raise OptionError(what, where=f"--{where.replace('_', '-')}", hint=hint)

    def _check_rounds(self) -> None:
        if not 0 < self.step <= 0.5:
            raise OptionError(
                f"must be in (0, 0.5], not {self.step:g}", where="--step", hint="0.3 removes 30 % of what is left"
            )
        if self.minimise == "ms":
            raise OptionError("cannot be ms with --finetune", where="--minimise", hint="cycles")

    def metric_to_json(self) -> dict[str, Any]:
        """As plan and report write them: nothing without a metric."""
        if self.metric is None:
            return {}
        names = ("max_drop", "min_metric", "drop", "confidence", "minimise", "evaluations")
        told = {n: v for n in names if (v := getattr(self, n)) is not None}
        if self.finetune is not None:
            told |= {"finetune": name_of(self.finetune), "step": self.step}
        return {"metric": name_of(self.metric), **told, "metric_lower_is_better": self.metric_lower_is_better}


def _ratios_for(texts: Sequence[str]) -> tuple[tuple[str, tuple[float, ...]], ...]:
    found = []
    for text in texts:
        glob, equals, numbers = text.rpartition("=")
        if not equals:
            raise ValueError(f"'{text}' is not GLOB=RATIOS")
        found.append((glob, numbers_of(numbers)))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class SensitivityOptions:
    """What `sensitivity` measures, beside what `prune` is told of the model and its data."""

    metric: MetricSource = option(
        METRIC,
        "--metric",
        metavar="NAME",
        shown=True,
        help="What to measure: noise (noise over signal of the outputs), a metric that `prune --metric` names, or "
        "module:function.",
    )
    ratios: tuple[float, ...] = option(
        (),
        "--ratios",
        metavar="R,R,...",
        read=numbers_of,
        help="Ratios to cut each group at. [default: 0.1,0.2,0.3,0.4,0.5]",
    )
    ratios_for: Sequence[tuple[str, tuple[float, ...]]] = option(
        (),
        "--ratios-for",
        multiple=True,
        metavar="GLOB=R,R,...",
        read=_ratios_for,
        help="Use other ratios for matching nodes. Repeatable.",
    )
    early_stop: str | None = option(
        None,
        "--early-stop",
        kind=STOPS,
        help="Skip a group's larger ratios once its metric has dropped, or risen, by more than --threshold.",
    )
    threshold: float = option(
        0.0,
        "--threshold",
        kind=float,
        shown=True,
        help="How far the metric may move before --early-stop skips the rest.",
    )


def name_of(metric: MetricSource) -> str:
    """What a metric is called."""
    return metric if isinstance(metric, str) else f"{metric.__module__}:{getattr(metric, '__qualname__', metric)}"
