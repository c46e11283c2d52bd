"""Scores from activations, where operators sum over channels: in one pass of the original over the calibration data.

activation: the mean of |a| over samples and positions. variance: a channel that hardly varies is replaceable by a
bias. apoz: the share of non-zeros (Hu et al. 2016, arXiv 1607.03250: a channel that is mostly zero can go). The first
two are scaled to mean 1 within a group at each reader, so that layers compare; a share compares as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.importance.criterion import Scorer, Scores, Subject
from onnxprune.importance.tensor_scores import Norm, View, by_group
from onnxprune.labels.label_propagation import Trace
from onnxprune.labels.labels import Layer, Tensor
from onnxprune.progress import counted
from onnxprune.running import session as runtime
from onnxprune.running.batch_size import batch_size

#: [channels, elements] -> [sums, channels]: what is added up over batches.
Summed = Callable[[NDArray[Any]], Scores]

#: [sums, channels], each divided by the elements of a channel -> [channels].
Figure = Callable[[Scores], Scores]


def mean_absolute(subject: Subject) -> Scorer:
    """The mean of |a|."""
    return _scorer(subject, lambda a: np.abs(a).sum(axis=1, dtype=np.float64)[None], lambda m: m[0], _mean)


def share_of_nonzeros(subject: Subject) -> Scorer:
    """The share of elements that are not 0."""
    return _scorer(subject, lambda a: np.count_nonzero(a, axis=1)[None], lambda m: m[0], lambda _: 1.0)


def variance(subject: Subject) -> Scorer:
    """The variance over samples and positions."""
    return _scorer(subject, _moments, lambda m: np.maximum(m[1] - m[0] ** 2, 0), _mean)


def _moments(values: NDArray[Any]) -> Scores:
    return np.stack([values.sum(axis=1, dtype=np.float64), np.square(values).sum(axis=1, dtype=np.float64)])


def _mean(values: Scores) -> float:
    return float(values.mean())


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
        point = node.input(read.zero)
        known = point in trace.model.graph.constants
        zero = float(trace.model.array(point).reshape(-1)[0]) if known else 0.0
        for layer in tensor.layers:
            if 0 not in layer.axes:  # the batch
                found.setdefault((tensor.name, layer.axes), Place(tensor, layer, zero))
    return list(found.values())


def _scorer(subject: Subject, summed: Summed, figure: Figure, norm: Norm) -> Scorer:
    unit = subject.trace.unit
    views = [View(figure(m), unit[p.layer.labels].reshape(-1)) for p, m in _observed(subject, summed)]
    return lambda groups: by_group(subject, groups, views, norm)


def _observed(subject: Subject, summed: Summed) -> list[tuple[Place, Scores]]:
    """One pass of the original: means [sums, channels]. Raises ModelError where it cannot be run on the data."""
    trace, data = subject.trace, subject.samples
    found = places(trace)
    names = list(dict.fromkeys(p.tensor.name for p in found))
    given = {i.name for i in trace.model.graph.inputs} | {o.name for o in trace.model.graph.outputs}
    where, size = str(trace.model.path or "model"), batch_size(trace.model.graph, trace.shapes.shape)
    batches = counted(data.batches(size), "running the original on calibration data", data.runs(size), subject.progress)
    more = [n for n in names if n not in given]
    sums = [np.zeros(()) for _ in found]
    elements = [0 for _ in found]
    any_batch = data.inputs.any_batch
    with runtime.session(trace.model, where, optimize=True, outputs=more, any_batch=any_batch) as active:
        for feeds in batches:
            values = {**feeds, **runtime.run(active, feeds, where)}
            for index, place in enumerate(found):
                rows = _by_channel(values[place.tensor.name], place)
                sums[index] = sums[index] + summed(rows)
                elements[index] += rows.shape[1]
    return [(p, s / n) for p, s, n in zip(found, sums, elements, strict=True) if n]


def _by_channel(array: NDArray[Any], place: Place) -> NDArray[Any]:
    """[channels, elements]: a row for each label of the layer."""
    axes = place.layer.axes
    rows = np.moveaxis(array, axes, range(len(axes))).reshape(place.layer.labels.size, -1)
    return rows if rows.dtype in (np.float32, np.float64) else rows.astype(np.float32) - np.float32(place.zero)
