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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune.errors import CheckError, ModelError
from onnxprune.labels import ops
from onnxprune.labels.label_propagation import Read, Trace
from onnxprune.labels.labels import Alive, Tensor
from onnxprune.labels.outputs.picked import cut_behind, picked_from, weighed_behind
from onnxprune.labels.rewrite import alive_of
from onnxprune.model.graph import Node
from onnxprune.model.mapped_weights import release
from onnxprune.model.onnx_model import Gate, Model
from onnxprune.model.written_out.if_branches import Flat
from onnxprune.progress import Progress, counted, silent
from onnxprune.proof.unrounded_quantized import Steps, codes_of, steps, unrounded
from onnxprune.running import seeded_inputs
from onnxprune.running import session as runtime
from onnxprune.running.session import Feeds
from onnxprune.running.snr_and_cosine import Differences, OutputError
from onnxprune.running.tensor_shapes import ensure_as_traced
from onnxprune.running.unknown_operators import Severed

#: What rounds activations at run time; weights that are dequantized round nothing.
_ROUNDS = {"DynamicQuantizeLinear", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul"}
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
    steps: Steps | None = None  # of codes, where the rewrite error is measured without the rounding of activations
    #: Outputs that are picked by rank, and the tensors that they are picked from, which stand for them in ``pruning``.
    picked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def rewrite_error(self) -> float:
        """The largest relative rewrite error of an output, or of what one is picked from."""
        return max((e.relative for e in self.rewrite), default=0.0)

    @property
    def inside_error(self) -> float:
        """The largest relative rewrite error inside."""
        return max((e.relative for e in self.inside), default=0.0)

    def with_noise(self, noise: Mapping[str, float]) -> Proof:
        """The proof, with what rounding alone moves each tensor by."""
        rewrite, inside = ([replace(e, noise=noise[e.name]) for e in part] for part in (self.rewrite, self.inside))
        return replace(self, rewrite=tuple(rewrite), inside=tuple(inside))

    def failures(self) -> list[OutputError]:
        """The tensors whose rewrite error is larger than rounding explains."""
        return [e for e in (*self.rewrite, *self.inside) if not self._is_rounding(e)]

    def excused(self) -> list[OutputError]:
        """The tensors over the limit that rounding alone changes by as much."""
        return [e for e in (*self.rewrite, *self.inside) if e.noise and e.relative > self.rtol and self._is_rounding(e)]

    def _is_rounding(self, error: OutputError) -> bool:
        return error.relative <= self.rtol or error.max_abs <= max(self.atol, NOISE_FACTOR * error.noise)


@dataclass(frozen=True)
class Inside:
    """A tensor inside the network that both models compute, its shape, and the positions of each axis that stay."""

    name: str
    shape: tuple[int, ...]
    kept: tuple[NDArray[np.int64], ...]

    def cut(self, array: NDArray[Any]) -> NDArray[Any]:
        """What the pruned model should compute, from what the masked original does.

        Raises ModelError where that is of another shape than the file declares.
        """
        ensure_as_traced(self.name, array.shape, self.shape, range(array.ndim))
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
            found.append(
                Inside(tensor.name, tensor.shape, tuple(_kept_along(tensor, a, alive) for a in range(tensor.rank)))
            )
    return found


def _sources(trace: Trace, dead: NDArray[np.int64], part: Model, pruned: Model) -> dict[str, list[Inside]]:
    """What outputs are picked from, where both models have it and it can be cut."""
    alive = alive_of(trace, dead)
    found: dict[str, list[Inside]] = {}
    for output, names in picked_from(pruned.graph, trace.shapes.elem_type).items():
        tensors = [trace.tensors.get(n) for n in names if n in part.graph.producer]
        known = [t for t in tensors if t is not None and all(len(layer.axes) == 1 for layer in t.layers)]
        if len(known) == len(names):
            found[output] = [
                Inside(t.name, t.shape, tuple(_kept_along(t, a, alive) for a in range(t.rank))) for t in known
            ]
    return found


def _kept_along(tensor: Tensor, axis: int, alive: Alive) -> NDArray[np.int64]:
    layer = tensor.along(axis)
    return np.arange(tensor.shape[axis]) if layer is None else np.flatnonzero(alive(layer.labels.reshape(-1)))


def masked(trace: Trace, dead: NDArray[np.int64]) -> Model:
    """The original in which channels of the units ``dead`` are zero wherever an operator sums over them and notices."""
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
            gates[tensor.name] = Gate(mask, _type(trace, tensor.name), _zero_of(trace, node, read, tensor.rank))
    return trace.model.gated(gates, reads)


def _zero_of(trace: Trace, node: Node, read: Read, rank: int) -> str | NDArray[Any]:
    """The zero point of what is read; of weights by their first axis, laid out as they are."""
    name = node.input(read.zero)
    shape = trace.model.graph.constants.get(name, (0, ()))[1]
    if len(shape) == 1 and rank > len(shape) + 1:
        return trace.model.array(name).reshape([*shape, *(1,) * (rank - 1)])
    return name


def _type(trace: Trace, name: str) -> int:
    return trace.shapes.elem_type.get(name) or TensorProto.FLOAT


def default_rtol(trace: Trace, *, rounded: bool = True) -> float:
    """The tolerance for the model's precision; ``rounded``: for quantized models whose activations are rounded."""
    nodes = trace.model.graph.nodes
    if rounded and (codes_of(trace.model) or any(node.op in _ROUNDS for node in nodes)):
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
    original: Model | None = None,
    progress: Progress = silent,
) -> Proof:
    """Run original, masked original and pruned model on seeded inputs, and measure.

    ``original``: what the pruning error is against, where that is more than the traced model.
    ``rtol``: None for the limit that fits the model's precision, where rounding that weighs more is allowed for.
    Raises nothing for a large error.
    """
    original, where = original or severed.part, str(trace.model.path or "model")
    feeds = _feeds(trace, severed, samples, seed)
    reference = severed.again(flat.restore(masked(trace, dead)))
    names, pruned = severed.renamed(pruned), severed.again(pruned)
    picked = _sources(trace, dead, original, pruned)
    behind = {p.name: p for points in picked.values() for p in points}
    points = [*{**behind, **{p.name: p for p in inside(trace, dead, pruned)}}.values()]
    exact, cut = _unrounded(trace, reference, pruned)
    sides = _Sides(original, exact, cut, pruned, points, [*behind.values()], names, where)
    every, apart, engine = sides.errors(feeds, trace, progress)
    sources = {o: tuple(p.name for p in own) for o, own in picked.items()}
    outputs = {e.name for e in apart if e.name not in picked}
    by_cut = cut_behind(trace, dead, sources)
    outside = outputs | (picked.keys() - by_cut)
    told = {o: own for o, own in sources.items() if o not in by_cut | weighed_behind(pruned.graph, sources)}
    shown = {o.name for o in original.graph.outputs if o.name not in told}.union(*told.values())
    proof = Proof(
        samples,
        dict(trace.shapes.inputs),
        default_rtol(trace, rounded=cut is pruned) if rtol is None else rtol,
        atol,
        tuple(e for e in every if e.name in outputs),
        tuple(e for e in every if e.name not in outside),
        tuple(e for e in apart if e.name in shown),
        engine,
        None if cut is pruned else _steps(trace, dead, reference, pruned, feeds, where),
        told,
    )
    if rtol is not None or not proof.failures():
        return proof
    progress("measuring how much rounding weighs")
    return proof.with_noise(_noise(exact, feeds, points, where))


