"""The property on random graphs of all rules together.

``ONNXPRUNE_EXAMPLES=5000 pytest tests/test_random_graphs.py`` looks longer. What it finds becomes a row.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, assume, event, given, note, settings
from hypothesis import strategies as st
from onnx import ModelProto, printer

from onnxprune.graph import Shape
from tests.models import too_new
from tests.property import assert_exact, some
from tests.strategies import models

EXAMPLES = int(os.environ.get("ONNXPRUNE_EXAMPLES", "150"))


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES == 150,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(drawn=models(), seed=st.integers(0, 99), most=st.sampled_from([0.3, 0.6, 9.0]), skip=st.sampled_from([0.0, 0.4]))
def test_any_removal_from_any_graph_is_exact(
    drawn: tuple[ModelProto, dict[str, Shape]], seed: int, most: float, skip: float
) -> None:
    model, shapes = drawn
    assume(too_new(model, shapes) is None)
    note(printer.to_text(model))
    removal = assert_exact(model, some(seed, most, skip), shapes)
    event("something was removed" if removal.removed else "nothing was removed")
    for reason in removal.refusals:
        event(f"refused: {reason.why}")
