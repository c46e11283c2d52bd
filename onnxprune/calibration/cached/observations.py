"""Observations that an earlier run has left in a folder (``--cache``): written there, and read with care.

What the model is fed comes from the samples, as ever; sums and sampled rows come from the entry, where they fit this
model and these samples in number, type, shape and range.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from onnxprune.calibration.cached.folder import CacheFolder, Entry, Piece, described, key_of
from onnxprune.calibration.gram_matrices import Observations, Part, Product, empty_moments, fed
from onnxprune.calibration.samples import CalibrationSet
from onnxprune.file_system.arrays_on_disk import Batch, Spill
from onnxprune.labels.outputs.parts import ends
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model
from onnxprune.running import session as runtime
from onnxprune.running.batch_size import batch_size

#: Tensors of these names were computed; those that are fed are read with the samples.
_COMPUTED = ("rows ", "shape ", "target ", "beside ", "columns ", "output ")

#: Types that arrays of an entry may have.
_NUMBERS = "biuf"


def key_for(reference: Model, data: CalibrationSet, shapes: Mapping[str, Shape]) -> str:
    """What observations of ``reference`` on ``data`` are kept by."""
    return key_of(_parts(reference, data, shapes))


def _parts(reference: Model, data: CalibrationSet, shapes: Mapping[str, Shape]) -> Iterator[Any]:
    yield f"observations {runtime.version()} {data.count} {data.inputs.unit} {data.inputs.any_batch} {data.drawn}"
    yield described({n: list(s) for n, s in shapes.items()})
    yield from reference.pieces()
    for feeds, labels in data.labelled_batches(1):
        for name, array in {**feeds, **({} if labels is None else {"": labels})}.items():
            yield f"{name} {array.dtype.str} {array.shape}"
            yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def keep(
    cache: CacheFolder,
    key: str,
    seen: Observations,
    reference: Model,
    shapes: Mapping[str, Shape],
    unit: int,
) -> None:
    """Leave ``seen`` for other runs, unless none could believe it; ``unit``: samples that a run takes at least."""
    names = [n for start in _COMPUTED for n in (f"{start}{rest}" for rest in seen.spill.names(start, 0))]
    files = {name: seen.spill.file(name) for name in names}
    try:
        _must(all(np.isfinite(m.xx).all() for m in seen.moments.values()))
        _check(seen, reference, shapes, unit)
    except ValueError:
        return
    facts = {
        "any_batch": seen.any_batch,
        "parts": [[p.number, p.samples, p.held_out] for p in seen.parts],
        "moments": {label: m.rows for label, m in seen.moments.items()},
        "tensors": {name: batches for name, (_, batches) in files.items()},
    }
    sums: Iterator[Piece] = ((f"m{i}", m.xx.tobytes()) for i, m in enumerate(seen.moments.values()))
    tensors: Iterator[Piece] = ((f"t{i}", path) for i, (path, _) in enumerate(files.values()))
    cache.keep(key, facts, chain(sums, tensors))


def recalled(
    cache: CacheFolder,
    key: str,
    reference: Model,
    found: Sequence[Product],
    data: CalibrationSet,
    shapes: Mapping[str, Shape],
    spill: Spill,
) -> Observations | None:
    """What an earlier run saw of ``reference`` on ``data``; None where nothing is there that fits."""

    def read(entry: Entry) -> Observations:
        try:
            return _Reading(entry, reference, found, data, shapes, spill).observations()
        except BaseException:
            for name in [*spill.names("", 0)]:
                with suppress(OSError):
                    spill.drop(name)
            raise

    return cache.recall(key, read)


class _Reading:
    """One entry, as observations of a model on samples. Raises ValueError, and others, where it does not fit."""

    def __init__(
        self,
        entry: Entry,
        reference: Model,
        found: Sequence[Product],
        data: CalibrationSet,
        shapes: Mapping[str, Shape],
        spill: Spill,
    ) -> None:
        self.entry, self.model, self.shapes, self.spill = entry, reference, shapes, spill
        self.products = {p.node.label: p for p in found}
        any_batch = entry.facts["any_batch"]
        _must(isinstance(any_batch, bool) and any_batch >= data.inputs.any_batch)
        self.data = replace(data, inputs=replace(data.inputs, any_batch=any_batch))

    def observations(self) -> Observations:
        """All of it; tensors lie in the spill then."""
        size = batch_size(self.model.graph, self.shapes)
        parts = tuple(part for part, _ in fed(self.data, size, self.spill))
        _must(self.entry.facts["parts"] == [[p.number, p.samples, p.held_out] for p in parts])
        moments = {label: empty_moments(p) for label, p in self.products.items()}
        _must(list(self.entry.facts["moments"]) == list(moments))
        for index, (label, sums) in enumerate(moments.items()):
            rows = self.entry.facts["moments"][label]
            _must(isinstance(rows, int) and rows > 0)
            data = self.entry.read(f"m{index}", sums.xx.nbytes)
            sums.xx = np.frombuffer(data, np.float64).reshape(sums.xx.shape).copy()
            sums.rows = rows
            _must(np.isfinite(sums.xx).all())
        joined = ends(self.model.graph)
        self._extract({*self._names(joined)}, parts)
        seen = Observations(self.products, moments, self.spill, parts, any_batch=self.data.inputs.any_batch)
        _check(seen, self.model, self.shapes, self.data.inputs.unit)
        return seen.with_compared(self.model)

    def _names(self, joined: Sequence[str]) -> Iterator[str]:
        for name in (*(o.name for o in self.model.graph.number_outputs), *joined):
            yield f"output {name}"
        for label, product in self.products.items():
            kinds = ("rows", "shape", "target", "columns", *(("beside",) if product.partner else ()))
            yield from (f"{kind} {label}" for kind in kinds)

    def _extract(self, names: set[str], parts: Sequence[Part]) -> None:
        tensors = self.entry.facts["tensors"]
        _must(set(tensors) == names)
        for index, (name, batches) in enumerate(tensors.items()):
            own: list[Batch] = [(int(n), str(code), tuple(map(int, shape))) for n, code, shape in batches]
            _must([n for n, _, _ in own] == [p.number for p in parts])
            _must(all(np.dtype(code).kind in _NUMBERS and min(shape, default=1) >= 0 for _, code, shape in own))
            path, size = self.spill.adopt(name, own)
            _must(self.entry.size(f"t{index}") == size)
            self.entry.extract(f"t{index}", path)


def _check(seen: Observations, reference: Model, shapes: Mapping[str, Shape], unit: int) -> None:
    """Types, shapes and ranges of every batch, as those who read them rely on. Raises ValueError."""
    outputs = (*(o.name for o in reference.graph.number_outputs), *ends(reference.graph))
    for part in seen.parts:
        for name in outputs:
            array = seen.output(name, part)
            _must(array.dtype.kind in _NUMBERS and _batched(array.shape, shapes.get(name), part.samples, unit))
        for label, product in seen.products.items():
            _must(_batched(seen.shape_of(label, part), shapes[product.target], part.samples, unit))
            _check_rows(seen, label, part)


def _check_rows(seen: Observations, label: str, part: Part) -> None:
    product, made = seen.products[label], seen.shape_of(label, part)
    target, rows = seen.rows_of(label, part)
    places = math.prod(made) // max(int(made[product.form.made]), 1)
    _must(rows.dtype == np.int64 and rows.ndim == 1 and len(rows) > 0)
    _must(rows[0] >= 0 and rows[-1] < places and (np.diff(rows) > 0).all())
    columns = seen.spill.get(f"columns {label}", part.number)
    _must(columns.dtype in (np.float32, np.float64) and (len(columns) > 0) == part.held_out)
    _must(columns.shape[1:] == (product.groups, product.columns if product.fine else product.channels))
    for values in (target, *((seen.beside(label, part),) if product.partner else ())):
        _must(values.dtype in (np.float32, np.float64))
        _must(values.shape == (len(rows), product.groups, product.outputs))


def _batched(shape: Shape, known: Shape | None, samples: int, unit: int) -> bool:
    """Whether a tensor has its shape of one run, or as many times that along one axis as samples are run."""
    if known is None:
        return True
    grown = [(s, k) for s, k in zip(shape, known, strict=True) if s != k]
    return not grown or (len(grown) == 1 and grown[0][0] * unit == grown[0][1] * samples)


def _must(fits: object) -> None:
    if not fits:
        raise ValueError
