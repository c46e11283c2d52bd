"""The proof: the pruned model equals the original with the removed channels set to zero wherever they are read.

Wherever they are missed, that is: a reader that sees 0 anyway, or takes a constant into its bias, is compared with
itself as it was. So the removal of lossless channels is proven against the original.

Two errors are never mixed up. The *rewrite error* compares the pruned model with the original in which the removed
channels are multiplied with zero at every operator that sums over them (x * 0 through W is what x through a W with
zero slices is): it is rounding, or onnxprune is wrong. The *pruning error* compares with the original as it was: what
the removed channels contributed, which is a choice.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune import ops, runtime
from onnxprune.branches import Flat
from onnxprune.errors import CheckError, ModelError
from onnxprune.labels import Alive, Tensor
from onnxprune.model import Gate, Model, check
from onnxprune.progress import Progress, silent
from onnxprune.rewrite import alive_of
from onnxprune.runtime import Feeds
from onnxprune.severed import Severed
from onnxprune.trace import Trace

_QUANTIZED = {"QuantizeLinear", "DequantizeLinear"}
_HALF = {TensorProto.FLOAT16, TensorProto.BFLOAT16}

#: Rounding of a whole network, relative to the range of its output: in float32; with weights or outputs in float16;
#: and where activations are quantized, so that rounding moves some of them by a whole quantization step.
RTOL, RTOL_HALF, RTOL_QUANTIZED = 1e-4, 3e-2, 5e-2

#: How much of the inside of the network is compared, in bytes an input.
_INSIDE_BYTES = 32 << 20

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
    compared: float = 1.0  # share of the elements that are finite, and so could be compared
    noise: float = 0.0  # of max_abs, what the reference differs from itself by; measured where it matters


@dataclass(frozen=True)
class Proof:
    """Rewrite error and pruning error by output, over ``samples`` seeded inputs of ``shapes``, run by ``engine``."""

    samples: int
    shapes: Mapping[str, tuple[int, ...]]
    rtol: float
    atol: float
    rewrite: tuple[OutputError, ...]
    inside: tuple[OutputError, ...]  # rewrite errors of tensors inside the network
    pruning: tuple[OutputError, ...]
    engine: str

    @property
    def rewrite_error(self) -> float:
        """The largest relative rewrite error of an output."""
        return max((e.relative for e in self.rewrite), default=0.0)

    @property
    def inside_error(self) -> float:
        """The largest relative rewrite error inside."""
        return max((e.relative for e in self.inside), default=0.0)

    def failures(self) -> list[OutputError]:
        """Tensors whose rewrite error is more than rounding."""
        return [e for e in (*self.rewrite, *self.inside) if not self._is_rounding(e)]

    def excused(self) -> list[OutputError]:
        """Tensors over the limit that rounding alone moves by as much."""
        return [e for e in (*self.rewrite, *self.inside) if e.noise and e.relative > self.rtol and self._is_rounding(e)]

    def _is_rounding(self, error: OutputError) -> bool:
        return error.relative <= self.rtol or error.max_abs <= max(self.atol, NOISE_FACTOR * error.noise)


@dataclass(frozen=True)
class Inside:
    """A tensor inside the network that both models have, and what stays of each of its axes in the pruned one."""

    name: str
    kept: tuple[NDArray[np.int64], ...]

    def cut(self, array: NDArray[Any]) -> NDArray[Any]:
        """What the pruned model should compute, from what the masked original does."""
        return array[np.ix_(*self.kept)]


def inside(trace: Trace, dead: NDArray[np.int64], pruned: Model) -> list[Inside]:
    """What multiplying operators compute, from the outputs backwards, as much as fits `_INSIDE_BYTES` an input.

    A last Sigmoid or Softmax that saturates would hide any error before it.
    """
    alive = alive_of(trace, dead)
    outputs = {o.name for o in pruned.graph.outputs}
    found: list[Inside] = []
    left = _INSIDE_BYTES
    for node in reversed(pruned.graph.nodes):
        rule = ops.find(node)
        tensor = trace.tensors.get(node.outputs[0]) if node.outputs else None
        if rule is None or rule.macs is None or tensor is None or tensor.name in outputs:
            continue
        size = 4 * math.prod(tensor.shape)
        if size <= left and all(len(layer.axes) == 1 for layer in tensor.layers):
            left -= size
            found.append(Inside(tensor.name, tuple(_kept_along(tensor, a, alive) for a in range(tensor.rank))))
    return found


def _kept_along(tensor: Tensor, axis: int, alive: Alive) -> NDArray[np.int64]:
    layer = tensor.along(axis)
    return np.arange(tensor.shape[axis]) if layer is None else np.flatnonzero(alive(layer.labels.reshape(-1)))


def masked(trace: Trace, dead: NDArray[np.int64]) -> Model:
    """The original with the units ``dead`` multiplied with zero wherever an operator sums over channels and notices."""
    alive = alive_of(trace, dead)
    gates: dict[str, Gate] = {}
    reads: dict[int, list[int]] = {}
    for read in trace.reads:
        node = trace.model.graph.nodes[read.node]
        tensor = trace.input(node, read.position)
        if tensor is None:
            continue
        mask = np.ones((1,) * tensor.rank, np.bool_)
        for layer in tensor.layers:
            mask = mask & (alive(layer.labels) | np.isin(trace.unit[layer.labels], read.silent))
        if not mask.all():
            reads.setdefault(read.node, []).append(read.position)
            zero = node.inputs[read.zero] if read.zero is not None and read.zero < len(node.inputs) else ""
            gates[tensor.name] = Gate(mask, _type(trace, tensor.name), zero)
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
    severed: Severed,
    flat: Flat,
    dead: NDArray[np.int64],
    pruned: Model,
    *,
    samples: int,
    seed: int,
    rtol: float | None,
    atol: float,
    progress: Progress = silent,
) -> Proof:
    """Run original, masked original and pruned model on seeded inputs, and measure.

    ``rtol``: None for the limit that fits the model's precision, where rounding that weighs more is allowed for.
    Raises nothing for a large error.
    """
    original, where = severed.part, str(trace.model.path or "model")
    shapes = {**trace.shapes.inputs, **severed.fed}
    feeds = [runtime.seeded_feeds(original.graph.inputs, shapes, seed + i) for i in range(samples)]
    progress("running the original")
    plain, engine = _outputs(original, feeds, where)
    progress("running the original with the removed channels at zero")
    reference = severed.again(flat.restore(masked(trace, dead)))
    names, pruned = severed.renamed(pruned), severed.again(pruned)
    points = inside(trace, dead, pruned)
    zeroed, _ = _outputs(reference, feeds, f"{where} with the removed channels at zero", points, cut=True)
    progress("running the pruned model")
    try:
        results, _ = _outputs(pruned, feeds, "the pruned model", points)
    except ModelError as error:
        raise CheckError(
            f"onnxruntime does not run what was written: {error.what}", hint="please report this as a bug"
        ) from None
    new = [{**found, **{b: found[a] for a, b in names.items()}} for found in results]
    proof = Proof(
        samples,
        dict(trace.shapes.inputs),
        default_rtol(trace) if rtol is None else rtol,
        atol,
        _compare_all(zeroed, new, plain[0]),
        _compare_all(zeroed, new, [p.name for p in points]),
        _compare_all(plain, new, plain[0]),
        engine,
    )
    if rtol is not None or not proof.failures():
        return proof
    progress("measuring how much rounding weighs")
    nudged = [{n: _nudged(a) for n, a in feed.items()} for feed in feeds]
    others = [
        _outputs(reference, feeds, where, points, cut=True, optimize=False)[0],
        _outputs(reference, nudged, where, points, cut=True)[0],
    ]
    noise = [{e.name: e.max_abs for e in _compare_all(zeroed, other, zeroed[0])} for other in others]

    def measured(errors: tuple[OutputError, ...]) -> tuple[OutputError, ...]:
        return tuple(replace(e, noise=max(n[e.name] for n in noise)) for e in errors)

    return replace(proof, rewrite=measured(proof.rewrite), inside=measured(proof.inside))


def _compare_all(reference: Sequence[Feeds], results: Sequence[Feeds], names: Iterable[str]) -> tuple[OutputError, ...]:
    return tuple(compare(n, [r[n] for r in reference], [r[n] for r in results]) for n in names)


def _nudged(array: NDArray[Any]) -> NDArray[Any]:
    """The array with every float changed in its last bits."""
    return np.nextafter(array, np.inf, dtype=array.dtype) if array.dtype in (np.float32, np.float64) else array


def check_valid(original: Model, pruned: Model) -> None:
    """onnx.checker's full check, strict shape inference included, wherever the original passes it.

    Raises CheckError.
    """
    try:
        check(original.skeleton(), "original", full=True)
    except ModelError:
        full = False
    else:
        full = True
    try:
        check(pruned.skeleton(), "the pruned model", full=full)
    except ModelError as error:
        raise CheckError(error.what, where=error.where, hint="please report this as a bug") from None


def _outputs(
    model: Model,
    feeds: Sequence[Feeds],
    where: str,
    points: Sequence[Inside] = (),
    *,
    cut: bool = False,
    optimize: bool = True,
) -> tuple[list[Feeds], str]:
    """Outputs for each input, tensors at ``points``, ``cut`` to what the pruned model has of them, and the engine."""
    # onnxruntime fuses quantize and dequantize pairs into integer kernels, but not around a gate: keep all in float.
    optimize = optimize and not any(node.op in _QUANTIZED for node in model.graph.nodes)
    found = []
    with runtime.session(model.proto, where, optimize=optimize, outputs=[p.name for p in points]) as active:
        for feed in feeds:
            results = _arrays(runtime.run(active, feed, where))
            results.update({p.name: p.cut(results[p.name]) for p in points if cut})
            found.append(results)
        return found, runtime.engine_of(active)


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
    compared = float(finite.mean()) if finite.size else 1.0
    x, y = x[finite], y[finite]
    if not x.size:
        return OutputError(name, 0.0, 0.0, 1.0, np.inf, compared)
    error = float(np.abs(x - y).max())
    span = float(x.max() - x.min()) or float(np.abs(x).max())
    noise, signal = float(np.sum((x - y) ** 2)), float(np.sum(x**2))
    norm = float(np.linalg.norm(x) * np.linalg.norm(y))
    cosine = float(x @ y) / norm if norm else float(noise == 0)
    snr = np.inf if noise == 0 else 10 * float(np.log10(signal / noise)) if signal else -np.inf
    relative = error / span if span else (np.inf if error else 0.0)
    return OutputError(name, error, relative, min(cosine, 1.0), snr, compared)