@dataclass(frozen=True)
class _Sides:
    """The models that are compared, and where they are looked at.

    ``zeroed`` and ``cut``: without the rounding of activations where they can be; else ``cut`` is ``pruned``.
    ``behind``: what outputs are picked from; ``names``: of the cut model's outputs, those that stand for others.
    """

    original: Model
    zeroed: Model
    cut: Model
    pruned: Model
    points: Sequence[Inside]
    behind: Sequence[Inside]
    names: Mapping[str, str]
    where: str

    def errors(
        self, feeds: Sequence[Feeds], trace: Trace, progress: Progress
    ) -> tuple[tuple[OutputError, ...], tuple[OutputError, ...], str]:
        """(of the cut against the zeroed model, of the pruned against the original, what ran them)."""
        by_zeroing, by_pruning = Differences(), Differences()
        with ExitStack() as sessions:  # weights stay in their files: three sessions at a time hold none of them
            plain = sessions.enter_context(_running(self.original, self.where, self.behind, True))
            zero = f"{self.where} with the removed channels at zero"
            zeroed = sessions.enter_context(_running(self.zeroed, zero, self.points, True))
            with _our_bug():
                new = sessions.enter_context(_running(self.cut, "the pruned model", self.points))
                rounded = _running(self.pruned, "the pruned model", self.behind)
                whole = new if self.cut is self.pruned else sessions.enter_context(rounded)
            release(trace.model.weights.values())  # of cutting
            for feed in counted(feeds, "prove, inputs", len(feeds), progress):
                before = plain.run(feed)  # first: a model that does not run is no fault of ours
                with _our_bug():
                    found = new.run(feed)
                    given = found if whole is new else whole.run(feed)
                for results in (found, given):
                    results.update({b: results[a] for a, b in self.names.items()})
                by_pruning.add(before, given)
                by_zeroing.add(zeroed.run(feed), found)
        return by_zeroing.errors(), by_pruning.errors(), plain.engine


