"""What differs between two models, whoever made them: in structure, in size, and in what they compute.

Nodes are the same by name, or, where the name is gone, by their first output; initializers are by name. Numbers come
from running both on the same inputs, drawn from a seed or out of calibration data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from typing import Any

import numpy as np
from onnx import AttributeProto, NodeProto, helper

from onnxprune.cost import macs_and_bytes as cost
from onnxprune.labels.analysis import written_out
from onnxprune.model.graph import Graph, Node, Shape, TensorInfo
from onnxprune.model.onnx_model import Model
from onnxprune.progress import Progress, silent
from onnxprune.proof import side_by_side
from onnxprune.proof.side_by_side import On, Sample
from onnxprune.report import structure
from onnxprune.report.run_report import Check, LayerReport, SizeReport, plain
from onnxprune.running import tried_input_shapes
from onnxprune.running.snr_and_cosine import OutputError

FORMAT, VERSION = "onnxprune-diff", 1

#: Constants of no more numbers are told by what they hold.
_FEW = 8

#: Of the model itself, what is told when it differs.
_MODEL_FIELDS = ("ir_version", "producer_name", "producer_version", "domain", "model_version", "doc_string")


@dataclass(frozen=True)
class Changed:
    """A property that differs between the models; '' on the side that does not have it."""

    what: str
    before: str
    after: str


@dataclass(frozen=True)
class Resized:
    """An initializer whose shape differs, and the first node that reads it."""

    node: str
    weight: str
    before: Shape
    after: Shape


@dataclass(frozen=True)
class Comparison:
    """What differs between two models.

    ``removed`` and ``added``: nodes as 'operator name'; ``revalued``: initializers of the same shape with other values.
    ``outputs``: by name, the errors of the second model against the first, on ``inputs``; empty where they were not
    run. ``checks``: one for each limit that was set.
    """

    before: str
    after: str
    parameters: SizeReport
    macs: SizeReport
    file_bytes: SizeReport
    changed: tuple[Changed, ...]
    nodes: tuple[Changed, ...] = field(repr=False)  # attributes and inputs of nodes that both have
    resized: tuple[Resized, ...] = field(repr=False)
    revalued: tuple[str, ...] = field(repr=False)
    removed: tuple[str, ...] = field(repr=False)
    added: tuple[str, ...] = field(repr=False)
    layers: tuple[LayerReport, ...] = field(repr=False)
    outputs: tuple[OutputError, ...]
    by_sample: tuple[Sample, ...] = field(repr=False)
    inputs: str
    notes: tuple[str, ...]
    checks: tuple[Check, ...] = ()
    command: str = ""  # the command line that makes it again

    @property
    def same(self) -> tuple[str, ...]:
        """Which of structure, weights and declarations do not differ at all."""
        equal = {
            "structure": not (self.resized or self.removed or self.added or self.nodes),
            "weights": not (self.resized or self.revalued) and self.parameters.after == self.parameters.before,
            "declarations": not self.changed,
        }
        return tuple(name for name, same in equal.items() if same)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(c for c in self.checks if not c.passed)

    def to_json(self) -> str:
        """The file's text."""
        document = {"format": FORMAT, "version": VERSION, **asdict(self)}
        for name in ("parameters", "macs", "file_bytes"):
            document[name] = getattr(self, name).to_json()
        return json.dumps(plain(document), indent=2) + "\n"


def compare(before: Model, after: Model, on: On, progress: Progress = silent) -> Comparison:
    """Compare two models, running both ``on`` the same inputs.

    Raises ModelError where a model's shapes cannot be told, DataError and OptionError.
    """
    progress("compare structure")
    chosen = tried_input_shapes.choose_inputs(before, on.input_shapes, on.draws.values)
    given = chosen.shapes
    # The second may have other inputs: those that it shares are fed alike.
    fitting = {i.name for i in after.graph.inputs if i.name in given and _fits(i, given[i.name])}
    values = {n: v for n, v in chosen.draws.values.items() if n in {i.name for i in after.graph.inputs}}
    sized = [_sized(before, given, chosen.draws.values), _sized(after, {n: given[n] for n in fitting}, values)]
    costs = [cost.cost(s.graph, s.shapes) for s in sized]
    removed, both, added = _matched(before.graph.nodes, after.graph.nodes)
    old, new = (s.model for s in sized)
    common = [n for n in old.graph.constants if n in new.graph.constants]
    shape = {n: (old.graph.constants[n][1], new.graph.constants[n][1]) for n in common}
    apart = side_by_side.apart(before, after, given, sized[0].shapes, replace(on, draws=chosen.draws), progress)
    return Comparison(
        str(before.path or ""),
        str(after.path or ""),
        SizeReport(costs[0].parameters, costs[1].parameters),
        SizeReport(costs[0].macs, costs[1].macs),
        SizeReport(before.byte_size, after.byte_size),
        tuple(_declarations(before, after)),
        tuple(change for a, b in both for change in _changes(before, a, after, b)),
        tuple(Resized(_reader(old, n), n, a, b) for n, (a, b) in shape.items() if a != b),
        tuple(n for n, (a, b) in shape.items() if a == b and not _equal(old.array(n), new.array(n))),
        tuple(f"{n.op} {n.label}" for n in removed),
        tuple(f"{n.op} {n.label}" for n in added),
        tuple(_layers(*sized)),
        apart.outputs,
        apart.samples,
        apart.inputs,
        (*tried_input_shapes.guessed(before, given, on.input_shapes), *apart.notes),
    )


