"""One door to all formats: written, read back, and compared, so that nothing is given out that is not what it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxprune.constraints.grids import Grids
from onnxprune.errors import ModelError, OptionError
from onnxprune.formats import arrays, integer, qdq, qonnx, sparse_initializers
from onnxprune.formats.format_options import OF_GRIDS
from onnxprune.formats.integers.steps import Rounding
from onnxprune.model.files import Folder
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model

#: Inputs that what is written is run on.
_TRIED = 3


@dataclass(frozen=True)
class Exported:
    """What goes to the file, or the folder; and ``notes`` on it."""

    content: Model | Folder = field(repr=False)
    notes: tuple[str, ...] = ()


def check_asked(name: str, *, weights: bool, activations: bool) -> None:
    """Raise OptionError, before any work, where format ``name`` needs grids that nobody asks for."""
    hint = "give --weights 8 --activations 8 too"
    if name in OF_GRIDS and not weights:
        raise OptionError(f"{name} is made of numbers on grids", where="--format", hint=hint)
    if name == "integer" and not activations:
        raise OptionError("integer needs activations on grids too", where="--format", hint=hint)


def export(
    name: str, model: Model, grids: Grids, input_shapes: Mapping[str, Shape], rounding: Rounding, seed: int = 0
) -> Exported:
    """``model``, whose weights lie on ``grids``, as format ``name``, which was read back and compared.

    Raises ModelError where the format cannot hold the model, CheckError where what was written is something else.
    """
    if name == "float":
        return Exported(model)
    if name == "sparse":
        written = sparse_initializers.write(model)
        sparse_initializers.verify(model, written)
        return Exported(written)
    if name == "qdq":
        written = qdq.write(model, grids)
        qdq.verify(model, grids, written, input_shapes, seed)
        return Exported(written)
    if name == "qonnx":
        written = qonnx.write(model, grids)
        qonnx.verify(model, grids, written)
        return Exported(written)
    if name == "integer":
        written = integer.write(model, grids, input_shapes, rounding)
        integer.verify(integer.program(model, grids, input_shapes, rounding), written, _TRIED, seed)
        return Exported(written)
    return _folder(model, grids, input_shapes, rounding, seed)


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
    notes = () if program is not None else (f"the folder has weights and no steps: {because}",)
    return Exported(Folder(files), notes)
