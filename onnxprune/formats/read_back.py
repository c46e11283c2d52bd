"""Reading a written model back and comparing it: a difference is a bug, and then nothing is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from onnxprune.constraints.grids import Grid
from onnxprune.errors import CheckError
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model, check
from onnxprune.running import session as runtime
from onnxprune.running.seeded_inputs import seeded_feeds
from onnxprune.running.session import Feeds
from onnxprune.running.tried_input_shapes import choose_inputs

_HINT = "please report this as a bug"

NO_VALUES: Mapping[str, float] = {}


def read_back(written: Model) -> Model:
    """The model as a reader of its file gets it. Raises ModelError where onnx.checker refuses it."""
    proto = ModelProto.FromString(b"".join(written.pieces()))
    check(proto, "what was written")
    return Model(proto)


def run_on_seeded(
    model: Model,
    outputs: Iterable[str],
    input_shapes: Mapping[str, Shape],
    seed: int,
    input_values: Mapping[str, float] = NO_VALUES,
) -> tuple[Feeds, Feeds]:
    """Run ``model`` on seeded inputs; returns these, and all outputs together with the tensors ``outputs``.

    ``input_values``: of inputs of one number, as they were given.
    """
    chosen = choose_inputs(model, input_shapes, input_values)
    feeds = seeded_feeds(model.graph.inputs, chosen.shapes, seed, chosen.draws)
    with runtime.session(model, "what was written", outputs=outputs) as active:
        return feeds, runtime.run(active, feeds, "what was written")


def check_same(name: str, found: NDArray[np.generic], wanted: NDArray[np.generic]) -> None:
    """Raise CheckError where one number differs."""
    if found.shape != wanted.shape or not np.array_equal(found, wanted):
        count = int((found != wanted).sum()) if found.shape == wanted.shape else found.size
        what = f"{count} numbers are not what they were before they were written; nothing was written"
        raise CheckError(what, where=f"tensor '{name}'", hint=_HINT)


def check_rounding(name: str, grid: Grid, before: NDArray[np.float32], after: NDArray[np.float32]) -> None:
    """Raise CheckError where ``after`` is not ``before`` on its grid, bit for bit."""
    check_same(name, after, grid.of_rank(before.ndim).rounded(before))