def _unrounded(trace: Trace, reference: Model, pruned: Model) -> tuple[Model, Model]:
    """Both without the rounding of activations, where both can be; else both as they are."""
    if not codes_of(reference):
        return reference, pruned
    ranks = {n: t.rank for n, t in trace.tensors.items()}
    ranks.update({f"{n}__gated": rank for n, rank in ranks.items()})
    exact, cut = unrounded(reference, ranks), unrounded(pruned, ranks)
    return (exact, cut) if exact is not None and cut is not None else (reference, pruned)


def _steps(
    trace: Trace, dead: NDArray[np.int64], reference: Model, pruned: Model, feeds: Sequence[Feeds], where: str
) -> Steps:
    """By how much codes differ where activations are rounded, as they are in both models."""
    alive, left = alive_of(trace, dead), _INSIDE_BYTES
    points: list[Inside] = []
    for name in codes_of(pruned):
        tensor = trace.tensors.get(name)
        if tensor is None or name not in reference.graph.producer or any(len(la.axes) > 1 for la in tensor.layers):
            continue
        left -= math.prod(tensor.shape)
        if left >= 0:
            points.append(Inside(name, tensor.shape, tuple(_kept_along(tensor, a, alive) for a in range(tensor.rank))))
    names = {p.name for p in points}
    sides = []
    for model, cut in ((reference, True), (pruned, False)):
        with _running(model, where, points, cut) as active:
            sides.append([{n: a for n, a in active.run(feed).items() if n in names} for feed in feeds])
    return steps(*sides)


def _feeds(trace: Trace, severed: Severed, samples: int, seed: int) -> list[Feeds]:
    inputs, shapes = severed.part.graph.inputs, {**trace.shapes.inputs, **severed.fed}
    return [seeded_inputs.seeded_feeds(inputs, shapes, seed + i, trace.shapes.draws) for i in range(samples)]


@contextmanager
def _our_bug() -> Iterator[None]:
    try:
        yield
    except ModelError as error:
        raise CheckError(
            f"onnxruntime does not run what was written: {error.what}", hint="please report this as a bug"
        ) from None


def _noise(reference: Model, feeds: Sequence[Feeds], points: Sequence[Inside], where: str) -> dict[str, float]:
    """By how much rounding alone moves each output and point: of the model optimized, or at inputs nudged.

    Raises CheckError where the model gives another one on the same inputs: it draws random numbers somewhere inside.
    """
    optimized, nudged, again = Differences(), Differences(), Differences()
    with (
        _running(reference, where, points, True) as first,
        _running(reference, where, points, True, optimize=True) as other,
    ):
        for feed in feeds:
            wanted = first.run(feed)
            again.add(wanted, first.run(feed))
            optimized.add(wanted, other.run(feed))
            nudged.add(wanted, first.run({n: _nudged(a) for n, a in feed.items()}))
    if (other_each_time := next((e for e in again.errors() if e.relative > RTOL), None)) is not None:
        what = f"nothing can be proven: the original gives another '{other_each_time.name}' on each run"
        raise CheckError(what, where=where, hint="export it without what draws random numbers, or give --check-n 0")
    found = {e.name: e.max_abs for e in optimized.errors()}
    return {e.name: max(e.max_abs, found[e.name]) for e in nudged.errors()}


def _nudged(array: NDArray[Any]) -> NDArray[Any]:
    """The array with every float changed in its last bits."""
    if array.dtype not in (np.float32, np.float64):
        return array
    return np.asarray(np.nextafter(array, np.inf, dtype=array.dtype))  # of an array without axes numpy makes a scalar


@dataclass(frozen=True)
class _Running:
    """``run`` gives a model's outputs, and what it was asked for beside; by ``engine``."""

    run: Callable[[Feeds], Feeds]
    engine: str


@contextmanager
def _running(
    model: Model, where: str, points: Sequence[Inside] = (), cut: bool = False, *, optimize: bool = False
) -> Iterator[_Running]:
    """What gives the model's outputs and the tensors at ``points``, ``cut`` to what the pruned model has of them."""
    # Precise integer kernels come with the optimizer.
    optimize = optimize or bool(codes_of(model))
    with runtime.session(model, where, optimize=optimize, outputs=[p.name for p in points]) as active:

        def run(feed: Feeds) -> Feeds:
            results = runtime.arrays(runtime.run(active, feed, where))
            for point in points if cut else ():
                results[point.name] = point.cut(results[point.name])
            return results

        yield _Running(run, runtime.engine_of(active))
