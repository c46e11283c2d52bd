"""Reading TOML files of options and targets; these may come from strangers, together with a model."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from onnxprune.errors import OptionError
from onnxprune.file_system.regular_file import ensure_regular

#: The most that a file may hold, in bytes.
_LARGEST = 1 << 20

#: A key of so many parts: reading one takes time and memory by the square of their number.
_DEEP_KEY = re.compile(r"""(?:[\w"'-]+[ \t]*\.[ \t]*){64}""")


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """Read the TOML file at ``path``; errors call it ``what``. Raises OptionError where it cannot be read."""
    if sys.version_info >= (3, 11):
        import tomllib  # noqa: PLC0415 (--help must not wait for it)
    else:
        import tomli as tomllib  # noqa: PLC0415
    try:
        ensure_regular(path)
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1).decode("utf-8")
        if len(text) > _LARGEST or _DEEP_KEY.search(text):
            raise ValueError("it is too large, or its keys have too many parts")  # noqa: TRY301 (told as all others)
        found = tomllib.loads(text)
        if any(abs(n) >> 63 for n in _integers(found)):
            raise ValueError("it holds a number of more than 64 bits")  # noqa: TRY301
    except RecursionError:
        reason = "it is nested too deep"
    except (OSError, ValueError) as error:  # among these are those of UTF-8 and of TOML, and numbers without end
        reason = str((error.strerror if isinstance(error, OSError) else "") or error)
    else:
        return found
    raise OptionError(f"cannot read {what}: {reason}", where=str(path))


def _integers(value: object) -> Iterator[int]:
    """Every integer in a table."""
    if isinstance(value, int):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _integers(inner)
