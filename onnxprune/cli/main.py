"""The command line: parse, call, render, exit code. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from onnxprune.cli.commands.advise import advise
from onnxprune.cli.commands.diff import diff
from onnxprune.cli.commands.doctor import doctor
from onnxprune.cli.commands.inspect import inspect
from onnxprune.cli.commands.prune import prune
from onnxprune.cli.commands.rknn import rknn
from onnxprune.cli.commands.sensitivity import sensitivity
from onnxprune.cli.commands.sparsify import sparsify
from onnxprune.cli.commands.sparsity import sparsity
from onnxprune.cli.commands.targets import targets
from onnxprune.cli.commands.trials import trials
from onnxprune.cli.error_messages import error_message
from onnxprune.errors import ExitCode, OnnxPruneError, OptionError, nearest


class _DefaultsToPrune(click.Group):
    """``onnxprune MODEL ...`` is short for ``onnxprune prune MODEL ...``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"--help", "-h", "--version"}
        if args and args[0] not in self.commands and args[0] not in own:
            self._not_a_command(args[0])
            args = ["prune", *args]
        return super().parse_args(ctx, args)

    def _not_a_command(self, name: str) -> None:
        """Raise OptionError for a word that is no file: what it may have meant is one of the commands."""
        if name.replace("-", "").isalpha() and not name.startswith("-") and not Path(name).exists():
            hint = nearest(name, self.commands, f"commands: {', '.join(sorted(self.commands))}; a model is a path")
            raise OptionError(f"there is no command and no file '{name}'", hint=hint)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands, or else files, as a model may stand in their place; first, as bash forgets what was before."""
        return [CompletionItem(incomplete, type="file"), *super().shell_complete(ctx, incomplete)]


@click.group(
    cls=_DefaultsToPrune, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="onnxprune", prog_name="onnxprune")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Remove channels from an exported ONNX model, and prove that nothing else changed.

    `onnxprune MODEL ...` is short for `onnxprune prune MODEL ...`.

    Exit codes: 0 done; 1 a check failed, no model was written; 2 bad usage, or a model that cannot be read or is not
    valid.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(ExitCode.USAGE)


for command in (
    prune,
    sparsify,
    inspect,
    sensitivity,
    sparsity,
    trials,
    diff,
    advise,
    rknn,
    targets,
    doctor,
):
    cli.add_command(command)


def main(args: Sequence[str] | None = None) -> None:
    """Run, and exit with a documented code. User errors are one line on stderr; bugs keep their traceback."""
    try:
        given = list(args) if args is not None else sys.argv[1:]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a strange model's numbers overflow: the figures say so
            result: Any = cli.main(args=given, obj=tuple(given), standalone_mode=False)  # the report names the command
    except (OnnxPruneError, click.ClickException, click.Abort, MemoryError, OSError) as error:
        text, code = error_message(error)
        click.echo(f"onnxprune: {text}", err=True)
        sys.exit(code)
    sys.exit(result if isinstance(result, int) else ExitCode.DONE)
