"""Whether a model that leaves its batch open takes any: tried, as one that has it in a constant may not say so.

Exporters that are told of a dynamic axis write it at the inputs; a Reshape or a position inside may still be of the
batch of the example.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnxprune.errors import ModelError
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model
from onnxprune.running import session as runtime
from onnxprune.running.seeded_inputs import seeded_feeds


def takes_any(model: Model, shapes: Mapping[str, Shape]) -> bool:
    """Whether ``model`` runs on a sample more than its inputs have at ``shapes``, if it runs there at all."""
    where, inputs = str(model.path or "model"), model.graph.inputs
    more = {n: (s[0] + 1, *s[1:]) for n, s in shapes.items()}
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
