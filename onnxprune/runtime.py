"""Running models: sessions, seeded inputs, and the shapes to run at.

onnxruntime runs them, or, where its CPU kernels lack a type (Conv in float64, all of bfloat16), onnx's reference.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, ValueInfoProto

from onnxprune.elements import dtype_of
from onnxprune.errors import ModelError, OptionError, OutputError, nearest
from onnxprune.graph import Shape, TensorInfo
from onnxprune.model import Model

Feeds = dict[str, NDArray[Any]]

#: What dynamic height and width are tried as, in this order: divisible by 32, as most networks ask.
_SIDES = (224, 256, 64, 320, 512, 640, 48, 32)
_LENGTH = 16  # of other dynamic dimensions but the first, which is the batch


#: What onnxruntime says of an operator that it knows, and has no kernel for.
NO_KERNEL = "NOT_IMPLEMENTED"

#: Element types that onnxruntime's Python interface neither takes nor gives.
_NO_ARRAYS = {t for n, t in TensorProto.DataType.items() if n.startswith(("BFLOAT", "FLOAT8", "FLOAT4"))}


class _Reference:
    """onnx's reference evaluator, behind the two methods of a session that are used here."""

    def __init__(self, model: Model, outputs: Iterable[str]) -> None:
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 (heavy: only where models run)

        proto = ModelProto.FromString(b"".join(model.pieces()))
        self.names = [*(o.name for o in proto.graph.output), *outputs]
        self.evaluator = ReferenceEvaluator(proto)

    def get_outputs(self) -> list[ValueInfoProto]:
        return [ValueInfoProto(name=n) for n in self.names]

    def run(self, _: None, feeds: Feeds) -> list[Any]:
        return list(self.evaluator.run(self.names, feeds))


@contextmanager
def session(model: Model, where: str, *, optimize: bool = False, outputs: Iterable[str] = ()) -> Iterator[Any]:
    """A session that gives ``outputs`` too. Raises ModelError where nothing here runs the model.

    onnxruntime maps weights where they lie in files, and makes no copies of them, as graph optimizations and packed
    layouts would.
    """
    outputs = list(outputs)
    with ExitStack() as opened:
        try:
            active: Any = opened.enter_context(_onnxruntime(model, where, optimize=optimize, outputs=outputs))
        except ModelError as refused:
            if NO_KERNEL not in refused.what:
                raise
            try:
                active = _Reference(model, outputs)
            except Exception as error:  # noqa: BLE001 (it has no base class for its errors)
                what = f"{refused.what}; nor does onnx's reference run it: {_first_line(error)}"
                hint = "--input-shape for every dynamic input and --check-n 0 prune it without proof"
                raise ModelError(what, where=where, hint=hint) from None
        yield active


#: What onnxruntime is told where the data of a model is that it gets as bytes; from 1.22 on it knows this.
_FOLDER = "session.model_external_initializers_file_folder_path"


@contextmanager
def _onnxruntime(model: Model, where: str, *, optimize: bool, outputs: Iterable[str]) -> Iterator[Any]:
    import onnxruntime as ort  # noqa: PLC0415 (heavy: only where models run)

    if {i.type.tensor_type.elem_type for i in (*model.proto.graph.input, *model.proto.graph.output)} & _NO_ARRAYS:
        raise ModelError(f"{NO_KERNEL}: inputs or outputs of a type that Python cannot hand over", where=where)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # build machines are shared
    # Integer kernels of processors without VNNI saturate in an order of their own; and pairs of quantize and dequantize
    # are not to become integer kernels in one model and not in another.
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
    # Serialized messages that follow each other merge, repeated fields one after the other: no copy of the weights.
    more = ModelProto()
    more.graph.output.extend(ValueInfoProto(name=n) for n in outputs)
    with tempfile.TemporaryDirectory(prefix="onnxprune.", ignore_cleanup_errors=True) as folder:
        # Weights may be anywhere: newer versions take none from outside a folder, older ones need a file to start from.
        newer = tuple(int(part) for part in ort.__version__.split(".")[:2]) >= (1, 22)
        root = Path(Path.cwd().anchor if newer else folder)
        options.add_session_config_entry(_FOLDER, str(root))
        with _space(folder):
            message = model.placed(Path(folder, "weights"), root).SerializeToString() + more.SerializeToString()
            if not newer:
                Path(folder, "model.onnx").write_bytes(message)
        try:
            source = message if newer else str(Path(folder, "model.onnx"))
            run = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 (onnxruntime raises many types, with no common base)
            raise ModelError(f"onnxruntime refuses the model: {_first_line(error)}", where=where) from None
        del message, source
        yield run


def engine_of(active: Any) -> str:
    """What a session runs models with."""
    return "onnx's reference" if isinstance(active, _Reference) else "onnxruntime"


