"""Gradients of an ONNX model with respect to gates on its tensors, through onnx-ad and onnxruntime.

A gate is a graph input of ones that multiplies a tensor [N, ...], one number for each sample and channel; or one of
zeros that is added to it, whose gradient is the tensor's own. onnx-ad
writes the reverse-mode graph (it needs no framework), and one run gives every sample's own gradients, as samples do
not meet. What is differentiated is sum(direction * output), for directions that the caller chooses with the outputs
at hand: the gradient of any loss.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, shape_inference, version_converter

from onnxprune.calibration.reverse_mode.moves_as_gather import as_gathers
from onnxprune.calibration.reverse_mode.reverse_graph import quick
from onnxprune.errors import ModelError, OptionError
from onnxprune.labels.label_propagation import Trace
from onnxprune.labels.outputs.parts import ends
from onnxprune.model.dtypes import NUMPY_FLOATS, dtype_of, to_tensor
from onnxprune.model.edits import IR_INITIALIZERS
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model
from onnxprune.model.written_out.if_branches import DOMAIN
from onnxprune.running import session as runtime
from onnxprune.running.session import Feeds

Array = NDArray[Any]

#: The gradient of a loss with respect to outputs: {output: array} -> {output: array}.
Directions = Callable[[Mapping[str, Array]], Mapping[str, Array]]

SEED, _WAY_OUT = "onnxprune_adjoint_", "another --importance needs no gradients"

#: onnx-ad knows operators as they are from this opset on (Softmax flattened its input before 13, and ScatterND, which
#: MaxPool's gradient is made of, did not add before 16).
_KNOWN = 16


@dataclass(frozen=True)
class Differentiable:
    """The part of a model that has gradients, and gates [batch, ...] on some of its tensors."""

    model: Model = field(repr=False)
    gates: Mapping[str, Shape]
    outputs: tuple[str, ...]
    batch: int
    neutral: float  # what gates are fed


def differentiable(
    trace: Trace, gates: Mapping[str, Shape], feeds: Feeds, instead: Sequence[str] = ()
) -> Differentiable:
    """``trace.model`` on ``feeds``, with ``gates`` [batch, ...], up to where gradients end. Raises OptionError.

    Gates multiply; where tensors are given ``instead`` of the outputs, they are added.

    Outputs to differentiate are floats with an entry for each sample. Where there are none, because floats become
    decisions first (non-maximum suppression, an argument of the maximum), it is what these decide on. Of outputs that
    are no tensors of numbers it is what they are made of.
    """
    model, batch = trace.model, next(iter(gates.values()))[0]
    where = str(model.path or "model")
    for node in model.graph.nodes:
        if node.domain == DOMAIN:  # its branches are written out, and no runtime knows what merges them
            what = "is the result of an If, which has no gradient here"
            raise OptionError(what, where=f"tensor '{node.outputs[0]}'", hint=_WAY_OUT)
    kind = _elem_types(trace)
    outside = {o.name for o in model.graph.outputs}
    added = bool(instead)
    plain = list(instead) or [o.name for o in model.graph.number_outputs] or list(ends(model.graph))
    for names in (plain, _decided_on(trace, kind, set(gates))):
        made = [n for n in names if n in model.graph.producer and n in trace.shapes.shape]  # no sequence has a shape
        floats = [n for n in made if kind[n] in NUMPY_FLOATS]
        more = [n for n in floats if n not in outside]
        with runtime.session(model, where, outputs=more, any_batch=batch > 1) as active:
            values = runtime.run(active, feeds, where)
        kept = tuple(n for n in floats if values[n].shape == (batch, *trace.shapes.shape[n][1:]) and values[n].ndim)
        if kept:
            fed = {**feeds, **{gate_of(n): np.zeros(s, dtype_of(kind[n])) for n, s in gates.items()}}
            gated = _with_gates(model, "Add" if added else "Mul", gates, kind, fed, kept, where)
            refuse_foreign(gated, {gate_of(n) for n in gates}, _WAY_OUT)
            return Differentiable(gated, gates, kept, batch, 0.0 if added else 1.0)
    raise OptionError("no output has a gradient for each sample", where=where, hint=_WAY_OUT)


def _with_gates(
    model: Model,
    gate: str,
    gates: Mapping[str, Shape],
    elem_types: Mapping[str, int],
    fed: Feeds,
    outputs: Sequence[str],
    where: str,
) -> Model:
    """``model`` on ``fed``, up to ``outputs``, in which tensors meet their gates in an operator ``gate``."""
    kinds = {**elem_types, **{gate_of(n): elem_types[n] for n in gates}}
    inputs = [(n, kinds[n], a.shape) for n, a in fed.items()]
    alone = standalone(model, inputs, {n: elem_types[n] for n in outputs})
    out = as_gathers(modern(alone, fed, where), fed, where).proto
    through_gates(out, gates, gate)
    return with_shapes(Model(out, model.path, model.weights), fed, where)


def through_gates(proto: ModelProto, names: Collection[str], gate: str) -> None:
    """Let the tensors ``names`` of ``proto`` meet their gates, which are inputs, in an operator ``gate``."""
    nodes = list(proto.graph.node)
    del proto.graph.node[:]
    for node in nodes:
        after = []
        for position, name in enumerate(node.output):
            if name in names:
                node.output[position] = ungated(name)
                after.append(helper.make_node(gate, [ungated(name), gate_of(name)], [name]))
        proto.graph.node.extend([node, *after])


def ungated(name: str) -> str:
    """What tensor ``name`` was before its gate."""
    return f"{name}__ungated"


def with_shapes(model: Model, feeds: Feeds, where: str) -> Model:
    """``model`` with the shapes of its tensors; where they do not follow from the nodes, as they are on ``feeds``.

    A tensor without a shape would be a number for onnx-ad.
    """
    proto = shape_inference.infer_shapes(model.proto, data_prop=True)
    known = {v.name for v in (*proto.graph.value_info, *proto.graph.output) if _has_shape(v)}
    missing = [o for node in model.graph.nodes for o in node.outputs if o and o not in known]
    found = Model(proto, model.path, model.weights)
    if not missing:
        return found
    try:
        with runtime.session(found, where, outputs=missing) as active:
            values = runtime.run(active, feeds, where)
    except ModelError:  # not all of them can be handed over
        return found
    arrays = {n: values[n] for n in missing if isinstance(values.get(n), np.ndarray)}
    told = {
        n: helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in arrays.items()
    }
    kept = [v for v in proto.graph.value_info if v.name not in told]
    for output in proto.graph.output:
        if output.name in told:
            output.CopyFrom(told.pop(output.name))
    del proto.graph.value_info[:]
    proto.graph.value_info.extend((*kept, *told.values()))
    return Model(proto, model.path, model.weights)


def _has_shape(info: ValueInfoProto) -> bool:
    kind = info.type.tensor_type
    return kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim)


def standalone(model: Model, inputs: Sequence[tuple[str, int, Shape]], outputs: Mapping[str, int]) -> Model:
    """What of ``model`` leads to ``outputs`` {name: element type}; ``inputs`` stand for constants of their names."""
    given = {name for name, _, _ in inputs}
    needed, kept = set(outputs), []
    for node in reversed(model.graph.nodes):
        if needed.intersection(node.outputs) - given:
            needed.update((*node.inputs, *node.captured))
            kept.append(node.index)
    # Before IR 4 every initializer had to be a graph input too.
    out = ModelProto(ir_version=max(model.proto.ir_version, IR_INITIALIZERS), functions=model.proto.functions)
    out.opset_import.extend(model.proto.opset_import)
    out.graph.name = model.proto.graph.name or "graph"
    out.graph.initializer.extend(t for t in model.proto.graph.initializer if t.name in needed - given)
    sparse = (t.values for t in model.proto.graph.sparse_initializer if t.values.name in needed - given)
    out.graph.initializer.extend(to_tensor(model.array(t.name), t.name, t.data_type) for t in sparse)
    out.graph.node.extend(model.proto.graph.node[index] for index in reversed(kept))
    out.graph.input.extend(helper.make_tensor_value_info(*i) for i in inputs)
    out.graph.output.extend(helper.make_tensor_value_info(n, t, None) for n, t in outputs.items())
    return Model(out, model.path, model.weights)


def _elem_types(trace: Trace) -> dict[str, int]:
    """Of every tensor; where shape inference does not tell, as a graph output declares, or float."""
    known = {n: t for n, t in trace.shapes.elem_type.items() if t}
    declared = {o.name: o.elem_type for o in trace.model.graph.outputs if o.elem_type}
    made = (o for node in trace.model.graph.nodes for o in node.outputs)
    return {**dict.fromkeys(made, int(TensorProto.FLOAT)), **declared, **known}


def refuse_foreign(model: Model, sources: set[str], hint: str) -> None:
    """Raise OptionError for a node of another domain that gradients would go through: onnx-ad goes by names alone."""
    follows = set(sources)
    for node in model.graph.nodes:
        if follows.intersection(node.inputs):
            if node.domain:
                where = f"node '{node.label}'"
                raise OptionError(f"{node.domain}.{node.op} has no gradient in onnx-ad", where=where, hint=hint)
            follows.update(node.outputs)


def _decided_on(trace: Trace, kind: Mapping[str, int], sources: set[str]) -> list[str]:
    """Float tensors that follow from ``sources``, and from which a node makes integers or booleans."""
    follows, found = set(sources), []
    for node in trace.model.graph.nodes:
        inputs = [n for n in node.inputs if n in follows]
        known = all(o in trace.shapes.value for o in node.outputs if o)
        if not inputs or known:
            continue
        floats = [o for o in node.outputs if o and kind[o] in NUMPY_FLOATS]
        if len(floats) < sum(map(bool, node.outputs)):
            found += inputs
        follows.update(floats)
    return list(dict.fromkeys(found))


def gate_gradients(
    part: Differentiable, batches: Iterator[tuple[Feeds, Directions]], where: str
) -> Iterator[dict[str, Array]]:
    """{tensor: d loss / d gate [samples, ...]} for each batch; one with fewer samples is filled up and cut again.

    Raises OptionError where onnx-ad does not know an operator, or onnxruntime refuses what it wrote.
    """
    reverse = reverse_of(part.model, [gate_of(n) for n in part.gates], part.outputs, "--importance", _WAY_OUT)
    ones = {gate_of(n): np.full(s, part.neutral, _dtype(part, n)) for n, s in part.gates.items()}
    try:
        yield from _run_both(part, reverse, ones, batches, where)
    except ModelError as error:
        raise OptionError(f"no gradients: {error.what}", where="--importance", hint=_WAY_OUT) from None


def _run_both(
    part: Differentiable,
    reverse: Model,
    ones: Feeds,
    batches: Iterator[tuple[Feeds, Directions]],
    where: str,
) -> Iterator[dict[str, Array]]:
    fast = partial(runtime.session, where=where, optimize=True)
    with fast(part.model) as forward, fast(reverse) as backward:
        for feeds, directions in batches:
            count = len(next(iter(feeds.values()))) if part.batch > 1 else 1
            full = {n: _filled(a, part.batch) for n, a in feeds.items()}
            values = runtime.run(forward, {**full, **ones}, where)
            chosen = directions({n: values[n][:count] for n in part.outputs})
            seeds = {
                f"{SEED}{n}": _filled(chosen[n].astype(values[n].dtype), part.batch)[..., None] for n in part.outputs
            }
            found = runtime.run(backward, {**full, **ones, **seeds}, where)
            yield {n: found[f"{SEED}{gate_of(n)}"][..., 0][:count] for n in part.gates}


def gate_of(name: str) -> str:
    """The graph input that tensor ``name`` is multiplied by, or that is added to it."""
    return f"{name}__gate"


def _dtype(part: Differentiable, name: str) -> np.dtype[Any]:
    elem_type = next(i.elem_type for i in part.model.graph.inputs if i.name == gate_of(name))
    return dtype_of(elem_type)


def _filled(array: Array, batch: int) -> Array:
    """As many entries as ``batch``: the first again for those that are missing. One sample may have no axis for it."""
    if batch == 1 or len(array) == batch:
        return array
    return np.concatenate([array, array[:1].repeat(batch - len(array), axis=0)])


def reverse_of(model: Model, inputs: Sequence[str], outputs: Sequence[str], option: str, hint: str) -> Model:
    """The graph of the gradients of ``inputs``. Raises OptionError for ``option`` where onnx-ad gives none."""
    import onnx_ad  # noqa: PLC0415 (only where gradients are asked for)

    whole = ModelProto.FromString(b"".join(model.pieces()))  # onnx-ad reads constants
    try:
        proto = onnx_ad.reverse(whole, inputs=list(inputs), outputs=list(outputs), prefix=SEED, dim="n", layout="onnx")
    except Exception as error:  # noqa: BLE001 (UnsupportedOperator, and what malformed graphs raise inside)
        reason = f"{error}".partition(";")[0]
        raise OptionError(f"onnx-ad gives no gradients: {reason}", where=option, hint=hint) from None
    for node in proto.graph.node:  # the If that gives gradients is called as the one that is differentiated
        node.ClearField("name")
    return Model(quick(proto), model.path)


def modern(model: Model, feeds: Feeds, where: str) -> Model:
    """``model`` at opset `_KNOWN` at least, where it can be converted, else as it is."""
    if any(o.domain in ("", "ai.onnx") and o.version >= _KNOWN for o in model.proto.opset_import):
        return model
    try:
        proto = version_converter.convert_version(with_shapes(model, feeds, where).proto, _KNOWN)
    except Exception:  # noqa: BLE001 (ConvertError is raised as a bare RuntimeError, and other domains are not known)
        return model
    return Model(proto, model.path, model.weights)


def random_directions(rng: np.random.Generator, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """A normal direction for each sample, divided by the size of the output."""
    sizes = {n: float(np.sqrt(np.mean(y.astype(np.float64) ** 2))) or 1.0 for n, y in outputs.items()}
    return {n: rng.standard_normal(y.shape) / sizes[n] for n, y in outputs.items()}
