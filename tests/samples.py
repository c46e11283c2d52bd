"""Calibration data of arrays in memory, all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from onnxprune.calibration.data_options import Data
from onnxprune.calibration.model_inputs import LABELS
from onnxprune.calibration.samples import CalibrationSet, load
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model


def from_arrays(
    data: Mapping[str, NDArray[Any]], model: Model, shapes: Mapping[str, Shape], *, labels: NDArray[Any] | None = None
) -> CalibrationSet:
    """All samples of ``data``, {input: [N, ...]}, with ``labels`` [N, ...] where there are any."""
    held = {**data, **({} if labels is None else {LABELS: labels})}
    return load(Data(held, samples=max(array.size for array in data.values())), model, shapes)
