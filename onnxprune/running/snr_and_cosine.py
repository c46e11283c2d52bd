"""How far results are from their references: sums over inputs, so that the results of one are held at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]

#: Elements that are compared at a time, in float64.
_PIECE = 1 << 17


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


class Differences:
    """Over all that was added: the error of each output."""

    def __init__(self) -> None:
        self._by_name: dict[str, _Difference] = {}

    def add(self, reference: Mapping[str, Array], result: Mapping[str, Array]) -> None:
        """Take in the results of one input. What only ``result`` has is left out."""
        for name, wanted in reference.items():
            self._by_name.setdefault(name, _Difference()).add(wanted, result[name])

    def errors(self) -> tuple[OutputError, ...]:
        """In the order of the first reference."""
        return tuple(difference.error(name) for name, difference in self._by_name.items())


def by_row(
    reference: Mapping[str, Array], result: Mapping[str, Array], rows: int
) -> Iterator[tuple[dict[str, Array], dict[str, Array]]]:
    """Both, of each sample of a batch of ``rows``. What is not one row a sample counts with the whole of the batch."""
    for row in range(rows):
        yield _row(reference, row, rows), _row(result, row, rows)


def _row(arrays: Mapping[str, Array], row: int, rows: int) -> dict[str, Array]:
    return {n: a[row : row + 1] if a.ndim and len(a) == rows else a for n, a in arrays.items()}


class _Difference:
    """One output. A shape that differs is an infinite error; equal NaN and infinity are equal."""

    def __init__(self) -> None:
        self.broken, self.exact = False, False
        self.count = self.finite = self.differ = 0
        self.most = self.noise = self.signal = self.own = self.dot = 0.0
        self.low, self.high = math.inf, -math.inf

    def add(self, wanted: Array, found: Array) -> None:
        if wanted.shape != found.shape:
            self.broken = True
            return
        a, b = wanted.reshape(-1), found.reshape(-1)
        self.count += a.size
        self.exact |= a.dtype.kind not in "fV"
        for start in range(0, a.size, _PIECE):
            piece = slice(start, start + _PIECE)
            if self.exact:
                self.differ += int((a[piece] != b[piece]).sum())
            else:
                self._floats(a[piece].astype(np.float64), b[piece].astype(np.float64))

    def _floats(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.all():
            self.broken |= not ((x == y) | (np.isnan(x) & np.isnan(y)) | finite).all()
            x, y = x[finite], y[finite]
        if not x.size:
            return
        self.finite += x.size
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        self.signal, self.own, self.dot = self.signal + float(x @ x), self.own + float(y @ y), self.dot + float(x @ y)
        x -= y
        self.noise += float(x @ x)
        self.most = max(self.most, float(np.abs(x, out=x).max()))

    def error(self, name: str) -> OutputError:
        if self.broken:
            return OutputError(name, np.inf, np.inf, 0.0, -np.inf)
        if self.exact:
            differ = self.differ / self.count if self.count else 0.0
            return OutputError(name, float(differ > 0), differ, 1.0 - differ, np.inf if differ == 0 else 0.0)
        compared = self.finite / self.count if self.count else 1.0
        if not self.finite:
            return OutputError(name, 0.0, 0.0, 1.0, np.inf, compared)
        span = self.high - self.low or max(abs(self.low), abs(self.high))
        norm = math.sqrt(self.signal) * math.sqrt(self.own)
        cosine = self.dot / norm if norm else float(self.noise == 0)
        ratio = self.signal / self.noise if self.noise else math.inf
        snr = 10 * math.log10(ratio) if ratio else -math.inf
        relative = self.most / span if span else (math.inf if self.most else 0.0)
        return OutputError(name, self.most, relative, min(cosine, 1.0), snr, compared)
