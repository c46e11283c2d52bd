"""Every weight and every multiplying node, once: as prunable, held, not understood, or of unknown shape.

A weight belongs to the first node that reads it, so that the parts add up to the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxprune.cost.macs_and_bytes import Params, cost, node_macs
from onnxprune.labels import ops
from onnxprune.labels.groups import Groups
from onnxprune.labels.label_propagation import Trace
from onnxprune.model.graph import Graph, Node

State = Literal["prunable", "held", "not understood", "unknown shape", "unread"]

#: Weights of fewer dimensions than this scale or shift, and need no products.
_MATRIX = 2

#: How many nodes or reasons are told by name.
_TOLD = 3


@dataclass(frozen=True)
class Accounted:
    """A node with weights of its own, or that multiplies. ``macs``: None for operators whose MACs are not known."""

    node: str
    op: str
    state: State
    parameters: int
    macs: int | None
    because: str = ""


def account(trace: Trace, groups: Groups) -> tuple[Accounted, ...]:
    """All such nodes in execution order, and, last, the weights that no node reads."""
    graph, shapes = trace.model.graph, trace.shapes.shape
    free = np.zeros(trace.units, np.bool_)
    for group in groups:
        free[np.concatenate([group.units, group.places])] = True
    reasons = {h.node: str(h.reasons[0]) for h in reversed(groups.held) if h.reasons}
    found = []
    for node in graph.nodes:
        parameters, macs = round(Params().node(graph, node, shapes)), node_macs(node, shapes)
        if not parameters and not macs and not _uncounted(graph, node):
            continue
        state, why = _state(trace, node, free, reasons)
        counted = None if macs is None and _uncounted(graph, node) else macs or 0
        found.append(Accounted(node.label, node.op, state, parameters, counted, why))
    rest = cost(graph, shapes).parameters - sum(a.parameters for a in found)
    return (*found, *([Accounted("", "", "unread", rest, 0, "no node reads them")] if rest else []))


def _uncounted(graph: Graph, node: Node) -> bool:
    """Whether a node has weights to multiply with, and nothing here knows what it does with them."""
    rule = ops.find(node)
    known = rule is not None and not (rule.macs is not None or rule.linear is not None)
    return not known and any(len(graph.constants[n][1]) >= _MATRIX for n in node.inputs if n in graph.constants)


def _state(trace: Trace, node: Node, free: NDArray[np.bool_], reasons: Mapping[str, str]) -> tuple[State, str]:
    tensors = [trace.input(node, i) for i, n in enumerate(node.inputs) if n]
    tensors += [trace.tensors.get(o) for o in node.outputs if o]
    units = [trace.unit[layer.labels].reshape(-1) for t in tensors if t is not None for layer in t.layers]
    if any(free[u].any() for u in units):
        return "prunable", ""
    if ops.find(node) is None:
        return "not understood", f"{node.op} has no rule"
    names = [n for n in (*node.inputs, *node.outputs) if n and n not in trace.shapes.shape]
    if names:
        return "unknown shape", f"nobody knows the shape of '{names[0]}'"
    if node.label in reasons:
        return "held", reasons[node.label]
    for u in units:
        for unit in dict.fromkeys(u.tolist()):
            why = next((str(r) for r in trace.pinned.get(unit, ()) if r.why), "")
            if why:
                return "held", why
    return "held", "meets nothing but channels that are fixed"


def in_words(accounted: tuple[Accounted, ...], parameters: int) -> list[str]:
    """The shares of the parameters by state, and the nodes whose MACs are not counted, as sentences."""
    by_state: dict[str, int] = {}
    for one in accounted:
        by_state[one.state] = by_state.get(one.state, 0) + one.parameters
    shares = ", ".join(f"{100 * n / parameters:.1f} % {s}" for s, n in by_state.items() if n and parameters)
    missing = [f"'{a.node}' ({a.op})" for a in accounted if a.macs is None]
    said = [f"parameters by the node that reads them: {shares}"] if shares else []
    if missing:
        more = f" and {len(missing) - _TOLD} more" if len(missing) > _TOLD else ""
        said.append(f"MACs of these are not counted: {', '.join(missing[:_TOLD])}{more}")
    return said


def first_reasons(accounted: tuple[Accounted, ...]) -> list[str]:
    """The reasons that hold most of the parameters that cannot be pruned, each once."""
    size: dict[str, int] = {}
    for one in accounted:
        if one.state not in ("prunable", "unread") and one.because:
            size[one.because] = size.get(one.because, 0) + one.parameters
    first = {a.because: a.node for a in reversed(accounted)}
    ranked = sorted(size, key=lambda why: -size[why])[:_TOLD]
    return [f"'{first[why]}' stays: {why}" for why in ranked]
