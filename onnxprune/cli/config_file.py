"""Options from a file: ``onnxprune.toml``, or ``[tool.onnxprune]`` of ``pyproject.toml``; the command line wins.

align = 16                      # names and values as on the command line
exclude = ["up4*", "/head/*"]   # what is repeatable takes a list
fuse-bn = false                 # --no-fuse-bn

[[model]]                       # one for each model, with options of its own
path = "a.onnx"
ratio = 0.5

What names code to be run, as ``data = "module:function"``, is taken from a file with ``--trust-config`` alone: the file
may come with a pull request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from onnxprune.cli import help_sections as sections
from onnxprune.cli.options import READING, SHARED, parameters_of_prune
from onnxprune.errors import OnnxPruneError, OptionError, nearest
from onnxprune.file_system.toml_file import read_toml
from onnxprune.plugins import is_code

#: Where options are looked for in the current folder, in this order.
NAMES = ("onnxprune.toml", "pyproject.toml")

#: Options that a file does not set, or that name what is read.
_NOT_IN_FILES, _READ = ("config", "trust-config", "help"), ("model", "plan_path", "config")

#: What says how far to go: one of these is given instead of the others.
AMOUNTS = (("ratio",), ("budget",), ("metric", "max_drop", "min_metric", "test_metric"))

#: Options that may name code.
_CODE = ("data", "importance", "metric", "test-metric", "finetune", "sparsity-criterion")

_FILE, _ARGS, _TRUST = "onnxprune.config", "onnxprune.args", "onnxprune.trust"


@dataclass(frozen=True)
class Config:
    """The content of a file of options: options by parameter name, and the path and own options of each model."""

    path: Path | None = None
    options: Mapping[str, Any] | None = None
    models: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    def of(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """The options of a model that has these ``own`` options."""
        general = {n: v for n, v in (self.options or {}).items() if not instead(n) & set(own)}
        return {**general, **own}

    def about(self, model: str | None) -> dict[str, Any]:
        """The options of the model at this path, whether that is the original or the pruned one."""
        places = [] if model is None else [o for path, o in self.models if model in (path, o.get("output"))]
        return self.of(places[0] if places else {})


def load(path: Path | None, parameters: Sequence[click.Parameter], *, trusted: bool) -> Config:
    """The file at ``path``, or that of the current folder, or none; ``trusted``: it may name code.

    Raises OptionError.
    """
    if path is None:
        path = next((p for p in map(Path, NAMES) if p.is_file() and _table(p) is not None), None)
        if path is None:
            return Config()
    found = _table(path)
    if found is None:
        raise OptionError("has no table [tool.onnxprune]", where=str(path))
    models = found.pop("model", [])
    if not isinstance(models, list) or not all(isinstance(m, dict) for m in models):
        raise OptionError("'model' is not a list of tables", where=str(path), hint="write [[model]] above each")
    names = {flag: p for p in parameters if isinstance(p, click.Option) and (flag := _flag(p)) not in _NOT_IN_FILES}
    listed = []
    for number, own in enumerate(models, 1):
        where = f"{path}, model {number}"
        place = own.pop("path", None)
        if not isinstance(place, str):
            raise OptionError("has no path", where=where, hint='path = "model.onnx"')
        listed.append((place, dict(_options(own, names, where, ("path",)))))
    general = dict(_options(found, names, str(path), ("model",)))
    for options in (found, *models) if not trusted else ():
        _without_code(options, str(path))
    return Config(path, general, tuple(listed))


def _without_code(options: Mapping[str, Any], where: str) -> None:
    for key in _CODE:
        if is_code(str(options.get(key, ""))):
            hint = "give it on the command line, or --trust-config where nobody else writes this file"
            raise OptionError(f"'{key}' names code to run, '{options[key]}'", where=where, hint=hint)


def _table(path: Path) -> dict[str, Any] | None:
    """All of the file, or of a pyproject.toml our table; None where there is none. Raises OptionError."""
    found = read_toml(path, "the options")
    if path.name != "pyproject.toml":
        return found
    tool = found.get("tool")
    table = tool.get("onnxprune") if isinstance(tool, dict) else None
    return table if isinstance(table, dict) else None


def _flag(parameter: click.Parameter) -> str:
    """An option's long name: as it is on the command line."""
    return next((o[2:] for o in parameter.opts if o.startswith("--")), parameter.name or "")


def _options(
    given: Mapping[str, Any], names: Mapping[str, click.Option], where: str, others: Sequence[str]
) -> Iterator[tuple[str, Any]]:
    for key, value in given.items():
        if key not in names:
            raise OptionError(f"unknown key '{key}'", where=where, hint=nearest(key, [*names, *others]))
        option = names[key]
        if isinstance(value, bool) != bool(option.is_flag) or isinstance(value, dict):
            kind = "true or false" if option.is_flag else "a list of values" if option.multiple else "a value"
            raise OptionError(f"'{key}' is {kind}, not {value!r}", where=where)
        values = [str(v) for v in value] if isinstance(value, list) else [value]
        yield str(option.name), values if option.multiple else ",".join(values) if isinstance(value, list) else value


