"""Judges a pruned ONNX file next to its original, sharing no code with any tool that pruned it.

Removing channels is exact if the pruned model computes what the original computes once the weights that
were cut away are zero: a channel that nobody reads may as well not be there. Which weights were cut away is
read off the two files: stored tensors with the same name are compared, and along each axis that shrank, the
positions whose values survive are the kept ones. This works for whoever made the file, as long as weights
keep their names and values.

``python -m bench.judge ORIGINAL PRUNED`` prints the verdict as JSON.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, numpy_helper

Array = npt.NDArray[Any]
Feeds = dict[str, Array]
Shapes = dict[str, tuple[int, ...]]

_FLOATS = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16}
_WEIGHTS = _FLOATS | {TensorProto.INT8, TensorProto.UINT8}
#: Which input of what multiplies is the weight.
_CONTRACTIONS = dict.fromkeys(("Conv", "FusedConv", "ConvTranspose", "Gemm", "MatMul", "FusedMatMul"), 1)
_CONTRACTIONS |= dict.fromkeys(("QLinearConv", "QLinearMatMul", "QGemm"), 3)
_SQUASHING = {"Sigmoid", "Softmax"}
_DTYPES = {"tensor(float)": "f4", "tensor(float16)": "f2", "tensor(double)": "f8", "tensor(int32)": "i4"}


@dataclass(frozen=True)
class Verdict:
    """One pruned file: ``kept`` of parameters and MACs, who refuses it ('' if nobody), and its ``error``.

    ``error`` is that of ``removal_error``; it is None where it cannot be told, and ``note`` says why.
    """

    parameters: int
    macs: int
    kept: float
    kept_macs: float
    refused: str
    error: float | None
    note: str


def judge(original: Path, pruned: Path, feeds: Feeds) -> Verdict:
    """Compare ``pruned`` with ``original`` on ``feeds``; no fault of the pruned file makes it raise."""
    before, after = onnx.load(original), onnx.load(pruned)
    stored = parameters(before), parameters(after)
    work, error, note = 0, None, ""
    try:
        work = macs(after, feeds)
        error = removal_error(before, after, feeds)
    except Exception as problem:  # noqa: BLE001  onnxruntime raises several unrelated types
        note = _first_line(problem)
    kept_macs = work / max(macs(before, feeds), 1)
    return Verdict(stored[1], work, stored[1] / stored[0], kept_macs, refusals(pruned, feeds), error, note)


def parameters(model: onnx.ModelProto) -> int:
    """How many weights the model stores: elements of initializers and Constant nodes, floats and 8-bit integers."""
    return sum(math.prod(tensor.dims) for _, tensor in _stored(model.graph) if tensor.data_type in _WEIGHTS)


def _stored(graph: onnx.GraphProto) -> Iterator[tuple[str, TensorProto]]:
    """Yield the name and the tensor of all that is stored in ``graph`` and in the graphs inside it."""
    yield from ((tensor.name, tensor) for tensor in graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.HasField("t"):
                yield node.output[0], attribute.t
            for inner in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                yield from _stored(inner)


def random_feeds(path: Path, sizes: Shapes | None = None, *, dynamic: int = 64) -> Feeds:
    """Gaussian noise for every input, the same each time.

    ``sizes`` gives shapes by input name; elsewhere an unknown first dimension is 1, any other is ``dynamic``.
    """
    rng = np.random.default_rng(0)
    feeds: Feeds = {}
    for value in _session(onnx.load(path)).get_inputs():
        declared = [d if isinstance(d, int) and d > 0 else None for d in value.shape]
        shape = tuple(d or (dynamic if axis else 1) for axis, d in enumerate(declared))
        noise = rng.standard_normal((sizes or {}).get(value.name, shape))
        feeds[value.name] = noise.astype(_DTYPES.get(value.type, "i8"))
    return feeds


def refusals(path: Path, feeds: Feeds) -> str:
    """Who refuses the file, and why: the full checker, onnxruntime, or nobody ('')."""
    said: list[str] = []
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as problem:  # noqa: BLE001
        said.append(f"checker: {_first_line(problem)}")
    try:
        if not all(np.isfinite(y).all() for y in _session(onnx.load(path)).run(None, feeds)):
            said.append("onnxruntime: outputs are not finite")
    except Exception as problem:  # noqa: BLE001
        said.append(f"onnxruntime: {_first_line(problem)}")
    return "; ".join(said)


def removal_error(before: onnx.ModelProto, after: onnx.ModelProto, feeds: Feeds) -> float:
    """How far ``after`` is from ``before`` with the cut weights zeroed, relative to the largest magnitude.

    Compared at the outputs, and at what every Conv, Gemm and MatMul computes, wherever no channel was cut.
    Instead of a last Sigmoid or Softmax, what it reads is compared: noise saturates them, so that they hide a
    fault, or make one of rounding. A vector that repeats numbers is left as it is: a bias of a removed channel
    matters only where two activations are multiplied. The zero of 8-bit weights is taken to be 0, as quantizers do.

    Raises:
        ValueError: a tensor shrank, and is no slice of the original one.
    """
    zeroed = onnx.ModelProto()
    zeroed.CopyFrom(before)
    rest = dict(_stored(after.graph))
    groups = _groups(before).items() & _groups(after).items()
    for name, tensor in _stored(zeroed.graph):
        if name not in rest or tensor.data_type not in _WEIGHTS or tensor.dims == rest[name].dims:
            continue
        values = numpy_helper.to_array(tensor)
        mask = kept_mask(values, numpy_helper.to_array(rest[name]), dict(groups).get(name, 1))
        if mask is not None and (values.ndim > 1 or len(np.unique(values)) == len(values)):
            zeros = np.where(mask, values, values.dtype.type(0))
            tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
        elif mask is None and sum(size > 1 for size in values.shape) > 1:  # a vector may repeat a number
            raise ValueError(f"{name} is no slice of the original")
    squashed = {node.output[0]: node.input[0] for node in before.graph.node if node.op_type in _SQUASHING}
    outputs = {squashed.get(output.name, output.name) for output in before.graph.output}
    inner = {node.output[0] for node in before.graph.node if node.op_type in _CONTRACTIONS} - outputs
    expected, actual = (_values(model, sorted(inner | outputs), feeds) for model in (zeroed, after))
    distances = [
        _distance(expected[name], actual[name], at_least=0.0 if name in inner else 1.0)
        for name in expected.keys() & actual.keys()
        if expected[name].shape == actual[name].shape and expected[name].dtype.kind == "f"
    ]
    return float(np.max(distances))  # unlike max, NaN if one is


def _groups(model: onnx.ModelProto) -> dict[str, int]:
    """By the name of its weight, in how many groups a Conv works."""
    return {
        node.input[_CONTRACTIONS[node.op_type]]: attribute.i
        for node in model.graph.node
        for attribute in node.attribute
        if node.op_type in _CONTRACTIONS and attribute.name == "group"
    }


def kept_mask(values: Array, rest: Array, groups: int = 1) -> Array | None:
    """Where ``rest`` came from: a boolean array like ``values``, or None if ``rest`` is no slice of it.

    Positions along an axis are told apart by the numbers there, of which a cut along other axes leaves some.
    Each of ``groups`` blocks along the first axis may be cut in its own way.
    """
    if groups > 1:
        both = zip(np.split(values, groups), np.split(rest, groups), strict=True)
        masks = [mask for value, part in both if (mask := kept_mask(value, part)) is not None]
        return np.concatenate(masks) if len(masks) == groups else None
    if values.ndim != rest.ndim:
        return None
    cut = np.ix_(*(_kept_along(axis, values, rest) for axis in range(values.ndim)))
    if not np.array_equal(values[cut], rest):
        return None
    mask = np.zeros(values.shape, bool)
    mask[cut] = True
    return mask


def _kept_along(axis: int, values: Array, rest: Array) -> npt.NDArray[np.int64]:
    """For each position of ``rest`` along ``axis``, in order, the first of ``values`` that holds all its numbers."""
    size, left = values.shape[axis], rest.shape[axis]
    if size == left:
        return np.arange(size)
    sets, subsets = (np.sort(np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1)) for a in (values, rest))
    kept: list[int] = []
    for position, numbers in enumerate(sets):
        if len(kept) < left and _contains(numbers, subsets[len(kept)]):
            kept.append(position)
    return np.asarray(kept, np.int64)


def _contains(numbers: Array, some: Array) -> bool:
    """Whether ``some`` are among ``numbers``, each as often; both are sorted."""
    repeat = np.arange(len(some)) - np.searchsorted(some, some)
    found = np.searchsorted(numbers, some) + repeat
    return bool((found < len(numbers)).all() and np.array_equal(numbers[found], some))


def macs(model: onnx.ModelProto, feeds: Feeds) -> int:
    """Multiply-accumulates of all nodes that convolve or multiply matrices, at the shapes of ``feeds``.

    Shapes are what onnxruntime computes: every operand is asked for as an output of the model.
    """
    nodes = [node for node in model.graph.node if node.op_type in _CONTRACTIONS]
    names = sorted({name for node in nodes for name in _operands(node)})
    shapes = {name: array.shape for name, array in _values(model, names, feeds).items()}
    return sum(_node_macs(node, shapes) for node in nodes)


def _operands(node: onnx.NodeProto) -> tuple[str, str, str]:
    return node.input[0], node.input[_CONTRACTIONS[node.op_type]], node.output[0]


def _node_macs(node: onnx.NodeProto, shapes: Shapes) -> int:
    """Count one node; w of Conv: [out, in/group, *kernel], of ConvTranspose: [in, out/group, *kernel]."""
    x, w, y = (shapes[name] for name in _operands(node))
    if node.op_type in ("Conv", "FusedConv", "QLinearConv"):
        return math.prod(y) * math.prod(w[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(x) * math.prod(w[1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return math.prod(y) * x[-2 if transposed else -1]


def _values(model: onnx.ModelProto, names: list[str], feeds: Feeds) -> Feeds:
    """Those of ``names`` that the model has: inputs, initializers, and what its top-level nodes write."""
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer} | feeds
    written = {name for node in model.graph.node for name in node.output}
    wanted = [name for name in names if name in written]
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    del wider.graph.output[:]
    wider.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    found = dict(zip(wanted, _session(wider).run(wanted, feeds), strict=True)) if wanted else {}
    return {name: known[name] for name in names if name in known} | found


def _session(model: onnx.ModelProto) -> ort.InferenceSession:
    """Open an onnxruntime session on one thread that leaves the graph as it is written."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _distance(x: Array, y: Array, at_least: float) -> float:
    """Return the largest difference, as a share of the largest magnitude in ``x`` or of ``at_least``."""
    scale = max(float(np.max(np.abs(x), initial=0)), at_least, 1e-30)
    return float(np.max(np.abs(x - y), initial=0)) / scale


def _first_line(problem: Exception) -> str:
    return str(problem).strip().splitlines()[0][:160]


if __name__ == "__main__":
    first, second = map(Path, sys.argv[1:])
    print(json.dumps(asdict(judge(first, second, random_feeds(first)))))
