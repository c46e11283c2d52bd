"""What moves elements in a way that onnx-ad does not differentiate, as Gather along each axis, which it does.

Pad by copies of what is there (edge, reflect, wrap), and Slice in steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from onnxprune.model.graph import Node
from onnxprune.model.onnx_model import Model
from onnxprune.running import session as runtime
from onnxprune.running.session import Feeds

Array = NDArray[Any]


def as_gathers(model: Model, feeds: Feeds, where: str) -> Model:
    """``model`` with such nodes written as Gather, of the positions that they take on ``feeds``."""
    moving = [n for n in model.graph.nodes if _moves(n)]
    if not moving:
        return model
    wanted = dict.fromkeys(n for node in moving for n in node.inputs if n)
    known = {n: model.array(n) for n in wanted if n in model.graph.constants} | dict(feeds)
    with runtime.session(model, where, outputs=[n for n in wanted if n not in known]) as active:
        known |= runtime.run(active, feeds, where)
    places = {node.index: found for node in moving if (found := dict(_places(node, known)))}
    out = ModelProto()
    out.CopyFrom(model.proto)
    del out.graph.node[:]
    for index, node in enumerate(model.proto.graph.node):
        if index not in places:
            out.graph.node.add().CopyFrom(node)
            continue
        name, (*others, last) = node.input[0], places[index]
        for axis in (*others, last):
            result = node.output[0] if axis == last else f"{node.output[0]}__along_{axis}"
            positions = numpy_helper.from_array(places[index][axis], f"{node.output[0]}__positions_{axis}")
            out.graph.initializer.append(positions)
            out.graph.node.append(helper.make_node("Gather", [name, positions.name], [result], axis=axis))
            name = result
    return Model(out, model.path, model.weights)


def _moves(node: Node) -> bool:
    """Whether it pads by copies or slices in steps."""
    if node.domain or node.op not in ("Pad", "Slice"):
        return False
    return node.attrs.get("mode", "constant") != "constant" or (node.op == "Slice" and len(node.inputs) > 4)


def _places(node: Node, known: Mapping[str, Array]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Axes and which positions of each the node gives; none where it leaves something out of a pad, or steps by one."""
    data, *numbers = (known[n] if n else None for n in node.inputs)
    assert data is not None
    if node.op == "Pad":
        pads, axes = numbers[0], numbers[2] if len(numbers) > 2 else None
        assert pads is not None
        axes = np.arange(data.ndim) if axes is None else axes
        before, after = pads.reshape(2, -1).tolist()
        if min(*before, *after) >= 0:
            for axis, *width in zip(axes.tolist(), before, after, strict=True):
                if any(width):
                    yield axis % data.ndim, np.pad(np.arange(data.shape[axis]), width, node.attrs["mode"])
        return
    starts, ends, axes, steps = numbers
    assert starts is not None
    assert ends is not None
    assert steps is not None
    axes = np.arange(len(starts)) if axes is None else axes
    if (steps != 1).any():
        for axis, *bounds in zip(axes.tolist(), starts.tolist(), ends.tolist(), steps.tolist(), strict=True):
            yield axis % data.ndim, np.arange(data.shape[axis])[slice(*bounds)]  # ONNX clamps bounds as Python does
