"""The proof: the pruned model equals the original with the removed channels set to zero wherever they are read.

Two errors are never mixed up. The *rewrite error* compares the pruned model with the original in which the removed
channels are multiplied with zero at every operator that sums over them (x * 0 through W is what x through a W with
zero slices is): it is rounding, or onnxprune is wrong. The *pruning error* compares with the original as it was: what
the removed channels contributed, which is a choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from onnxprune import runtime
from onnxprune.errors import CheckError, ModelError
from onnxprune.model import Model, check
from onnxprune.rewrite import alive_of
from onnxprune.runtime import Feeds
from onnxprune.trace import Trace

_QUANTIZED = {"QuantizeLinear", "DequantizeLinear"}
_HALF = {TensorProto.FLOAT16, TensorProto.BFLOAT16}

#: Rounding of a whole network, relative to the range of its output: in float32; with weights or outputs in float16;
#: and where activations are quantized, so that rounding moves some of them by a whole quantization step.
RTOL, RTOL_HALF, RTOL_QUANTIZED = 1e-4, 3e-2, 5e-2

#: Where rounding weighs more (outputs far below 1 behind a Sigmoid, say) it is measured: the masked original against
#: itself, run unoptimized and with inputs changed in their last bits.
NOISE_FACTOR = 4.0


@dataclass(frozen=True)
class OutputError:
    """How far one output is from its reference, over all inputs tried.

    ``relative`` is ``max_abs`` over the range of the reference; of integer outputs, the share of elements that differ.
    """

    name: str
    max_abs: float
    relative: float
    cosine: float
    snr_db: float
    noise: float = 0.0  # of max_abs, what the reference differs from itself by; measured where it matters


@dataclass(frozen=True)
class Proof:
    """Rewrite error and pruning error by output, over ``samples`` seeded inputs of ``shapes``."""

    samples: int
    shapes: Mapping[str, tuple[int, ...]]
    rtol: float
    atol: float
    rewrite: tuple[OutputError, ...]
    pruning: tuple[OutputError, ...]

    @property
    def rewrite_error(self) -> float:
        """The largest relative rewrite error."""
        return max((e.relative for e in self.rewrite), default=0.0)

    def failures(self) -> list[OutputError]:
        """Outputs whose rewrite error is more than rounding."""
        return [e for e in self.rewrite if not self._is_rounding(e)]

    def _is_rounding(self, error: OutputError) -> bool:
        return error.relative <= self.rtol or error.max_abs <= max(self.atol, NOISE_FACTOR * error.noise)


def masked(trace: Trace, dead: NDArray[np.int64]) -> Model:
    """The original with the units ``dead`` multiplied with zero wherever an operator sums over channels."""
    alive = alive_of(trace, dead)
    gates: dict[str, NDArray[np.generic]] = {}
    reads: dict[int, list[int]] = {}
    for index, position in trace.reads:
        node = trace.model.graph.nodes[index]
        tensor = trace.input(node, position)
        if tensor is None or tensor.constant:
            continue
        reads.setdefault(index, []).append(position)
        if tensor.name not in gates:
            mask = np.ones((1,) * tensor.rank, np.bool_)
            for layer in tensor.layers:
                mask = mask & alive(layer.labels)
            if mask.all():
                reads[index].pop()
                continue
            gates[tensor.name] = mask.astype(helper.tensor_dtype_to_np_dtype(_type(trace, tensor.name)))
    return Model(trace.model.gated(gates, reads), trace.model.path)


def _type(trace: Trace, name: str) -> int:
    return trace.shapes.elem_type.get(name) or TensorProto.FLOAT


def default_rtol(trace: Trace) -> float:
    """The tolerance that fits the model's precision."""
    if any(node.op in _QUANTIZED for node in trace.model.graph.nodes):
        return RTOL_QUANTIZED
    types = {t for t, _ in trace.model.graph.constants.values()} | {o.elem_type for o in trace.model.graph.outputs}
    return RTOL_HALF if types & _HALF else RTOL