def _fits(info: TensorInfo, shape: Shape) -> bool:
    dims = info.dims
    return dims is None or (len(dims) == len(shape) and all(d in (None, s) for d, s in zip(dims, shape, strict=True)))


@dataclass(frozen=True)
class _Sized:
    """A model with its functions and branches written out, and the shapes of its tensors."""

    model: Model
    shapes: Mapping[str, Shape]

    @property
    def graph(self) -> Graph:
        """Of the model."""
        return self.model.graph


def _sized(model: Model, inputs: Mapping[str, Shape], values: Mapping[str, Any]) -> _Sized:
    _, flat, shapes = written_out(model, inputs, values)
    return _Sized(flat.written, shapes.shape)


def _layers(before: _Sized, after: _Sized) -> Iterator[LayerReport]:
    """What each node costs in both, those that the second alone has last."""
    yield from structure.layers(before.graph, before.shapes, after.graph, after.shapes, None)
    for layer in structure.layers(after.graph, after.shapes, before.graph, before.shapes, None):
        if not (layer.macs.after or layer.parameters.after):  # here: of the first
            sizes = (SizeReport(s.after, s.before) for s in (layer.parameters, layer.macs))
            yield LayerReport(layer.node, layer.weight, layer.after, layer.before, *sizes)


def _matched(before: Iterable[Node], after: Iterable[Node]) -> tuple[list[Node], list[tuple[Node, Node]], list[Node]]:
    """Nodes that only the first has, those that both have, and those that only the second has."""
    named = {n.label: n for n in after}
    pairs = {n.index: named.pop(n.label) for n in before if n.label in named}
    written = {n.outputs[0]: n for n in named.values() if n.outputs}
    for node in before:
        first = node.outputs[0] if node.outputs else ""
        if node.index not in pairs and first in written:
            pairs[node.index] = written.pop(first)
    taken = {n.index for n in pairs.values()}
    both = [(n, pairs[n.index]) for n in before if n.index in pairs]
    return [n for n in before if n.index not in pairs], both, [n for n in after if n.index not in taken]


def _changes(before: Model, a: Node, after: Model, b: Node) -> Iterator[Changed]:
    """What of a node is another: operator, name, attributes, inputs."""
    if (a.domain, a.op) != (b.domain, b.op):
        yield Changed(f"{a.label}: operator", a.op, b.op)
    if a.name != b.name:
        yield Changed(f"{a.label}: name", a.name, b.name)
    old, new = (_attributes(m.proto.graph.node[n.index]) for m, n in ((before, a), (after, b)))
    for name in dict.fromkeys([*old, *new]):
        if old.get(name) != new.get(name):
            yield Changed(f"{a.label}: {name}", _text(old.get(name)), _text(new.get(name)))
    for position, (read, now) in enumerate(zip_longest(a.inputs, b.inputs, fillvalue="")):
        if read != now:
            yield Changed(f"{a.label}: input {position}", _read(before, read), _read(after, now))


def _read(model: Model, name: str) -> str:
    """An input's name; of few numbers, what they are."""
    if name not in model.graph.constants or math.prod(model.graph.constants[name][1]) > _FEW:
        return name
    return f"{name} = {model.array(name).tolist()}"


def _attributes(node: NodeProto) -> dict[str, AttributeProto]:
    return {attribute.name: attribute for attribute in node.attribute}


def _text(attribute: AttributeProto | None) -> str:
    """Numbers and text as they are; of tensors and graphs, only that they are there."""
    if attribute is None:
        return ""
    if attribute.HasField("t") or attribute.HasField("g") or attribute.HasField("sparse_tensor"):
        return "..."
    value = helper.get_attribute_value(attribute)
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _declarations(before: Model, after: Model) -> Iterator[Changed]:
    """Inputs, outputs, operator sets, metadata and the rest that a model says of itself."""
    old, new = _said(before), _said(after)
    for what in dict.fromkeys([*old, *new]):
        if old.get(what) != new.get(what):
            yield Changed(what, old.get(what, ""), new.get(what, ""))


def _said(model: Model) -> dict[str, str]:
    proto = model.proto
    said = {f"input '{i.name}'": _typed(i) for i in model.graph.inputs}
    said.update({f"output '{o.name}'": _typed(o) for o in model.graph.outputs})
    said.update({f"opset {o.domain or 'ai.onnx'}": str(o.version) for o in proto.opset_import})
    said.update({f"metadata '{p.key}'": p.value for p in proto.metadata_props})
    said.update({f"function {f.domain}:{f.name}": f"{len(f.node)} nodes" for f in proto.functions})
    return {**said, "graph name": proto.graph.name, **{n: str(getattr(proto, n)) for n in _MODEL_FIELDS}}


def _typed(info: TensorInfo) -> str:
    kind = helper.tensor_dtype_to_string(info.elem_type).rpartition(".")[2].lower() if info.elem_type else "no tensor"
    dims = "" if info.dims is None else ",".join("?" if d is None else str(d) for d in info.dims)
    return f"{kind}[{dims}]"


def _reader(model: Model, constant: str) -> str:
    readers = model.graph.consumers.get(constant)
    return readers[0][0].label if readers else ""


def _equal(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()
