"""Concrete shapes of all tensors, and the values of those that only describe shapes.

Labels need to know how long an axis is, and what a Reshape is told. Both are had without running the model: onnx's
own shape inference on a copy without weights, then, for what that leaves open, node by node, evaluating shape
arithmetic (Shape -> Gather -> Mul -> Concat ...) with onnx's reference operators. Where operators have no inference
(custom domains), onnxruntime runs the model once and tells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, shape_inference
from onnx import numpy_helper as nph

from onnxprune.errors import ModelError
from onnxprune.memory_and_threads import size_text, total_memory
from onnxprune.model.dtypes import BITS
from onnxprune.model.graph import Graph, Naming, Node, Shape
from onnxprune.model.onnx_model import Model
from onnxprune.model.written_out.if_branches import merges
from onnxprune.running.seeded_inputs import PLAIN, Draws
from onnxprune.running.shape_arithmetic import (
    INTS,
    MAX_FLOATS,
    MAX_INTS,
    RANDOM,
    Value,
    evaluate,
    is_open_data,
    is_shape_source,
    shape_value,
    told,
)


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
        walk = _Walk(model, known, symbolic, _declared(model, missing))
        walk.run()
    return Shapes(dict(input_shapes), walk.shape, walk.elem_type, walk.value)


def ensure_as_traced(name: str, shape: Shape, traced: Shape, axes: Iterable[int]) -> None:
    """Raise ModelError where a tensor that was run has another rank, or other sizes along ``axes``, than was traced.

    Inference believes what the file declares of results inside If and Loop. Other axes may depend on the data.
    """
    if len(shape) == len(traced) and all(shape[a] == traced[a] for a in axes):
        return
    found = ",".join(map(str, shape))
    hint = "export it again"
    raise ModelError(f"is of shape {found}, and declared otherwise", where=f"tensor '{name}'", hint=hint)


def _declared(model: Model, names: list[str]) -> dict[str, tuple[int, Shape]]:
    """What the file says of tensors; nothing where inputs are dynamic, as it may not fit these."""
    if _has_open(model):
        return {}
    kinds = {v.name: v.type.tensor_type for v in (*model.proto.graph.value_info, *model.proto.graph.output)}
    shapes = {n: tuple(d.dim_value for d in kinds[n].shape.dim) for n in names if n in kinds}
    return {
        n: (kinds[n].elem_type, shape)
        for n, shape in shapes.items()
        if kinds[n].HasField("shape") and all(d > 0 for d in shape)
    }


def always(model: Model, shapes: Shapes) -> dict[tuple[str, ...], bool]:
    """The Ifs, written out, whose condition does not depend on what is fed, by their outputs; and the condition."""
    found = {}
    for node in model.graph.nodes:
        condition = _condition(model, shapes.value, node)
        if condition is not None:
            found[node.outputs] = condition
    return found


def _condition(model: Model, values: Mapping[str, Value], node: Node) -> bool | None:
    if not merges(node):
        return None
    name = node.inputs[0]
    if name in model.graph.constants:
        return bool(model.array(name).reshape(-1)[0])
    value = values.get(name)
    return None if value is None or value.dynamic.any() else bool(value.array.reshape(-1)[0])


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
            dims = tuple(d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else -1 for d in kind.shape.dim)
            found[info.name] = (kind.elem_type, dims)
    found.update({n: (kind, shape) for n, (kind, shape) in model.graph.constants.items()})
    return found


class _Walk:
    """One pass over the nodes in order, filling in what inference left open.

    ``declared`` is believed of outputs that nothing else tells: it may be wrong, and nobody compares it.
    """

    def __init__(
        self,
        model: Model,
        known: dict[str, tuple[int, Shape]],
        symbolic: Mapping[str, tuple[int, Shape]],
        declared: Mapping[str, tuple[int, Shape]] | None = None,
    ) -> None:
        self.model, self.known, self.symbolic, self.declared = model, known, symbolic, declared or {}
        self.shape: dict[str, Shape] = {}
        self.elem_type: dict[str, int] = {}
        self.value: dict[str, Value] = {}
        self.protos = model.proto.graph.node

    def run(self) -> None:
        graph: Graph = self.model.graph
        for name in (*(i.name for i in graph.inputs), *graph.constants):
            if name in self.known:
                self._record(name, *self.known[name])
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

    def _record(self, name: str, elem_type: int, shape: Shape) -> None:
        self.shape[name], self.elem_type[name] = shape, elem_type

    def _visit(self, node: Node) -> None:
        values = self._values(node)
        if values is not None:
            for name, value in zip(node.outputs, values, strict=False):
                if name:
                    self.value[name] = value
                    self._record(name, int(helper.np_dtype_to_tensor_dtype(value.array.dtype)), value.array.shape)
            return
        for name in node.outputs:
            if name in self.known:
                self._record(name, *self.known[name])
        condition = _condition(self.model, self.value, node)
        if condition is not None:
            start = 1 if condition else 1 + len(node.outputs)
            for name, result in zip(node.outputs, node.inputs[start:], strict=False):
                if result in self.shape:
                    self._record(name, self.elem_type[result], self.shape[result])
        if any(o and o not in self.shape for o in node.outputs):
            self._infer_node(node)
            self._believe(node)

    def _believe(self, node: Node) -> None:
        for name in node.outputs:
            if name in self.declared and name not in self.shape:
                self._record(name, *self.declared[name])

    def _dynamic(self, name: str) -> tuple[bool, ...]:
        """Which axes of a tensor have no fixed size in the file."""
        shape = self.shape[name]
        _, dims = self.symbolic.get(name, (0, ()))
        return tuple(d < 0 for d in dims) if len(dims) == len(shape) else (True,) * len(shape)

    def _values(self, node: Node) -> list[Value] | None:
        if is_shape_source(node):
            name = node.inputs[0]
            return [shape_value(node, self.shape[name], self._dynamic(name))] if name in self.shape else None
        if node.op in RANDOM or node.op == "Constant" or not any(node.inputs) or node.has_graphs:
            return None
        computed = any(n in self.value for n in node.inputs)
        if not computed and not all(self._is_integer(n) for n in node.inputs if n):
            return None
        inputs = [self.value.get(name) or self._small_constant(name) if name else None for name in node.inputs]
        if any(n and v is None for n, v in zip(node.inputs, inputs, strict=True)):
            return None
        size = told(node, [v.array if v else None for v in inputs])
        results = evaluate(node, self.model, inputs) if size <= MAX_INTS else None
        if results is None or any(r.array.size > MAX_INTS or is_open_data(node, r) for r in results):
            return None
        return results

    def _is_integer(self, name: str) -> bool:
        return name in self.model.graph.constants and self.model.graph.constants[name][0] in INTS

    def _small_constant(self, name: str) -> Value | None:
        if name not in self.model.graph.constants:
            return None
        elem_type, shape = self.model.graph.constants[name]
        if math.prod(shape) > (MAX_INTS if elem_type in INTS else MAX_FLOATS):
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
                self._record(name, kind.tensor_type.elem_type, tuple(dims))