def read(ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> Path | None:
    """``--config``: take the defaults of the other options from the file. A click callback, before all others."""
    if ctx.default_map is None and not ctx.resilient_parsing:
        found = ctx.meta[_FILE] = load(value, ctx.command.params, trusted=bool(ctx.meta.get(_TRUST)))
        ctx.default_map = found.of({})
    return value


def _trust(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    ctx.meta[_TRUST] = ctx.meta.get(_TRUST) or value


def configured(callback: Callable[..., Any] | None, text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add ``--config``, read by ``callback`` if there is one, and ``--trust-config``."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        place = click.Path(path_type=Path)
        given = click.option(
            "--config", type=place, is_eager=callback is not None, expose_value=False, callback=callback, help=text
        )
        trust = click.option(
            "--trust-config",
            is_flag=True,
            is_eager=True,
            expose_value=False,
            callback=_trust,
            help="Run code that the file of options names, as module:function.",
        )
        return trust(given(function))

    return decorate


def overruled(ctx: click.Context, name: str) -> bool:
    """Whether option ``name`` comes from the file, while the command line gives one that excludes it."""
    given = ctx.get_parameter_source
    return in_file(ctx, name) and any(given(other) is ParameterSource.COMMANDLINE for other in instead(name))


def in_file(ctx: click.Context, name: str) -> bool:
    """Whether option ``name`` comes from the file."""
    return ctx.get_parameter_source(name) is ParameterSource.DEFAULT_MAP


def instead(name: str) -> set[str]:
    """The options that exclude ``name``."""
    own = next((names for names in AMOUNTS if name in names), None)
    limits = {"max_drop": {"min_metric"}, "min_metric": {"max_drop"}}.get(name, set())
    return limits | {n for names in AMOUNTS if own is not None and names != own for n in names}


class Configured(click.Command):
    """A command with an option ``--config`` and an argument ``model``: run for the one given, or each in the file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep what was given: it is read again for each model."""
        ctx.meta.setdefault(_ARGS, tuple(args))
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """In sections."""
        sections.write(ctx, formatter, sections.PRUNE)

    def invoke(self, ctx: click.Context) -> Any:
        """Run for each model; the largest exit code of all."""
        config, args, model = ctx.meta[_FILE], ctx.meta[_ARGS], ctx.params["model"]
        if config.path is not None and not ctx.params["quiet"]:
            click.echo(f"options: {config.path}")
        own = [o for path, o in config.models if model is not None and Path(path) == model]
        if model is not None or not config.models:
            return super().invoke(self._again(ctx, args, config.of(own[0])) if own else ctx)
        runs = [(p, self._again(ctx, [*args, "--", p], config.of(own))) for p, own in config.models]
        self._places_differ([run for _, run in runs], str(config.path))
        codes = [0]
        for path, run in runs:
            if len(runs) > 1 and not run.params["quiet"]:
                click.echo(f"\n== {path}")
            try:
                with run:
                    codes.append(super().invoke(run) or 0)
            except OnnxPruneError as error:
                click.echo(f"onnxprune: {error}", err=True)
                codes.append(int(error.exit_code))
        return max(codes)

    def _again(self, ctx: click.Context, args: Sequence[str], options: Mapping[str, Any]) -> click.Context:
        return self.make_context(ctx.info_name, list(args), parent=ctx.parent, default_map=dict(options))

    def _places_differ(self, runs: Sequence[click.Context], where: str) -> None:
        """No model writes over what another has written. Raises OptionError."""
        for option in self.params:
            if isinstance(option.type, click.Path) and option.name not in _READ:
                places = [p for run in runs if (p := run.params[str(option.name)]) is not None]
                if len(set(places)) < len(places):
                    what = f"--{_flag(option)} names one file for several models"
                    raise OptionError(what, where=where, hint="set it below each [[model]]")


class Informed(click.Command):
    """A command that takes from the file what it shares with `prune`: about the model named first, or all of them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Make what the file says the defaults of all options of the same name."""
        if ctx.default_map is None and not ctx.resilient_parsing:
            ctx.default_map = self._defaults(ctx, args)
        return super().parse_args(ctx, args)

    def _defaults(self, ctx: click.Context, args: Sequence[str]) -> dict[str, Any]:
        given, _, _ = self.make_parser(ctx).parse_args(list(args))
        place = next((given.get(str(p.name)) for p in self.params if isinstance(p, click.Argument)), None)
        named = given.get("config")
        trusted = bool(given.get("trust_config"))
        config = load(Path(named) if named else None, parameters_of_prune(), trusted=trusted)
        found = config.about(place)
        shared = (*SHARED, *(READING if given.get("source") or found.get("source") else ()))
        own = {p.name for p in self.params}
        defaults = {name: found[name] for name in shared if name in found and name in own}
        if defaults:
            click.echo(f"options: {config.path}")
        return defaults


def informed(name: str) -> Callable[[Callable[..., Any]], click.Command]:
    """A command with ``--config``, and what the file says."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        text = (
            "Take what is said there of the model, the target and the data from this file of options. "
            "[default: onnxprune.toml or pyproject.toml here]"
        )
        return click.command(name, cls=Informed)(configured(None, text)(function))

    return decorate
