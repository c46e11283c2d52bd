"""Gradients of an ONNX model with respect to its weights, through onnx-ad and onnxruntime.

Roundings let gradients through as if they changed nothing (straight-through: Bengio et al. 2013, arXiv 1308.3432), or
there would be none before them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from onnxprune.calibration.reverse_mode.convolution_weights import Convolution, apart, opened_up, with_gradients
from onnxprune.calibration.reverse_mode.gradients import (
    SEED,
    Directions,
    modern,
    refuse_foreign,
    reverse_of,
    standalone,
    with_shapes,
)
from onnxprune.calibration.reverse_mode.moves_as_gather import as_gathers
from onnxprune.errors import ModelError, OptionError
from onnxprune.model.onnx_model import Model
from onnxprune.running import session as runtime
from onnxprune.running.session import Feeds

Array = NDArray[Any]

#: (feeds, weights, directions) -> gradients of the weights, after one run of a batch.
Step = Callable[[Feeds, Mapping[str, Array], Directions], dict[str, Array]]

_ROUNDINGS, _WAY_OUT = ("Round", "Floor"), "leave it out"


@contextmanager
def weight_gradients(
    model: Model, weights: Mapping[str, Array], feeds: Feeds, outputs: Mapping[str, np.dtype[Any]]
) -> Iterator[Step]:
    """A step for batches of the shapes of ``feeds``: sum(direction * output) differentiated by constants.

    Weights of grouped or transposed convolutions that something else reads too, or of unknown shapes, get none.
    Raises OptionError where onnx-ad does not know an operator, or onnxruntime refuses what it wrote.
    """
    where = str(model.path or "model")
    types = {i.name: i.elem_type for i in model.graph.inputs}
    types.update({n: model.graph.constants[n][0] for n in weights})
    inputs = [(n, types[n], a.shape) for n, a in (*feeds.items(), *weights.items())]
    alone = standalone(model, inputs, {n: helper.np_dtype_to_tensor_dtype(t) for n, t in outputs.items()})
    given = {**feeds, **weights}
    part = with_shapes(as_gathers(modern(alone, given, where), given, where), given, where)
    refuse_foreign(part, set(weights), "leave --recover out")
    convolutions, lost = apart(part.proto, set(weights))
    others = [n for n in weights if n not in lost and n not in {c.weight for c in convolutions}]
    reverse = _reverse(part, others, convolutions, list(outputs))
    zeros = {c.gate: np.zeros(c.result, weights[c.weight].dtype) for c in convolutions}
    with runtime.session(part, where, optimize=True) as forward, ExitStack() as stack:
        try:
            backward = stack.enter_context(runtime.session(reverse, where, optimize=True))
        except ModelError as error:
            what = f"onnxruntime cannot run the gradients: {error.what}"
            raise OptionError(what, where="--recover", hint=_WAY_OUT) from None

        def step(feeds: Feeds, weights: Mapping[str, Array], directions: Directions) -> dict[str, Array]:
            given = {**feeds, **weights}
            values = runtime.run(forward, given, where)
            seeds = {f"{SEED}{n}": d.astype(values[n].dtype)[..., None] for n, d in directions(values).items()}
            found = runtime.run(backward, {**given, **zeros, **seeds}, where)
            return {n: found[f"{SEED}{n}"].reshape(w.shape) for n, w in weights.items() if n not in lost}

        yield step


def _reverse(part: Model, weights: Sequence[str], convolutions: Sequence[Convolution], outputs: Sequence[str]) -> Model:
    """The reverse-mode graph of ``part``, with the gradients of ``weights``, and of those of ``convolutions``."""
    smooth = opened_up(part.proto, convolutions)
    rounded = {n.output[0]: n.op_type for n in smooth.graph.node if n.op_type in _ROUNDINGS}
    _called(smooth, dict.fromkeys(rounded, "Identity"))
    asked = [*weights, *(c.gate for c in convolutions)]
    reverse = reverse_of(Model(smooth, part.path, part.weights), asked, outputs, "--recover", _WAY_OUT)
    _called(reverse.proto, rounded)
    return Model(with_gradients(reverse.proto, convolutions), part.path)


def _called(proto: ModelProto, operators: Mapping[str, str]) -> None:
    """Change the operators of the nodes whose first output ``operators`` names."""
    for node in proto.graph.node:
        if (op := operators.get(node.output[0])) is not None:
            node.op_type = op
