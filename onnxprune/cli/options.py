"""Options that several commands share, and how their text becomes values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def _shape(_ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    found = {}
    for value in values:
        name, colon, dims = value.rpartition(":")
        sizes = dims.replace("x", ",").split(",")
        if not colon or not all(s.strip().isdigit() and int(s) > 0 for s in sizes):
            raise click.BadParameter(f"'{value}' is not NAME:1,3,224,224")
        found[name] = tuple(int(s) for s in sizes)
    return found


def _ratio_for(
    _ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[tuple[str, float], ...]:
    found = []
    for value in values:
        glob, equals, number = value.rpartition("=")
        try:
            found.append((glob, float(number)))
        except ValueError:
            equals = ""
        if not equals:
            raise click.BadParameter(f"'{value}' is not GLOB=RATIO")
    return tuple(found)


def input_shape(function: F) -> F:
    """``--input-shape NAME:1,3,224,224``, repeatable."""
    return click.option(
        "--input-shape",
        "input_shapes",
        multiple=True,
        metavar="NAME:DIMS",
        callback=_shape,
        help="Shape of a dynamic input, as images:1,3,224,224. Repeatable.",
    )(function)


def exclude(function: F) -> F:
    """``--exclude GLOB``, repeatable."""
    return click.option(
        "--exclude",
        multiple=True,
        metavar="GLOB",
        help="Leave the channels of these nodes or tensors alone. Repeatable.",
    )(function)


def ratio_for(function: F) -> F:
    """``--ratio-for GLOB=R``, repeatable."""
    return click.option(
        "--ratio-for",
        multiple=True,
        metavar="GLOB=R",
        callback=_ratio_for,
        help="Another ratio for some nodes. Repeatable.",
    )(function)
