"""How many samples to run at once: as many as the model takes, and as fit into memory with all activations."""

from __future__ import annotations

import math
from collections.abc import Mapping

from onnxprune.errors import ModelError
from onnxprune.model.graph import Graph, Shape
from onnxprune.model.onnx_model import Model
from onnxprune.running import session as runtime
from onnxprune.running.seeded_inputs import seeded_feeds

#: Bytes of activations that one batch may take, and the most samples that it may hold.
BYTES, SAMPLES = 256 << 20, 64


def batch_size(graph: Graph, shapes: Mapping[str, Shape], copies: int = 1) -> int:
    """The number of samples for a run that holds ``copies`` of every tensor; ``shapes`` are those of one sample."""
    elements = sum(math.prod(shapes[o]) for n in graph.nodes for o in n.outputs if o in shapes)
    return max(1, min(SAMPLES, BYTES // max(1, 4 * elements * copies)))


def takes_any(model: Model, shapes: Mapping[str, Shape]) -> bool:
    """Whether ``model``, which leaves its batch open, runs on more samples than its inputs have at ``shapes``.

    Exporters that are told of a dynamic axis write it at the inputs; a Reshape or a position inside may still be of the
    batch of the example. So it is tried, if the model runs at ``shapes`` at all: not on a multiple of them, which a
    Reshape may take, nor on two, the batch of many an example.
    """
    where, inputs = str(model.path or "model"), model.graph.inputs
    more = {n: (2 * s[0] + 1, *s[1:]) for n, s in shapes.items()}
    try:
        with runtime.session(model, where) as active:
            for tried in (more, shapes):
                try:
                    runtime.run(active, seeded_feeds(inputs, tried, 0), where)
                except ModelError:
                    continue
                return tried is more
    except ModelError:
        pass
    return True  # the batch is not what is wrong: whoever runs it next says what is
