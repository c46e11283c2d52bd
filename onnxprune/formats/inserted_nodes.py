"""A model with nodes around its tensors: what makes a weight, and what follows a tensor or an input.

Names that readers know stay: a weight becomes the output of its nodes, and a layer's output is renamed before the
nodes that make it anew. Only inputs keep their own name, and readers of these are led elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, version_converter

from onnxprune.constraints.grids import Grids
from onnxprune.errors import ModelError
from onnxprune.formats.carried import Bias, biases
from onnxprune.model.edits import captured, names_read
from onnxprune.model.graph import Shape
from onnxprune.model.mapped_weights import constants_of
from onnxprune.model.onnx_model import Model
from onnxprune.model.protobuf import reference
from onnxprune.running.seeded_inputs import seeded_feeds
from onnxprune.running.session import results
from onnxprune.running.tried_input_shapes import choose_inputs

#: The IR version that brought each opset that is needed here; new initializers are no inputs from 4 on.
IR = {1: 4, 13: 7, 21: 10, 25: 13}

#: What a layer's output is called before it is put on its grid, and an input after.
RAW, ROUNDED = "__raw", "__rounded"


@dataclass(frozen=True)
class Parts:
    """Nodes, in order, and the constants that they read."""

    nodes: Sequence[NodeProto] = field(repr=False)
    constants: Sequence[TensorProto] = field(repr=False)


def insert(
    model: Model,
    weights: Mapping[str, Parts],
    tensors: Mapping[str, Parts],
    reads: Mapping[tuple[int, int], tuple[str, Parts]],
    domains: Mapping[str, int] | None = None,
) -> Model:
    """The model with nodes that give ``weights``, in the place of constants, and ``tensors``, and what ``reads`` says.

    ``tensors``: from NAME__raw to NAME, or of an input from NAME to NAME__rounded; ``reads``: by node and position,
    what is read instead, and who gives it; ``domains``: of the nodes, if they are not ONNX's own.

    Raises ModelError where an input that is rounded is read inside of a subgraph.
    """
    source = model.proto.graph
    inputs = [i.name for i in model.graph.inputs if i.name in tensors]
    out = ModelProto()
    out.CopyFrom(model.proto)
    graph = out.graph
    del graph.node[:]
    for parts in (*weights.values(), *(tensors[n] for n in inputs)):
        _put(graph, parts)
    for index, node in enumerate(source.node):
        if node.op_type == "Constant" and node.output[0] in weights:
            continue
        if set(inputs) & set(captured(node)):
            where = f"node '{node.name or node.op_type}'"
            raise ModelError("reads an input inside of a branch, where no grid can be put", where=where)
        copy = NodeProto()
        copy.CopyFrom(node)
        for position, name in enumerate(node.input):
            if (index, position) in reads:
                copy.input[position], parts = reads[index, position]
                _put(graph, parts)
            elif name in inputs:
                copy.input[position] = f"{name}{ROUNDED}"
        made = [(p, n) for p, n in enumerate(node.output) if n in tensors]
        for position, name in made:
            copy.output[position] = f"{name}{RAW}"
        graph.node.append(copy)
        for _, name in made:
            _put(graph, tensors[name])
    _drop_constants(graph, {*weights, *(names_read(source) - names_read(graph))})
    known = {o.domain for o in out.opset_import}
    out.opset_import.extend(helper.make_opsetid(d, v) for d, v in (domains or {}).items() if d not in known)
    references = {reference(t) for _, t in constants_of(graph)}
    return Model(out, None, {n: w for n, w in model.weights.items() if n in references})


def _put(graph: GraphProto, parts: Parts) -> None:
    graph.initializer.extend(parts.constants)
    graph.node.extend(parts.nodes)


def _drop_constants(graph: GraphProto, names: set[str]) -> None:
    """Without the initializers of these names, and without inputs of which they were the defaults."""
    found = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    dense = [t for t in graph.initializer if t.name not in names]
    sparse = [t for t in graph.sparse_initializer if t.values.name not in names]
    inputs = [i for i in graph.input if i.name not in names & found]
    fields: list[tuple[Any, list[Any]]]
    fields = [(graph.initializer, dense), (graph.sparse_initializer, sparse), (graph.input, inputs)]
    for own, kept in fields:
        copies = [type(t).FromString(t.SerializeToString()) for t in kept]
        del own[:]
        own.extend(copies)


def reads_of_biases(
    model: Model, grids: Grids, made: Callable[[str, Bias], Parts]
) -> dict[tuple[int, int], tuple[str, Parts]]:
    """Of the biases in the units of their sums, what `insert` takes; ``made``: the nodes that give one its name."""
    found = {}
    for bias in biases(model, grids):
        name = f"{model.graph.nodes[bias.node].inputs[bias.position]}__bias{bias.node}"
        found[bias.node, bias.position] = name, made(name, bias)
    return found


def single(model: Model, name: str) -> NDArray[np.float32]:
    """A weight, which is on a grid. Raises ModelError where it is of another precision than grids."""
    values = model.array(name)
    if values.dtype != np.float32:
        what = f"is {values.dtype}, and grids are of float32"
        raise ModelError(what, where=f"tensor '{name}'", hint="export float32")
    return values


def source_and_target(name: str, *, given: bool) -> tuple[str, str]:
    """Between which tensors a tensor is put on its grid. ``given``: it is an input."""
    return (name, f"{name}{ROUNDED}") if given else (f"{name}{RAW}", name)


def at_opset(model: Model, version: int, input_shapes: Mapping[str, Shape] | None = None) -> Model:
    """The model at an opset that is ``version`` or later, which onnx's converter makes and onnxruntime runs alike.

    ``input_shapes``: of dynamic inputs, as they were given. Raises ModelError where there is none.
    """
    if model.opset >= version:
        return model.at_free_initializers()
    proto = ModelProto.FromString(b"".join(model.pieces()))
    where, hint = str(model.path or "model"), f"export it again at opset {version}"
    try:
        made = version_converter.convert_version(proto, version)
    except Exception as error:  # noqa: BLE001 (the converter raises several types)
        reason = str(error).partition("\n")[0][:200]
        raise ModelError(f"cannot be raised to opset {version}: {reason}", where=where, hint=hint) from None
    made.ir_version = max([proto.ir_version, *(ir for opset, ir in IR.items() if opset <= version)])
    for name in ("metadata_props", "functions"):
        if not getattr(made, name):
            getattr(made, name).extend(getattr(proto, name))
    raised = Model(made)
    chosen = choose_inputs(model, input_shapes or {})
    feeds = seeded_feeds(model.graph.inputs, chosen.shapes, 0, chosen.draws)
    before, after = results(model, feeds), results(raised, feeds)
    if list(before) != list(after) or any(
        not np.array_equal(a, after[n], equal_nan=a.dtype.kind == "f") for n, a in before.items()
    ):
        raise ModelError(f"gives something else at opset {version}", where=where, hint=hint)
    return raised
