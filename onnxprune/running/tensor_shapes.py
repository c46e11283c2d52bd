"""Concrete shapes of all tensors, and the values of those that only describe shapes.

Labels need to know how long an axis is, and what a Reshape is told. Both are had without running the model: onnx's
own shape inference on a copy without weights, then, for what that leaves open, node by node, evaluating shape
arithmetic (Shape -> Gather -> Mul -> Concat ...) with onnx's reference operators. Where operators have no inference
(custom domains), onnxruntime runs the model once and tells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, shape_inference
from onnx import numpy_helper as nph

from onnxprune.errors import ModelError
from onnxprune.memory import size_text, total_memory
from onnxprune.model.dtypes import BITS
from onnxprune.model.graph import Graph, Naming, Node, Shape
from onnxprune.model.nested import graphs_of
from onnxprune.model.onnx_model import Model
from onnxprune.model.written_out.if_branches import DOMAIN, MERGE
from onnxprune.running.input_shapes import PLAIN, Draws

#: Shape arithmetic works on small tensors; larger ones are data.
_MAX_INTS, _MAX_FLOATS = 4096, 16
_INTS = {TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL}

#: Operators that only move elements: what is dynamic in their input is so at the matching place of the output.
_MOVES = {
    "Gather",
    "Slice",
    "Concat",
    "Unsqueeze",
    "Squeeze",
    "Reshape",
    "Flatten",
    "Transpose",
    "Identity",
    "Cast",
} | {
    "Split",
    "Expand",
    "Tile",
    "Where",
}

#: Operators each element of whose result follows from those at the same place of their inputs.
_BY_POSITION = {
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Mod",
    "Max",
    "Min",
    "Pow",
    "Neg",
    "Abs",
    "Sign",
    "Sqrt",
    "Floor",
    "Ceil",
} | {
    *("Round", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Not", "Clip"),
}

#: What of these computes floats computes sizes on the way, as long as they are numbers or lists of numbers.
_SIZES = _MOVES - {"Expand", "Tile"} | _BY_POSITION | {"CastLike", "ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin"}

#: Operators whose result is not a function of their inputs.
_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli"}


@dataclass(frozen=True)
class Value:
    """A small tensor known before running. ``dynamic``: which elements follow from a dynamic input dimension."""

    array: NDArray[Any]
    dynamic: NDArray[np.bool_]

    def same_as(self, other: Value) -> bool:
        """Whether both hold the same numbers in the same shape."""
        return self.array.shape == other.array.shape and bool(np.array_equal(self.array, other.array))


@dataclass(frozen=True)
class Shapes:
    """Shape and element type of every tensor, the value of those that are shape arithmetic, and the input shapes."""

    inputs: Mapping[str, Shape]
    shape: Mapping[str, Shape] = field(repr=False)
    elem_type: Mapping[str, int] = field(repr=False)
    value: Mapping[str, Value] = field(repr=False)
    draws: Draws = field(default=PLAIN, repr=False)  # how inputs are drawn


def resolve(
    model: Model, input_shapes: Mapping[str, Shape], probe: Callable[[Iterable[str]], dict[str, Shape]], whole: Model
) -> Shapes:
    """Shapes at ``input_shapes``; ``probe`` runs the model and gives the shapes of tensors that inference cannot.

    ``whole``: the model with the branches of If in place, where inference sees through it.

    Raises ModelError where the shapes contradict the graph.
    """
    forms = [whole] if whole is model else [whole, model]
    inferred: dict[str, tuple[int, Shape]] = {}
    symbolic: dict[str, tuple[int, Shape]] = {}
    for form in forms:
        inferred = {**_infer(form.skeleton(input_shapes), form), **inferred}
        symbolic = {**_infer(form.skeleton({}), form), **symbolic} if _has_open(model) else inferred
    known = {name: found for name, found in inferred.items() if -1 not in found[1]}
    walk = _Walk(model, known, symbolic)
    walk.run()
    if missing := [o for n in model.graph.nodes for o in n.outputs if o and o not in walk.shape]:
        known.update({name: (inferred.get(name, (0,))[0], shape) for name, shape in probe(missing).items()})
        known.update(_declared(model, missing))
        walk = _Walk(model, known, symbolic)
        walk.run()
    return Shapes(dict(input_shapes), walk.shape, walk.elem_type, walk.value)


def _declared(model: Model, names: list[str]) -> dict[str, tuple[int, Shape]]:
    """What the file says of tensors that nothing infers; nothing where inputs are dynamic, as it may not fit these."""
    if _has_open(model):
        return {}
    kinds = {v.name: v.type.tensor_type for v in (*model.proto.graph.value_info, *model.proto.graph.output)}
    shapes = {n: tuple(d.dim_value for d in kinds[n].shape.dim) for n in names if n in kinds}
    return {n: (kinds[n].elem_type, shape) for n, shape in shapes.items() if kinds[n].HasField("shape") and all(shape)}


def evaluate(node: Node, model: Model, inputs: Sequence[Value | None]) -> list[Value] | None:
    """What ``node`` computes from known inputs by onnx's reference operators; None where it has no such operator."""
    try:
        arrays = _computed(node, model, [v.array if v else None for v in inputs])
        dynamic = [_dynamic_of(node, model, inputs, a, at) for at, a in enumerate(arrays)]
    except Exception:  # noqa: BLE001 (what cannot be evaluated is simply not known)
        return None
    return [Value(a, d) for a, d in zip(arrays, dynamic, strict=True)]


