"""Running models in onnxruntime: sessions, seeded inputs, and the shapes to run at."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto

from onnxprune.elements import dtype_of
from onnxprune.errors import ModelError, OptionError
from onnxprune.graph import Shape, TensorInfo
from onnxprune.model import PROTO_LIMIT, Model, weight_bytes

Feeds = dict[str, NDArray[Any]]

#: What dynamic height and width are tried as, in this order: divisible by 32, as most networks ask.
_SIDES = (224, 256, 64, 320, 512, 640, 48, 32)
_LENGTH = 16  # of other dynamic dimensions but the first, which is the batch


@contextmanager
def session(proto: ModelProto, where: str, *, optimize: bool = True, outputs: Iterable[str] = ()) -> Iterator[Any]:
    """An onnxruntime CPU session that gives ``outputs`` too. Raises ModelError where onnxruntime refuses the model."""
    import onnxruntime as ort  # noqa: PLC0415 (heavy: only where models run)

    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    # Serialized messages that follow each other merge, repeated fields one after the other: no copy of the weights.
    more = ModelProto()
    more.graph.output.extend(ValueInfoProto(name=n) for n in outputs)
    with tempfile.TemporaryDirectory() as folder:
        try:
            if weight_bytes(proto) < PROTO_LIMIT:
                source: Any = proto.SerializeToString() + more.SerializeToString()
            else:
                path = Path(folder) / "model.onnx"
                onnx.save(proto, path, save_as_external_data=True, location="model.data")
                path.write_bytes(path.read_bytes() + more.SerializeToString())
                source = str(path)
            run = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 (onnxruntime raises many types, with no common base)
            raise ModelError(f"onnxruntime refuses the model: {_first_line(error)}", where=where) from None
        yield run


def run(active: Any, feeds: Feeds, where: str) -> dict[str, NDArray[Any]]:
    """Outputs by name. Raises ModelError where onnxruntime cannot run these inputs."""
    try:
        results = active.run(None, feeds)
    except Exception as error:  # noqa: BLE001
        shapes = ", ".join(f"{n}:{','.join(map(str, a.shape))}" for n, a in feeds.items())
        hint = "give a shape that the model takes with --input-shape"
        raise ModelError(
            f"onnxruntime cannot run it at {shapes}: {_first_line(error)}", where=where, hint=hint
        ) from None
    return dict(zip((o.name for o in active.get_outputs()), results, strict=True))


def seeded_feeds(inputs: Iterable[TensorInfo], shapes: Mapping[str, Shape], seed: int) -> Feeds:
    """Random inputs: normal for floats, {0, 1} for integers (a valid index anywhere) and for booleans."""
    rng = np.random.default_rng(seed)
    feeds: Feeds = {}
    for info in inputs:
        dtype = dtype_of(info.elem_type)
        shape = shapes[info.name]
        if dtype.kind in "iub":
            feeds[info.name] = rng.integers(0, 2, shape).astype(dtype)
        else:
            feeds[info.name] = rng.standard_normal(shape).astype(dtype)
    return feeds


def choose_shapes(model: Model, given: Mapping[str, Shape]) -> dict[str, Shape]:
    """A concrete shape for every input: as declared, as ``given``, or, where both are silent, one that the model takes.

    Raises OptionError for names and ranks that do not fit, ModelError where onnxruntime takes none of the shapes tried.
    """
    inputs = {i.name: i for i in model.graph.inputs}
    for name, shape in given.items():
        if name not in inputs:
            raise OptionError(
                f"the model has no input '{name}'", where="--input-shape", hint=f"inputs: {', '.join(inputs)}"
            )
        dims = inputs[name].dims
        if dims is not None and (
            len(dims) != len(shape) or any(d not in (None, s) for d, s in zip(dims, shape, strict=True))
        ):
            declared = ",".join("?" if d is None else str(d) for d in dims)
            raise OptionError(
                f"{','.join(map(str, shape))} does not fit input '{name}' of shape {declared}", where="--input-shape"
            )
    open_inputs = [i for i in inputs.values() if i.name not in given and (i.dims is None or None in i.dims)]
    if not open_inputs:
        return {n: given.get(n, tuple(d or 1 for d in i.dims or ())) for n, i in inputs.items()}
    where = str(model.path or "model")
    failure: ModelError | None = None
    with session(model.proto, where) as active:
        for side in _SIDES:
            shapes = {n: given.get(n) or _guess(i, side) for n, i in inputs.items()}
            try:
                run(active, seeded_feeds(inputs.values(), shapes, 0), where)
            except ModelError as error:
                failure = failure or error
            else:
                return shapes
    assert failure is not None
    raise failure


def _guess(info: TensorInfo, side: int) -> Shape:
    dims = info.dims or ()
    image = len(dims) == 4
    guessed = []
    for axis, dim in enumerate(dims):
        channels = image and axis == 1 and dims[2:] == (None, None)
        guess = 1 if axis == 0 else 3 if channels else side if image else _LENGTH
        guessed.append(guess if dim is None else dim)
    return tuple(guessed)


def probe_shapes(model: Model, names: Iterable[str], shapes: Mapping[str, Shape], seed: int) -> dict[str, Shape]:
    """Shapes of ``names``, by running the model once with them as outputs."""
    present = {o.name for o in model.graph.outputs}
    where = str(model.path or "model")
    with session(model.proto, where, optimize=False, outputs=[n for n in names if n not in present]) as active:
        results = run(active, seeded_feeds(model.graph.inputs, shapes, seed), where)
    return {n: tuple(a.shape) for n, a in results.items() if isinstance(a, np.ndarray)}


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
