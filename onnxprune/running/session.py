"""Running models with onnxruntime, or with onnx's reference evaluator.

The latter runs models whose types onnxruntime's CPU kernels lack (Conv in float64, all of bfloat16).
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

from onnxprune.errors import ModelError, OutputError
from onnxprune.file_system import scratch
from onnxprune.memory_and_threads import session_threads
from onnxprune.model.onnx_model import Model

Feeds = dict[str, NDArray[Any]]


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
def session(
    model: Model, where: str, *, optimize: bool = False, outputs: Iterable[str] = (), any_batch: bool = False
) -> Iterator[Any]:
    """Open a session that gives ``outputs`` in addition to the model's own. Raises ModelError where it cannot be run.

    ``any_batch``: it takes more samples than the model declares, along axis 0 of every input. onnxruntime maps weights
    that lie in files; graph optimizations and packed layouts, which would copy them, are off unless ``optimize``.
    """
    outputs = list(outputs)
    with ExitStack() as opened:
        try:
            active: Any = opened.enter_context(_onnxruntime(model, where, optimize, outputs, any_batch))
        except ModelError as refused:
            if NO_KERNEL not in refused.what:
                raise
            try:
                active = _Reference(model, outputs)
            except Exception as error:  # noqa: BLE001 (it has no base class for its errors)
                what = f"{refused.what}; nor does onnx's reference run it: {_first_line(error)}"
                hint = "to prune it without proof, give --check-n 0, and --input-shape for every dynamic input"
                raise ModelError(what, where=where, hint=hint) from None
        yield active


#: What onnxruntime is told where the data of a model is that it gets as bytes; from 1.22 on it knows this.
_FOLDER = "session.model_external_initializers_file_folder_path"


@contextmanager
def _onnxruntime(model: Model, where: str, optimize: bool, outputs: Iterable[str], any_batch: bool) -> Iterator[Any]:
    import onnxruntime as ort  # noqa: PLC0415 (heavy: only where models run)

    if {i.type.tensor_type.elem_type for i in (*model.proto.graph.input, *model.proto.graph.output)} & _NO_ARRAYS:
        raise ModelError(f"{NO_KERNEL}: inputs or outputs of a type that Python cannot hand over", where=where)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    options.intra_op_num_threads = session_threads()
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
    with tempfile.TemporaryDirectory(prefix=scratch.prefix(), ignore_cleanup_errors=True) as folder:
        # Weights may be anywhere: newer versions take none from outside a folder, older ones need a file to start from.
        newer = tuple(int(part) for part in ort.__version__.split(".")[:2]) >= (1, 22)
        root = Path(Path.cwd().anchor if newer else folder)
        options.add_session_config_entry(_FOLDER, str(root))
        with _space(folder):
            placed = model.placed(Path(folder, "weights"), root)
            if any_batch:
                _free_batch(placed)
            message = placed.SerializeToString() + more.SerializeToString()
            del placed
            if not newer:
                Path(folder, "model.onnx").write_bytes(message)
        source = message if newer else str(Path(folder, "model.onnx"))
        run = _opened(source, options, where)
        del message, source
        yield run


def _free_batch(proto: ModelProto) -> None:
    """Inputs declare no batch any more, and what follows from them nothing."""
    del proto.graph.value_info[:]
    constants = {t.name for t in proto.graph.initializer}
    for value in (v for v in (*proto.graph.input, *proto.graph.output) if v.name not in constants):
        for dimension in value.type.tensor_type.shape.dim[: 1 if value.type.HasField("tensor_type") else 0]:
            dimension.Clear()


def as_users_run(model: Model, feeds: Feeds) -> dict[str, NDArray[Any]]:
    """Run ``model`` with onnxruntime's default settings; returns outputs by name. Raises ModelError.

    Only for models that hold all their weights themselves.
    """
    import onnxruntime as ort  # noqa: PLC0415 (heavy: only where models run)

    where, options = "what was written", ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = session_threads()
    return run(_opened(b"".join(model.pieces()), options, where), feeds, where)


def _opened(source: bytes | str, options: Any, where: str) -> Any:
    import onnxruntime as ort  # noqa: PLC0415 (heavy: only where models run)

    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 (onnxruntime raises many types, with no common base)
        raise ModelError(f"onnxruntime refuses the model: {_first_line(error)}", where=where) from None


def engine_of(active: Any) -> str:
    """The name of the engine that a session runs models with."""
    return "onnx's reference" if isinstance(active, _Reference) else "onnxruntime"


@contextmanager
def _space(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"cannot write the weights of a model to run: {error.strerror or error}"
        raise OutputError(what, where=folder, hint="set TMPDIR to a folder with more space") from None


def run(active: Any, feeds: Feeds, where: str) -> dict[str, NDArray[Any]]:
    """Run a session; returns outputs by name. Raises ModelError where onnxruntime cannot run these inputs."""
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
    """Results by name, with each element of a sequence as an output of its own; of a map, its values."""
    flat: Feeds = {}
    for name, value in results.items():
        parts = {f"{name}[{i}]": v for i, v in enumerate(value)} if isinstance(value, list) else {name: value}
        flat.update({n: np.asarray([*v.values()] if isinstance(v, dict) else v) for n, v in parts.items()})
    return flat


def results(model: Model, feeds: Feeds) -> dict[str, NDArray[Any]]:
    """Run ``model`` once; returns outputs by name. Raises ModelError."""
    where = str(model.path or "model")
    with session(model, where) as active:
        return run(active, feeds, where)


@cache
def _operators() -> frozenset[tuple[str, str]]:
    """All (domain, operator) that onnxruntime knows."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state  # noqa: PLC0415 (heavy: only where models run)

    return frozenset((s.domain, s.name) for s in state.get_all_operator_schema())


def providers() -> list[str]:
    """The execution providers that onnxruntime has here."""
    import onnxruntime as ort  # noqa: PLC0415 (heavy: only where models run)

    return list(ort.get_available_providers())


def version() -> str:
    """The version of onnxruntime: another one may round differently."""
    import onnxruntime as ort  # noqa: PLC0415 (heavy: only where models run)

    return str(ort.__version__)


def has_operator(domain: str, op: str) -> bool:
    """Whether onnxruntime knows the operator; it may still lack a kernel for some types."""
    return domain in ("", "ai.onnx") or (domain, op) in _operators()


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
