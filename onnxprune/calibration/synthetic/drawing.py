"""Calibration inputs for a model that no samples were given for: drawn by what each input is, seeded.

The same model, shapes, number and seed give the same bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration import samples as calibration
from onnxprune.calibration.data_options import DEFAULT_SAMPLES, DRAWN, Data
from onnxprune.calibration.gram_matrices import ENOUGH_ROWS, products, samples_for
from onnxprune.calibration.images import Pixels
from onnxprune.calibration.model_inputs import Inputs, Slot
from onnxprune.calibration.original_observed import LEAST_SAMPLES
from onnxprune.calibration.samples import CalibrationSet
from onnxprune.calibration.synthetic import answers, arrays, value_range
from onnxprune.calibration.synthetic import pictures as scenes
from onnxprune.calibration.synthetic.families import Kind, kind_of
from onnxprune.calibration.synthetic.value_range import ValueRange
from onnxprune.errors import DataError
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model
from onnxprune.running.id_ranges import id_rows
from onnxprune.running.session import Feeds
from onnxprune.running.tensor_shapes import Shapes

Array = NDArray[Any]

#: What drawn samples may take, so that the plain command stays quick: bytes of inputs, and elements of all maps that
#: the network makes of them. `FEWEST` are drawn all the same.
FEWEST, MOST_BYTES, MOST_ELEMENTS = 24, 256 << 20, 10**9

#: How many to ask for where those are fewer than help: as many real ones keep no more of a classifier of photographs.
MANY = 128

#: Of so many times as many pictures those are taken that are of all classes alike, where a model classifies; and how
#: many elements its maps of all these may have.
POOL, POOL_ELEMENTS = 8, 24 * 10**8

_WHITE = 255


def _said(how: Data) -> ValueRange | None:
    """What was said of the range. Raises OptionError."""
    if how.input_range is not None:
        return ValueRange.parse(how.input_range)
    if not how.mean and not how.std:
        return None
    mean, std = np.broadcast_arrays(how.mean or (0.0,), how.std or (1.0,))
    return ValueRange("of --mean and --std", tuple(-mean / std), tuple((_WHITE - mean) / std))


def check(how: Data) -> None:
    """Raise OptionError for options that are wrong whatever the model is."""
    Pixels(how.mean, how.std, how.layout)
    _said(how)
    calibration.checked_samples(how)


def load(how: Data, model: Model, shapes: Shapes, seed: int, inputs: Inputs | None = None) -> CalibrationSet:
    """Draw samples for ``model``, at ``shapes`` as analysed; ``inputs``: its own, where they are known.

    Raises DataError where an input is of a type that nothing is drawn for, ModelError where the model cannot be run.
    """
    pixels = Pixels(how.mean, how.std, how.layout)
    inputs, known = inputs or Inputs.of(model, shapes.inputs, pixels), shapes.shape
    fixed = shapes.draws.values
    kinds = {s.name: _kind(s, model, known) for s in inputs.slots}
    count = calibration.checked_samples(how) or enough(inputs, model, known)
    count = max(1, -(-count // inputs.unit)) * inputs.unit
    scores = _scores(model, inputs, kinds, known) if POOL * count <= _room(inputs, known, POOL_ELEMENTS) else None
    pool = POOL * count if scores else count
    drawn = {
        s.name: np.full((pool, *s.shape), fixed[s.name]) if s.name in fixed else _values(s, kinds[s.name], pool, seed)
        for s in inputs.slots
    }
    pictures = [s for s in inputs.slots if kinds[s.name].family == "picture" and s.name not in fixed]
    ranged = {s.name: _axis(kinds[s.name], s) for s in pictures if s.dtype.kind == "f"}
    span, notes = _span(how, model, known, inputs, drawn, ranged)
    for slot in inputs.slots:
        array = drawn[slot.name]
        if slot.name in ranged and span is not None:
            array = span.of(array, ranged[slot.name] + 1)
        elif kinds[slot.name].family == "picture" and slot.dtype == np.uint8:
            array = array * _WHITE
        drawn[slot.name] = array.astype(slot.dtype)
    if scores:
        chosen = answers.balanced(calibration.drawn(drawn, inputs, DRAWN, ()), count, model, scores, known)
        drawn = {n: a[chosen] for n, a in drawn.items()}
    told = (
        f"no data was given: calibrated on {count} drawn inputs; --data with real samples keeps more of the accuracy, "
        "--data none leaves weights as they are"
    )
    more = min(max(MANY, 2 * count), count if how.samples else helpful(inputs, model, known))
    if more > count:
        notes = (f"no more are drawn, to stay quick: --samples {more} takes longer and may keep more", *notes)
    return calibration.drawn(drawn, inputs, DRAWN, (told, *notes))


def _kind(slot: Slot, model: Model, known: Mapping[str, Shape]) -> Kind:
    kind = kind_of(slot, id_rows(model, known))
    if kind is None or 0 in slot.shape:
        raise DataError(f"nothing can be drawn for input '{slot.name}' ({slot.dtype})", where=DRAWN)
    return kind


def helpful(inputs: Inputs, model: Model, known: Mapping[str, Shape]) -> int:
    """As many samples as give every product rows enough, within what is used of real ones."""
    wanted = max(LEAST_SAMPLES, samples_for(ENOUGH_ROWS, products(model, known), known))
    return -(-min(wanted, DEFAULT_SAMPLES) // inputs.unit) * inputs.unit


def enough(inputs: Inputs, model: Model, known: Mapping[str, Shape]) -> int:
    """As many of `helpful` samples as are drawn while a run stays quick."""
    return min(helpful(inputs, model, known), max(FEWEST, _room(inputs, known, MOST_ELEMENTS)))


def _room(inputs: Inputs, known: Mapping[str, Shape], elements: int) -> int:
    """How many samples are within what they may take, where maps of all of them have so many ``elements``."""
    size = sum(int(np.prod(s.shape)) * 4 for s in inputs.slots)
    made = sum(float(np.prod(shape)) for shape in known.values()) / inputs.unit
    return min(MOST_BYTES // max(1, size), int(elements // max(1.0, made)))


def _scores(model: Model, inputs: Inputs, kinds: Mapping[str, Kind], known: Mapping[str, Shape]) -> str | None:
    """The output that tells classes of pictures apart, if any does."""
    seen = inputs.stacked and any(k.family == "picture" for k in kinds.values())
    return answers.scores_of(model, known, inputs.unit) if seen else None


def _values(slot: Slot, kind: Kind, count: int, seed: int) -> Array:
    """[count, *sample]: pictures in 0..1, sounds in -1..1, other numbers of variance 1."""
    rng = np.random.default_rng([seed, zlib.crc32(slot.name.encode())])
    core, last = kind.core, kind.last
    channels_first = (core[-1], *core[:-1]) if last else core
    if kind.family == "picture":
        found = _picture(rng, count, channels_first)
    elif kind.family in ("volume", "features"):
        found = arrays.features(rng, count, channels_first[0], channels_first[1:])
    elif kind.family == "points":
        found = arrays.points(rng, count, max(core), min(core)).transpose(0, 2, 1)
    elif kind.family == "sequence":
        found = _sequence(rng, count, channels_first)
    elif kind.family in ("vector", "number"):
        found = arrays.vectors(rng, count, int(np.prod(core))).reshape(count, *channels_first)
    elif kind.family == "mask":
        found, last = arrays.masks(rng, count, core), False
    else:
        found, last = arrays.ids(rng, count, core, kind.table or 2), False
    if last and len(core) > 1:
        found = np.moveaxis(found, 1, -1)
    return np.ascontiguousarray(found).reshape(count, *slot.shape)


def _picture(rng: np.random.Generator, count: int, shape: Shape) -> Array:
    channels, height, width = shape
    if channels == 1:
        return scenes.grey(rng, count, height, width)[:, None]
    found = scenes.colour(rng, count, height, width)
    if channels == 3:
        return found
    fourth = scenes.grey(rng, count, height, width)[:, None]  # as of depth or infrared
    fourth[1::2] = 1.0  # or nothing that one could look through
    return np.concatenate([found, fourth], axis=1)


def _sequence(rng: np.random.Generator, count: int, shape: Shape) -> Array:
    """A sound, where there is one channel or two; else features in time."""
    if len(shape) == 1:
        return arrays.sounds(rng, count, 1, shape[0])[:, 0]
    channels, length = shape
    if channels <= 2:
        return arrays.sounds(rng, count, channels, length)
    return arrays.features(rng, count, channels, (length,))


def _axis(kind: Kind, slot: Slot) -> int:
    """The axis of a sample along which the channels of a picture lie."""
    return len(slot.shape) - (1 if kind.last else 3)


def _span(
    how: Data,
    model: Model,
    known: Mapping[str, Shape],
    inputs: Inputs,
    drawn: Mapping[str, Array],
    ranged: Mapping[str, int],
) -> tuple[ValueRange | None, tuple[str, ...]]:
    """The range of the model's pictures, and what is said of it."""
    if not ranged:
        return None, ()
    said = _said(how)
    if said is not None:
        return said, ()
    large = max(drawn[n][0].size for n in ranged) > value_range.LARGE
    shown = value_range.PICTURES // (2 if large else 1)
    runs = [_run(inputs, drawn, start) for start in range(0, shown, inputs.unit)]
    axes = {n: a + (1 if inputs.stacked else 0) for n, a in ranged.items()}
    found = value_range.find(model, known, runs, axes)
    names = ", ".join(f"'{n}'" for n in ranged)
    note = f"input {names} was taken to be in {found.name}, as its first layers suggest; --input-range sets another"
    return found, (note,)


def _run(inputs: Inputs, drawn: Mapping[str, Array], start: int) -> Feeds:
    """One run of drawn samples, as the model reads them, pictures in 0..1."""
    count = len(next(iter(drawn.values())))
    batch = [{n: a[(start + i) % count] for n, a in drawn.items()} for i in range(inputs.unit)]
    joined = inputs.joined(batch)
    return {s.name: joined[s.name].astype(s.dtype) for s in inputs.slots}
