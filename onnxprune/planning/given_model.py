"""The model that is analysed: as it was given, with the outputs that are asked for, and without branches of a plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from onnxprune.errors import ModelError, OptionError, nearest
from onnxprune.labels.analysis import Analysis, analyse
from onnxprune.labels.label_propagation import Trace
from onnxprune.model import new_outputs
from onnxprune.model.onnx_model import Model
from onnxprune.options import Options
from onnxprune.passes import FoldComputedParameters, FuseBatchNorm, KeepRows, Pass, cut_to
from onnxprune.passes import run as run_passes
from onnxprune.planning.branch_removal import WithoutBranches
from onnxprune.progress import Stopwatch
from onnxprune.widths import named_channels
from onnxprune.widths.named_channels import Rows


@dataclass(frozen=True)
class Given:
    """What was done to the model before it was analysed: ``rows`` that outputs still show, and all in words.

    ``gone``: branches that went whole, and ``whole``: the analysis of the model with them.
    """

    rows: Mapping[str, Rows] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    whole: Analysis | None = None

    def to_json(self) -> dict[str, Any]:
        """What a plan has to say beside the options, so that it is done again."""
        return {"gone_branches": [*self.gone]} if self.gone else {}


def analysed_by(options: Options, model: Model) -> Analysis:
    """The analysis of ``model``. Raises ModelError and OptionError."""
    return analyse(
        model,
        exclude=options.exclude,
        input_shapes=options.input_shapes,
        input_values=options.input_values,
        seed=options.seed,
    )


def without(analysis: Analysis, options: Options, names: Sequence[str]) -> Analysis:
    """The analysis of the model without these branches. Raises PlanError where one is none."""
    return analysed_by(options, run_passes(analysis.trace.model, [WithoutBranches(analysis, names)]).model)


def folding(options: Options, trace: Trace, keep: Collection[tuple[str, ...]] = ()) -> list[Pass]:
    """What is folded before weights are solved anew, if anything may be; ``keep``: outputs of nodes that stay."""
    kept = frozenset(keep)
    return [FoldComputedParameters(trace.shapes.elem_type, kept), FuseBatchNorm(kept)] if options.fuse_bn else []


def _given(
    model: Model, options: Options, outputs: Sequence[str], keep: Mapping[str, Sequence[int]]
) -> tuple[Analysis, Given]:
    """The model with the outputs that are asked for, analysed."""
    cut = cut_to(model, outputs, options.input_shapes, options.input_values)
    if not keep:
        return analysed_by(options, cut.model), Given(notes=cut.changes)
    known = {o.name for o in cut.model.graph.outputs}
    if unknown := [n for n in keep if n not in known]:
        raise OptionError(
            f"no output is called '{unknown[0]}'", where="--keep-outputs", hint=nearest(unknown[0], known)
        )
    trace = analysed_by(options, cut.model).trace
    rows = {n: named_channels.rows_of(trace, n, at, new_outputs.whole_of(n)) for n, at in keep.items()}
    taken = KeepRows({n: (r.axis, r.positions) for n, r in rows.items()}).run(cut.model)
    return analysed_by(options, taken.model), Given(rows, cut.changes + taken.changes)


def analysed(model: Model, options: Options, made: Mapping[str, Any], watch: Stopwatch) -> tuple[Analysis, Given]:
    """The model with the outputs that ``made`` asks for, analysed. Raises ModelError where it has NaN weights."""
    with watch.stage("analyse"):
        analysis, given = _given(model, options, made.get("outputs", ()), made.get("keep_outputs", {}))
        if gone := tuple(made.get("gone_branches", ())):
            whole, analysis = analysis, without(analysis, options, gone)
            given = replace(given, gone=gone, whole=whole)
    if (name := analysis.trace.model.not_a_number()) is not None:
        at = f"{model.path or 'model'}, tensor '{name}'"
        raise ModelError("has NaN weights", where=at, hint="repair or export the model again")
    return analysis, given
