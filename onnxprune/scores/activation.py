"""Scores from activations, where operators sum over channels: in one pass of the original over the calibration data.

activation: the mean of |a| over samples and positions. variance: a channel that hardly varies is replaceable by a
bias. apoz: the share of non-zeros (Hu et al. 2016, arXiv 1607.03250: a channel that is mostly zero can go). The first
two are scaled to mean 1 within a group at each reader, so that layers compare; a share compares as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxprune import runtime
from onnxprune.labels import Layer, Tensor
from onnxprune.progress import counted
from onnxprune.scores.subject import Scorer, Scores, Subject
from onnxprune.scores.views import Norm, View, by_group
from onnxprune.trace import Trace

#: Bytes of activations that one batch may take.
BATCH_BYTES = 128 << 20

_MOST_SAMPLES = 32


def mean_absolute(subject: Subject) -> Scorer:
    """The mean of |a|."""
    return _scorer(subject, lambda s: s.absolute / s.count, _mean)


def share_of_nonzeros(subject: Subject) -> Scorer:
    """The share of elements that are not 0."""
    return _scorer(subject, lambda s: s.nonzero / s.count, lambda _: 1.0)


def variance(subject: Subject) -> Scorer:
    """The variance over samples and positions."""
    return _scorer(subject, lambda s: np.maximum(s.square / s.count - (s.total / s.count) ** 2, 0), _mean)


def _mean(values: Scores) -> float:
    return float(values.mean())


@dataclass
class Sums:
    """Sums over samples and positions, for each channel of a tensor: [n] each, ``count`` elements a channel."""

    absolute: Scores = field(repr=False)
    nonzero: Scores = field(repr=False)
    total: Scores = field(repr=False)
    square: Scores = field(repr=False)
    count: int = 0

    @classmethod
    def of(cls, channels: int) -> Sums:
        """Nothing yet."""
        return cls(np.zeros(channels), np.zeros(channels), np.zeros(channels), np.zeros(channels))

    def add(self, values: NDArray[np.float64]) -> None:
        """Take in ``values`` [n, elements]."""
        self.absolute += np.abs(values).sum(axis=1)
        self.nonzero += np.count_nonzero(values, axis=1)
        self.total += values.sum(axis=1)
        self.square += np.einsum("ij,ij->i", values, values)
        self.count += values.shape[1]


@dataclass(frozen=True)
class Place:
    """Where channels are read: a layer of a tensor, and what stands for zero there."""

    tensor: Tensor
    layer: Layer = field(repr=False)
    zero: float


def places(trace: Trace) -> list[Place]:
    """Every layer of every tensor that an operator sums over, once."""
    found: dict[tuple[str, tuple[int, ...]], Place] = {}
    for read in trace.reads:
        node = trace.model.graph.nodes[read.node]
        tensor = trace.input(node, read.position)
        if tensor is None or tensor.constant:
            continue
        point = node.inputs[read.zero] if read.zero is not None and read.zero < len(node.inputs) else ""
        known = point in trace.model.graph.constants
        zero = float(trace.model.array(point).reshape(-1)[0]) if known else 0.0
        for layer in tensor.layers:
            if 0 not in layer.axes:  # the batch
                found.setdefault((tensor.name, layer.axes), Place(tensor, layer, zero))
    return list(found.values())


def batch_size(trace: Trace, names: list[str]) -> int:
    """How many samples to run at once, so that tensors ``names`` fit into memory."""
    elements = sum(int(np.prod(trace.shapes.shape[n], dtype=np.int64)) for n in names)
    return max(1, min(_MOST_SAMPLES, BATCH_BYTES // max(1, 4 * elements)))


def _scorer(subject: Subject, figure: Callable[[Sums], Scores], norm: Norm) -> Scorer:
    views = [
        View(figure(sums), subject.trace.unit[place.layer.labels].reshape(-1))
        for place, sums in _observed(subject)
        if sums.count
    ]
    return lambda groups: by_group(subject, groups, views, norm)


def _observed(subject: Subject) -> list[tuple[Place, Sums]]:
    """One pass of the original. Raises ModelError where onnxruntime cannot run it on the data."""
    trace = subject.trace
    found = [(p, Sums.of(p.layer.labels.size)) for p in places(trace)]
    names = list(dict.fromkeys(p.tensor.name for p, _ in found))
    given = {i.name for i in trace.model.graph.inputs} | {o.name for o in trace.model.graph.outputs}
    where, size = str(trace.model.path or "model"), batch_size(trace, names)
    data = subject.samples
    batches = counted(data.batches(size), "running the original on calibration data", data.runs(size), subject.progress)
    more = [n for n in names if n not in given]
    with runtime.session(trace.model, where, optimize=True, outputs=more) as active:
        for feeds in batches:
            values = {**feeds, **runtime.run(active, feeds, where)}
            for place, sums in found:
                sums.add(_by_channel(values[place.tensor.name], place))
    return found


def _by_channel(array: NDArray[np.generic], place: Place) -> NDArray[np.float64]:
    """[n, elements]: a row for each label of the layer."""
    axes = place.layer.axes
    rows = np.moveaxis(array, axes, range(len(axes))).reshape(place.layer.labels.size, -1)
    return rows.astype(np.float64) - place.zero