def prove(
    trace: Trace,
    dead: NDArray[np.int64],
    pruned: Model,
    *,
    samples: int,
    seed: int,
    rtol: float | None,
    atol: float,
    progress: Callable[[str], None] = lambda _: None,
) -> Proof:
    """Run original, masked original and pruned model on seeded inputs, and measure.

    Raises nothing for a large error.
    """
    original = trace.model
    where = str(original.path or "model")
    feeds = [runtime.seeded_feeds(original.graph.inputs, trace.shapes.inputs, seed + i) for i in range(samples)]
    progress("running the original")
    plain = _outputs(original, feeds, where)
    progress("running the original with the removed channels at zero")
    reference = masked(trace, dead)
    zeroed = _outputs(reference, feeds, f"{where} with the removed channels at zero")
    progress("running the pruned model")
    try:
        new = _outputs(pruned, feeds, "the pruned model")
    except ModelError as error:
        raise CheckError(
            f"onnxruntime does not run what was written: {error.what}", hint="please report this as a bug"
        ) from None
    proof = Proof(
        samples,
        dict(trace.shapes.inputs),
        default_rtol(trace) if rtol is None else rtol,
        atol,
        _compare_all(zeroed, new),
        _compare_all(plain, new),
    )
    if not proof.failures():
        return proof
    progress("measuring how much rounding weighs")
    nudged = [{n: _nudged(a) for n, a in feed.items()} for feed in feeds]
    others = [_outputs(reference, feeds, where, optimize=False), _outputs(reference, nudged, where)]
    noise = [{e.name: e.max_abs for e in _compare_all(zeroed, other)} for other in others]
    measured = tuple(replace(e, noise=max(n[e.name] for n in noise)) for e in proof.rewrite)
    return replace(proof, rewrite=measured)


def _compare_all(reference: Sequence[Feeds], results: Sequence[Feeds]) -> tuple[OutputError, ...]:
    names = reference[0] if reference else ()
    return tuple(compare(n, [r[n] for r in reference], [r[n] for r in results]) for n in names)


def _nudged(array: NDArray[Any]) -> NDArray[Any]:
    """The array with every float changed in its last bits."""
    return np.nextafter(array, np.inf, dtype=array.dtype) if array.dtype in (np.float32, np.float64) else array


def check_valid(original: Model, pruned: Model) -> None:
    """onnx.checker's full check, strict shape inference included, wherever the original passes it.

    Raises CheckError.
    """
    try:
        check(original.proto, "original", full=True)
    except ModelError:
        full = False
    else:
        full = True
    try:
        check(pruned.proto, "the pruned model", full=full)
    except ModelError as error:
        raise CheckError(error.what, where=error.where, hint="please report this as a bug") from None


def _outputs(model: Model, feeds: Sequence[Feeds], where: str, *, optimize: bool = True) -> list[Feeds]:
    # onnxruntime fuses quantize and dequantize pairs into integer kernels, but not around a gate: keep all in float.
    optimize = optimize and not any(node.op in _QUANTIZED for node in model.graph.nodes)
    with runtime.session(model.proto, where, optimize=optimize) as active:
        return [_arrays(runtime.run(active, feed, where)) for feed in feeds]


def _arrays(results: Mapping[str, object]) -> Feeds:
    """Sequences as one output an element."""
    flat: Feeds = {}
    for name, value in results.items():
        if isinstance(value, list):
            flat.update({f"{name}[{i}]": np.asarray(v) for i, v in enumerate(value)})
        else:
            flat[name] = np.asarray(value)
    return flat


def compare(name: str, reference: Sequence[NDArray[np.generic]], result: Sequence[NDArray[np.generic]]) -> OutputError:
    """One output over several inputs. A shape that differs is an infinite error; equal NaN and infinity are equal."""
    if any(a.shape != b.shape for a, b in zip(reference, result, strict=True)):
        return OutputError(name, np.inf, np.inf, 0.0, -np.inf)
    a = np.concatenate([x.reshape(-1) for x in reference])
    b = np.concatenate([x.reshape(-1) for x in result])
    if a.dtype.kind not in "fV":
        differ = float((a != b).mean()) if a.size else 0.0
        return OutputError(name, float((a != b).any()), differ, 1.0 - differ, np.inf if differ == 0 else 0.0)
    x, y = a.astype(np.float64), b.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    finite = np.isfinite(x) & np.isfinite(y)
    if not (same | finite).all():
        return OutputError(name, np.inf, np.inf, 0.0, -np.inf)
    x, y = x[finite], y[finite]
    if not x.size:
        return OutputError(name, 0.0, 0.0, 1.0, np.inf)
    error = float(np.abs(x - y).max())
    span = float(x.max() - x.min()) or float(np.abs(x).max())
    noise, signal = float(np.sum((x - y) ** 2)), float(np.sum(x**2))
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    cosine = float(x @ y) / norm if norm else float(noise == 0)
    snr = np.inf if noise == 0 else 10 * float(np.log10(signal / noise)) if signal else -np.inf
    return OutputError(name, error, error / span if span else (np.inf if error else 0.0), min(cosine, 1.0), snr)
