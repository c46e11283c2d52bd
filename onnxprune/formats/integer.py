"""A network that computes with integers alone: integers in, integers out, no float in the graph.

What a 1 at an input or an output stands for is in metadata_props, as JSON under `METADATA`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from onnxprune.activations.simulated import simulated
from onnxprune.constraints.grids import Grids
from onnxprune.errors import CheckError
from onnxprune.formats.format_options import Rounding
from onnxprune.formats.inserted_nodes import at_opset
from onnxprune.formats.integers import on_numpy
from onnxprune.formats.integers.on_onnx import graph_of
from onnxprune.formats.integers.program import program_of
from onnxprune.formats.integers.steps import Program
from onnxprune.formats.read_back import check_same, read_back
from onnxprune.model.dtypes import FLOATS
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model
from onnxprune.running import session as runtime
from onnxprune.running.session import Feeds
from onnxprune.running.snr_and_cosine import Differences

#: What ConvInteger's neighbours need: Pad and ReduceSum as they are from here on.
_OPSET = 13

#: A cosine that rounding does not bring about, however few bits there are.
_LEAST = 0.5


def program(model: Model, grids: Grids, input_shapes: Mapping[str, Shape], rounding: Rounding = "half-up") -> Program:
    """The steps of ``model`` in integers. Raises ModelError that names a node that cannot be computed in integers."""
    return program_of(at_opset(model, _OPSET, input_shapes), grids, input_shapes, rounding)


def graph(model: Model, steps: Program) -> Model:
    """The ONNX graph of ``steps``, with the name and metadata of ``model``."""
    return graph_of(steps, model)


def write(model: Model, grids: Grids, input_shapes: Mapping[str, Shape], rounding: Rounding = "half-up") -> Model:
    """`graph` of `program`."""
    return graph(model, program(model, grids, input_shapes, rounding))


def verify(steps: Program, written: Model, count: int = 3, seed: int = 0) -> None:
    """Read ``written`` back and check that it gives what ``steps`` give on numpy, bit for bit, and holds no floats.

    ``count``: how many inputs are tried. Raises CheckError.
    """
    again = read_back(written)
    if (name := _float_in(again)) is not None:
        raise CheckError(
            "is no integer; nothing was written", where=f"tensor '{name}'", hint="please report this as a bug"
        )
    with runtime.session(again, "what was written") as active:
        for index in range(count):
            feeds = drawn(steps, seed + index)
            found = runtime.run(active, feeds, "what was written")
            wanted = on_numpy.run(steps, feeds)
            for name, array in found.items():
                check_same(name, array.astype(np.int64), wanted[name])


def nearness(model: Model, grids: Grids, steps: Program, seed: int = 0) -> float:
    """The least cosine of an output of ``steps`` with that of ``model`` in floats on the same grids.

    Raises CheckError where rounding on the way cannot be what sets them apart.
    """
    feeds = drawn(steps, seed)
    floats = {n: _real(steps, n, f) if n in steps.codes else f for n, f in feeds.items()}
    wanted = runtime.results(simulated(model, grids.activations), floats)
    wanted |= {n: grids.activations[n].of_rank(a.ndim).rounded(a) for n, a in wanted.items() if n in grids.activations}
    found = on_numpy.run(steps, feeds)
    apart, names = Differences(), [n for n in steps.outputs if n in steps.codes]
    apart.add({n: wanted[n] for n in names}, {n: _real(steps, n, found[n]) for n in names})
    near = min((error.cosine for error in apart.errors()), default=1.0)
    if not near >= _LEAST:
        what = f"integers do not give what floats on the same grids give: cosine {near:.4f} on a random input"
        raise CheckError(what, where="the model in integers", hint="take other bits, or --format qdq")
    return near


def _real(steps: Program, name: str, codes: NDArray[np.generic]) -> NDArray[np.float32]:
    code = steps.codes[name]
    return np.asarray((codes.astype(np.int64) - code.zero) * code.scale, np.float32)


def drawn(steps: Program, seed: int, batch: int = 1) -> Feeds:
    """Random integers for the inputs of ``steps``."""
    rng = np.random.default_rng(seed)
    feeds: Feeds = {}
    for name, dims in steps.inputs.items():
        shape = tuple(batch if d is None else d for d in dims)
        if name in steps.codes:
            code = steps.codes[name]
            feeds[name] = rng.integers(code.low, code.high + 1, shape).astype(code.dtype)
        else:
            feeds[name] = rng.integers(0, 2, shape).astype(helper.tensor_dtype_to_np_dtype(steps.kinds[name]))
    return feeds


def _float_in(model: Model) -> str | None:
    """A tensor of the graph that is no integer, as inference and constants tell."""
    from onnx import shape_inference  # noqa: PLC0415 (only here)

    graph = shape_inference.infer_shapes(model.proto).graph
    kinds = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}
    kinds |= {name: kind for name, (kind, _) in model.graph.constants.items()}
    return next((n for n, kind in kinds.items() if kind in FLOATS), None)
