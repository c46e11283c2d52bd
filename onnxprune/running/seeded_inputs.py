"""Seeded random inputs of given shapes: what proofs and trial runs feed a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxprune.model.dtypes import dtype_of
from onnxprune.model.graph import Shape, TensorInfo
from onnxprune.running.session import Feeds


@dataclass(frozen=True)
class Draws:
    """How inputs are drawn. ``rows``: integers are below these (or 2); ``values``: all elements are this number."""

    rows: Mapping[str, int] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


#: Normal floats, and integers that are valid wherever they index two rows.
PLAIN = Draws()


def seeded_feeds(inputs: Iterable[TensorInfo], shapes: Mapping[str, Shape], seed: int, draws: Draws = PLAIN) -> Feeds:
    """Random inputs: normal for floats, {0, 1} for booleans, and for integers what ``draws`` says."""
    rng = np.random.default_rng(seed)
    feeds: Feeds = {}
    for info in inputs:
        dtype = dtype_of(info.elem_type)
        shape = shapes[info.name]
        if info.name in draws.values:
            feeds[info.name] = np.full(shape, draws.values[info.name], dtype)
        elif dtype.kind in "iub":
            feeds[info.name] = rng.integers(0, draws.rows.get(info.name, 2), shape).astype(dtype)
        else:
            feeds[info.name] = np.asarray(rng.standard_normal(shape)).astype(dtype)
    return feeds