@contextmanager
def _space(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"cannot write the weights of a model to run: {error.strerror or error}"
        raise OutputError(what, where=folder, hint="set TMPDIR to a folder with more space") from None


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


def arrays(results: Mapping[str, object]) -> Feeds:
    """Sequences as one output an element."""
    flat: Feeds = {}
    for name, value in results.items():
        if isinstance(value, list):
            flat.update({f"{name}[{i}]": np.asarray(v) for i, v in enumerate(value)})
        else:
            flat[name] = np.asarray(value)
    return flat


def results(model: Model, feeds: Feeds) -> dict[str, NDArray[Any]]:
    """Outputs of one run. Raises ModelError."""
    where = str(model.path or "model")
    with session(model, where) as active:
        return run(active, feeds, where)


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


def choose_shapes(model: Model, given: Mapping[str, Shape], part: Model | None = None) -> dict[str, Shape]:
    """A concrete shape for every input: as declared, as ``given``, or, where both are silent, one that the model takes.

    ``part``: what can be run of it, where that is not all.

    Raises OptionError for names and ranks that do not fit, ModelError where onnxruntime takes none of the shapes tried.
    """
    inputs = {i.name: i for i in model.graph.inputs if i.elem_type}
    for name, shape in given.items():
        if name not in inputs:
            raise OptionError(
                f"the model has no input '{name}'",
                where="--input-shape",
                hint=nearest(name, inputs, f"inputs: {', '.join(inputs)}"),
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
    with session(part or model, where) as active:
        guesses = [{n: _guess(i, side) for n, i in inputs.items()} for side in _SIDES]
        for guess in [*guesses, *_with_zeros(model, guesses[0])]:
            shapes = {**guess, **given}
            try:
                run(active, seeded_feeds(inputs.values(), shapes, 0), where)
            except ModelError as error:
                failure = failure or error
            else:
                return shapes
    assert failure is not None
    raise failure


def guessed(inputs: Iterable[TensorInfo], shapes: Mapping[str, Shape], given: Mapping[str, Shape]) -> Iterator[str]:
    """A note for each input of which more than the batch is open, and that nobody gave a shape."""
    for info in inputs:
        if info.name in shapes and info.name not in given and (info.dims is None or None in info.dims[1:]):
            declared = (
                "of any shape" if info.dims is None else ",".join("?" if d is None else str(d) for d in info.dims)
            )
            at = ",".join(map(str, shapes[info.name]))
            yield f"input '{info.name}' is {declared}: measured at {at}, as nothing else is given (--input-shape)"


def _guess(info: TensorInfo, side: int) -> Shape:
    dims = info.dims or ()
    image = len(dims) == 4
    guessed = []
    for axis, dim in enumerate(dims):
        channels = image and axis == 1 and dims[2:] == (None, None)
        guess = 1 if axis == 0 else 3 if channels else side if image else _LENGTH
        guessed.append(guess if dim is None else dim)
    return tuple(guessed)


def _with_zeros(model: Model, guess: Mapping[str, Shape]) -> list[dict[str, Shape]]:
    """The guess with size 0 where the file says so: some exporters write 0 for dynamic dimensions, others mean it."""
    sizes = {
        i.name: [d.HasField("dim_value") and d.dim_value == 0 for d in i.type.tensor_type.shape.dim]
        for i in model.proto.graph.input
    }
    if not any(map(any, sizes.values())):
        return []
    return [{n: tuple(0 if z else s for s, z in zip(shape, sizes[n], strict=True)) for n, shape in guess.items()}]


def probe_shapes(model: Model, names: Iterable[str], shapes: Mapping[str, Shape], seed: int) -> dict[str, Shape]:
    """Shapes of ``names``, by running the model once with them as outputs; of none where it cannot be run."""
    present = {o.name for o in model.graph.outputs}
    where = str(model.path or "model")
    more = [n for n in names if n not in present and n in model.graph.producer]
    try:
        with session(model, where, outputs=more) as active:
            results = run(active, seeded_feeds(model.graph.inputs, shapes, seed), where)
    except ModelError:  # the proof, if there is one, says why
        return {}
    return {n: tuple(a.shape) for n, a in results.items() if isinstance(a, np.ndarray)}


@cache
def _operators() -> frozenset[tuple[str, str]]:
    """All (domain, operator) that onnxruntime knows."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415 (heavy: only where models run)

    return frozenset((s.domain, s.name) for s in state.get_all_operator_schema())


def providers() -> list[str]:
    """What onnxruntime could run models on here."""
    import onnxruntime as ort  # noqa: PLC0415 (heavy: only where models run)

    return list(ort.get_available_providers())


def has_operator(domain: str, op: str) -> bool:
    """Whether onnxruntime knows the operator; that it has a kernel for its types is not said."""
    return domain in ("", "ai.onnx") or (domain, op) in _operators()


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
