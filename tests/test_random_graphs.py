"""The property on random graphs of all rules together.

``ONNXPRUNE_EXAMPLES=5000 pytest tests/test_random_graphs.py`` looks longer. The same number draws the same graphs each
time, so that a build that was green stays so; with ONNXPRUNE_EXPLORE=1 it draws others. What it finds becomes a row.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, assume, event, given, note, reject, settings
from hypothesis import strategies as st
from onnx import ModelProto, printer

from onnxprune.model.graph import Shape
from tests.models import too_new
from tests.property import InfiniteError, assert_exact, assert_lossless, some
from tests.strategies import models

EXAMPLES = int(os.environ.get("ONNXPRUNE_EXAMPLES", "50"))


long = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="ONNXPRUNE_EXPLORE" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@contextmanager
def comparable() -> Iterator[None]:
    """A graph whose own outputs are infinite is no example."""
    try:
        yield
    except InfiniteError:
        reject()


@long
@given(
    drawn=models(),
    seed=st.integers(0, 99),
    most=st.sampled_from([0.3, 0.6, 9.0]),
    skip=st.sampled_from([0.0, 0.4]),
    lossless_first=st.booleans(),
)
def test_any_removal_from_any_graph_is_exact(
    drawn: tuple[ModelProto, dict[str, Shape]], seed: int, most: float, skip: float, *, lossless_first: bool
) -> None:
    model, shapes = drawn
    assume(too_new(model, shapes) is None)
    note(printer.to_text(model))
    with comparable():
        removal = assert_exact(model, some(seed, most, skip, lossless_first=lossless_first), shapes)
    event("something was removed" if removal.removed else "nothing was removed")
    for reason in removal.refusals:
        event(f"refused: {reason.why}")


@long
@given(drawn=models(dormant=True))
def test_what_is_called_lossless_is_missed_by_nobody(drawn: tuple[ModelProto, dict[str, Shape]]) -> None:
    model, shapes = drawn
    assume(too_new(model, shapes) is None)
    note(printer.to_text(model))
    with comparable():
        removal = assert_lossless(model, shapes)
    event(f"removed: {min(removal.removed, 5)}")
    event("a constant was folded" if removal.folded else "nothing was folded")
