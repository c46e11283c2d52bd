"""Model-local functions: written out for the analysis, and called again wherever pruning left them as they were.

`inline` puts the body of every function in the place of its calls, and remembers which nodes each call became. After
pruning, `RestoreCalls` (passes) asks `restore` to write a call again where all these nodes are byte for byte what
they were: weights that a call is given may be narrower, what stands in its body may not. A function that nobody calls
any more is dropped, the others stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, helper

from onnxprune.model.nested import Key, all_nodes, call_of, key_of, plain_domain
from onnxprune.model.onnx_model import Model


@dataclass(frozen=True)
class Call:
    """A call, the nodes that it became, and the calls among these."""

    node: NodeProto = field(repr=False)
    body: tuple[NodeProto, ...] = field(repr=False)
    inner: tuple[Call, ...] = field(repr=False)


@dataclass(frozen=True)
class Inlined:
    """``model`` with its calls written out: ``written``."""

    model: Model
    written: Model = field(repr=False)
    calls: tuple[Call, ...] = field(repr=False)


def inline(model: Model) -> Inlined:
    """Write out every call of a model-local function in the graph itself (not in bodies of If, Loop and Scan).

    A call stays where the function needs another version of an operator set than the model has.
    """
    if not model.proto.functions:
        return Inlined(model, model, ())
    run = _Inliner(model.proto)
    nodes, calls = run.expanded(model.proto.graph.node)
    if not calls:
        return Inlined(model, model, ())
    out = ModelProto()
    out.CopyFrom(model.proto)
    del out.graph.node[:], out.opset_import[:]
    out.graph.node.extend(nodes)
    out.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in run.opsets.items())
    return Inlined(model, Model(out, model.path, model.weights), tuple(calls))


def restore(inlined: Inlined, pruned: Model) -> tuple[Model, tuple[str, ...]]:
    """``pruned``, which ``inlined.written`` became, with calls of all functions that it left as they were.

    And the names of functions that nobody calls any more, which are dropped.
    """
    if not inlined.calls:
        return pruned, ()
    present = {tuple(n.output): n for n in pruned.proto.graph.node}
    first: dict[tuple[str, ...], NodeProto] = {}
    gone: set[tuple[str, ...]] = set()
    for call in _unchanged(inlined.calls, present):
        outputs = [tuple(n.output) for n in call.body]
        first[outputs[0]] = call.node
        gone.update(outputs)
    out = ModelProto()
    out.CopyFrom(pruned.proto)
    kept = [(tuple(n.output), n) for n in out.graph.node]
    nodes = [first.get(outputs, n) for outputs, n in kept if outputs in first or outputs not in gone]
    copies = [NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del out.graph.node[:], out.functions[:], out.opset_import[:]
    out.graph.node.extend(copies)
    out.functions.extend(_called(copies, pruned.proto.functions))
    used = {n.domain for n in all_nodes(copies)}
    own = {o.domain for o in inlined.model.proto.opset_import}
    out.opset_import.extend(o for o in pruned.proto.opset_import if o.domain in own | used)
    left = {key_of(f) for f in out.functions}
    return Model(out, pruned.path, pruned.weights), tuple(
        f.name for f in pruned.proto.functions if key_of(f) not in left
    )


def _unchanged(calls: Sequence[Call], present: Mapping[tuple[str, ...], NodeProto]) -> Iterator[Call]:
    for call in calls:
        if call.body and all(present.get(tuple(n.output)) == n for n in call.body):
            yield call
        else:
            yield from _unchanged(call.inner, present)


def _called(nodes: Sequence[NodeProto], functions: Sequence[FunctionProto]) -> list[FunctionProto]:
    """The functions that ``nodes`` lead to, in the order of the file."""
    by_key = {key_of(f): f for f in functions}
    found: set[Key] = set()
    stack = list(nodes)
    while stack:
        for node in all_nodes([stack.pop()]):
            key = call_of(node)
            if key in by_key and key not in found:
                found.add(key)
                stack.extend(by_key[key].node)
    return [f for f in functions if key_of(f) in found]


class Prefixes:
    """Prefixes of names in a model, so that new ones are like none of them."""

    def __init__(self, names: Sequence[str], nodes: Sequence[NodeProto]) -> None:
        self.taken: set[str] = set()
        self.take(names, nodes)

    def free(self, stem: str) -> str:
        """A prefix that no name has."""
        name, number = stem, 1
        while name in self.taken:
            number += 1
            name = f"{stem}_{number}"
        self.taken.add(name)
        return name

    def take(self, names: Sequence[str], nodes: Sequence[NodeProto]) -> None:
        """Note what prefixes names have, those of nodes and of what is in their subgraphs too."""
        for name in (*names, *(n for node in all_nodes(nodes) for n in (node.name, *node.output))):
            parts = name.split("/")
            self.taken.update("/".join(parts[:end]) for end in range(1, len(parts)))


class _Inliner:
    """The functions of a model, the operator sets so far, and the names that are taken."""

    def __init__(self, proto: ModelProto) -> None:
        self.functions = {key_of(f): f for f in proto.functions}
        self.opsets = {o.domain: o.version for o in proto.opset_import}
        self.prefixes = Prefixes([i.name for i in (*proto.graph.input, *proto.graph.initializer)], proto.graph.node)

    def expanded(self, nodes: Sequence[NodeProto]) -> tuple[list[NodeProto], list[Call]]:
        """``nodes`` with calls written out, and these calls."""
        found: list[NodeProto] = []
        calls: list[Call] = []
        for node in nodes:
            function = self.functions.get(call_of(node))
            if function is None or not self._imports(function):
                found.append(node)
                continue
            body, inner = self.expanded(self._body(node, function))
            calls.append(Call(node, tuple(body), tuple(inner)))
            found += body
        return found, calls

    def _imports(self, function: FunctionProto) -> bool:
        """Take over the operator sets of a function; False where the model has another version of one."""
        wanted = {o.domain: o.version for o in function.opset_import}
        if any(self._version(d, v) != v for d, v in wanted.items()):
            return False
        self.opsets.update({d: v for d, v in wanted.items() if self._version(d, 0) == 0})
        return True

    def _version(self, domain: str, default: int) -> int:
        found = [v for d, v in self.opsets.items() if plain_domain(d) == plain_domain(domain)]
        return found[0] if found else default

    def _body(self, call: NodeProto, function: FunctionProto) -> list[NodeProto]:
        """The nodes of one call, with names of their own."""
        prefix = self.prefixes.free(call.name or f"{call.op_type}:{next(filter(None, call.output), '')}")
        given = dict(zip(function.input, [*call.input, *[""] * len(function.input)], strict=False))
        returned = dict(zip(function.output, [*call.output, *[""] * len(function.output)], strict=False))
        names = {"": "", **{inner: outer for inner, outer in returned.items() if outer}, **given}
        attrs = {a.name: a for a in (*function.attribute_proto, *call.attribute)}
        nodes = [_renamed(n, names, prefix, attrs) for n in function.node]
        self.prefixes.take([], nodes)
        made = {o for n in nodes for o in n.output}
        for inner, outer in zip(function.output, call.output, strict=False):
            if outer and outer not in made:  # an input, or a value that is given twice
                source = names.get(inner) or f"{prefix}/{inner}"
                nodes.append(helper.make_node("Identity", [source], [outer], f"{prefix}/{outer}"))
        return nodes


def _renamed(node: NodeProto, names: Mapping[str, str], prefix: str, attrs: Mapping[str, AttributeProto]) -> NodeProto:
    """A copy with the names and attributes of one call; what the function calls its own goes below ``prefix``."""
    copy = NodeProto()
    copy.CopyFrom(node)
    if copy.name:
        copy.name = f"{prefix}/{copy.name}"
    for field_ in (copy.input, copy.output):
        renamed = [names.get(n, f"{prefix}/{n}") for n in field_]
        del field_[:]
        field_.extend(renamed)
    del copy.attribute[:]
    for attr in node.attribute:
        if attr.ref_attr_name and attr.ref_attr_name not in attrs:
            continue
        own = copy.attribute.add()
        own.CopyFrom(attrs[attr.ref_attr_name] if attr.ref_attr_name else attr)
        own.name = attr.name
        if attr.ref_attr_name:  # what the caller gives is in the caller's names
            continue
        for graph in (*([own.g] if own.type == AttributeProto.GRAPH else []), *own.graphs):
            _rename_graph(graph, names, prefix, attrs)
    return copy


def _rename_graph(
    graph: GraphProto, names: Mapping[str, str], prefix: str, attrs: Mapping[str, AttributeProto]
) -> None:
    for info in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        info.name = names.get(info.name, f"{prefix}/{info.name}")
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, f"{prefix}/{sparse.values.name}")
    nodes = [_renamed(n, names, prefix, attrs) for n in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
