"""Exporting to any format: the result is written, read back and compared before it is handed out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune.calibration.gram_matrices import products
from onnxprune.constraints.grids import Grids
from onnxprune.errors import ModelError, OptionError
from onnxprune.formats import arrays, integer, qdq, qonnx, sparse_initializers
from onnxprune.formats.format_options import FOLDER, FORMATS, OF_GRIDS, OF_SINGLE, ROUNDINGS, FormatOptions, Rounding
from onnxprune.formats.inserted_nodes import single
from onnxprune.formats.integers.program import check_operators
from onnxprune.formats.integers.steps import Program
from onnxprune.formats.read_back import NO_VALUES
from onnxprune.labels.analysis import Analysis
from onnxprune.model.files import Folder
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model
from onnxprune.model.written_out.functions import inline

#: Inputs that what is written is run on.
_TRIED = 3


@dataclass(frozen=True)
class Exported:
    """The content of the file or folder, and ``notes`` for the report."""

    content: Model | Folder = field(repr=False)
    notes: tuple[str, ...] = ()


def check_asked(options: FormatOptions, *, weights: bool, activations: bool) -> None:
    """Raise OptionError, before any work, if the format needs grids that no option asks for."""
    name = options.format
    for where, value, known in (("--format", name, FORMATS), ("--rounding", options.rounding, ROUNDINGS)):
        if value not in known:
            raise OptionError(f"must be {', '.join(known[:-1])} or {known[-1]}, not {value}", where=where)
    hint = "give --weights 8 --activations 8 too"
    if name in OF_GRIDS and not weights:
        raise OptionError(f"{name} is made of numbers on grids", where="--format", hint=hint)
    if name == "integer" and not activations:
        raise OptionError("integer needs activations on grids too", where="--format", hint=hint)


def check_model(options: FormatOptions, analysis: Analysis) -> None:
    """Raise ModelError, before samples are read, if the format cannot hold an operator, or the weights of any layer."""
    if options.format == "integer":
        check_operators(analysis.runnable, analysis.trace.shapes)
    if options.format not in OF_SINGLE:
        return
    model = analysis.trace.model
    weights = [p.node.inputs[1] for p in products(model, analysis.trace.shapes.shape, every=True)]
    if weights and all(model.array(n).dtype != np.float32 for n in weights):
        single(model, weights[0])


def export(
    options: FormatOptions,
    model: Model,
    grids: Grids,
    input_shapes: Mapping[str, Sequence[int]],
    seed: int = 0,
    input_values: Mapping[str, float] = NO_VALUES,
) -> Exported:
    """Write ``model``, whose weights lie on ``grids``, in the format of ``options``, read it back and compare.

    Raises ModelError where the format cannot hold the model, CheckError where what was read back differs.
    """
    model, grids = _named(model, grids)
    shapes = {n: tuple(s) for n, s in input_shapes.items()}
    if options.format == "sparse":
        written = sparse_initializers.write(model)
        sparse_initializers.verify(model, written)
    elif options.format == "qdq":
        written, said = qdq.written_to_run(model, grids, shapes, seed, input_values)
        qdq.verify(model, grids, written, shapes, seed, input_values)
        return Exported(written, (said,) if said else ())
    elif options.format == "qonnx":
        written = qonnx.write(model, grids, shapes)
        qonnx.verify(model, grids, written)
    elif options.format == "integer":
        steps = integer.program(model, grids, shapes, options.rounding)
        written = integer.graph(model, steps)
        integer.verify(steps, written, _TRIED, seed)
        return Exported(written, (_near(model, grids, steps, seed),))
    elif options.format == FOLDER:
        return _folder(model, grids, shapes, options.rounding, seed)
    else:
        written = model
    return Exported(written)


def _named(model: Model, grids: Grids) -> tuple[Model, Grids]:
    """The model with its functions written out, and the grids of what is there then."""
    model = inline(model).written
    there = {*model.graph.producer, *(i.name for i in model.graph.inputs)}
    weights = {n: g for n, g in grids.weights.items() if n in model.graph.constants}
    return model, Grids(weights, {n: g for n, g in grids.activations.items() if n in there})


def _folder(model: Model, grids: Grids, input_shapes: Mapping[str, Shape], rounding: Rounding, seed: int) -> Exported:
    """Weights, and steps where there are some."""
    program, because = None, ""
    try:
        program = integer.program(model, grids, input_shapes, rounding)
    except ModelError as error:
        because = error.what if not error.where else f"{error.where}: {error.what}"
    files = arrays.write(model, grids, program, because)
    tried = [integer.drawn(program, seed + i) for i in range(_TRIED)] if program is not None else []
    arrays.verify(model, grids, program, files, tried)
    if program is None:
        return Exported(Folder(files), (f"the folder has weights and no steps: {because}",))
    return Exported(Folder(files), (_near(model, grids, program, seed),))


def _near(model: Model, grids: Grids, steps: Program, seed: int) -> str:
    near = integer.nearness(model, grids, steps, seed)
    return f"integers against floats on the same grids: cosine {near:.4f} or more, on a random input"
