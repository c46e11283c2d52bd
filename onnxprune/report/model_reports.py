"""Reports on a model that is not pruned: what could be removed, what wastes a target, and its zeros."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxprune.cost.chips import Cycles
from onnxprune.importance import criteria
from onnxprune.importance.criterion import Subject
from onnxprune.labels.analysis import analyse
from onnxprune.labels.ops import custom
from onnxprune.model.onnx_model import Model
from onnxprune.options import Options
from onnxprune.passes import cut_to
from onnxprune.progress import Progress, silent
from onnxprune.report import advice
from onnxprune.report.advice import Advice
from onnxprune.report.inspection import Inspection, inspection_of
from onnxprune.report.sparsity import Sparsity, sparsity_of
from onnxprune.widths.choose_channels import choose

Shapes = Mapping[str, Sequence[int]]


def inspect(
    model: Model,
    *,
    exclude: Sequence[str] = (),
    input_shapes: Shapes | None = None,
    input_values: Mapping[str, float] | None = None,
    operators: Sequence[str] = (),
    outputs: Sequence[str] = (),
) -> Inspection:
    """Find what could be pruned, and what could not and why. Raises OnnxPruneError.

    ``operators``: declarations of custom ones; ``outputs``: where to cut the model first. Nodes that cannot follow are
    found by a trial at half the width.
    """
    with custom.declared([custom.read(text) for text in operators]):
        model = cut_to(model, outputs, input_shapes or {}, input_values or {}).model
        analysis = analyse(model, exclude=exclude, input_shapes=input_shapes, input_values=input_values)
        request, subject = Options(ratio=0.5, importance="random").request, Subject(analysis.trace)
        scorer = criteria.resolve("random")(subject)
        return inspection_of(analysis.trace, choose(analysis, request, subject, request.ways[0], scorer).groups)


def advise(
    model: Model,
    costs: Cycles,
    *,
    exclude: Sequence[str] = (),
    input_shapes: Shapes | None = None,
    input_values: Mapping[str, float] | None = None,
    operators: Sequence[str] = (),
    outputs: Sequence[str] = (),
    progress: Progress = silent,
) -> Advice:
    """Find where the model wastes a target; the arguments are those of `inspect`. Raises OnnxPruneError."""
    with custom.declared([custom.read(text) for text in operators]):
        progress("analyse")
        model = cut_to(model, outputs, input_shapes or {}, input_values or {}).model
        analysis = analyse(model, exclude=exclude, input_shapes=input_shapes, input_values=input_values)
        progress("advise")
        return advice.advise(analysis.trace, analysis.groups, costs)


def sparsity(
    model: Model, *, input_shapes: Shapes | None = None, input_values: Mapping[str, float] | None = None
) -> Sparsity:
    """Count the zeros among the weights of ``model``, layer by layer. Raises OnnxPruneError."""
    analysis = analyse(model, input_shapes=input_shapes, input_values=input_values)
    return sparsity_of(analysis.trace.model, analysis.trace.shapes.shape)
