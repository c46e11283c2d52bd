"""Options as fields of dataclasses: one declaration serves the command line, the file of options and the library."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from numbers import Integral, Real
from typing import Any, TypeVar

from onnxprune.errors import OptionError

V = TypeVar("V")


@dataclass(frozen=True)
class Flag:
    """How the command line reads an option.

    ``names``: its flags. ``kind``: its type, or the words to choose from. ``read``: parses the text into the value, and
    raises ValueError. ``multiple``: whether the option may be repeated. ``shown``: whether help shows the default.
    ``shared``: whether the option describes the model, so that a file of options sets it for every command.
    """

    names: tuple[str, ...]
    help: str
    kind: type | tuple[str, ...]
    metavar: str | None
    multiple: bool
    shown: bool
    read: Callable[[Any], Any] | None
    shared: bool


def option(
    default: Any,
    *names: str,
    help: str,  # noqa: A002 (as click calls it)
    kind: type | tuple[str, ...] = str,
    metavar: str | None = None,
    multiple: bool = False,
    shown: bool = False,
    read: Callable[[Any], Any] | None = None,
    shared: bool = False,
) -> Any:
    """Declare a dataclass field with its `Flag`; a ``default`` of MISSING makes the field required."""
    told = {"flag": Flag(names, help, kind, metavar, multiple, shown, read, shared)}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=told)
    return field(default=default, metadata=told)


def flags(described: type[Any]) -> Mapping[str, tuple[Flag, Any]]:
    """The options of the dataclass ``described``: {field: (its flag, its default on the command line)}."""
    found = {}
    for one in fields(described):
        if "flag" in one.metadata:
            empty = one.default is MISSING or one.default_factory is not MISSING
            found[one.name] = (one.metadata["flag"], None if empty else one.default)
    return found


def ensure_types(options: Any) -> None:
    """Raise OptionError where a field of the dataclass ``options`` has a value of another type than is declared.

    The command line cannot give one; callers in Python can.
    """
    for name, (flag, _) in flags(type(options)).items():
        value, declared = getattr(options, name), str(type(options).__dataclass_fields__[name].type)
        words = set(re.findall(r"\w+", declared))
        said = " or ".join(text for t, text in _TYPES.items() if t in words) or "what its help says"
        if declared.startswith("Mapping") and "|" in declared:
            continue  # pairs are looked at where they are read
        if declared.startswith("Mapping"):
            fits, said = (
                _mapped(value, _wholes if "int" in words else _number),
                f"{{name: {said.removesuffix(' or text')}}}",
            )
        elif declared.startswith(("Sequence", "tuple")):
            fits, said = _row(value, _number if "float" in words else _text), f"a list: {said}"
        else:
            fits = _fits(value, words)
        if not fits:
            hint = f"it takes {said}"
            raise OptionError(f"{value!r:.60} is of the wrong type", where=flag.names[0].partition("/")[0], hint=hint)


#: Names of types in declarations, in words.
_TYPES = {"bool": "True or False", "int": "whole numbers", "float": "numbers", "str": "text"}


def _fits(value: Any, declared: set[str]) -> bool:
    """Whether ``value`` is of a type of the names ``declared``; of those that are none of `_TYPES`, anything may be."""
    if value is None:
        return "None" in declared
    if isinstance(value, bool):
        return "bool" in declared
    if isinstance(value, Real):
        return "float" in declared or ("int" in declared and isinstance(value, Integral))
    return ("str" in declared and isinstance(value, str)) or bool(declared - {*_TYPES, "None"})


def _row(value: Any, fits: Callable[[Any], bool]) -> bool:
    """Whether ``value`` is a row of what ``fits``; a text is none."""
    return isinstance(value, Iterable) and not isinstance(value, str) and all(fits(v) for v in value)


def _mapped(value: Any, fits: Callable[[Any], bool]) -> bool:
    return isinstance(value, Mapping) and all(isinstance(k, str) and fits(v) for k, v in value.items())


def _wholes(value: Any) -> bool:
    return _row(value, lambda v: _fits(v, {"int"}))


def _number(value: Any) -> bool:
    return _fits(value, {"float"})


def _text(value: Any) -> bool:
    return isinstance(value, str)


def in_pairs(given: Mapping[str, V] | Iterable[tuple[str, V]], where: str) -> tuple[tuple[str, V], ...]:
    """The value of option ``where`` by names as (name, value): the library takes a mapping too; a name may come twice.

    Raises OptionError for anything else.
    """
    try:
        pairs = list(given.items() if isinstance(given, Mapping) else given)
    except TypeError:
        pairs = [given]  # type: ignore[list-item]
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or [isinstance(v, str) for v in pair] != [True, False]:
            hint = "in Python it takes {name: value}, or pairs"
            raise OptionError(f"{pair!r} is no pair of a name and a value", where=where, hint=hint)
    return tuple((name, value) for name, value in pairs)


def numbers_of(text: str | None) -> tuple[float, ...]:
    """Parse numbers separated by commas. Raises ValueError."""
    try:
        return tuple(float(v) for v in text.split(",")) if text else ()
    except ValueError:
        raise ValueError(f"'{text}' is not numbers separated by commas") from None


def shapes_of(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Parse NAME:1,3,224,224 into {name: shape}. Raises ValueError."""
    found = {}
    for text in texts:
        name, colon, dims = text.rpartition(":")
        sizes = dims.replace("x", ",").split(",")
        if not colon or not all(s.strip().isdigit() and int(s) > 0 for s in sizes):
            raise ValueError(f"'{text}' is not NAME:1,3,224,224")
        found[name] = tuple(int(s) for s in sizes)
    return found


def values_of(texts: Sequence[str]) -> dict[str, float]:
    """Parse NAME=NUMBER into {name: number}. Raises ValueError."""
    return dict(_numbers(texts, "NAME=NUMBER"))


def positions_of(texts: Sequence[str]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Parse NAME=0,3,17-21 into (name, positions). Raises ValueError."""
    found = []
    for text in texts:
        name, _, numbers = text.rpartition("=")
        ranges = [part.strip().split("-") for part in numbers.split(",")]
        if not name or not all(
            len(r) <= 2 and all(n.isdecimal() for n in r) and int(r[0]) <= int(r[-1]) for r in ranges
        ):
            raise ValueError(f"'{text}' is not NAME=0,3,17-21")
        found.append((name, tuple(n for r in ranges for n in range(int(r[0]), int(r[-1]) + 1))))
    return tuple(found)


def shares_of(texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Parse GLOB=SHARE into (glob, share). Raises ValueError."""
    return tuple(_numbers(texts, "GLOB=SHARE"))


def bits_of(texts: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """Parse GLOB=BITS into (glob, bits). Raises ValueError."""
    found = tuple(_numbers(texts, "GLOB=BITS"))
    if any(bits != int(bits) for _, bits in found):
        raise ValueError("bits are whole numbers")
    return tuple((glob, int(bits)) for glob, bits in found)


def ratios_of(texts: Sequence[str]) -> tuple[tuple[str, float], ...]:
    """Parse GLOB=RATIO into (glob, ratio). Raises ValueError."""
    return tuple(_numbers(texts, "GLOB=RATIO"))


def _numbers(texts: Sequence[str], form: str) -> Iterator[tuple[str, float]]:
    for text in texts:
        name, equals, number = text.rpartition("=")
        try:
            found = float(number)
        except ValueError:
            equals = ""
        if not equals:
            raise ValueError(f"'{text}' is not {form}")
        yield name, found
