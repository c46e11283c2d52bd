"""Channels that a user names: output channels of a node that go, or stay, with all that hangs on them.

    --remove NODE=0,3,17-21     these go, before all others
    --keep NODE=0,3             these stay, whatever their scores

A name that cannot be followed is an error, and says by whom the channel is held: nothing else goes in its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import OptionError, nearest
from onnxprune.labels.groups import Groups
from onnxprune.labels.label_propagation import Pinned, Trace
from onnxprune.labels.labels import Layer
from onnxprune.labels.lossless_removal import missed
from onnxprune.labels.rewrite import Refusal
from onnxprune.model.graph import Node

Units = NDArray[np.int64]

#: Positions of a node's channels, or of an output's rows, by its name.
Positions = Sequence[tuple[str, tuple[int, ...]]]

_NONE = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Named:
    """Units that go before all others, and units that stay."""

    gone: Units = field(default_factory=_NONE.copy, repr=False)
    kept: Units = field(default_factory=_NONE.copy, repr=False)


#: Nothing is named.
NOBODY = Named()


@dataclass(frozen=True)
class Rows:
    """The ``positions`` along ``axis`` of the tensor ``whole`` that a graph output of another name still shows."""

    whole: str
    axis: int
    positions: tuple[int, ...] = field(repr=False)


def named(trace: Trace, groups: Groups, remove: Positions, keep: Positions, rows: Sequence[Rows] = ()) -> Named:
    """The units of what is named. Raises OptionError for what is not there, or must stay."""
    free = np.zeros(trace.units, np.bool_)
    for group in groups:
        for block in group.blocks:
            free[block.units] = True
    kept = {u: f"--keep {name}" for name, at in keep for u in _units(trace, name, at, "--keep").tolist()}
    gone: list[int] = []
    for name, positions in remove:
        for position, unit in zip(positions, _units(trace, name, positions, "--remove").tolist(), strict=True):
            channel = f"channel {position} of '{name}'"
            if unit in kept:
                raise OptionError(
                    f"{channel} is to stay by {kept[unit]}", where="--remove", hint="name it in only one of them"
                )
            if not free[unit]:
                hint = "onnxprune inspect lists what can go"
                raise OptionError(f"{channel} must stay: {_reason(trace, groups, unit)}", where="--remove", hint=hint)
            gone.append(unit)
    unshown = [units[free[units]] for units in (unseen(trace, r) for r in rows)]
    return Named(np.unique(np.concatenate([np.asarray(gone, np.int64), *unshown])), np.asarray([*kept], np.int64))


def refused(trace: Trace, request: Positions, refusal: Refusal) -> OptionError | None:
    """The error where ``refusal`` is of channels that were named; None where it is of others."""
    for name, positions in request:
        units = _units(trace, name, positions, "--remove")
        if np.isin(units, refusal.units).any():
            hint = "name the same number of each block, and leave at least one"
            return OptionError(f"channels of '{name}' cannot go: {refusal.reason}", where="--remove", hint=hint)
    return None


def unseen(trace: Trace, rows: Rows) -> Units:
    """The units of an output that it does not show any more, and that nobody else reads."""
    tensor = trace.tensors[rows.whole]
    layer = tensor.along(rows.axis)
    if layer is None:
        return _NONE
    labels = np.moveaxis(layer.labels, rows.axis, 0)
    shown = np.zeros(len(labels), np.bool_)
    shown[[p for p in rows.positions if p < len(labels)]] = True
    units = np.setdiff1d(trace.unit[labels[~shown]], trace.unit[labels[shown]])
    return units[~missed(trace)[units]]


def rows_of(trace: Trace, output: str, positions: Sequence[int], whole: str) -> Rows:
    """The rows of a graph output that stay; ``whole``: what it is called before they are taken. Raises OptionError."""
    axis = axis_of(trace, output)
    size = trace.tensors[output].shape[axis]
    if max(positions) >= size:
        what = f"output '{output}' has no row {max(positions)} along axis {axis}: they are 0 to {size - 1}"
        raise OptionError(what, where="--keep-outputs")
    return Rows(whole, axis, tuple(positions))


def still_there(trace: Trace, groups: Groups, dead: Units, rows: Mapping[str, Rows]) -> Iterator[str]:
    """Of which outputs rows are computed that they do not show, and why."""
    for output, own in rows.items():
        layer = trace.tensors[own.whole].along(own.axis)
        left = np.ones(trace.tensors[own.whole].shape[own.axis], np.bool_)
        left[list(own.positions)] = False
        why = "they are no channels"
        if layer is not None:
            units = np.moveaxis(trace.unit[layer.labels], own.axis, 0).reshape(len(left), -1)
            left &= ~np.isin(units, dead).all(axis=1)
            why = next((_reason(trace, groups, int(u)) for u in units[left].reshape(-1)), "")
        if left.any():
            yield f"{int(left.sum())} rows that output '{output}' does not show are still computed: {why}"


def axis_of(trace: Trace, output: str) -> int:
    """The axis of channels of a graph output. Raises OptionError where none is seen, or several are."""
    tensor = trace.tensors.get(output)
    layers = tensor.layers if tensor is not None else ()
    axes = [a for layer in layers for a in layer.axes if _apart(trace, layer, a)]
    if not layers and tensor is not None and tensor.rank in (2, 4):
        axes = [1]  # nothing of it can go, and its rows can still be taken
    if len(axes) != 1:
        what = f"channels along axes {' and '.join(map(str, axes))}" if axes else "no axis of channels of their own"
        hint = "cut the model with --outputs, where a tensor has one"
        raise OptionError(f"output '{output}' has {what}", where="--keep-outputs", hint=hint)
    return axes[0]


def _apart(trace: Trace, layer: Layer, axis: int) -> bool:
    """Whether no channel stands at several positions of ``axis``: of anchors and classes in one tensor, the classes."""
    rows = np.moveaxis(trace.unit[layer.labels], axis, 0).reshape(layer.labels.shape[axis], -1)
    return sum(len(np.unique(row)) for row in rows) == len(np.unique(rows))


def _units(trace: Trace, name: str, positions: Sequence[int], where: str) -> Units:
    """The units of these channels of a node. Raises OptionError."""
    units = _channels(trace, name, where)
    beyond = next((p for p in positions if p >= len(units)), None)
    if beyond is not None:
        what = f"'{name}' has no channel {beyond}: they are 0 to {len(units) - 1}"
        raise OptionError(what, where=where)
    return units[list(positions)]


def _channels(trace: Trace, name: str, where: str) -> Units:
    """[n] the unit at each position of the channels that a node gives."""
    graph = trace.model.graph
    node = next((n for n in graph.nodes if name == n.label or name in n.outputs), None)
    if node is None:
        hint = nearest(name, [n.label for n in graph.nodes], "onnxprune inspect lists the names")
        raise OptionError(f"no node is called '{name}'", where=where, hint=hint)
    made = [*_made(trace, node)]
    if len(made) != 1:
        hint = "name the Conv, Gemm or MatMul that makes them"
        raise OptionError(f"'{name}' has no axis of channels by itself", where=where, hint=hint)
    return made[0]


def _made(trace: Trace, node: Node) -> Iterator[Units]:
    """The units along each axis of what ``node`` gives: of the axes that it makes itself, if it makes any."""
    output = trace.tensors.get(node.outputs[0])
    layers = [la for la in output.layers if len(la.axes) == 1] if output is not None else []
    data = trace.input(node, 0) if node.inputs and node.inputs[0] else None
    came = np.concatenate([_NONE, *(la.labels.reshape(-1) for la in (data.layers if data is not None else ()))])
    own = [la for la in layers if not np.isin(la.labels, came).any()]
    for layer in own or layers:
        yield trace.unit[layer.labels.reshape(-1)]


def _reason(trace: Trace, groups: Groups, unit: int) -> str:
    """Why a unit stays."""
    held: Mapping[int, tuple[Pinned, ...]] = {int(u): h.reasons for h in groups.held for u in h.units}
    reasons = [str(r) for r in (*trace.pinned.get(unit, ()), *held.get(unit, ())) if r.why]
    return reasons[0] if reasons else "no weight makes it alone"
