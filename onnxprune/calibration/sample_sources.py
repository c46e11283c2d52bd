"""Where samples come from: files of arrays and images, folders and lists of them, and functions.

Each source is a sequence of chunks (a file, a line of a list, what a function yields) that say how many samples they
hold and read any of them. Nothing is kept: a pass over the data reads the files again.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration import images
from onnxprune.calibration.model_inputs import LABELS, Inputs, Sample, Slot
from onnxprune.calibration.npz import Member, header, members
from onnxprune.errors import DataError
from onnxprune.file_system.regular_file import ensure_regular
from onnxprune.plugins import RAISED, is_code, user_function

_SUFFIXES = {".npy", ".npz", *images.SUFFIXES}


class Chunk(Protocol):
    """Some samples that are read together. ``pixels``: whether mean and std apply to them."""

    @property
    def size(self) -> int:
        """How many samples."""

    @property
    def pixels(self) -> bool:
        """Whether mean and std apply."""

    def read(self, positions: Sequence[int]) -> Iterator[Sample]:
        """The samples at ``positions``, which ascend."""


@dataclass(frozen=True)
class Found:
    """A source: its chunks, from the start at each call, and how many samples they hold."""

    chunks: Callable[[], Iterable[Chunk]]
    size: int


def find(source: str, inputs: Inputs, samples: int) -> Found:
    """Open ``source``; of a function, only the first ``samples`` are asked for. Raises DataError."""
    path = Path(source)
    if is_code(source):
        chunks = _yielded(source, inputs, samples)
        return Found(chunks, sum(c.size for c in chunks()))
    if path.suffix.lower() == ".txt":
        listed = _listed(path, inputs)
    else:
        files = _files(source, path)
        listed = [_opened(file, inputs) for file in files]
    return Found(lambda: listed, sum(c.size for c in listed))


def _is_file(path: Path) -> bool:
    """Whether there is a file; not where no file could be called so."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _files(source: str, path: Path) -> list[Path]:
    """The file at ``path``, or all that can be read in a folder or under a glob, by name."""
    if _is_file(path):
        return [path]
    found = path.rglob("*") if path.is_dir() else map(Path, glob.glob(source, recursive=True))  # noqa: PTH207 (absolute too)
    files = sorted(f for f in found if f.suffix.lower() in _SUFFIXES and f.is_file() and f.name[0] != ".")
    if not files:
        what = "holds no .npy, .npz or image" if path.is_dir() else "no such file, and no file matches"
        raise DataError(what, where=source, hint="--data takes a folder, a glob, a file or module:function")
    return files


def _opened(path: Path, inputs: Inputs) -> Chunk:
    """A file that holds samples of the whole model."""
    if path.suffix.lower() != ".npz" and len(inputs.slots) > 1:
        names = ", ".join(s.name for s in inputs.slots)
        raise DataError(
            f"holds one array, and the model has {len(inputs.slots)} inputs",
            where=str(path),
            hint=f"give an .npz with {names}, or a list of files, a line a sample",
        )
    return _npz(path, inputs) if path.suffix.lower() == ".npz" else _one_input(path, inputs.slots[0])


def _one_input(path: Path, slot: Slot) -> Chunk:
    """A file that holds samples of one input."""
    suffix = path.suffix.lower()
    if suffix in images.SUFFIXES:
        return _Image(path, slot)
    if suffix != ".npy":
        raise DataError("is neither .npy nor an image", where=str(path), hint="convert it")
    array = _mapped(path)
    return _Npy(path, slot, slot.samples(array.shape, array.dtype, str(path)), slot.takes_pixels(array.dtype))


@dataclass(frozen=True)
class _Image:
    path: Path
    slot: Slot
    size: int = 1

    @property
    def pixels(self) -> bool:
        return self.slot.dtype.kind == "f"

    def read(self, positions: Sequence[int]) -> Iterator[Sample]:
        for _ in positions:
            yield {self.slot.name: self.slot.pixels.read(self.path, self.slot.shape, self.slot.dtype)}


