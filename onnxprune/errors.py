"""Errors are part of the interface: one line that says what, where, and the way out.

    OnnxPruneError
    ├── OptionError    a bad option                                            exit code 2
    ├── ModelError     a model that cannot be read or is not valid             exit code 2
    ├── DataError      calibration data that cannot be read or does not fit    exit code 2
    ├── PlanError      a plan that does not fit the model                      exit code 2
    ├── OutputError    a result that cannot be written                         exit code 2
    ├── MetricError    a metric that raises, or gives no number                exit code 2
    ├── ToolError      another tool that is missing or refuses the model       exit code 2
    └── CheckError     a check of the result failed; no model was written      exit code 1
        └── KeptError  no smaller model keeps what the metric must keep

Anything else that escapes is a bug of onnxprune and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from functools import partial
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """What the process returns; documented in README.md."""

    DONE = 0
    CHECK_FAILED = 1
    USAGE = 2


#: The longest message: names in a file may be of any length.
_LONGEST = 1500


def one_line(text: str) -> str:
    """``text`` as a terminal may be given it, whoever wrote it: one line, nothing that moves a cursor, not too long."""
    flat = " ".join(text.split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in flat)
    half = _LONGEST // 2
    return shown if len(shown) <= _LONGEST else f"{shown[:half]} ... {shown[-half:]}"


class OnnxPruneError(Exception):
    """A user's error: ``what`` happened, ``where`` (a file, node or tensor), and ``hint``, the way out."""

    exit_code: ClassVar[ExitCode] = ExitCode.USAGE

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(what, where, hint)

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors come back from other processes."""
        return partial(type(self), where=self.where, hint=self.hint), (self.what,)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        way_out = f" ({self.hint})" if self.hint else ""
        return one_line(f"{place}{self.what}{way_out}")


class OptionError(OnnxPruneError):
    """A bad option or argument."""


class ModelError(OnnxPruneError):
    """A model that cannot be read, is not valid, or is refused by onnxruntime."""


class DataError(OnnxPruneError):
    """Calibration data that is missing, cannot be read, or does not fit the model."""


class PlanError(OnnxPruneError):
    """A plan that cannot be read or does not fit the model."""


class OutputError(OnnxPruneError):
    """A result that cannot be written."""


class MetricError(OnnxPruneError):
    """A user's metric that raises, or gives what is no number."""


class ToolError(OnnxPruneError):
    """Another tool that is not installed, or that refuses the model."""


class CheckError(OnnxPruneError):
    """A check of the result failed; no model was written."""

    exit_code = ExitCode.CHECK_FAILED


class KeptError(CheckError):
    """No smaller model keeps what its metric must keep."""


def thousands(number: float) -> str:
    """A whole number as the terminal and messages write it, thousands apart."""
    return f"{number:,.0f}".replace(",", " ")


def first_and_more(names: Sequence[str]) -> str:
    """The first of ``names``, of which there is one at least, and how many others there are."""
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def nearest(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """A hint: those of ``known`` that are spelt most like ``name``; where none is, ``otherwise``, or all of them."""
    from difflib import get_close_matches  # noqa: PLC0415 (only where something went wrong)

    names = list(dict.fromkeys(known))
    close = get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(names)}" if otherwise is None else otherwise
