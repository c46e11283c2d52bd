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
    x, w, r = op.inputs[0], op.inputs[1], op.inputs[2]
    assert x is not None
    assert w is not None
    assert r is not None
    for position, tensor in enumerate(op.inputs):
        # Directions, steps and samples keep their numbers.
        for layer in tensor.layers if tensor else ():
            op.hold(layer, (0, 1) if position in (0, *_STATES) else (0,), "runs through a recurrent network")
    incoming = _along(op, w, 2)
    op.say.equate(_along(op, x, 2), incoming, "reads channels that are fixed")
    op.role(w, incoming, "in")
    if x.along(2) is not None:
        op.say.read(0)
    hidden = _along(op, r, 2)
    width = len(hidden)
    op.role(r, hidden, "in")
    op.say.read(2)  # the network reads its own hidden units
    for weight in (w, r):
        rows = _along(op, weight, 1).reshape(-1, width)
        op.say.equate(rows, hidden, "makes hidden units that are fixed")
        op.role(weight, rows, "out")
    for position in (3, _PEEPHOLES):
        vector = op.tensor(position)
        if vector is not None:
            op.say.equate(_along(op, vector, 1).reshape(-1, width), hidden, "makes hidden units that are fixed")
    for position in _STATES[: 2 if op.node.op == "LSTM" else 1]:
        state = op.tensor(position)
        if state is not None:
            op.say.equate(_along(op, state, 2), hidden, "starts from a state that is fixed")
    return [(line(hidden, y.rank - 1, y.rank),) for y in op.outputs]


@rewrite("LSTM", "GRU", "RNN")
def rewrite_recurrent(cut: Cut) -> Change:
    """The number of hidden units, where the node says it."""
    after = cut.inputs[2]
    assert after is not None
    return Change(attrs={"hidden_size": after.shape[2]}) if "hidden_size" in cut.op.attrs else Change()


@macs("LSTM", "GRU", "RNN")
def recurrent_macs(node: Node, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> int:
    """Every step takes both weights once: T * N * (numel(W) + numel(R))."""
    del node, outputs
    steps, batch, _ = inputs[0]
    return steps * batch * (math.prod(inputs[1]) + math.prod(inputs[2]))