def _told(node: Node, arrays: Sequence[NDArray[Any] | None]) -> float:
    """About how many elements an operator makes that makes as many as its inputs say; 0 of all others."""
    given = [np.ones(1) if a is None or a.dtype.kind not in "iufb" else a.astype(np.float64) for a in arrays]
    if node.op == "ConstantOfShape":
        return float(np.prod(given[0]))
    if node.op in ("Expand", "Tile", "OneHot"):
        return float(given[0].size * np.prod(np.maximum(given[1], 1)))
    if node.op == "Pad":
        pads = given[1] if len(given) > 1 else np.asarray(node.attrs.get("pads", 0), np.float64)
        return float(np.prod(np.asarray(given[0].shape) + np.abs(pads).sum()))
    if node.op == "Range":
        start, limit, delta = (float(a.reshape(-1)[0]) for a in given)
        return abs(limit - start) / max(abs(delta), 1e-9)
    return 0


def sources(node: Node, model: Model, inputs: Sequence[Value | None], output: int) -> NDArray[np.int64] | None:
    """Where each element of an output that only moves elements comes from; None where more than that is done.

    The elements of the inputs that are moved (`moving`) are numbered one input after the other.
    """
    places = moving(node)
    if not places:
        return None
    numbers: list[NDArray[Any] | None] = [v.array if v else None for v in inputs]
    start = 0
    for place in places:
        value = inputs[place]
        if value is None:
            return None
        numbers[place] = np.arange(start, start + value.array.size, dtype=np.int64).reshape(value.array.shape)
        start += value.array.size
    if node.op == "Cast":
        return numbers[0]
    try:
        return _computed(node, model, numbers)[output].astype(np.int64)
    except Exception:  # noqa: BLE001 (as above)
        return None


def moving(node: Node) -> tuple[int, ...]:
    """The inputs whose elements an operator moves, without computing anything of them."""
    if node.domain or node.op not in _MOVES:
        return ()
    return tuple(range(len(node.inputs))) if node.op == "Concat" else (1, 2) if node.op == "Where" else (0,)


def _computed(node: Node, model: Model, arrays: Sequence[NDArray[Any] | None]) -> list[NDArray[Any]]:
    """One run of ``node`` alone, at the model's own opsets: an operator means what it meant then."""
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 (heavy: only where shapes are computed)

    proto = onnx.ModelProto(ir_version=model.proto.ir_version, opset_import=model.proto.opset_import)
    proto.graph.name = "node"
    proto.graph.node.append(model.proto.graph.node[node.index])
    feeds = {n: a for n, a in zip(node.inputs, arrays, strict=True) if n and a is not None}
    proto.graph.input.extend(onnx.ValueInfoProto(name=n) for n in feeds)
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in node.outputs if n)
    return [np.asarray(r) for r in ReferenceEvaluator(proto).run(None, feeds)]


