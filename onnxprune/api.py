"""The library: what the command line does, as functions. ``import onnxprune`` finds them here when they are used."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune import pipeline
from onnxprune.calibration.samples import Data
from onnxprune.cost.chips import costs
from onnxprune.labels import plan as plans
from onnxprune.labels.plan import Plan
from onnxprune.model import files
from onnxprune.model import opening as source
from onnxprune.model.onnx_model import Model
from onnxprune.model.opening import Source
from onnxprune.options import Options, ratio_or_default
from onnxprune.progress import Progress, silent
from onnxprune.proof.side_by_side import On
from onnxprune.report.diff import Comparison, compare
from onnxprune.report.run_report import Inspection, Report
from onnxprune.widths.budget import Budget

#: Where calibration data is (see README.md), arrays in memory, {input: [N, ...]}, or `Data`, which says how to read it.
DataSource: TypeAlias = str | os.PathLike[str] | Mapping[str, NDArray[np.generic]] | Data


@dataclass(frozen=True)
class Result:
    """A pruned model that was proven, in memory; the plan that made it, and the report on it."""

    plan: Plan
    report: Report
    _pruned: Model = field(repr=False)
    _original: Path | None = field(repr=False)

    @cached_property
    def model(self) -> ModelProto:
        """The pruned model. Raises OutputError where it is over protobuf's 2 GB; `save` writes it."""
        return source.to_proto(self._pruned)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        plan: str | os.PathLike[str] | None = None,
        report: str | os.PathLike[str] | None = None,
        external_data: bool = False,
    ) -> None:
        """Write the model, and the ``plan`` and the ``report`` as JSON where a path is given: all of them or none.

        With ``external_data`` the weights go to ``<path>.data`` beside it. Raises OutputError.
        """
        texts = {plan: self.plan.to_json(), report: replace(self.report, output=str(path)).to_json()}
        kept: dict[Path, Model | str] = {Path(place): text for place, text in texts.items() if place is not None}
        files.ensure_writable([Path(path), *kept], keep=self._original)
        files.write({**kept, Path(path): self._pruned}, external=external_data)


def prune(
    model: Source,
    *,
    ratio: float | None = None,
    lossless: bool = False,
    align: int | None = None,
    target: str | None = None,
    dtype: str | None = None,
    budget: str | None = None,
    importance: str | None = None,
    scope: str | None = None,
    exclude: Sequence[str] = (),
    ratio_for: Mapping[str, float] | None = None,
    max_ratio: float | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    data: DataSource | None = None,
    compensate: bool = True,
    recover: int = 0,
    flops_reg: float = 0.001,
    fuse_bn: bool = True,
    check_n: int = 3,
    rtol: float | None = None,
    atol: float = 0.0,
    seed: int = 0,
    progress: Progress = silent,
) -> Result:
    """Remove channels of ``model``, and prove that nothing else changed. Arguments are the command line's options.

        >>> result = onnxprune.prune("model.onnx", ratio=0.5, align=8)
        >>> result.report.parameters.ratio < 0.4
        True
        >>> result.save("small.onnx", plan="plan.json")
        >>> onnxprune.prune(onnx.load("model.onnx"), budget="macs=0.5", exclude=["up4*"]).report.macs.ratio <= 0.5
        True

    Raises OnnxPruneError: CheckError where the result is not what it must be.
    """
    options = Options(
        ratio=ratio_or_default(ratio, lossless=lossless, budget=budget),
        lossless=lossless,
        align=align,
        target=(priced := costs(target, dtype)),
        budget=None if budget is None else Budget.parse(budget, priced),
        importance=importance,
        scope=scope,
        exclude=tuple(exclude),
        ratio_for=tuple((ratio_for or {}).items()),
        max_ratio=max_ratio,
        input_shapes=_shapes(input_shapes),
        data=_data(data),
        compensate=compensate,
        recover=recover,
        flops_reg=flops_reg,
        fuse_bn=fuse_bn,
        check_n=check_n,
        rtol=rtol,
        atol=atol,
        seed=seed,
    )
    return _pruned(source.opened(model), options, None, progress)


def apply(
    model: Source,
    plan: Plan | str | os.PathLike[str],
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    data: DataSource | None = None,
    compensate: bool = True,
    recover: int = 0,
    fuse_bn: bool = True,
    check_n: int = 3,
    rtol: float | None = None,
    atol: float = 0.0,
    seed: int = 0,
    progress: Progress = silent,
) -> Result:
    """Remove what ``plan`` (or the one saved at this path) removes: of its model, or one retrained since.

        >>> onnxprune.prune("model.onnx").save("small.onnx", plan="plan.json")
        >>> result = onnxprune.apply("model.onnx", "plan.json")
        >>> result.model == onnx.load("small.onnx")
        True

    Raises OnnxPruneError: PlanError where the plan does not fit.
    """
    options = Options(
        input_shapes=_shapes(input_shapes),
        data=_data(data),
        compensate=compensate,
        recover=recover,
        fuse_bn=fuse_bn,
        check_n=check_n,
        rtol=rtol,
        atol=atol,
        seed=seed,
    )
    loaded = plan if isinstance(plan, Plan) else plans.load(Path(plan))
    return _pruned(source.opened(model), options, loaded, progress)


def inspect(
    model: Source,
    *,
    exclude: Sequence[str] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> Inspection:
    """What of ``model`` can be pruned, and what cannot, by which node and why.

        >>> found = onnxprune.inspect("model.onnx")
        >>> found.channels, len(found.groups)
        (496, 18)
        >>> onnxprune.inspect("model.onnx", exclude=["down1*"]).held[0].reasons
        ("is excluded by 'down1*'",)

    Raises OnnxPruneError.
    """
    return pipeline.inspect(source.opened(model), Options(exclude=tuple(exclude), input_shapes=_shapes(input_shapes)))


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
    """What differs between two models, in structure, in size, and in what they compute on ``data`` or seeded inputs.

        >>> found = onnxprune.diff("model.onnx", onnxprune.prune("model.onnx", ratio=0.5).model)
        >>> found.resized[0]
        Resized(node='inc.0.conv', weight='inc.0.conv.weight', before=(8, 1, 3, 3), after=(4, 1, 3, 3))
        >>> found.macs.ratio < 0.4, found.changed
        (True, ())

    Raises OnnxPruneError.
    """
    on = On(_shapes(input_shapes), _data(data), check_n, seed)
    return compare(source.opened(before), source.opened(after), on, progress)


def _pruned(model: Model, options: Options, plan: Plan | None, progress: Progress) -> Result:
    done = pipeline.prune(model, options, plan, progress)
    return Result(done.plan, done.report, done.model, model.path)


def _shapes(given: Mapping[str, Sequence[int]] | None) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in (given or {}).items()}


def _data(given: DataSource | None) -> Data | None:
    if given is None or isinstance(given, Data):
        return given
    return Data(given if isinstance(given, Mapping) else os.fspath(given))
