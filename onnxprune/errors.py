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
    """Exit codes of the command line, as documented in docs/command-line.md."""

    DONE = 0
    CHECK_FAILED = 1
    USAGE = 2


#: The longest message: names in a file may be of any length.
_LONGEST = 1500


def one_line(text: str) -> str:
    """``text`` made safe for a terminal, whoever wrote it: one line, no control characters, at most `_LONGEST` long."""
    shown = printable(" ".join(text.split()))
    half = _LONGEST // 2
    return shown if len(shown) <= _LONGEST else f"{shown[:half]} ... {shown[-half:]}"


def printable(text: str) -> str:
    """``text`` with its control characters, line ends too, written out as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class OnnxPruneError(Exception):
    """An error that a user can act on: ``what`` happened, ``where`` (file, node, tensor or option), and a ``hint``."""

    exit_code: ClassVar[ExitCode] = ExitCode.USAGE

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(what, where, hint)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the keyword arguments, as workers send errors back to the process that started them."""
        return partial(type(self), where=self.where, hint=self.hint), (self.what,)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        way_out = f" ({self.hint})" if self.hint else ""
        return one_line(f"{place}{self.what}{way_out}")


class OptionError(OnnxPruneError):
    """An option or argument has a value that is not valid."""


class ModelError(OnnxPruneError):
    """A model cannot be read, is not valid, or is refused by onnxruntime."""


class DataError(OnnxPruneError):
    """Calibration data is missing, cannot be read, or does not fit the model."""


class PlanError(OnnxPruneError):
    """A plan cannot be read, or does not fit the model."""


class OutputError(OnnxPruneError):
    """A result cannot be written."""


class MetricError(OnnxPruneError):
    """A metric, which may be the user's own code, raised an exception or did not return numbers."""


class ToolError(OnnxPruneError):
    """An external tool is not installed, or refuses the model."""


class CheckError(OnnxPruneError):
    """A check of the result failed; no model was written."""

    exit_code = ExitCode.CHECK_FAILED


class KeptError(CheckError):
    """No smaller model satisfies the limit of the metric."""


def thousands(number: float) -> str:
    """Format a whole number for terminals and messages, with a space between thousands."""
    return f"{number:,.0f}".replace(",", " ")


def first_and_more(names: Sequence[str]) -> str:
    """Quote the first of ``names``, which is not empty, and say how many more there are."""
    return f"'{names[0]}'" + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def nearest(name: str, known: Iterable[str], otherwise: str | None = None) -> str:
    """Make a hint of the ``known`` names that are spelt most like ``name``.

    Where none is similar, the hint is ``otherwise``, or, if that is None, the list of all ``known`` names.
    """
    from difflib import get_close_matches  # noqa: PLC0415 (only where something went wrong)

    names = list(dict.fromkeys(known))
    close = get_close_matches(name, names, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known: {', '.join(names)}" if otherwise is None else otherwise
