"""Pad, Resize, DepthToSpace and SpaceToDepth: what pictures go through."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.labels.constant_channels import Facts, Known, moved, uniform
from onnxprune.labels.labels import Layer, Op, Tensor, line
from onnxprune.labels.ops.movement.joining import of_size
from onnxprune.labels.ops.table import Change, Cut, Layers, ints, known, rewrite, rule, unwritten


def _pads(op: Op) -> dict[int, tuple[int, int]]:
    """{axis: (before, after)} of a Pad. Raises LookupError where they are not known before running."""
    x = op.inputs[0]
    assert x is not None
    pads = ints(op, "pads", 1)
    axes = ints(op, "axes", 3) or list(range(x.rank))
    if pads is None:
        raise LookupError("its pads are computed at run time")
    return {a % x.rank: (pads[i], pads[i + len(axes)]) for i, a in enumerate(axes)}


@rule("Pad")
def pad(op: Op) -> Sequence[Layers]:
    """Unlabelled axes are padded freely; along a labelled one the padding makes channels of its own."""
    x, y = op.inputs[0], op.outputs[0]
    assert x is not None
    for parameter in op.inputs[1:]:
        op.keep_all(parameter, "")
    pads = {} if op.value(1) is None and "pads" not in op.attrs else _pads(op)
    out = []
    for layer in x.layers:  # as much may go on one side as comes on the other
        if all(x.full[a] == y.full[a] and pads.get(a, (0, 0)) == (0, 0) for a in layer.axes):
            out.append(layer)
            continue
        before, after = pads.get(layer.columns, (0, 0))
        plain = before >= 0 and after >= 0 and op.attrs.get("mode", "constant") in ("constant", b"constant")
        if len(layer.axes) > 1 or not plain or before + after == 0:
            op.pin(layer, "is padded with copies of channels")
            continue
        padded = op.say.fresh(y, layer.columns)
        middle = padded.picked(layer.columns, slice(before, before + x.shape[layer.columns]))
        op.say.equate(middle.labels, layer.labels, "is padded with channels")
        out.append(padded)
    return [tuple(out)]


@known("Pad")
def known_padded(facts: Facts) -> Sequence[Known | None]:
    """Channels that hold what is padded with; any, where they are padded with themselves."""
    (found,) = moved(facts)
    if found is None or facts.node.attrs.get("mode", "constant") not in ("constant", b"constant"):
        return [found]
    given = facts.known(2)
    fill = given.value.reshape(-1) if given is not None else facts.node.attrs.get("value", 0.0)
    return [None if facts.has(2) and given is None else found.where(found.value == fill)]


@rewrite("Pad")
def rewrite_pad(cut: Cut) -> Change:
    """How many of the padding channels stay on either side."""
    x, y = cut.op.inputs[0], cut.outputs[0]
    assert x is not None
    padded = [a for layer in y.layers for a in layer.axes if x.full[a] != y.full[a]]
    if not padded:
        return Change()
    pads = _pads(cut.op)
    for axis in padded:
        layer = y.along(axis)
        if layer is not None and axis in pads:
            alive, (before, after) = cut.alive(layer.labels.reshape(-1)), pads[axis]
            pads[axis] = (int(alive[:before].sum()), int(alive[len(alive) - after :].sum()))
    flat = [p[0] for p in pads.values()] + [p[1] for p in pads.values()]
    if "pads" in cut.op.attrs:
        return Change(attrs={"pads": flat})
    return Change(inputs={1: np.asarray(flat, np.int64)})


@rule("Resize", "Upsample")
def resize(op: Op) -> Sequence[Layers]:
    """Axes that keep their length keep their labels; the others are interpolated."""
    x, y = op.inputs[0], op.outputs[0]
    assert x is not None
    for parameter in op.inputs[1:]:
        op.keep_all(parameter, "")
    for layer in x.layers:
        if any(x.full[a] != y.full[a] for a in layer.axes):
            op.pin(layer, "is resized along its channels")
    return [tuple(la for la in x.layers if all(x.full[a] == y.full[a] for a in la.axes))]


@rewrite("Resize")
def rewrite_resize(cut: Cut) -> Change:
    """``sizes`` names the channel axis too (unless ``axes`` leaves it out)."""
    x, sizes = cut.inputs[0], cut.op.value(3)
    if sizes is None or x is None or sizes.size == 0:
        return unwritten(cut, 3)
    axes = [a % x.rank for a in cut.op.attrs.get("axes", range(x.rank))]
    new = [x.shape[a] if cut.outputs[0].along(a) else s for a, s in zip(axes, sizes, strict=True)]
    return Change(inputs={3: np.asarray(new, sizes.dtype)})


@known("Resize", "Upsample")
def known_resized(facts: Facts) -> Sequence[Known | None]:
    """Interpolating equal elements gives the same, but beyond the borders of a crop."""
    cropped = facts.node.attrs.get("coordinate_transformation_mode", "") in (
        "tf_crop_and_resize",
        b"tf_crop_and_resize",
    )
    return [None] if cropped else moved(facts)


@rule("DepthToSpace")
def depth_to_space(op: Op) -> Sequence[Layers]:
    """b*b input channels make one output channel: they go together."""
    x = op.inputs[0]
    assert x is not None
    layer, others = _rearranged(op, x, "is rearranged into space")
    if layer is None:
        return [others]
    square = op.attrs["blocksize"] ** 2
    crd = op.attrs.get("mode", "DCR") == "CRD"
    blocks = layer.labels.reshape((-1, square) if crd else (square, -1))
    blocks = blocks if crd else blocks.T
    op.say.equate(blocks, blocks[:, :1], "makes one channel with others")
    return [(*others, line(blocks[:, 0], 1, 4))]


@known("DepthToSpace")
def known_depth_to_space(facts: Facts) -> Sequence[Known | None]:
    """A channel of which all b*b parts hold the same."""
    x, known_x = facts.inputs[0], facts.known(0)
    if x is None or known_x is None:
        return [None]
    flat = of_size(uniform(known_x, (0, 2, 3)), 1, x.shape[1])
    square = facts.node.attrs["blocksize"] ** 2
    crd = facts.node.attrs.get("mode", "DCR") == "CRD"
    value, mask = (
        a.reshape((-1, square) if crd else (square, -1)).transpose((0, 1) if crd else (1, 0))
        for a in (flat.value, flat.mask)
    )
    rows = uniform(Known(value, mask), (1,))
    return [Known(rows.value.reshape(1, -1, 1, 1), rows.mask.reshape(1, -1, 1, 1))]


def _rearranged(op: Op, x: Tensor, why: str) -> tuple[Layer | None, Layers]:
    """The layer of axis 1 alone, and that of axis 0; all others are pinned."""
    plain = [la for la in x.layers if la.axes in ((0,), (1,))]
    for layer in x.layers:
        if not any(layer is known for known in plain):
            op.pin(layer, why)
    channels = next((la for la in plain if la.axes == (1,)), None)
    return channels, tuple(la for la in plain if la is not channels)


@rule("SpaceToDepth")
def space_to_depth(op: Op) -> Sequence[Layers]:
    """Each input channel makes b*b output channels, in the order [b, b, C]."""
    x = op.inputs[0]
    assert x is not None
    layer, others = _rearranged(op, x, "is rearranged into channels")
    if layer is None:
        return [others]
    return [(*others, line(np.tile(layer.labels.reshape(-1), op.attrs["blocksize"] ** 2), 1, 4))]


known("SpaceToDepth")(moved)
