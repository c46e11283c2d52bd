"""The range of values that a model's pictures have: as said, or found by what its first layers make of each candidate.

Where BatchNormalization follows, its statistics say what a layer gave in training. Where it was folded, or there was
none, a trained layer still gives about mean 0 and variance 1 in each channel: pictures of a wrong scale make channels
that blow up, or that hardly vary beside their bias. Of a candidate, over the first layers l and their channels c,

    mean_l log(1 + median_c KL(N(mean, variance) || N(m, v))) + WEIGHT log(1 + median_c (mean - m)^2 / variance)

with m, v the statistics, or 0 and 1; and the least score is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.gram_matrices import as_float, products
from onnxprune.errors import OptionError
from onnxprune.labels import ops
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model
from onnxprune.model.written_out.if_branches import merges
from onnxprune.running import session as runtime
from onnxprune.running.extract import excerpt
from onnxprune.running.session import Feeds

Array = NDArray[np.float32]

#: Layers that are looked at, pictures that are shown to them, and what a mean far from where it should be counts.
LAYERS, PICTURES, WEIGHT = 8, 4, 0.15

#: Pictures of more pixels than this are shown half as many, and of a map no more positions than these are looked at.
LARGE, POSITIONS = 1 << 15, 4096

#: No layer counts more than this, however wrong: one that is dead says no more than that.
_MOST = 12.0


@dataclass(frozen=True)
class ValueRange:
    """What the darkest and the brightest value of a picture become: one number, or one a channel."""

    name: str
    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def parse(cls, text: str) -> ValueRange:
        """'imagenet', or LOW..HIGH. Raises OptionError."""
        if text == _IMAGENET.name:
            return _IMAGENET
        low, dots, high = text.partition("..")
        try:
            ends = float(low), float(high)
        except ValueError:
            dots, ends = "", (0.0, 1.0)
        if not dots or not ends[0] < ends[1]:
            hint = "LOW..HIGH, as 0..1, -1..1 or 0..255, or imagenet"
            raise OptionError(f"'{text}' is no range", where="--input-range", hint=hint)
        return cls(text, (ends[0],), (ends[1],))

    def of(self, array: Array, axis: int) -> Array:
        """``array`` in 0..1, moved into the range; its channels lie along ``axis``."""
        channels = array.shape[axis]
        low, span = (np.asarray(v, np.float32) for v in (self.low, np.subtract(self.high, self.low)))
        if low.size == channels and low.size > 1:
            low, span = (v.reshape([-1 if a == axis else 1 for a in range(array.ndim)]) for v in (low, span))
        elif low.size > 1:
            low, span = low.mean(), span.mean()
        return np.asarray(low + span * array, np.float32)


_IMAGENET = ValueRange(
    "imagenet", (-2.118, -2.036, -1.804), (2.249, 2.429, 2.64)
)  # (0 - mean) / std and (1 - mean) / std of its channels

#: In the order of preference: a later one must look better by a margin.
CANDIDATES = (
    ValueRange("0..1", (0.0,), (1.0,)),
    ValueRange("-1..1", (-1.0,), (1.0,)),
    _IMAGENET,
    ValueRange("-118..137", (-118.0,), (137.0,)),  # 0..255 less the mean
    ValueRange("0..255", (0.0,), (255.0,)),
)
#: Of grey pictures, which tell less of a range than colours do; and of others.
GREY_MARGIN, MARGIN = 0.3, 0.0


@dataclass(frozen=True)
class _Look:
    """A tensor in which channels lie along ``axis``, and the mean and variance that they had in training."""

    tensor: str
    axis: int
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]

    def _sampled(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """[channels, positions], evenly spread."""
        rows = np.moveaxis(values, self.axis, 0).reshape(values.shape[self.axis], -1)
        return rows[:, :: max(1, rows.shape[1] // POSITIONS)]

    def score(self, values: Sequence[NDArray[np.generic]]) -> float:
        """How unlike training: 0 is alike."""
        rows = np.concatenate([as_float(self._sampled(v)) for v in values], 1)
        mean, variance = rows.mean(axis=1, dtype=np.float64), rows.var(axis=1, dtype=np.float64) + 1e-12
        off, share = (mean - self.mean) ** 2, variance / self.variance
        kl = (off / self.variance + share - 1 - np.log(share)) / 2
        kl, away = (float(np.median(v)) for v in (kl, off / variance))
        return min(_MOST, math.log1p(max(0.0, kl))) + WEIGHT * min(_MOST, math.log1p(away))


def find(model: Model, shapes: Mapping[str, Shape], drawn: Sequence[Feeds], axes: Mapping[str, int]) -> ValueRange:
    """The candidate under which the first layers look like trained ones; the first where there is no telling.

    ``drawn``: a few runs, pictures in 0..1; ``axes``: of these inputs, where channels lie. ``shapes``: of tensors.
    """
    looks, stop = _looks(model, shapes)
    if not looks:
        return CANDIDATES[0]
    types = {i.name: i.elem_type for i in model.graph.inputs}
    part = excerpt(model, range(stop), types, [look.tensor for look in looks])
    scores = []
    with runtime.session(part, "the first layers", optimize=True) as active:
        for candidate in CANDIDATES:
            seen: dict[str, list[NDArray[np.generic]]] = {look.tensor: [] for look in looks}
            for feeds in drawn:
                fed = {**feeds, **{n: candidate.of(feeds[n], a).astype(feeds[n].dtype) for n, a in axes.items()}}
                results = runtime.run(active, {n: a for n, a in fed.items() if n in types}, "the first layers")
                for look in looks:
                    seen[look.tensor].append(results[look.tensor])
            found = [look.score(seen[look.tensor]) for look in looks]
            scores.append(float(np.mean(found)))
    colours = any(drawn[0][n].shape[a] > 1 for n, a in axes.items())
    ranked = np.nan_to_num(scores, nan=np.inf)
    ranked[0] -= MARGIN if colours else GREY_MARGIN
    return CANDIDATES[int(np.argmin(ranked))]


def _looks(model: Model, shapes: Mapping[str, Shape]) -> tuple[list[_Look], int]:
    """Where to look, and the node to stop before: at what BatchNormalization reads, else at what products give.

    What is behind the branches of an If, which are written out here, cannot be run as it stands.
    """
    nodes = model.graph.nodes
    end = next((n.index for n in nodes if merges(n)), len(nodes))
    found = [(index, look) for index, look in _statistics(model) if index <= end][:LAYERS]
    if found:
        return [look for _, look in found], max(index for index, _ in found)
    first = [p for p in products(model, shapes) if p.node.index < end][:LAYERS]
    looks = [
        _Look(p.target, p.form.made, *(np.full(p.groups * p.outputs, v, np.float64) for v in (0, 1))) for p in first
    ]
    return looks, max((p.node.index + 1 for p in first), default=0)


def _statistics(model: Model) -> Iterator[tuple[int, _Look]]:
    """Each BatchNormalization, in order, with what it was trained on."""
    graph = model.graph
    for node in graph.nodes:
        if ops.is_one_of(node, ("BatchNormalization",)) and node.inputs[0] in graph.producer:
            names = node.inputs[3:5]
            if all(n in graph.constants for n in names):
                mean, variance = (model.array(n).astype(np.float64).reshape(-1) for n in names)
                yield node.index, _Look(node.inputs[0], 1, mean, variance + node.attrs.get("epsilon", 1e-5))
