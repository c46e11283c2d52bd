"""LSTM, GRU and RNN: inputs are read like a matrix product reads them; hidden units go with all their gates.

X: [T, N, I], W: [D, G*H, I], R: [D, G*H, H], B: [D, 2*G*H], initial states [D, N, H], peepholes P: [D, 3*H]; with
layout 1 the batch comes first. Both directions keep the same hidden units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from onnxprune.labels.labels import FIXED, Labels, Op, Tensor, line
from onnxprune.labels.ops.table import Change, Cut, Layers, macs, rewrite, rule
from onnxprune.model.graph import Node, Shape

#: Input positions of initial states and, for LSTM, of the peepholes.
_STATES, _PEEPHOLES = (5, 6), 7


def _along(op: Op, tensor: Tensor, axis: int) -> Labels:
    """Labels along ``axis``, FIXED where there are none; other labelled axes are held."""
    layer = tensor.along(axis)
    if layer is None:
        return np.full(tensor.shape[axis], FIXED, np.int64)
    op.hold(layer, [a for a in layer.axes if a != axis], "runs through a recurrent network")
    first = layer.labels[tuple(slice(None) if a == axis else slice(0, 1) for a in range(tensor.rank))]
    return first.reshape(-1)


@rule("LSTM", "GRU", "RNN")
def recurrent(op: Op) -> Sequence[Layers]:
    """A hidden unit is one row of each gate in W, R and B, one column of R, and its place in every state."""
    return _network(op, into=2, gates=1, zero=None)


@rule("DynamicQuantizeLSTM", domain="com.microsoft")
def dynamic_quantize_lstm(op: Op) -> Sequence[Layers]:
    """W: [D, I, G*H], R: [D, H, G*H] of integers; W's scale and zero point, then R's: [D], or [D, G*H].

    What is quantized at run time has 0 in its range: a hidden unit that is 0 changes none. So it is all that makes it.
    """
    layers = _network(op, into=1, gates=2, zero=11)
    op.say.read(1, 9)
    for position in (3, *_STATES, _PEEPHOLES):
        if op.has(position):
            op.say.read(position)
    width = len(_along(op, op.inputs[2], 1)) if op.inputs[2] else 1
    for position in range(8, 12):
        scale = op.tensor(position)
        if scale is not None and scale.rank > 1:
            hidden = layers[0][0].labels.reshape(-1)
            op.say.equate(_along(op, scale, 1).reshape(-1, width), hidden, "makes hidden units that are fixed")
    return layers


def _network(op: Op, into: int, gates: int, zero: int | None) -> Sequence[Layers]:
    """``into``, ``gates``: axes of W and R, of what they read and of what they make; ``zero``: R's zero point."""
    x, w, r = op.inputs[0], op.inputs[1], op.inputs[2]
    assert x is not None
    assert w is not None
    assert r is not None
    for position, tensor in enumerate(op.inputs):
        # Directions, steps and samples keep their numbers.
        for layer in tensor.layers if tensor else ():
            op.hold(layer, (0, 1) if position in (0, *_STATES) else (0,), "runs through a recurrent network")
    incoming = _along(op, w, into)
    op.say.equate(_along(op, x, 2), incoming, "reads channels that are fixed")
    op.role(w, incoming, "in")
    if x.along(2) is not None:
        op.say.read(0)
    hidden = _along(op, r, into)
    width = len(hidden)
    op.role(r, hidden, "in")
    op.say.read(2, zero)  # the network reads its own hidden units
    for weight in (w, r):
        rows = _along(op, weight, gates).reshape(-1, width)
        op.say.equate(rows, hidden, "makes hidden units that are fixed")
        op.role(weight, rows, "out")
    for position in (3, _PEEPHOLES):
        vector = op.tensor(position)
        if vector is not None:
            op.say.equate(_along(op, vector, 1).reshape(-1, width), hidden, "makes hidden units that are fixed")
    for position in _STATES[: 1 if op.node.op in ("GRU", "RNN") else 2]:
        state = op.tensor(position)
        if state is not None:
            op.say.equate(_along(op, state, 2), hidden, "starts from a state that is fixed")
    return [(line(hidden, y.rank - 1, y.rank),) for y in op.outputs]


@rewrite("LSTM", "GRU", "RNN")
@rewrite("DynamicQuantizeLSTM", domain="com.microsoft")
def rewrite_recurrent(cut: Cut) -> Change:
    """The number of hidden units, where the node says it."""
    after = cut.inputs[2]
    assert after is not None
    axis = 2 if not cut.op.node.domain else 1
    return Change(attrs={"hidden_size": after.shape[axis]}) if "hidden_size" in cut.op.attrs else Change()


@macs("LSTM", "GRU", "RNN")
@macs("DynamicQuantizeLSTM", domain="com.microsoft")
def recurrent_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Every step takes both weights once: T * N * (numel(W) + numel(R))."""
    del node, outputs
    steps, batch, _ = inputs[0]
    return steps * batch * (math.prod(inputs[1]) + math.prod(inputs[2]))
