"""A plan of what a rewrite keeps, and the rewrite that a plan asks of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import PlanError
from onnxprune.labels.cut_or_copied_initializers import Kept
from onnxprune.labels.label_propagation import Trace, Use
from onnxprune.labels.rewrite import Rewrite, rewrite
from onnxprune.plans.plan_file import AxisKept, Plan


def plan_of(trace: Trace, result: Rewrite, options: Mapping[str, Any]) -> Plan:
    """Write down what ``result`` keeps."""
    model = trace.model
    shapes = {
        **{n: s for n, (_, s) in model.graph.constants.items()},
        **{n: a.shape for n, a in result.edits.added.items()},
    }
    copies = {}
    for index, positions in result.edits.inputs.items():
        for position, name in positions.items():
            node = model.graph.nodes[index]
            source = node.input(position)
            if name in result.kept and source in model.graph.constants:
                copies[name] = (source, node.label, position)
                shapes[name] = model.graph.constants[source][1]
    name = model.path.name if model.path else ""
    kept = {n: tuple(_axis(part, shapes[n]) for part in parts) for n, parts in result.kept.items()}
    return Plan(name, model.sha256, options, kept, copies)


def _axis(part: Kept, shape: tuple[int, ...]) -> AxisKept:
    """Rows of one block are alike: one is enough."""
    keep = part.positions
    if keep.ndim > 1:
        changes = np.flatnonzero((keep[1:] != keep[:-1]).any(axis=1))
        rows = np.gcd.reduce([*(changes + 1), len(keep)])
        keep = keep[:: int(rows)]
    return AxisKept(part.axis, shape[part.axis], keep)


def applied(trace: Trace, plan: Plan, where: str) -> tuple[NDArray[np.int64], Rewrite]:
    """The units that ``plan`` removes from this model, and the rewrite.

    Raises PlanError where the plan does not fit.
    """
    by_name: dict[str, Use] = {}
    nodes = {n.label: n for n in trace.model.graph.nodes}
    for known in trace.uses:
        by_name.setdefault(known[0], known)
    dead: list[NDArray[np.int64]] = []
    for name, axes in plan.initializers.items():
        use: Use | None = by_name.get(name)
        if name in plan.copies:
            source, node, position = plan.copies[name]
            use = (source, nodes[node].index, position) if node in nodes else None
        if use is None or use not in trace.uses:
            raise PlanError(f"the model has no initializer '{name}'", where=where, hint=made_for(plan))
        dead.extend(_dead(trace, use, axis, name, plan, where) for axis in axes)
    units = trace.heads.completed(np.concatenate(dead)) if dead else np.zeros(0, np.int64)
    held = next(((int(u), trace.pinned[int(u)]) for u in units if int(u) in trace.pinned), None)
    if held is not None:
        raise PlanError(f"removes channels that must stay: {held[1][0]}", where=where, hint=made_for(plan))
    result = rewrite(trace, units)
    if not isinstance(result, Rewrite):
        raise PlanError(f"does not fit: {result.reason}", where=where, hint=made_for(plan))
    again = plan_of(trace, result, plan.options)
    for name in {**again.initializers, **plan.initializers}:
        if _key(again, name) != _key(plan, name):
            raise PlanError(
                f"keeps other channels of '{name}' than the rest of it asks for", where=where, hint=made_for(plan)
            )
    return units, result


def _key(plan: Plan, name: str) -> list[dict[str, Any]]:
    return [a.to_json() for a in plan.initializers.get(name, ())]


def made_for(plan: Plan) -> str:
    """The hint where a plan does not fit."""
    return f"it was made for {plan.model_name or 'another model'}, sha256 {plan.model_sha256[:12]}"


def _dead(trace: Trace, use: Use, axis: AxisKept, name: str, plan: Plan, where: str) -> NDArray[np.int64]:
    tensor = trace.uses[use]
    layer = next((la for la in tensor.layers if la.columns == axis.axis), None)
    if layer is None or tensor.shape[axis.axis] != axis.size or (axis.keep.size and axis.keep.max() >= axis.size):
        shape = ", ".join(map(str, tensor.shape))
        raise PlanError(
            f"initializer '{name}' is [{shape}], not {axis.size} along axis {axis.axis}",
            where=where,
            hint=made_for(plan),
        )
    labels = layer.labels.reshape(layer.labels.shape[0], -1) if len(layer.axes) > 1 else layer.labels.reshape(1, -1)
    keep = axis.keep.reshape(-1, axis.keep.shape[-1])
    if labels.shape[0] % len(keep):
        raise PlanError(f"initializer '{name}' has no {len(keep)} blocks", where=where, hint=made_for(plan))
    gone = np.ones((len(keep), axis.size), np.bool_)
    np.put_along_axis(gone, keep, values=False, axis=1)
    if len(keep) == 1:
        return np.asarray(trace.unit[labels[:, gone[0]]].reshape(-1))
    size = labels.shape[0] // len(keep)
    blocks = [labels[i * size : (i + 1) * size][:, row] for i, row in enumerate(gone)]
    return np.concatenate([trace.unit[b].reshape(-1) for b in blocks])
