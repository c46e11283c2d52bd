"""Models that declare one sample: read many at once where that changes nothing, and one at a time elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.calibration.joined_runs import joined
from onnxprune.labels.analysis import analyse
from onnxprune.model.onnx_model import from_proto
from tests.models import build
from tests.samples import from_arrays

BODIES = {
    "any batch": ("y = Relu(x)", True),
    "its batch in a constant": ("y = Reshape(x, whole)", False),
    "mixes samples": ("m = ReduceMean<axes=[0], keepdims=1>(x) \n y = Sub(x, m)", False),
    "the batch is not in front": ("t = Transpose<perm=[1,0]>(x) \n y = Transpose<perm=[1,0]>(t)", False),
}


@pytest.mark.parametrize("name", BODIES)
def test_samples_are_joined_where_every_tensor_stays_as_it_is(name: str) -> None:
    body, expected = BODIES[name]
    model = from_proto(build(f"(float[1,4] x) => (float[1,4] y) <int64[2] whole = {{1, 4}}> {{ {body} }}"))
    shapes = analyse(model).trace.shapes
    arrays = {"x": np.random.default_rng(0).standard_normal((8, 4)).astype(np.float32)}
    data = from_arrays(arrays, model, shapes.inputs)
    assert not data.inputs.any_batch
    more = ["t"] if "t =" in body else []
    found = joined(model, more, data)
    assert found.inputs.any_batch == expected
    assert found.runs(64) == (1 if expected else 8)
