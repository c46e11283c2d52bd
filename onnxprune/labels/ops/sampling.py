"""Sampling by coordinates: each channel of the input is read at positions that another input gives.

Channels of the input go through; coordinates, boxes and offsets stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxprune.labels.labels import Op, Tensor, line
from onnxprune.labels.ops.contracting import conv_blocks, conv_macs, convolution, rewrite_group
from onnxprune.labels.ops.reduction import hold_axes
from onnxprune.labels.ops.table import Layers, blocks, macs, rewrite, rule

_WHERE = "gives positions to sample at"


@rule("GridSample", "RoiAlign", "MaxRoiPool")
@rule("GridSample", "CropAndResize", domain="com.microsoft")
def sample(op: Op) -> Sequence[Layers]:
    """X: [N, C, *S], and where to sample it; Y: [any, C, *S']."""
    x = op.inputs[0]
    assert x is not None
    for where in op.inputs[1:]:
        op.keep_all(where, _WHERE)
    return [hold_axes(op, x, [a for a in range(x.rank) if a != 1], "is sampled along these positions")]


@rule("AffineGrid")
def affine_grid(op: Op) -> Sequence[Layers]:
    """theta: [N, 2, 3] or [N, 3, 4], and a size [N, C, *S] of which C does not matter; coordinates have no channels."""
    op.keep_all(op.inputs[0], _WHERE)
    return [()]


@rule("DeformConv")
def deform_conv(op: Op) -> Sequence[Layers]:
    """X, W, offset, B, mask: a convolution whose taps lie elsewhere; ``offset_group`` blocks of X share offsets."""
    x = op.inputs[0]
    assert x is not None
    for position in (2, 4):
        op.keep_all(op.tensor(position), _WHERE)
    shared, layer = int(op.attrs.get("offset_group", 1)), x.along(1)
    if shared > 1 and layer is not None:
        op.say.intact(layer.labels.reshape(-1, x.shape[1])[0].reshape(shared, -1))
    return [convolution(op, x, op.inputs[1], op.tensor(3))]


blocks("DeformConv")(conv_blocks)
rewrite("DeformConv")(rewrite_group)
macs("DeformConv")(conv_macs)


@rule("Col2Im")
def col2im(op: Op) -> Sequence[Layers]:
    """X: [N, C * taps, L] -> [N, C, *S]: the taps of a channel, which stand together, go together."""
    x, y, block = op.inputs[0], op.outputs[0], op.value(2)
    assert x is not None
    layer = x.along(1)
    batch = hold_axes(
        op, Tensor(x.name, x.shape, x.full, tuple(la for la in x.layers if la is not layer)), (2,), _WHERE
    )
    if layer is None or block is None or layer.axes != (1,):
        op.keep_all(x, "is folded into space")
        return [()]
    rows = layer.labels.reshape(-1, math.prod(int(b) for b in block))
    op.say.equate(rows, rows[:, :1], "makes one channel with others")
    return [(*(line(la.labels, 0, y.rank) for la in batch), line(rows[:, 0], 1, y.rank))]
