"""What can be run of a model that holds operators which nothing here can run.

An operator of a custom domain is a function that nobody knows, f. Two models that hold it unchanged agree if they give
it the same inputs, and agree in all that follows whatever it gives. So the graph is severed there: what f reads
becomes an output, to be compared, and what it gives an input, to be drawn at random. What follows from a tensor whose
shape nobody knows cannot be run either; it is severed in the same way, and what it reads is compared. So is what
reads an input that is no tensor: there is nothing to draw for it.

An operator that draws random numbers gives others on each run. For a proof it is severed too, so that both models go on
from the same ones; a Dropout in training mode becomes one that drops nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, ValueInfoProto, helper

from onnxprune.model.graph import Node, Shape
from onnxprune.model.onnx_model import Model
from onnxprune.running import session as runtime
from onnxprune.running.stand_in_nodes import with_stand_ins
from onnxprune.running.tensor_shapes import Shapes

#: Outputs of a node, which are its identity: pruning renames none.
Outputs = tuple[str, ...]

_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")


@dataclass(frozen=True)
class Severed:
    """``part``: the model without the nodes ``gone``; ``fed``: shapes of the inputs that stand for what they give.

    ``stood``: nodes for which others stand (`onnxprune.running.stand_in_nodes`). ``still``: nodes that draw random
    numbers are among both.
    """

    part: Model = field(repr=False)
    gone: tuple[Node, ...] = field(default=(), repr=False)
    fed: Mapping[str, Shape] = field(default_factory=dict, repr=False)
    stood: tuple[Node, ...] = field(default=(), repr=False)
    still: bool = False

    @property
    def foreign(self) -> tuple[Node, ...]:
        """The nodes that are not run."""
        return (*self.gone, *self.stood)

    def again(self, other: Model) -> Model:
        """``other``, which holds the same nodes, severed at them."""
        if self.stood:
            other, _ = with_stand_ins(other, _apart(other, still=self.still))
        gone = {n.outputs for n in self.gone}
        types = {i.name: i.elem_type for i in self.part.graph.inputs}
        return _cut(other, gone, {n: (types[n], s) for n, s in self.fed.items()}) if gone else other

    def renamed(self, other: Model) -> dict[str, str]:
        """What the nodes read in ``other``, and what they read at the same place in the model that was severed."""
        nodes = {n.outputs: n for n in other.graph.nodes}
        pairs = [(nodes[n.outputs].inputs, n.inputs) for n in self.gone]
        names = {b: a for after, before in pairs for b, a in zip(after, before, strict=True) if a != b}
        return {b: a for b, a in names.items() if b not in other.graph.constants}


def sever(model: Model, shapes: Shapes | None = None, *, still: bool = False) -> Severed:
    """The part of ``model`` that can be run; the model itself where that is all of it.

    ``still``: that gives the same on each run, too.
    """
    is_apart = _apart(model, still=still)
    model, stood = with_stand_ins(model, is_apart)
    unknown = {i.name for i in model.graph.inputs if not i.elem_type}
    gone: list[Node] = []
    fed: dict[str, tuple[int, Shape]] = {}
    for node, proto in zip(model.graph.nodes, model.proto.graph.node, strict=True):
        if unknown.isdisjoint((*node.inputs, *node.captured)) and not is_apart(proto):
            continue
        gone.append(node)
        for name in filter(None, node.outputs):
            if shapes is not None and name in shapes.shape and shapes.elem_type.get(name):
                fed[name] = (shapes.elem_type[name], shapes.shape[name])
            else:
                unknown.add(name)
    if not gone:
        return Severed(model, stood=stood, still=still)
    part = _cut(model, {n.outputs for n in gone}, fed)
    return Severed(part, tuple(gone), {n: s for n, (_, s) in fed.items()}, stood, still)


def _apart(model: Model, *, still: bool) -> Callable[[NodeProto], bool]:
    """Whether a node of ``model`` is not to be run."""
    functions = {(f.domain, f.name): f for f in model.proto.functions}
    return lambda node: not _can_run(node, functions) or (still and _draws(model, node))


def _draws(model: Model, node: NodeProto) -> bool:
    """Whether the node draws random numbers."""
    if node.domain or node.op_type != "Dropout":
        return not node.domain and node.op_type in _RANDOM
    training = node.input[2] if len(node.input) > 2 else ""
    return bool(training) and (training not in model.graph.constants or bool(model.array(training).any()))


def _can_run(node: NodeProto, functions: Mapping[tuple[str, str], FunctionProto]) -> bool:
    """Whether there is an implementation of ``node`` and of all inside it."""
    graphs = [g for a in node.attribute for g in ([a.g] if a.type == AttributeProto.GRAPH else a.graphs)]
    inner = [n for g in graphs for n in g.node]
    if (node.domain, node.op_type) in functions:
        inner += functions[node.domain, node.op_type].node
    elif not runtime.has_operator(node.domain, node.op_type):
        return False
    return all(_can_run(n, functions) for n in inner)


def _cut(model: Model, gone: set[Outputs], fed: Mapping[str, tuple[int, Shape]]) -> Model:
    out = ModelProto()
    out.CopyFrom(model.proto)
    graph = out.graph
    lost = [n for n in model.graph.nodes if n.outputs in gone]
    indices = {n.index for n in lost}
    del graph.node[:]
    graph.node.extend(n for index, n in enumerate(model.proto.graph.node) if index not in indices)
    given = (
        {o for n in lost for o in n.outputs}
        | set(model.graph.constants)
        | {i.name for i in model.graph.inputs if not i.elem_type}
    )
    del graph.input[:]
    graph.input.extend(i for i in model.proto.graph.input if i.name not in given)
    graph.input.extend(helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in fed.items())
    _set_outputs(graph, [o for o in model.proto.graph.output if o.name not in given], _reads(lost, given))
    declared = [v for v in model.proto.graph.value_info if v.name not in given]
    del graph.value_info[:]
    graph.value_info.extend(declared)
    return Model(out, model.path, model.weights)


def _reads(lost: list[Node], given: set[str]) -> list[str]:
    names = dict.fromkeys(name for n in lost for name in (*n.inputs, *n.captured) if name)
    return [n for n in names if n not in given]


def _set_outputs(graph: GraphProto, outputs: list[ValueInfoProto], more: list[str]) -> None:
    own = {o.name for o in outputs}
    copies = [ValueInfoProto.FromString(o.SerializeToString()) for o in outputs]
    del graph.output[:]
    graph.output.extend([*copies, *(ValueInfoProto(name=n) for n in more if n not in own)])
