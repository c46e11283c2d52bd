"""How many calibration samples to run at once: as many as have activations that fit into memory."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnxprune.model.graph import Graph, Shape

#: Bytes of activations that one batch may take, and the most samples that it may hold.
BYTES, SAMPLES = 256 << 20, 64


def batch_size(graph: Graph, shapes: Mapping[str, Shape], copies: int = 1) -> int:
    """Samples for a run that holds ``copies`` of every tensor; ``shapes`` are those of one sample."""
    elements = sum(math.prod(shapes[o]) for n in graph.nodes for o in n.outputs if o in shapes)
    return max(1, min(SAMPLES, BYTES // max(1, 4 * elements * copies)))
