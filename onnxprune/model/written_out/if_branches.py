"""Branches of If: written out for the analysis, side by side, and put back after pruning.

    y = If(c) { then: t = f(x) } { else: e = g(x) }    is analysed as    t = f(x); e = g(x); y = Branches(c, t, e)

Both branches are part of one graph, so what they capture has its labels in them, and the rule of Branches says that
their results are the same channels, position by position. This graph is never run: a branch that is not taken may not
be able to. `Flat.restore` gives it the form that it had.

Of an If that is known to take the same branch always, that branch alone is written out, and stays so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

from onnxprune.model.edits import free_names
from onnxprune.model.graph import Node
from onnxprune.model.nested import graphs_of
from onnxprune.model.onnx_model import Model
from onnxprune.model.written_out.functions import Prefixes
from onnxprune.model.written_out.sequences import Spread, spread

#: The operator that stands for an If whose branches are written out: (condition, results of then, results of else).
DOMAIN, MERGE = "onnxprune", "Branches"

Outputs = tuple[str, ...]


def merges(node: Node) -> bool:
    """Whether it stands for an If whose branches are written out."""
    return (node.domain, node.op) == (DOMAIN, MERGE)


@dataclass(frozen=True)
class Branch:
    """One branch: its graph as it was, and its own name of everything that has another one in the flat graph."""

    attribute: str
    graph: GraphProto = field(repr=False)
    results: tuple[str, ...]  # in the flat graph
    own: Mapping[str, str] = field(repr=False)
    constants: tuple[str, ...] = field(repr=False)  # in the flat graph


@dataclass(frozen=True)
class Choice:
    """An If, and where the nodes of its branches are: ``scope`` of a node is the number of its branch."""

    node: NodeProto = field(repr=False)
    branches: tuple[tuple[int, Branch], ...] = field(repr=False)


@dataclass(frozen=True)
class Flat:
    """``model`` with the branches of every If written out, and its sequences (`sequences`): ``written``.

    ``taken``: by their outputs, the Ifs that always take the same branch, which stays in their place.
    """

    model: Model = field(repr=False)
    written: Model = field(repr=False)
    choices: Mapping[Outputs, Choice] = field(default_factory=dict, repr=False)
    scope: Mapping[Outputs, int] = field(default_factory=dict, repr=False)
    sequences: Spread | None = field(default=None, repr=False)
    taken: Mapping[Outputs, bool] = field(default_factory=dict, repr=False)

    def inner(self) -> frozenset[Outputs]:
        """Outputs of the nodes that are in a branch."""
        return frozenset(outputs for outputs, scope in self.scope.items() if scope)

    def restore(self, changed: Model) -> Model:
        """``changed``, which ``written`` became, with its nodes in the branches that they come from."""
        if self.choices:
            changed = Model(_Restored(self, changed.proto).proto(), changed.path, changed.weights)
        return self.sequences.restore(changed) if self.sequences else changed


def flatten(model: Model, wanted: bool = True, taken: Mapping[Outputs, bool] | None = None) -> Flat:
    """Write out every If of the graph, and those in their branches; none where they are not ``wanted``.

    ``taken``: by outputs in the flat graph, the Ifs whose condition is always the same, and which.
    """
    if not wanted:
        return Flat(model, model)
    sequences = spread(model)
    given, model = model, sequences.written
    if not any(_is_if(n) for n in model.proto.graph.node):
        return Flat(given, model, sequences=sequences)
    run = _Flattener(model.proto, taken or {})
    nodes = run.expanded(model.proto.graph.node, 0)
    out = ModelProto()
    out.CopyFrom(model.proto)
    del out.graph.node[:]
    out.graph.node.extend(nodes)
    out.graph.initializer.extend(run.constants)
    out.graph.value_info.extend(run.declared)
    out.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return Flat(given, Model(out, model.path, model.weights), run.choices, run.scope, sequences, run.taken)


def _is_if(node: NodeProto) -> bool:
    """An If whose branches give what it computes itself, and no constants that are sparse."""
    graphs = graphs_of(node)
    plain = node.op_type == "If" and node.domain in ("", "ai.onnx") and len(graphs) == 2 and len(node.input) == 1
    plain = plain and all(len(g.output) == len(node.output) for g in graphs)
    return plain and not any(g.sparse_initializer for g in graphs)


class _Flattener:
    def __init__(self, proto: ModelProto, taken: Mapping[Outputs, bool]) -> None:
        self.taken = taken
        self.prefixes = Prefixes([i.name for i in (*proto.graph.input, *proto.graph.initializer)], proto.graph.node)
        self.scopes = 0
        self.choices: dict[Outputs, Choice] = {}
        self.scope: dict[Outputs, int] = {}
        self.constants: list[TensorProto] = []
        self.declared: list[ValueInfoProto] = []

    def expanded(self, nodes: Sequence[NodeProto], scope: int) -> list[NodeProto]:
        """``nodes`` with the branches of every If before a node that stands for it."""
        found: list[NodeProto] = []
        for node in nodes:
            outputs = tuple(node.output)
            self.scope[outputs] = scope
            if not _is_if(node):
                found.append(node)
                continue
            prefix = self.prefixes.free(node.name or f"{node.op_type}:{next(filter(None, outputs), '')}")
            if outputs in self.taken:
                found += self._always(node, scope, prefix)
                continue
            branches = []
            for attr in sorted(node.attribute, key=lambda a: a.name, reverse=True):  # then, else
                self.scopes += 1
                number = self.scopes
                branch, body = self._branch(attr.name, attr.g, f"{prefix}/{attr.name.removesuffix('_branch')}")
                branches.append((number, branch))
                found += self.expanded(body, number)
            self.choices[outputs] = Choice(node, tuple(branches))
            results = [r for _, branch in branches for r in branch.results]
            merge = helper.make_node(MERGE, [*node.input, *results], outputs, node.name, domain=DOMAIN)
            found.append(merge)
        return found

    def _always(self, node: NodeProto, scope: int, prefix: str) -> list[NodeProto]:
        """The nodes of the branch that an If always takes, in its own place."""
        name = "then_branch" if self.taken[tuple(node.output)] else "else_branch"
        graph = next(a.g for a in node.attribute if a.name == name)
        branch, body = self._branch(name, graph, f"{prefix}/{name.removesuffix('_branch')}")
        nodes = self.expanded(body, scope)
        for result, output in zip(branch.results, node.output, strict=True):
            nodes.append(helper.make_node("Identity", [result], [output], f"{prefix}/{output}"))
            self.scope[output,] = scope
        return nodes

    def _branch(self, attribute: str, graph: GraphProto, prefix: str) -> tuple[Branch, list[NodeProto]]:
        outer = {"", *free_names(graph)}
        own: dict[str, str] = {}

        def rename(name: str) -> str:
            if name in outer:
                return name
            own[f"{prefix}/{name}"] = name
            return f"{prefix}/{name}"

        copy = GraphProto()
        copy.CopyFrom(graph)
        rename_graph(copy, rename)
        self.prefixes.take([], copy.node)
        self.constants.extend(copy.initializer)
        self.declared.extend((*copy.value_info, *(o for o in copy.output if o.name in own)))
        constants = tuple(t.name for t in copy.initializer)
        results = tuple(o.name for o in copy.output)
        return Branch(attribute, graph, results, own, constants), list(copy.node)


class _Restored:
    """Nodes by scope, put back from the inside out."""

    def __init__(self, flat: Flat, changed: ModelProto) -> None:
        self.flat, self.changed = flat, changed
        self.constants = {t.name: t for t in changed.graph.initializer}
        self.declared = {v.name: v for v in changed.graph.value_info}
        self.nodes: dict[int, list[NodeProto]] = {}
        made: dict[str, int] = {}
        parent: dict[int, int] = {}
        for outputs, choice in flat.choices.items():
            parent.update({number: flat.scope[outputs] for number, _ in choice.branches})
        for node in changed.graph.node:
            scope = flat.scope.get(tuple(node.output))
            if scope is None:  # a gate: where what it reads is made
                scope = max((made.get(n, 0) for n in node.input), key=lambda s: _depth(s, parent), default=0)
            made.update(dict.fromkeys(node.output, scope))
            own = self._choice(node) if (node.domain, node.op_type) == (DOMAIN, MERGE) else node
            self.nodes.setdefault(scope, []).append(own)

    def proto(self) -> ModelProto:
        """The model."""
        out = ModelProto()
        out.CopyFrom(self.changed)
        branches = [b for choice in self.flat.choices.values() for _, b in choice.branches]
        inner = {name for b in branches for name in b.own}
        copies = [NodeProto.FromString(n.SerializeToString()) for n in self.nodes.get(0, [])]
        constants = [t for t in self.changed.graph.initializer if t.name not in inner]
        declared = [v for v in self.changed.graph.value_info if v.name not in inner]
        for name in ("node", "initializer", "value_info", "opset_import"):
            (out if name == "opset_import" else out.graph).ClearField(name)
        out.graph.node.extend(copies)
        out.graph.initializer.extend(constants)
        out.graph.value_info.extend(declared)
        out.opset_import.extend(o for o in self.changed.opset_import if o.domain != DOMAIN)
        return out

    def _choice(self, merge: NodeProto) -> NodeProto:
        """The If that ``merge`` stands for, with what its branches became."""
        choice = self.flat.choices[tuple(merge.output)]
        node = NodeProto()
        node.CopyFrom(choice.node)
        graphs = {a.name: a.g for a in node.attribute}
        count = len(merge.output)
        node.input[0] = merge.input[0]
        for index, (number, branch) in enumerate(choice.branches):
            results = list(merge.input[1 + index * count : 1 + (index + 1) * count])
            self._fill(graphs[branch.attribute], branch, self.nodes.get(number, []), results)
        return node

    def _fill(self, graph: GraphProto, branch: Branch, nodes: list[NodeProto], results: list[str]) -> None:
        nodes = [NodeProto.FromString(n.SerializeToString()) for n in nodes]
        moved = [(now, was) for now, was in zip(results, branch.results, strict=True) if now != was]
        nodes += [helper.make_node("Identity", [now], [was]) for now, was in moved]
        for name in ("node", "initializer", "value_info"):
            graph.ClearField(name)
        graph.node.extend(nodes)
        graph.initializer.extend(self.constants[n] for n in branch.constants if n in self.constants)
        flat = {own: name for name, own in branch.own.items()}
        for info in branch.graph.value_info:
            if flat.get(info.name) in self.declared:
                graph.value_info.add().CopyFrom(self.declared[flat[info.name]])
        for info in graph.output:
            if flat.get(info.name) in self.declared:
                info.CopyFrom(self.declared[flat[info.name]])
        rename_graph(graph, lambda name: branch.own.get(name, name))


def _depth(scope: int, parent: Mapping[int, int]) -> int:
    depth = 0
    while scope:
        scope, depth = parent[scope], depth + 1
    return depth


def rename_graph(graph: GraphProto, rename: Callable[[str], str]) -> None:
    """Give another name to all tensors and nodes in ``graph``, and in the graphs inside it."""
    for info in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        info.name = rename(info.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = rename(sparse.values.name)
    for node in graph.node:
        if node.name:
            node.name = rename(node.name)
        for names in (node.input, node.output):
            renamed = [rename(n) for n in names]
            del names[:]
            names.extend(renamed)
        for inner in graphs_of(node):
            rename_graph(inner, rename)
