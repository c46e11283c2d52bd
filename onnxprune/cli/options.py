"""Options that several commands share, and how their text becomes values."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def _numbers(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(v) for v in value.split(",")) if value else ()
    except ValueError:
        raise click.BadParameter(f"'{value}' is not numbers separated by commas") from None


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


_CALIBRATION = (
    click.option(
        "--data", "source", metavar="PATH", help="Calibration data: a folder, a glob, a file or module:function."
    ),
    click.option("--samples", type=int, default=512, show_default=True, help="Calibration samples to use."),
    click.option(
        "--mean",
        callback=_numbers,
        metavar="R,G,B",
        help="Of pixels, in 0..255 units, as in an RKNN config. [default: 0]",
    ),
    click.option(
        "--std",
        callback=_numbers,
        metavar="R,G,B",
        help="Of pixels, in 0..255 units, as in an RKNN config. [default: 1]",
    ),
    click.option(
        "--layout", type=click.Choice(["NCHW", "NHWC"]), help="How the model reads images. [default: by its shape]"
    ),
    click.option(
        "--color",
        type=click.Choice(["RGB", "BGR"]),
        default="RGB",
        show_default=True,
        help="How the model reads images.",
    ),
)


def calibration(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--data`` and how to read it, as one argument ``data``: a `calibration.Data`, or None."""

    @wraps(function)
    def collected(*args: Any, source: str | None, **given: Any) -> Any:
        from onnxprune.calibration.samples import Data

        if source is None and (given["mean"] or given["std"] or given["layout"]):
            raise click.UsageError("--mean, --std and --layout say how to read calibration images: give --data too")
        reading = {name: given.pop(name) for name in ("samples", "mean", "std", "layout", "color")}
        return function(*args, data=Data(source, **reading) if source else None, **given)

    for option in reversed(_CALIBRATION):
        collected = option(collected)
    return collected


def page(function: F) -> F:
    """``--report PATH`` and ``--lang``."""
    path = click.option(
        "--report", "page_path", type=click.Path(path_type=Path), help="Write the report as one HTML page."
    )
    language = click.option(
        "--lang", type=click.Choice(["en", "zh"]), help="The language of the HTML page. [default: the locale's, or en]"
    )
    return path(language(function))


def target(*, required: bool) -> Callable[[F], F]:
    """``--target NAME``."""
    return click.option(
        "--target", required=required, metavar="NAME", help="A chip that `onnxprune targets` lists, or a .toml."
    )


def dtype(function: F) -> F:
    """``--dtype int8``."""
    return click.option(
        "--dtype", type=click.Choice(["fp16", "int8", "fp32"]), help="What the target computes in. [default: its first]"
    )(function)


_LIMITS = (
    click.option("--min-cosine", type=float, help="Fail where an output is less similar to the original's."),
    click.option("--min-snr", type=float, metavar="DB", help="Fail where an output's signal to noise is less."),
)


def _require(sizes: str) -> Callable[[F], F]:
    return click.option(
        "--require",
        multiple=True,
        metavar="SIZE<=LIMIT",
        help=f"Fail unless {sizes} keep it: a share of the original's, or, above 1, a number. Repeatable.",
    )


_REWRITE = click.option("--max-rewrite-error", type=float, help="Fail where the rewrite error is larger.")
_FILES = (
    click.option("--junit", type=click.Path(path_type=Path), help="Write every check as a test case (JUnit XML)."),
    click.option(
        "--summary", metavar="PATH", help='Append a summary (Markdown) to this file, as to "$GITHUB_STEP_SUMMARY".'
    ),
)


def checking(*, proven: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Limits and where they are told of, as one argument ``ci``: `Checking`. ``proven``: whether there is a proof."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def collected(*args: Any, junit: Path | None, summary: str | None, **given: Any) -> Any:
            from onnxprune.cli.checks import Checking
            from onnxprune.report.limits import Gates, Requirement

            limits = {name: given.pop(name) for name in ("max_rewrite_error", "min_cosine", "min_snr") if name in given}
            require = tuple(Requirement.parse(text) for text in given.pop("require"))
            return function(*args, ci=Checking(Gates(**limits, require=require), junit, summary), **given)

        sizes = "params, macs, bytes, channels or cycles" if proven else "params, macs or bytes"
        for option in reversed([*([_REWRITE] if proven else []), *_LIMITS, _require(sizes), *_FILES]):
            collected = option(collected)
        return collected

    return decorate


def budget(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--target``, ``--dtype`` and ``--budget``, as ``target``, a `Cycles`, and ``budget``, a `Budget`; or None."""

    @wraps(function)
    def priced(*args: Any, target: str | None, dtype: str | None, budget: str | None, **given: Any) -> Any:
        from onnxprune.cost import chips as targets
        from onnxprune.widths.budget import Budget

        costs = targets.costs(target, dtype)
        return function(*args, target=costs, budget=Budget.parse(budget, costs) if budget else None, **given)

    share = click.option(
        "--budget",
        metavar="COST=LIMIT",
        help="Instead of --ratio: what may be left of macs, params, bytes (of weights), activations (bytes written) or "
        "the target's cycles, as a share (macs=0.5) or a number; ms=5: by the target's clock.",
    )
    return target(required=False)(dtype(share(priced)))
