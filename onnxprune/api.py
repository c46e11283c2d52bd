"""The functions of the library, one for each command. ``import onnxprune`` imports this module on first use."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, wraps
from inspect import Signature, signature
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

from onnx import ModelProto

from onnxprune import pipeline
from onnxprune.model import files
from onnxprune.model.files import Folder
from onnxprune.model.onnx_model import Model
from onnxprune.model.opening import Source, opened, to_proto
from onnxprune.options import ApplyOptions, DataSource, Options
from onnxprune.plans.plan_file import Plan, load_plan
from onnxprune.progress import Progress, silent
from onnxprune.proof.side_by_side import On
from onnxprune.report import model_reports
from onnxprune.report.diff import Comparison, compare
from onnxprune.report.inspection import Inspection
from onnxprune.report.run_report import Report
from onnxprune.report.sparsity import Sparsity
from onnxprune.search.sensitivity import Sensitivity, SensitivityRequest
from onnxprune.training import rounds
from onnxprune.widths.metric_options import METRIC, RATIOS, MetricSource

#: A plan, or the path of a saved one.
PlanSource: TypeAlias = Plan | str | os.PathLike[str]


@dataclass(frozen=True)
class Result:
    """A pruned and proven model in memory, with its ``plan`` (which channels stay) and its ``report``."""

    plan: Plan
    report: Report
    _pruned: Model = field(repr=False)
    _exported: Model | Folder | None = field(repr=False)
    _original: Path | None = field(repr=False)

    @cached_property
    def model(self) -> ModelProto:
        """The pruned model in the format that was asked for.

        With ``format="npy"``, which is a folder of arrays, it is the ONNX model that the arrays were taken from.
        Raises OutputError for a model over protobuf's limit of 2 GB; `save` can still write that one.
        """
        return to_proto(self._exported if isinstance(self._exported, Model) else self._pruned)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        plan: str | os.PathLike[str] | None = None,
        report: str | os.PathLike[str] | None = None,
        external_data: bool = False,
    ) -> None:
        """Write the model to ``path``, and, where paths are given, the ``plan`` and the ``report`` as JSON.

        Either every file is written or none is. With ``external_data`` the weights go to ``<path>.data`` beside the
        model. Raises OutputError where a file cannot be written, or would replace the original model.
        """
        texts = {plan: self.plan.to_json(), report: replace(self.report, output=str(path)).to_json()}
        kept: dict[Path, Model | Folder | str] = {Path(p): text for p, text in texts.items() if p is not None}
        content = self._exported or self._pruned
        folders = {Path(path): content.mark} if isinstance(content, Folder) else {}
        files.ensure_writable([Path(path), *kept], keep=self._original, folders=folders)
        files.write({**kept, Path(path): content}, external=external_data)


P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., Any])
_Prunes: TypeAlias = Callable[[Source, Options], Result]
_Applies: TypeAlias = Callable[[Source, PlanSource, ApplyOptions], Result]


def _takes_options(make: Callable[P, Options]) -> Callable[[_Prunes], Callable[Concatenate[Source, P], Result]]:
    """Give a function the fields of `Options` as keyword arguments, visible to type checkers and to help()."""

    def decorate(function: _Prunes) -> Callable[Concatenate[Source, P], Result]:
        @wraps(function)
        def called(model: Source, /, *args: P.args, **given: P.kwargs) -> Result:
            return function(model, make(*args, **given))

        return _signed(called, function, make)

    return decorate


def _takes_apply_options(
    make: Callable[P, ApplyOptions],
) -> Callable[[_Applies], Callable[Concatenate[Source, PlanSource, P], Result]]:
    """As `_takes_options`, for a function that takes a model and a plan before its options."""

    def decorate(function: _Applies) -> Callable[Concatenate[Source, PlanSource, P], Result]:
        @wraps(function)
        def called(model: Source, plan: PlanSource, /, *args: P.args, **given: P.kwargs) -> Result:
            return function(model, plan, make(*args, **given))

        return _signed(called, function, make)

    return decorate


def _signed(called: F, function: Callable[..., Any], make: Callable[..., Any]) -> F:
    """Set the signature of ``called``: the positional parameters of ``function``, then the keywords of ``make``."""
    first = list(signature(function).parameters.values())[:-1]
    options = signature(make).parameters.values()
    called.__signature__ = Signature([*first, *options])  # type: ignore[attr-defined]
    return called


@_takes_options(Options)
def prune(model: Source, options: Options) -> Result:
    """Remove channels from ``model`` and prove that the cut is exact.

    ``model`` is a path, the bytes of a file, or a ModelProto. The keyword arguments are the options of the command
    line, as fields of `onnxprune.options.Options`. The remaining weights are solved anew on ``data``; without ``data``
    this is done on drawn inputs, and with ``data="none"`` the weights stay as they are.

        >>> result = onnxprune.prune("model.onnx", ratio=0.5, align=8)
        >>> result.report.parameters.ratio < 0.4
        True
        >>> result.save("small.onnx", plan="plan.json")
        >>> onnxprune.prune(onnx.load("model.onnx"), budget="macs=0.5", exclude=["up4*"]).report.macs.ratio <= 0.5
        True

    Raises OnnxPruneError; of its kinds, CheckError says that the proof or another check of the result failed.
    """
    return _pruned(opened(model), options, None)


@_takes_apply_options(ApplyOptions)
def apply(model: Source, plan: PlanSource, options: ApplyOptions) -> Result:
    """Remove from ``model`` the channels that ``plan``, a plan or the path of a saved one, removes.

    ``model`` is the model that the plan was made for, or one with the same names and shapes that was retrained since.
    The keyword arguments are the fields of `onnxprune.options.ApplyOptions`.

        >>> onnxprune.prune("model.onnx").save("small.onnx", plan="plan.json")
        >>> result = onnxprune.apply("model.onnx", "plan.json")
        >>> result.model == onnx.load("small.onnx")
        True

    Raises OnnxPruneError; of its kinds, PlanError says that the plan does not fit the model.
    """
    given = {f.name: getattr(options, f.name) for f in fields(options) if f.init}
    loaded = plan if isinstance(plan, Plan) else load_plan(Path(plan))
    return _pruned(opened(model), Options(**given), loaded)


def inspect(
    model: Source,
    *,
    exclude: Sequence[str] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    input_values: Mapping[str, float] | None = None,
    custom: Sequence[str] = (),
    outputs: Sequence[str] = (),
) -> Inspection:
    """Find which channels of ``model`` can be pruned, and for the others which node holds them and why.

    ``exclude``: globs of nodes or tensors to leave alone. ``input_shapes``: shapes of dynamic inputs; ``input_values``:
    what to feed to inputs of one element. ``custom``: what custom operators do, as "DOMAIN::OP=KIND". ``outputs``:
    tensors or nodes at which the model is cut first.

        >>> found = onnxprune.inspect("model.onnx")
        >>> found.channels, len(found.groups)
        (496, 18)
        >>> onnxprune.inspect("model.onnx", exclude=["down1*"]).held[0].reasons
        ("is excluded by 'down1*'",)

    Raises OnnxPruneError.
    """
    return model_reports.inspect(
        opened(model),
        exclude=exclude,
        input_shapes=input_shapes,
        input_values=input_values,
        operators=custom,
        outputs=outputs,
    )


def sensitivity(
    model: Source,
    *,
    metric: MetricSource = METRIC,
    ratios: Sequence[float] = RATIOS,
    ratios_for: Mapping[str, Sequence[float]] | None = None,
    early_stop: str | None = None,
    threshold: float = 0.0,
    **given: Any,
) -> Sensitivity:
    """Measure what cutting each group of channels of ``model``, one group at a time, does to ``metric``.

    ``ratios``: the shares of its channels that a group is cut by; ``ratios_for``: other ratios for the nodes that match
    a glob. ``early_stop`` ("dropped" or "raised") skips a group's larger ratios once the metric has moved by more than
    ``threshold``. Every other keyword is one of `prune`.

        >>> found = onnxprune.sensitivity("model.onnx", metric=lambda session: 1.0, ratios=[0.25])
        >>> [(group.name, group.steps[0].kept) for group in found.groups][0]
        ('inc.0.conv', 6)

    Raises OnnxPruneError.
    """
    own = tuple((glob, tuple(r)) for glob, r in (ratios_for or {}).items())
    asked = SensitivityRequest(metric, tuple(ratios), own, early_stop, threshold)
    options = Options(**given)
    return pipeline.sensitivity(opened(model), options, asked, options.progress)


def sparsity(
    model: Source,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    input_values: Mapping[str, float] | None = None,
) -> Sparsity:
    """Count the zeros among the weights of ``model``, layer by layer, and tell which patterns they follow.

    ``input_shapes`` and ``input_values`` are those of `inspect`.

        >>> found = onnxprune.sparsity(onnxprune.prune("model.onnx", pattern="2:4", data="none").model)
        >>> "2:4" in found.patterns, found.layers[-1].share
        (True, 0.5)

    Raises OnnxPruneError.
    """
    return model_reports.sparsity(opened(model), input_shapes=input_shapes, input_values=input_values)


def diff(
    before: Source,
    after: Source,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    data: DataSource | None = None,
    check_n: int = 3,
    seed: int = 0,
    progress: Progress = silent,
) -> Comparison:
    """Compare two models: their structure, their size, and what they compute on the same inputs.

    The inputs are those of ``data``, or else ``check_n`` random ones from ``seed``. ``input_shapes``: shapes of dynamic
    inputs.

        >>> found = onnxprune.diff("model.onnx", onnxprune.prune("model.onnx", ratio=0.5).model)
        >>> found.resized[0]
        Resized(node='inc.0.conv', weight='inc.0.conv.weight', before=(8, 1, 3, 3), after=(4, 1, 3, 3))
        >>> found.macs.ratio < 0.4, found.changed
        (True, ())

    Raises OnnxPruneError.
    """
    asked = ApplyOptions(input_shapes=input_shapes or {}, data=data, check_n=check_n, seed=seed)
    reading = None if data is None else asked.reading
    on = On({n: tuple(s) for n, s in asked.input_shapes.items()}, reading, check_n, seed)
    return compare(opened(before), opened(after), on, progress)


def _pruned(model: Model, options: Options, plan: Plan | None) -> Result:
    if options.finetune is None or plan is not None:
        done = pipeline.prune(model, options, plan, options.progress)
    else:
        done = rounds.finetuned(model, options, options.progress)
    return Result(done.plan, done.report, done.model, done.exported, model.path)
