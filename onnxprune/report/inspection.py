"""What `inspect` reports: which channels of a model could be pruned, and why the others could not."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnxprune.cost.macs_and_bytes import Cost, cost, macs_by_node
from onnxprune.labels.groups import Group, Groups
from onnxprune.labels.label_propagation import Trace
from onnxprune.model.onnx_model import Model
from onnxprune.report.run_report import VERSION, plain
from onnxprune.report.weights_accounted import Accounted, account


@dataclass(frozen=True)
class InspectGroup:
    """One group as `inspect` lists it. ``macs``: of the nodes that make or read its channels."""

    name: str
    width: int
    parameters: int
    macs: int
    nodes: tuple[str, ...]
    initializers: tuple[dict[str, Any], ...]
    equal_rows: int
    heads: int  # that may go as a whole, of the first family of them


@dataclass(frozen=True)
class InspectHeld:
    """A weight whose output channels, or some of them, must stay."""

    node: str
    initializer: str
    width: int
    held: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """The groups that could be pruned, and the channels that could not, with the reasons."""

    model: str
    input_shapes: Mapping[str, tuple[int, ...]]
    cost: Cost
    channels: int
    lossless: int  # of the channels, those that nobody would miss
    groups: tuple[InspectGroup, ...]
    held: tuple[InspectHeld, ...]
    nodes: tuple[Accounted, ...] = ()  # every one with weights, or that multiplies

    def to_json(self) -> str:
        """The file's text."""
        return (
            json.dumps(plain({"format": "onnxprune-inspection", "version": VERSION, **asdict(self)}), indent=2) + "\n"
        )


def _group(group: Group, parameters: int, macs: int) -> InspectGroup:
    """One line of `inspect`."""
    parts = tuple(
        {"name": s.constant, "axis": s.axis, "size": int(s.units.shape[-1]), "role": s.role or "elementwise"}
        for s in group.slices
    )
    return InspectGroup(
        group.name,
        group.width,
        parameters,
        macs,
        group.nodes,
        parts,
        max(b.rows for b in group.blocks),
        next((h.count for h in group.heads), 0),
    )


def inspection_of(trace: Trace, groups: Groups) -> Inspection:
    """The inspection of a traced model; every node can follow the removal of channels of ``groups``."""
    model, shapes = trace.model, trace.shapes.shape
    macs = macs_by_node(model.graph, shapes)
    return Inspection(
        str(model.path or ""),
        trace.shapes.inputs,
        cost(model.graph, shapes),
        groups.width,
        len(groups.lossless),
        tuple(_group(g, _parameters(model, g), sum(macs.get(n, 0) for n in g.nodes)) for g in groups),
        tuple(_held(groups)),
        account(trace, groups),
    )


def _held(groups: Groups) -> Iterator[InspectHeld]:
    """What is held, each node once: of several weights that make its channels, the first."""
    seen = set()
    for h in groups.held:
        if h.node not in seen:
            seen.add(h.node)
            yield InspectHeld(h.node, h.constant, h.width, h.held, tuple(map(str, h.reasons)))


def _parameters(model: Model, group: Group) -> int:
    """Parameters in the slices of a group's channels: what goes when all of it does."""
    total = 0
    for name in dict.fromkeys(s.constant for s in group.slices if s.constant in model.graph.constants):
        shape = model.graph.constants[name][1]
        share = 1.0
        for part in group.slices:
            if part.constant == name:
                share *= 1 - float(np.isin(part.units, [*group.units, *group.places]).mean())
        total += round(math.prod(shape) * (1 - share))
    return total