def _dynamic_of(
    node: Node, model: Model, inputs: Sequence[Value | None], result: NDArray[Any], output: int
) -> NDArray[np.bool_]:
    """Which elements of a result follow from a dynamic size: by what is moved where, or position by position."""
    masks = [v.dynamic for v in inputs if v]
    if not any(m.any() for m in masks):
        return np.zeros(result.shape, np.bool_)
    places = sources(node, model, inputs, output)
    if places is not None:
        flat = np.concatenate([v.dynamic.reshape(-1) for i in moving(node) if (v := inputs[i]) is not None])
        found = flat[places]
        chosen = inputs[0] if node.op == "Where" else None
        return np.asarray(found | np.broadcast_to(chosen.dynamic, found.shape) if chosen else found)
    if node.op in _BY_POSITION and not node.domain:
        return np.asarray(np.any([np.broadcast_to(m, result.shape) for m in masks], axis=0))
    return np.ones(result.shape, np.bool_)


def always(model: Model, shapes: Shapes) -> dict[tuple[str, ...], bool]:
    """The Ifs, written out, whose condition does not depend on what is fed, by their outputs; and the condition."""
    found = {}
    for node in model.graph.nodes:
        condition = _condition(model, shapes.value, node)
        if condition is not None:
            found[node.outputs] = condition
    return found


def _condition(model: Model, values: Mapping[str, Value], node: Node) -> bool | None:
    if (node.domain, node.op) != (DOMAIN, MERGE):
        return None
    name = node.inputs[0]
    if name in model.graph.constants:
        return bool(model.array(name).reshape(-1)[0])
    value = values.get(name)
    return None if value is None or value.dynamic.any() else bool(value.array.reshape(-1)[0])


def shape_value(node: Node, shape: Shape, dynamic: tuple[bool, ...]) -> Value:
    """What a Shape or Size node gives for a tensor of ``shape``."""
    if node.op == "Size":
        return Value(np.asarray(math.prod(shape), np.int64), np.asarray(any(dynamic)))
    part = slice(node.attrs.get("start", 0), node.attrs.get("end"))
    return Value(np.asarray(shape[part], np.int64), np.asarray(dynamic[part], np.bool_))


def _is_open_data(node: Node, value: Value) -> bool:
    """Floats in a dynamic shape that are more than a size on its way from integers to integers: data, of any size."""
    if value.array.dtype.kind != "f" or not value.dynamic.any():
        return False
    return node.op not in _SIZES or value.array.ndim > 1 or value.array.size > _MAX_FLOATS


def is_shape_source(node: Node) -> bool:
    """Whether the node turns a shape into a value."""
    return node.op in ("Shape", "Size") and not node.domain


def _is_open(dims: tuple[int | None, ...] | None) -> bool:
    return dims is None or None in dims


def _has_open(model: Model) -> bool:
    return any(_is_open(i.dims) for i in model.graph.inputs if i.elem_type)


def _infer(skeleton: onnx.ModelProto, model: Model) -> dict[str, tuple[int, Shape]]:
    """Element type and shape of every tensor that onnx infers a rank for; an unknown dim is -1."""
    try:
        graph = shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except Exception as error:  # noqa: BLE001 (several types)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"shape inference fails: {reason}", where=str(model.path or "model"), hint="check --input-shape"
        ) from None
    found: dict[str, tuple[int, Shape]] = {}
    for info in (*graph.input, *graph.output, *graph.value_info):
        kind = info.type.tensor_type
        if kind.HasField("shape"):
            dims = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
            found[info.name] = (kind.elem_type, dims)
    found.update({n: (kind, shape) for n, (kind, shape) in model.graph.constants.items()})
    return found


