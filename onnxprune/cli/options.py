"""Options of commands: made from what `onnxprune.options` says of them, and those that only the command line has."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from onnxprune.calibration.data_options import NO_DATA, Data
from onnxprune.constraints.bit_options import BitOptions
from onnxprune.constraints.zero_options import ZeroOptions
from onnxprune.errors import OptionError
from onnxprune.formats.format_options import FormatOptions
from onnxprune.option_declarations import Flag, flags
from onnxprune.options import ApplyOptions, Options
from onnxprune.widths.metric_options import MetricOptions, SensitivityOptions

F = TypeVar("F", bound=Callable[..., Any])

#: What calibration data is called where nothing is calibrated on it, and without it inputs are seeded.
SEEDED = {
    "source": "Samples to run both on: a folder, a glob, a file or module:function. [default: seeded random inputs]",
    "samples": "Number of samples to use. [default: 512]",
}

#: How calibration data is read, which means nothing without any.
READING = tuple(name for name in flags(Data) if name != "source")

#: What says of a model what is as true in other commands, and their language.
SHARED = (*(n for of in (Options, Data) for n, (flag, _) in flags(of).items() if flag.shared), "lang")


def _made(name: str, flag: Flag, default: Any, **other: Any) -> Callable[[F], F]:
    """A click option."""
    kind = click.Choice(flag.kind) if isinstance(flag.kind, tuple) else flag.kind
    given: dict[str, Any] = {"metavar": flag.metavar, "help": flag.help}
    if flag.kind is bool:
        given |= {"default": default} if "/" in flag.names[0] else {"is_flag": True}
    else:
        given |= {"type": kind, "multiple": flag.multiple, "show_default": flag.shown}
        given |= {"callback": _reader(flag.read)} if flag.read else {"default": default}
    given |= {"default": ()} if flag.multiple else {}
    if other.get("required"):
        given.pop("default", None)  # from click 8.3 on, None that is given is not missing
    return click.option(*flag.names, name, **(given | other))


def _reader(read: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    def called(_ctx: click.Context, _parameter: click.Parameter, value: Any) -> Any:
        try:
            return read(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return called


def taken(*names: str, **other: Any) -> Callable[[F], F]:
    """Add the options of these names, as `Options` declares them; ``other``: further arguments for click."""

    def decorate(function: F) -> F:
        for name in reversed(names):
            function = _made(name, *flags(Options)[name], **other)(function)
        return function

    return decorate


def without_channels(given: dict[str, Any], *allowed: str) -> dict[str, Any]:
    """Options for a run that removes no channel: what says how many go is a mistake where it was typed.

    In a file it is for other commands. ``allowed``: what of it says something else here. Raises UsageError.
    """
    ctx = click.get_current_context()
    channels = {n: given[n] for n in ("ratio", "budget", "metric") if n not in allowed}
    for name in channels:
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} is about channels, and {ctx.info_name} removes none: prune takes both")
    return {**given, **dict.fromkeys(channels), "ratio": 0.0}


#: Options of `prune` that neither choose what goes nor what is asked of the weights that stay.
_BESIDE_A_PLAN = frozenset({"target", "dtype", "cache", "trials", "resume", "jobs", "cluster"})


def ensure_the_plan_decides(plan: Path | None) -> None:
    """Raise OptionError for a typed option that says what goes, as a plan does. In a file it is for other runs."""
    if plan is None:
        return
    ctx = click.get_current_context()
    if ctx.info_name in ("sparsify", "quantize"):
        raise OptionError("says what goes, and prune applies it", where="--plan", hint="onnxprune MODEL --plan PATH")
    for name, flag in flags(Options).items():
        typed = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if typed and name not in flags(ApplyOptions) and name not in _BESIDE_A_PLAN:
            what = "says what goes, and so does the plan"
            raise OptionError(what, where=flag[0].names[0].split("/")[0], hint="leave one of them out")


def calibration(*, drawn: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add ``--data`` and how to read it, as one argument ``data``.

    ``drawn``: give a `Data` even if there is no source, so that inputs are drawn.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def collected(*args: Any, source: str | None, **given: Any) -> Any:
            if source is None and not drawn and (given["mean"] or given["std"] or given["layout"]):
                raise click.UsageError("--mean, --std and --layout say how to read images: give --data too")
            reading = {name: given.pop(name) for name in READING if name in given}
            data = Data(source, **reading) if drawn or source else None
            return function(*args, data=NO_DATA if drawn and source == NO_DATA else data, **given)

        for name, (flag, default) in reversed([*flags(Data).items()]):
            if not drawn and name == "input_range":
                continue
            seeded = {"help": SEEDED[name]} if not drawn and name in SEEDED else {}
            collected = _made(name, flag, default, **seeded)(collected)
        return collected

    return decorate


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}


def _bounds(ctx: click.Context, parameter: click.Parameter, value: str | float | None) -> None:
    """Tell the wall. Each of the two options does, as neither is looked at first."""
    from onnxprune.cli import wall

    bounds = ctx.meta.setdefault("onnxprune.bounds", {})
    if isinstance(value, str):
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", value.strip().lower())
        if found is None or not float(found[1]):
            raise click.BadParameter(f"'{value}' is not an amount, as 8GB or 500MB")
        bounds["memory"] = int(float(found[1]) * _UNITS[found[2]])
    elif value is not None:
        if not value > 0:
            raise click.BadParameter("must be more than 0")
        bounds["seconds"] = value
    if not ctx.resilient_parsing and parameter.name == "timeout":
        wall.limit(bounds.get("memory"), bounds.get("seconds"))


def bounded(function: F) -> F:
    """Add ``--max-memory`` and ``--timeout``, which `onnxprune.cli.wall` enforces."""
    memory = click.option(
        "--max-memory",
        metavar="SIZE",
        is_eager=True,
        expose_value=False,
        callback=_bounds,
        help="Stop with an error when the run takes more memory, as 8GB. [default: 80 % of the machine's or "
        "container's]",
    )
    seconds = click.option(
        "--timeout",
        type=float,
        metavar="SECONDS",
        expose_value=False,
        callback=_bounds,
        help="Stop with an error when the run takes longer. [default: no limit]",
    )
    return memory(seconds(function))


def page(function: F) -> F:
    """Add ``--report PATH`` and ``--lang``."""
    path = click.option(
        "--report", "page_path", type=click.Path(path_type=Path), help="Write the report as one HTML page."
    )
    language = click.option(
        "--lang", type=click.Choice(["en", "zh"]), help="Language of the HTML page. [default: the locale's, or en]"
    )
    return path(language(function))


_LIMITS = (
    click.option("--min-cosine", type=float, help="Fail if an output's cosine similarity with the original's is less."),
    click.option("--min-snr", type=float, metavar="DB", help="Fail if an output's signal-to-noise ratio is less."),
)


def _require(sizes: str) -> Callable[[F], F]:
    return click.option(
        "--require",
        multiple=True,
        metavar="SIZE<=LIMIT",
        help=f"Fail if {sizes} break the limit: a share of the original's, or, above 1, a number. Repeatable.",
    )


_REWRITE = click.option("--max-rewrite-error", type=float, help="Fail if the rewrite error is larger.")
_FILES = (
    click.option("--junit", type=click.Path(path_type=Path), help="Write every check as a test case (JUnit XML)."),
    click.option(
        "--summary", metavar="PATH", help='Append a summary (Markdown) to this file, as to "$GITHUB_STEP_SUMMARY".'
    ),
)


def checking(*, proven: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add limits, and files that report on them, as one argument ``ci``: `Checking`. ``proven``: with a proof."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def collected(*args: Any, junit: Path | None, summary: str | None, **given: Any) -> Any:
            from onnxprune.cli.junit_summary import Checking
            from onnxprune.report.gates import COMPARED, SIZES, Gates, Requirement

            limits = {name: given.pop(name) for name in ("max_rewrite_error", "min_cosine", "min_snr") if name in given}
            require = tuple(Requirement.parse(text, SIZES if proven else COMPARED) for text in given.pop("require"))
            return function(*args, ci=Checking(Gates(**limits, require=require), junit, summary), **given)

        sizes = "params, macs, bytes, channels, cycles, sparsity or packed" if proven else "params, macs or bytes"
        for option in reversed([*([_REWRITE] if proven else []), *_LIMITS, _require(sizes), *_FILES]):
            collected = option(collected)
        return collected

    return decorate


_PLACE = click.Path(path_type=Path)
_OUTPUT = click.option("-o", "--output", type=_PLACE, help="Where to write. [default: MODEL.pruned.onnx, beside it]")
_WRITTEN = (
    click.option("--save-as-external-data", is_flag=True, help="Write weights to OUTPUT.data beside the model."),
    click.option("--plan", "plan_path", type=_PLACE, help="Apply a saved plan instead of choosing channels."),
    click.option("--save-plan", type=_PLACE, help="Write the plan (JSON)."),
    click.option("--json", "json_path", type=_PLACE, help="Write the report (JSON)."),
    page,
    click.option("--dry-run", is_flag=True, help="Write no model and no plan, only the reports."),
    click.option("-v", "--verbose", is_flag=True, help="Show every slice that is removed."),
    click.option("-q", "--quiet", is_flag=True, help="Show only errors."),
)


def measured(function: F) -> F:
    """Add the options that only `sensitivity` has."""
    for name, (flag, default) in reversed([*flags(SensitivityOptions).items()]):
        function = _made(name, flag, default)(function)
    return function


def of_prune(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add all options of `prune` except ``--config``."""
    general = [name for name in flags(ApplyOptions) if name not in flags(FormatOptions)]
    apart = [name for part in (ZeroOptions, BitOptions, FormatOptions, MetricOptions) for name in flags(part)]
    own = taken(*(name for name in flags(Options) if name not in (*general, *apart)), *apart)
    written = checking(proven=True)(function)
    for option in reversed(_WRITTEN):
        written = option(written)
    return _OUTPUT(own(calibration(drawn=True)(taken(*general)(written))))


def parameters_of_prune() -> list[click.Parameter]:
    """The parameters that a file of options may set."""
    return click.command()(of_prune(lambda **_: None)).params