def _mapped(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as file:
            header(file, path.stat().st_size)
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # noqa: BLE001 (numpy raises what it meets in a file)
        raise _unreadable(path, error) from None
    return array


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return DataError(f"cannot be read: {reason}", where=str(path), hint="save it again with numpy")


@dataclass(frozen=True)
class _Npy:
    path: Path
    slot: Slot
    size: int
    pixels: bool

    def read(self, positions: Sequence[int]) -> Iterator[Sample]:
        array = _mapped(self.path).reshape(self.size, *self.slot.shape)
        for position in positions:
            yield {self.slot.name: self.slot.taken(np.array(array[position]), f"{self.path}, sample {position}")}


def _npz(path: Path, inputs: Inputs) -> Chunk:
    try:
        held = members(path)
    except Exception as error:  # noqa: BLE001 (zipfile, and what unpacks, raise what they meet too)
        raise _unreadable(path, error) from None
    others = [n for n in held if n != LABELS]
    if len(inputs.slots) == len(others) == 1 and others[0] != inputs.slots[0].name:
        held[inputs.slots[0].name] = held.pop(others[0])  # the only array is for the only input
    size, pixels = _agreed(held, inputs, str(path))
    return _Npz(path, inputs, held, size, pixels)


def _agreed(held: Mapping[str, Member | NDArray[Any]], inputs: Inputs, where: str) -> tuple[int, bool]:
    """How many samples arrays hold, and whether any are pixels. Raises DataError where they do not fit."""
    sizes: dict[str, int] = {}
    for slot in inputs.slots:
        if slot.name not in held:
            names = ", ".join(held) or "nothing"
            raise DataError(f"has no array '{slot.name}'", where=where, hint=f"it holds {names}")
        sizes[slot.name] = slot.samples(held[slot.name].shape, held[slot.name].dtype, where)
    if LABELS in held and LABELS not in sizes:
        labels = held[LABELS]
        if labels.dtype.kind not in "iu":
            raise DataError(f"'{LABELS}' is {labels.dtype}, not integers", where=where, hint="give class indices")
        sizes[LABELS] = labels.shape[0] if labels.shape else 1
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{n} of '{name}'" for name, n in sizes.items())
        raise DataError(f"holds different numbers of samples: {counts}", where=where, hint="give as many of each")
    return next(iter(sizes.values()), 0), any(s.takes_pixels(held[s.name].dtype) for s in inputs.slots)


@dataclass(frozen=True)
class _Npz:
    path: Path
    inputs: Inputs
    held: Mapping[str, Member] = field(repr=False)
    size: int
    pixels: bool

    def read(self, positions: Sequence[int]) -> Iterator[Sample]:
        streams = {s.name: self.held[s.name].read(self.size, s.shape, positions) for s in self.inputs.slots}
        if LABELS in self.held and LABELS not in streams:
            labels = self.held[LABELS]
            streams[LABELS] = labels.read(self.size, labels.shape[1:], positions)
        slots = {s.name: s for s in self.inputs.slots}
        for position in positions:
            where = f"{self.path}, sample {position}"
            try:
                raw = {name: next(stream) for name, stream in streams.items()}
            except Exception as error:  # noqa: BLE001 (as numpy, so zipfile)
                raise _unreadable(self.path, error) from None
            yield {name: slots[name].taken(a, where) if name in slots else a for name, a in raw.items()}


def _listed(path: Path, inputs: Inputs) -> list[Chunk]:
    """rknn-toolkit2's dataset.txt: a sample a line, its inputs separated by spaces, paths relative to the list."""
    try:
        ensure_regular(path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from None
    return [_line(path, n, line.strip(), inputs) for n, line in enumerate(lines, 1) if line.strip()]


def _line(path: Path, number: int, line: str, inputs: Inputs) -> Chunk:
    where = f"{path}, line {number}"
    names = line.split()
    if len(inputs.slots) == 1 and _is_file(path.parent / line):
        names = [line]  # a path with a space in it
    if len(names) != len(inputs.slots):
        hint = "separate them by spaces"
        raise DataError(f"names {len(names)} files for {len(inputs.slots)} inputs", where=where, hint=hint)
    for name in names:
        if not _is_file(path.parent / name):
            raise DataError(f"no such file: {name}", where=where, hint="paths are relative to the list")
    parts = [_one_input(path.parent / name, slot) for name, slot in zip(names, inputs.slots, strict=True)]
    if len({part.size for part in parts}) > 1:
        raise DataError("its files hold different numbers of samples", where=where, hint="give as many of each")
    return _Line(tuple(parts))


@dataclass(frozen=True)
class _Line:
    parts: tuple[Chunk, ...]

    @property
    def size(self) -> int:
        return self.parts[0].size

    @property
    def pixels(self) -> bool:
        return any(part.pixels for part in self.parts)

    def read(self, positions: Sequence[int]) -> Iterator[Sample]:
        for samples in zip(*(part.read(positions) for part in self.parts), strict=True):
            yield {name: array for sample in samples for name, array in sample.items()}


@dataclass(frozen=True)
class _Arrays:
    """Arrays in memory, {input: [size, *sample]}."""

    held: Mapping[str, NDArray[Any]] = field(repr=False)
    inputs: Inputs
    where: str
    size: int
    pixels: bool

    def read(self, positions: Sequence[int]) -> Iterator[Sample]:
        slots = {s.name: s for s in self.inputs.slots}
        shaped = {
            n: a.reshape(self.size, *(slots[n].shape if n in slots else a.shape[1:])) for n, a in self.held.items()
        }
        for position in positions:
            where = f"{self.where}, sample {position}"
            yield {n: slots[n].taken(a[position], where) if n in slots else a[position] for n, a in shaped.items()}


def arrays(held: Mapping[str, NDArray[Any]], inputs: Inputs, where: str) -> Chunk:
    """Samples of arrays in memory, {input: [n, ...]}. Raises DataError where they do not fit."""
    size, pixels = _agreed(held, inputs, where)
    known = {*(s.name for s in inputs.slots), LABELS}
    return _Arrays({n: a for n, a in held.items() if n in known}, inputs, where, size, pixels)


def _yielded(source: str, inputs: Inputs, samples: int) -> Callable[[], Iterator[Chunk]]:
    """What a user's function yields: {input: array}, or an array where there is one input; the first ``samples``."""
    function = user_function(source, "--data")

    def chunks() -> Iterator[Chunk]:
        left = samples
        for number, item in enumerate(_caught(function, source)):
            feeds = item if isinstance(item, Mapping) else {s.name: item for s in inputs.slots[:1]}
            held = {str(name): np.asarray(value) for name, value in feeds.items()}
            chunk = arrays(held, inputs, f"{source}, item {number}")
            yield chunk
            left -= chunk.size
            if left <= 0:
                return

    return chunks


def _caught(function: Callable[[], Iterable[Any]], source: str) -> Iterator[Any]:
    try:
        yield from function()
    except RAISED as error:
        raise DataError(
            f"raises {type(error).__name__}: {error}",
            where=source,
            hint="it takes no arguments and yields {input: array}",
        ) from None