class _Walk:
    """One pass over the nodes in order, filling in what inference left open."""

    def __init__(
        self, model: Model, known: dict[str, tuple[int, Shape]], symbolic: Mapping[str, tuple[int, Shape]]
    ) -> None:
        self.model, self.known, self.symbolic = model, known, symbolic
        self.shape: dict[str, Shape] = {}
        self.elem_type: dict[str, int] = {}
        self.value: dict[str, Value] = {}
        self.protos = model.proto.graph.node

    def run(self) -> None:
        graph: Graph = self.model.graph
        for name in (*(i.name for i in graph.inputs), *graph.constants):
            if name in self.known:
                self._learn(name, *self.known[name])
        for node in graph.nodes:
            with Naming(node, self.model.path or ""):
                self._visit(node)
                self._within(node)

    def _within(self, node: Node) -> None:
        """Raise ModelError where ``node`` writes what memory does not hold."""
        for name in node.outputs:
            needed = (
                math.prod(max(s, 1) for s in self.shape.get(name, ())) * BITS.get(self.elem_type.get(name, 0), 8) // 8
            )
            if needed > total_memory() or needed < 0:
                what = (
                    f"gives '{name}', which takes {size_text(needed)}: there are {size_text(total_memory())} of memory"
                )
                where = f"{self.model.path or 'model'}, node '{node.label}'"
                raise ModelError(what, where=where, hint="give smaller inputs with --input-shape, or export it again")

    def _learn(self, name: str, elem_type: int, shape: Shape) -> None:
        self.shape[name], self.elem_type[name] = shape, elem_type

    def _visit(self, node: Node) -> None:
        values = self._values(node)
        if values is not None:
            for name, value in zip(node.outputs, values, strict=False):
                if name:
                    self.value[name] = value
                    self._learn(name, int(helper.np_dtype_to_tensor_dtype(value.array.dtype)), value.array.shape)
            return
        for name in node.outputs:
            if name in self.known:
                self._learn(name, *self.known[name])
        condition = _condition(self.model, self.value, node)
        if condition is not None:
            start = 1 if condition else 1 + len(node.outputs)
            for name, result in zip(node.outputs, node.inputs[start:], strict=False):
                if result in self.shape:
                    self._learn(name, self.elem_type[result], self.shape[result])
        if any(o and o not in self.shape for o in node.outputs):
            self._infer_node(node)

    def _dynamic(self, name: str) -> tuple[bool, ...]:
        """Which axes of a tensor have no fixed size in the file."""
        shape = self.shape[name]
        _, dims = self.symbolic.get(name, (0, ()))
        return tuple(d < 0 for d in dims) if len(dims) == len(shape) else (True,) * len(shape)

    def _values(self, node: Node) -> list[Value] | None:
        if is_shape_source(node):
            name = node.inputs[0]
            return [shape_value(node, self.shape[name], self._dynamic(name))] if name in self.shape else None
        if node.op in _RANDOM or node.op == "Constant" or not any(node.inputs) or self._has_graphs(node):
            return None
        computed = any(n in self.value for n in node.inputs)
        if not computed and not all(self._is_integer(n) for n in node.inputs if n):
            return None
        inputs = [self.value.get(name) or self._small_constant(name) if name else None for name in node.inputs]
        if any(n and v is None for n, v in zip(node.inputs, inputs, strict=True)):
            return None
        told = _told(node, [v.array if v else None for v in inputs])
        results = evaluate(node, self.model, inputs) if told <= _MAX_INTS else None
        if results is None or any(r.array.size > _MAX_INTS or _is_open_data(node, r) for r in results):
            return None
        return results

    def _has_graphs(self, node: Node) -> bool:
        """Whether running the node runs a graph of its own, which may never end."""
        return bool(graphs_of(self.protos[node.index]))

    def _is_integer(self, name: str) -> bool:
        return name in self.model.graph.constants and self.model.graph.constants[name][0] in _INTS

    def _small_constant(self, name: str) -> Value | None:
        if name not in self.model.graph.constants:
            return None
        elem_type, shape = self.model.graph.constants[name]
        if math.prod(shape) > (_MAX_INTS if elem_type in _INTS else _MAX_FLOATS):
            return None
        array = self.model.array(name)
        return Value(array, np.zeros(array.shape, np.bool_))

    def _infer_node(self, node: Node) -> None:
        if node.captured:  # what its subgraphs read cannot be told; onnx 1.16 crashes over it
            return
        try:
            schema = onnx.defs.get_schema(node.op, node.version, node.domain)
        except onnx.defs.SchemaError:
            return
        types, data = {}, {}
        for name in filter(None, node.inputs):
            if name not in self.shape:
                return
            types[name] = helper.make_tensor_type_proto(self.elem_type[name], self.shape[name])
            value = self.value.get(name) or self._small_constant(name)
            if value is not None:
                data[name] = nph.from_array(value.array)
        opsets = list(self.model.proto.opset_import)
        try:
            found = shape_inference.infer_node_outputs(
                schema, self.protos[node.index], types, data, opset_imports=opsets
            )
        except Exception:  # noqa: BLE001 (no answer is an answer: the caller asks onnxruntime)
            return
        for name, kind in found.items():
            dims = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.tensor_type.shape.dim]
            if name and kind.tensor_type.HasField("shape") and -1 not in dims:
                self._learn(name, kind.tensor_type.elem_type, tuple(dims))
