"""Calibration data: a few hundred samples of what the model will see, unlabelled, streamed.

A `CalibrationSet` says which samples are in use and reads them again on each pass, one batch at a time, so that memory
is bounded by a batch. `onnxprune.calibration.sample_sources` finds and reads them, `onnxprune.calibration.model_inputs`
says what each input of the model takes, and `onnxprune.calibration.images` turns pixels into numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.data_options import DEFAULT_SAMPLES, IN_MEMORY, Data
from onnxprune.calibration.images import Pixels
from onnxprune.calibration.model_inputs import LABELS, Inputs, Sample
from onnxprune.calibration.sample_sources import Chunk, arrays, find
from onnxprune.errors import DataError, OptionError
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model
from onnxprune.progress import Progress, counted, silent
from onnxprune.running.session import Feeds


@dataclass(frozen=True)
class Mixture:
    """Positions of a set: first the samples that were given, ``copies`` times over, then what was drawn.

    ``origin``: where in the data those that were given are; ``held_out``: whether it is they that judge.
    """

    origin: NDArray[np.int64] = field(repr=False)
    copies: int
    held_out: bool

    @property
    def given(self) -> int:
        """How many samples were given."""
        return len(self.origin)

    def drawn(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these were drawn."""
        return np.asarray(positions >= self.given * self.copies)

    def places(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in what was given, or among what was drawn, these are."""
        own = self.origin[positions % self.given]
        return np.where(self.drawn(positions), positions - self.given * self.copies, own)

    def split(self, units: NDArray[np.int64], share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(fit, held out) of ``units`` [n, samples of a run]: no sample that judges is fitted to, in any copy."""
        first = units[:, 0]
        drawn = self.drawn(first)
        if not self.held_out:
            rest, held = _parted(units[drawn], share)
            return np.concatenate([units[~drawn], rest]), held
        once = units[first < self.given]
        _, held = _parted(once, share)
        judges = np.isin(first % self.given, held[:, 0]) & ~drawn
        return units[~judges], held


@dataclass(frozen=True)
class CalibrationSet:
    """The samples in use; the model takes ``unit`` at a time. Every pass gives the same values in the same order."""

    source: str  # as given, for messages
    inputs: Inputs = field(repr=False)
    chunks: Callable[[], Iterable[Chunk]] = field(repr=False)
    chosen: NDArray[np.int64] = field(repr=False)  # [count] positions in what is there, ascending
    labelled: bool = False
    notes: tuple[str, ...] = ()  # what a reader must not miss
    drawn: bool = False  # whether nobody gave them
    mixture: Mixture | None = None  # where some of them are drawn

    @property
    def count(self) -> int:
        """Samples in use."""
        return len(self.chosen)

    @property
    def drawn_judge(self) -> bool:
        """Whether the held-out samples were drawn."""
        return self.drawn or (self.mixture is not None and not self.mixture.held_out)

    @property
    def given(self) -> int:
        """How many samples in use are not drawn, each counted once."""
        return self.count if self.mixture is None else self.mixture.given

    @property
    def beside(self) -> int:
        """How many samples in use were drawn in addition to those that were given."""
        return 0 if self.mixture is None else self.count - self.mixture.given * self.mixture.copies

    def places(self) -> NDArray[np.int64]:
        """The position in the data of each sample in use."""
        return self.chosen if self.mixture is None else self.mixture.places(self.chosen)

    def batches(self, size: int) -> Iterator[Feeds]:
        """{input: [at most size, ...]} in order; of exactly as many as the model takes, where its batch is fixed."""
        for feeds, _ in self.labelled_batches(size):
            yield feeds

    def labelled_batches(self, size: int) -> Iterator[tuple[Feeds, NDArray[Any] | None]]:
        """As `batches`, each with its labels [size, ...], or None where the data has none."""
        samples = self.samples()
        while batch := list(islice(samples, self.run_size(size))):
            labels = np.stack([s[LABELS] for s in batch]) if self.labelled else None
            yield self.inputs.joined(batch), labels

    def run_size(self, size: int) -> int:
        """How many samples each batch holds where ``size`` is asked for; the last may hold fewer."""
        return min(size, self.count) if self.inputs.any_batch else self.inputs.unit

    def runs(self, size: int) -> int:
        """How many batches of ``size`` there are."""
        return -(-self.count // self.run_size(size))

    def split(self, held_out: float = 0.2) -> tuple[CalibrationSet, CalibrationSet]:
        """(fit, held out): every k-th sample is held out, at least one. A set that is one run of the model is both."""
        units = self.chosen.reshape(-1, self.inputs.unit)
        if len(units) < 2:
            return self, self
        split = self.mixture.split if self.mixture else _parted
        fit, held = split(units, held_out)
        return replace(self, chosen=fit.reshape(-1)), replace(self, chosen=held.reshape(-1))

    def head(self, samples: int) -> CalibrationSet:
        """At most ``samples`` samples, spread evenly, but never fewer than one run of the model takes."""
        units = self.chosen.reshape(-1, self.inputs.unit)
        wanted = min(max(samples // self.inputs.unit, 1), len(units))
        return replace(self, chosen=units[_spread(len(units), wanted)].reshape(-1))

    def samples(self) -> Iterator[Sample]:
        """Read the samples in use, one by one."""
        start = 0
        for chunk in self.chunks():
            first, last = np.searchsorted(self.chosen, (start, start + chunk.size))
            if last > first:
                yield from chunk.read((self.chosen[first:last] - start).tolist())
            start += chunk.size
            if last == len(self.chosen):
                return


def load(data: Data, model: Model, shapes: Mapping[str, Shape], progress: Progress = silent) -> CalibrationSet:
    """Find the samples of ``data``, and read those in use once, so that errors in them are reported at once.

    The source is a folder, a glob, a .npy, .npz, image or .txt file, module:function, or arrays. The samples in use are
    spread evenly over those that there are; of a function they are the first that it yields. ``shapes``: those of the
    model's inputs. Raises DataError, and OptionError for options that do not fit.
    """
    wanted = checked_samples(data) or DEFAULT_SAMPLES
    pixels = Pixels(tuple(data.mean), tuple(data.std), data.layout, data.color)
    inputs = Inputs.of(model, shapes, pixels)
    assert data.source is not None
    if not isinstance(data.source, str):
        held = arrays(data.source, inputs, IN_MEMORY)
        return _checked(IN_MEMORY, inputs, lambda: [held], held.size, wanted, progress)
    found = find(data.source, inputs, wanted)
    return _checked(data.source, inputs, found.chunks, found.size, wanted, progress)


def checked_samples(data: Data) -> int | None:
    """The number of samples that was asked for, None for no number. Raises OptionError if it is less than 1."""
    if data.samples is not None and data.samples < 1:
        raise OptionError(f"must be at least 1, not {data.samples}", where="--samples")
    return data.samples


def drawn(data: Mapping[str, NDArray[Any]], inputs: Inputs, source: str, notes: tuple[str, ...]) -> CalibrationSet:
    """A set of all samples of arrays that were drawn for ``inputs``, {input: [N, *sample]}.

    ``source``: what errors call them. ``notes``: what the report says of them.
    """
    chunk = arrays(data, inputs, source)
    found = _checked(source, inputs, lambda: [chunk], chunk.size, chunk.size, silent)
    return replace(found, notes=notes, drawn=True)


def _checked(
    source: str,
    inputs: Inputs,
    chunks: Callable[[], Iterable[Chunk]],
    available: int,
    samples: int,
    progress: Progress,
) -> CalibrationSet:
    """The set, each of its samples read once."""
    unit = inputs.unit
    if available < unit:
        few = f"holds {available} samples" if available else "holds no samples"
        raise DataError(few, where=source, hint=f"the model takes {unit} at a time" if unit > 1 else "")
    units = np.arange(available // unit * unit).reshape(-1, unit)
    chosen = units[_spread(len(units), min(max(samples // unit, 1), len(units)))].reshape(-1)
    pixels = any(c.pixels for c in islice(chunks(), 1))
    labels: set[bool] = set()
    found = CalibrationSet(source, inputs, chunks, chosen)
    for sample in counted(found.samples(), "reading calibration data", found.count, progress):
        labels.add(LABELS in sample)
    if len(labels) > 1:
        raise DataError(f"only some of the files have '{LABELS}'", where=source, hint="give all of them or none")
    return replace(
        found, labelled=labels == {True}, notes=tuple(_notes(inputs, available, chosen, samples, pixels=pixels))
    )


def _notes(inputs: Inputs, available: int, chosen: NDArray[np.int64], samples: int, *, pixels: bool) -> Iterator[str]:
    left = available % inputs.unit if len(chosen) < samples else 0
    if left:
        yield f"{left} of {available} calibration samples do not fill a batch of {inputs.unit}, and are left out"
    given = bool(inputs.pixels.mean or inputs.pixels.std)
    if pixels and not given:
        yield "calibration pixels are fed as 0..255: --mean and --std, where the model was trained on another range"
    if given and not pixels:
        yield "--mean and --std have no effect: calibration samples are taken as they are"


def _parted(units: NDArray[np.int64], share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rest, and a ``share`` of ``units``, evenly spread: at least one, and never the last."""
    held = _spread(len(units), min(max(round(share * len(units)), 1), len(units) - 1))
    return np.delete(units, held, axis=0), units[held]


def _spread(available: int, wanted: int) -> NDArray[np.int64]:
    """``wanted`` of ``available`` positions, evenly spread, ascending."""
    return ((np.arange(wanted) * 2 + 1) * available // (2 * wanted)).astype(np.int64)
