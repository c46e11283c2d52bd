"""Metrics that need no code: agreement with the original, and accuracy on samples with labels.

``NAME@PATH`` is of the samples at PATH, read as calibration data is; without a path, of the held-out part of what
weights are solved on. Each gives parts of each sample [n, ...], so that the error of a drop is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.samples import CalibrationSet
from onnxprune.errors import MetricError, nearest
from onnxprune.file_system.arrays_on_disk import Spill
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model
from onnxprune.running import session as runtime
from onnxprune.running.batch_size import batch_size
from onnxprune.search.drop import Measurement

Array = NDArray[Any]


@dataclass(frozen=True)
class Kind:
    """What is compared: outputs, each with the original's, or the first with labels.

    ``parts``: of a batch of n samples, [n, ...]; ``combine``: to one number, None: their mean; ``perfect``: whether the
    original's own value says nothing (an infinite ratio); ``classes``: whether axis 1 of the first output is scores.
    """

    parts: Callable[[list[Array], list[Array]], Array]
    combine: Callable[[Array], float] | None = None
    lower: bool = False
    labelled: bool = False
    perfect: bool = False
    classes: bool = False


def _classes(output: Array) -> Array:
    """[n, ...] which class: along axis 1, unless the model says so itself."""
    if output.ndim > 1 and output.dtype.kind == "f":
        return np.asarray(output.argmax(1))
    return output


def _agree(found: list[Array], wanted: list[Array]) -> Array:
    same = _classes(found[0]) == _classes(wanted[0])
    return np.asarray(same.reshape(len(same), -1).mean(1))


def _right(found: list[Array], labels: list[Array]) -> Array:
    """Whether each is named right: one output a sample, in whatever shape."""
    named = _classes(found[0])
    return np.asarray((named.reshape(len(named), -1) == labels[0].reshape(len(named), -1)).mean(1))


def _confusion(found: list[Array], labels: list[Array]) -> Array:
    """[n, classes, classes] positions by true class and by what was found; labels that are no class are left out."""
    named, true = (a.reshape(len(a), -1).astype(np.int64) for a in (_classes(found[0]), labels[0]))
    classes = found[0].shape[1]
    counts = np.zeros((len(named), classes, classes))
    for row, (n, t) in enumerate(zip(named, true, strict=True)):
        known = (t >= 0) & (t < classes)
        counts[row] = np.bincount(t[known] * classes + n[known], minlength=classes**2).reshape(classes, classes)
    return counts


def _mean_iou(counts: Array) -> float:
    """Intersection over union over all positions, the mean over classes that there are."""
    total = counts.sum(0)
    both, either = np.diag(total), total.sum(0) + total.sum(1) - np.diag(total)
    return float((both[either > 0] / either[either > 0]).mean())


def _log_shares(output: Array) -> Array:
    """Logarithms of the probabilities of classes, axis 1: of logits, or where they are probabilities already."""
    x = output.astype(np.float64)
    if (x >= 0).all() and np.allclose(x.sum(1), 1, atol=1e-3):
        return np.asarray(np.log(np.maximum(x, 1e-30)))
    x = x - x.max(1, keepdims=True)
    return np.asarray(x - np.log(np.exp(x).sum(1, keepdims=True)))


def _divergence(found: list[Array], wanted: list[Array]) -> Array:
    p, q = _log_shares(wanted[0]), _log_shares(found[0])
    each = (np.exp(p) * (p - q)).sum(1)
    return np.asarray(each.reshape(len(each), -1).mean(1))


def _flat(arrays: list[Array]) -> list[Array]:
    return [a.reshape(len(a), -1).astype(np.float64) for a in arrays if a.dtype.kind == "f"]


def _energies(found: list[Array], wanted: list[Array]) -> Array:
    """[n, outputs, 2] of signal and of noise."""
    pairs = zip(_flat(wanted), _flat(found), strict=True)
    return np.stack([np.stack([(w**2).sum(1), ((w - f) ** 2).sum(1)], 1) for w, f in pairs], 1)


def _decibels(energies: Array) -> float:
    signal, noise = np.moveaxis(energies.sum(0), -1, 0)
    with np.errstate(divide="ignore"):
        return float((10 * np.log10(signal / noise)).mean())


def _noise(energies: Array) -> float:
    """Noise over signal, the mean over the outputs."""
    signal, noise = np.moveaxis(energies.sum(0), -1, 0)
    return float((noise / np.maximum(signal, 1e-30)).mean())


def _cosine(found: list[Array], wanted: list[Array]) -> Array:
    pairs = zip(_flat(wanted), _flat(found), strict=True)
    each = [(w * f).sum(1) / np.maximum(np.linalg.norm(w, axis=1) * np.linalg.norm(f, axis=1), 1e-30) for w, f in pairs]
    return np.asarray(np.mean(each, axis=0))


READY: Mapping[str, Kind] = {
    "agreement": Kind(_agree, classes=True),
    "kl": Kind(_divergence, lower=True, classes=True),
    "noise": Kind(_energies, _noise, lower=True),
    "snr": Kind(_energies, _decibels, perfect=True),
    "cosine": Kind(_cosine),
    "top1": Kind(_right, labelled=True, classes=True),
    "miou": Kind(_confusion, _mean_iou, labelled=True, classes=True),
}


_OWN = "give a metric of your own as module:function"


@dataclass(frozen=True)
class ReadyMetric:
    """One of `READY` on ``data``; what the original gives there is kept in ``spill`` from the first model on."""

    name: str
    kind: Kind = field(repr=False)
    data: CalibrationSet = field(repr=False)
    shapes: Mapping[str, Shape] = field(repr=False)
    original: Model = field(repr=False)
    spill: Spill = field(repr=False)
    option: str = "--metric"

    @property
    def lower(self) -> bool:
        """Whether less is better."""
        return self.kind.lower

    def measure(self, model: Model) -> Measurement:
        """Run ``model`` over the data. Raises MetricError where outputs are not rows of samples."""
        where = f"{self.option} {self.name}"
        names = [o.name for o in self.original.graph.number_outputs]
        if not names:
            raise MetricError("no output of the model is a tensor of numbers", where=where, hint=_OWN)
        parts = []
        many = self.data.inputs.any_batch
        with runtime.session(model, str(model.path or "model"), optimize=True, any_batch=many) as active:
            batches = self.data.labelled_batches(batch_size(self.original.graph, self.shapes))
            for number, (feeds, labels) in enumerate(batches):
                results = runtime.run(active, feeds, where)
                found = [np.asarray(results[n]) for n in names]
                if self.kind.labelled:
                    wanted = [np.asarray(labels)]
                elif model is self.original:
                    for name, array in zip(names, found, strict=True):
                        self.spill.put(f"{self.name} {name}", number, array)
                    wanted = found
                else:
                    wanted = [self.spill.get(f"{self.name} {name}", number) for name in names]
                parts.append(self._parts(found, wanted, self.data.inputs.count(feeds), where))
        whole = np.concatenate(parts)
        combine = self.kind.combine
        return Measurement(float(whole.mean()) if combine is None else combine(whole), whole, combine)

    def _parts(self, found: list[Array], wanted: list[Array], rows: int, where: str) -> Array:
        if not (self.kind.labelled or self.kind.classes):  # a state, say, whose samples lie along another axis
            by_row = [i for i, a in enumerate(found) if a.ndim and len(a) == rows]
            found, wanted = ([arrays[i] for i in by_row or range(len(arrays))] for arrays in (found, wanted))
        if any(len(a) != rows for a in (found[0], wanted[0]) if a.ndim) or not found[0].ndim:
            raise MetricError(f"the model's first output has no row for each of {rows} samples", where=where, hint=_OWN)
        if self.kind.classes and found[0].dtype.kind == "f" and found[0].shape[1:2] == (1,):
            what = "the model's first output has one channel, and one class always wins"
            raise MetricError(what, where=where, hint="take cosine, or give a metric of your own as module:function")
        if not self.kind.labelled and [a.shape for a in found] != [a.shape for a in wanted]:
            raise MetricError("outputs are of another shape than the original's", where=where, hint=_OWN)
        try:
            return self.kind.parts(found, wanted)
        except (ValueError, IndexError) as error:
            what = f"does not fit the output {list(found[0].shape)} and labels {list(wanted[0].shape)}: {error}"
            raise MetricError(what, where=where, hint=_OWN) from None


def ready(name: str, option: str) -> tuple[str, Kind, str]:
    """(name, kind, path or "") of a metric that is ready. Raises MetricError for one that is not."""
    stem, _, path = name.partition("@")
    if stem not in READY:
        known = nearest(stem, READY, f"module:function, or {', '.join(READY)}")
        raise MetricError(f"no metric is called '{stem}'", where=option, hint=known)
    kind = READY[stem]
    if kind.labelled and not path:
        raise MetricError("needs samples with labels", where=f"{option} {name}", hint=f"{stem}@FILE.npz")
    return stem, kind, path
