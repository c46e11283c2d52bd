"""From a model and its grids to the steps of a network in integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from numpy.typing import NDArray

from onnxprune.constraints.grids import Grids
from onnxprune.errors import ModelError
from onnxprune.formats.carried import MOVES
from onnxprune.formats.format_options import Rounding
from onnxprune.formats.integers import by_position, layers, movement
from onnxprune.formats.integers.lowering import Lowering, code_of, refusal, same_grid
from onnxprune.formats.integers.steps import Add, Code, Move, Program, Step
from onnxprune.model.graph import Node, Shape
from onnxprune.model.onnx_model import Model
from onnxprune.running.tensor_shapes import Shapes
from onnxprune.running.tried_input_shapes import choose_inputs, shapes_at

Rule = Callable[[Lowering, Node], Code]

RULES: Mapping[str, Rule] = {
    "Conv": layers.convolution,
    "ConvTranspose": layers.transposed,
    "Gemm": layers.gemm,
    "MatMul": layers.product,
    "MaxPool": layers.max_pool,
    "AveragePool": layers.average_pool,
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean", "ReduceSum"), layers.total),
    **dict.fromkeys(("GlobalMaxPool", "ReduceMax", "ReduceMin"), layers.largest),
    **dict.fromkeys(("Add", "Sub"), by_position.addition),
    **dict.fromkeys(("Mul", "Div"), by_position.multiplication),
    "BatchNormalization": by_position.normalization,
    "Neg": by_position.negative,
    "Relu": by_position.relu,
    "Clip": by_position.clip,
    **dict.fromkeys(("LeakyRelu", "PRelu"), by_position.leaky),
    **dict.fromkeys(sorted(by_position.TABLES), by_position.table),
    **dict.fromkeys(sorted(MOVES - {"Identity", "Dropout"}), movement.moved),
    **dict.fromkeys(("Identity", "Dropout"), movement.same),
    "Pad": movement.pad,
    "Concat": movement.concatenation,
    **dict.fromkeys(("Resize", "Upsample"), movement.resized),
}


def program_of(model: Model, grids: Grids, input_shapes: Mapping[str, Shape], rounding: Rounding) -> Program:
    """The steps of ``model``, whose opset is 13 or later. Raises ModelError that names a node that has none."""
    low = Lowering(model, grids, _shapes(model, input_shapes), rounding)
    graph = model.graph
    for info in graph.inputs:
        if info.name in grids.activations:
            low.codes[info.name] = code_of(grids.activations[info.name], info.name)
        elif info.elem_type in movement.INTS:
            low.whole.add(info.name)
    for node in graph.nodes:
        _lower(low, node)
    for info in graph.outputs:
        if (value := low.constant(info.name)) is not None:
            _put_constant_out(low, info.name, value)
        elif info.name not in low.whole:
            _put_out(low, info.name)
    return _program(low)


def check_operators(model: Model, shapes: Shapes) -> None:
    """Raise ModelError, before anything is known of grids, for the first node that no step could be made of."""
    settled = {*model.graph.constants, *(n for n, v in shapes.value.items() if not v.dynamic.any())}
    ints = {i.name for i in model.graph.inputs if i.elem_type in movement.INTS}
    for node in model.graph.nodes:
        made, read = {o for o in node.outputs if o}, {n for n in (*node.inputs, *node.captured) if n}
        if node.op == "Constant" or made <= settled:
            continue
        if read <= settled:
            settled |= made
        elif all(shapes.elem_type.get(o) in movement.INTS for o in made) and (
            node.op in ("Shape", "Size") or read <= settled | ints
        ):
            ints |= made
        else:
            _ensure_rule(model, node)


def _ensure_rule(model: Model, node: Node) -> None:
    if node.op not in RULES or node.domain:
        raise refusal(model, node, f"there are no integers for {node.op}")


def _lower(low: Lowering, node: Node) -> None:
    """The steps of one node, if it is not known what it gives."""
    if node.op == "Constant" or all(low.constant(o) is not None for o in node.outputs if o):
        return
    if movement.whole(low, node) or low.fold(node):
        return
    _ensure_rule(low.model, node)
    first = len(low.steps)
    low.codes[node.outputs[0]] = RULES[node.op](low, node)
    for name in node.outputs:
        if name in low.grids.activations and name in low.codes:
            _put_on_grid(low, name, first)


def _program(low: Lowering) -> Program:
    graph, shapes = low.model.graph, low.shapes
    inputs: dict[str, tuple[int | None, ...]] = {i.name: shapes.inputs[i.name] for i in graph.inputs}
    for info in graph.inputs:
        if info.dims and info.dims[0] is None:
            inputs[info.name] = (None, *inputs[info.name][1:])
    outputs = {o.name: len(shapes.shape[o.name]) for o in graph.outputs}
    kinds = {i.name: i.elem_type for i in (*graph.inputs, *graph.outputs) if i.name in low.whole}
    return Program(tuple(low.steps), low.codes, inputs, outputs, kinds, low.rounding, low.model.opset)


def _put_on_grid(low: Lowering, name: str, first: int) -> None:
    """Round what the steps from ``first`` on give as ``name``, which is called something else then."""
    own, grid = low.codes[name], low.grids.activations[name]
    if own.name == name and not same_grid(own, code_of(grid, name)):
        before = f"{name}__sum"
        low.steps[first:] = [_renamed(step, name, before) for step in low.steps[first:]]
        own = replace(own, name=before)
    low.codes[name] = low.rounded(own, grid, name)


def _put_constant_out(low: Lowering, name: str, value: NDArray[Any]) -> None:
    """Integers that are the same for every input."""
    if value.dtype.kind not in "iub":
        where = f"{low.model.path or 'model'}, output '{name}'"
        raise ModelError("is a constant of floats", where=where, hint="cut the model with --outputs")
    low.add(Move((name,), "Identity", (value,), {}))
    low.whole.add(name)


def _put_out(low: Lowering, name: str) -> None:
    """An output has its name, and one scale."""
    code = low.codes[name]
    if code.scale.size > 1:
        if code.name == name:  # so may be what others are called that come to the same
            before = f"{name}__sums"
            low.steps[:] = [_renamed(step, name, before) for step in low.steps]
            low.codes |= {n: replace(c, name=before) for n, c in low.codes.items() if c.name == name}
            code = low.codes[name]
        low.codes[name] = low.evened(code, name)
    elif code.name != name:
        low.add(Move((name,), "Identity", (code.name,), {}))
        low.codes[name] = replace(code, name=name)


def _renamed(step: Step, old: str, new: str) -> Step:
    """The step with another name for a tensor, wherever it is read or written."""
    if isinstance(step, Move):
        inputs = tuple(new if isinstance(i, str) and i == old else i for i in step.inputs)
        return replace(step, outs=tuple(new if o == old else o for o in step.outs), inputs=inputs)

    def called(value: Any) -> Any:
        return replace(value, name=new) if isinstance(value, Code) and value.name == old else value

    found = {f.name: called(getattr(step, f.name)) for f in fields(step)}
    if isinstance(step, Add):
        found["terms"] = tuple((called(c), m) for c, m in step.terms)
    return replace(step, **{**found, "out": new if step.out == old else step.out})


def _shapes(model: Model, input_shapes: Mapping[str, Shape]) -> Shapes:
    run_at = choose_inputs(model, input_shapes)
    return shapes_at(model, run_at.shapes, run_at.draws)
