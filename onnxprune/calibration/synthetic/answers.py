"""Of more samples than are wanted, as many of each answer as there are.

Of what is drawn a trained classifier takes most for one thing, and is surer of it than of any real sample: sums of
squares are then of that one direction of the last layers, and what tells the classes apart hardly counts. So more are
drawn than are wanted, and classes take turns at them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.joined_runs import joined
from onnxprune.calibration.samples import CalibrationSet
from onnxprune.model.dtypes import NUMPY_FLOATS
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model
from onnxprune.running import session as runtime
from onnxprune.running.batch_size import batch_size


def scores_of(model: Model, shapes: Mapping[str, Shape], unit: int) -> str | None:
    """The first output that is a row of floats for each of ``unit`` samples: scores of classes, if anything is."""
    found = ((o.name, shapes.get(o.name, ())) for o in model.graph.outputs if o.elem_type in NUMPY_FLOATS)
    return next((n for n, s in found if len(s) == 2 and s[0] == unit and s[1] > 1), None)


def balanced(
    data: CalibrationSet, wanted: int, model: Model, scores: str, shapes: Mapping[str, Shape]
) -> NDArray[np.int64]:
    """Positions of ``wanted`` samples of ``data``, ascending, whose greatest of the ``scores`` are of all classes.

    Raises ModelError where the model cannot be run.
    """
    where = str(model.path or "model")
    size = batch_size(model.graph, shapes)
    data = joined(model, [scores], data) if size > 1 else data
    with runtime.session(model, where, optimize=True, any_batch=data.inputs.any_batch) as active:
        answers = [runtime.run(active, feeds, where)[scores].argmax(axis=1) for feeds in data.batches(size)]
    return turns(np.concatenate(answers), wanted)


def turns(answers: NDArray[np.int64], wanted: int) -> NDArray[np.int64]:
    """``wanted`` positions of ``answers`` [N], ascending: the first of each class, the second of each, and so on."""
    order = np.argsort(answers, kind="stable")
    first = np.searchsorted(answers[order], answers[order])
    turn = np.empty_like(order)
    turn[order] = np.arange(len(order)) - first
    return np.sort(np.argsort(turn, kind="stable")[:wanted])
