"""Models through the compiler: what each layer costs, what fell to the CPU, what was inserted, how it agrees.

A row of the compiler's table is given to the node that it stands for. Where it does a convolution for each part of a
Concat, the rows are named after the parts; they are given to the convolution.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from onnxprune.cost.chips import Cycles, find
from onnxprune.cost.rknn.log import Layer, by_node
from onnxprune.cost.rknn.toolkit import Built, Job, Progress, build
from onnxprune.labels import ops
from onnxprune.model.graph import Graph, Shape
from onnxprune.model.onnx_model import Model
from onnxprune.running import seeded_inputs, tried_input_shapes
from onnxprune.running import session as runtime
from onnxprune.running.snr_and_cosine import Differences, OutputError

FORMAT, VERSION = "onnxprune-rknn", 1


@dataclass(frozen=True)
class Charged:
    """A node's cycles: what the compiler charges, and what the target's arithmetic predicts."""

    node: str
    cycles: int
    predicted: int
    rows: tuple[Layer, ...] = field(repr=False)


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of one model. ``errors``: of its simulator against onnxruntime, by output."""

    model: str
    output: str
    cycles: int
    predicted: int
    layers: tuple[Charged, ...] = field(repr=False)
    cpu: tuple[Layer, ...]
    inserted: tuple[Layer, ...]
    errors: tuple[OutputError, ...]


@dataclass(frozen=True)
class Conversion:
    """A run of ``onnxprune rknn``: the models in the order given, each compiled for the same target."""

    target: str
    dtype: str
    toolkit: str
    models: tuple[Compiled, ...]
    notes: tuple[str, ...]

    def to_json(self) -> str:
        """The conversion as JSON."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1) + "\n"


@dataclass(frozen=True)
class Request:
    """What to convert: the model, where the .rknn goes (None: nowhere), and a model to set beside it."""

    model: Model
    output: Path | None = None
    against: Model | None = None
    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    dataset: Path | None = None
    python: Path | None = None
    seed: int = 0


def convert(request: Request, target: str, dtype: str, progress: Progress) -> Conversion:
    """Build the models, simulate them on seeded inputs, and compare. Raises ToolError, ModelError and OptionError."""
    models = [m for m in (request.against, request.model) if m is not None]
    costs = Cycles.of(find(target), dtype)
    jobs = []
    for model in models:
        chosen = tried_input_shapes.choose_inputs(model, request.input_shapes)
        feeds = seeded_inputs.seeded_feeds(model.graph.inputs, chosen.shapes, request.seed, chosen.draws)
        output = request.output if model is request.model else None
        jobs.append(Job(_path(model), feeds, output, request.dataset))
    built = build(jobs, target, dtype, request.python, progress)
    compiled = tuple(_compiled(m, j, b, costs) for m, j, b in zip(models, jobs, built, strict=True))
    random = dtype == "int8" and request.dataset is None
    note = "quantized on random inputs, as no --dataset is given: cycles hold, accuracy does not"
    return Conversion(target, dtype, built[0].version, compiled, (note,) if random else ())


def _path(model: Model) -> Path:
    assert model.path is not None
    return model.path


def _compiled(model: Model, job: Job, built: Built, costs: Cycles) -> Compiled:
    inputs = {n: tuple(a.shape) for n, a in job.feeds.items()}
    shapes = tried_input_shapes.shapes_at(model, inputs).shape
    layers = charged(model.graph, built.layers, costs, shapes)
    wanted = runtime.results(model, dict(job.feeds))
    differences = Differences()
    if built.outputs:
        shaped = (got.reshape(want.shape) for want, got in zip(wanted.values(), built.outputs, strict=True))
        differences.add(wanted, dict(zip(wanted, shaped, strict=True)))
    return Compiled(
        model=str(model.path),
        output=str(job.output or ""),
        cycles=built.cycles,
        predicted=sum(layer.predicted for layer in layers),
        layers=layers,
        cpu=tuple(layer for layer in built.layers if layer.on_cpu),
        inserted=inserted(model.graph, built.layers),
        errors=differences.errors(),
    )


def charged(graph: Graph, layers: Sequence[Layer], costs: Cycles, shapes: Mapping[str, Shape]) -> tuple[Charged, ...]:
    """Cycles by node, in the order of the graph; then rows that belong to no node, by their own names."""
    found = by_node(layers, [n.label for n in graph.nodes], _behind_joins(graph))
    result = []
    for node in graph.nodes:
        rows = tuple(found.get(node.label, ()))
        cycles, predicted = sum(row.total for row in rows), round(costs.node(graph, node, shapes))
        if cycles or predicted:
            result.append(Charged(node.label, cycles, predicted, rows))
    others = [row for row in found.get("", ()) if row.total]
    return (*result, *(Charged(row.name, row.total, 0, (row,)) for row in others))


def inserted(graph: Graph, layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Rows that cost no cycles of their own and stand for no node: copies and changes of layout."""
    own = {n.label for n in graph.nodes}
    ends = ("InputOperator", "OutputOperator")
    return tuple(x for x in layers if not x.total and x.kind not in ends and x.name.partition(":")[2] not in own)


def _behind_joins(graph: Graph) -> dict[str, str]:
    """How rows begin that do a convolution for a part of a Concat -> the convolution."""
    found: dict[str, str] = {}
    for node in graph.nodes:
        source = graph.producer.get(node.inputs[0]) if node.inputs else None
        if source is not None and ops.gathers_of(source) == "joins" and len(node.inputs) > 1:
            found.update((f"{name}_conv", node.label) for name in source.inputs)
    return found
