"""An option as a field of a dataclass, with all that the command line needs of it: one description for every door."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Flag:
    """How an option is given in text.

    ``kind``: its type, or the words that it may be; ``read``: from text to its value, raising ValueError; ``shown``:
    whether help shows the default; ``shared``: whether it says what is as true of a model in other commands.
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
    """A field with a default, or MISSING for none, and its `Flag`."""
    told = {"flag": Flag(names, help, kind, metavar, multiple, shown, read, shared)}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=told)
    return field(default=default, metadata=told)


def flags(described: type[Any]) -> Mapping[str, tuple[Flag, Any]]:
    """{field: its flag, and the default that the command line has} of a dataclass."""
    found = {}
    for one in fields(described):
        if "flag" in one.metadata:
            empty = one.default is MISSING or one.default_factory is not MISSING
            found[one.name] = (one.metadata["flag"], None if empty else one.default)
    return found
