"""The command line: parse, call, render, exit code. Heavy imports happen inside the commands."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from onnxprune.cli.error_messages import error_message
from onnxprune.errors import ExitCode, OnnxPruneError, OptionError, nearest

#: The commands, each a module in `onnxprune.cli.commands`, and what the list of them says.
COMMANDS: Mapping[str, str] = {
    "advise": "Show where MODEL wastes the target, without changing it.",
    "diff": "Show what differs between two models: widths, nodes, metadata, and how far their outputs are apart.",
    "doctor": "Show what this installation has: versions, providers, rknn-toolkit2, targets, a file of options.",
    "inspect": "Show which channels of MODEL can be pruned, which cannot, and which node is why.",
    "prune": "Remove channels from MODEL and write the smaller model.",
    "quantize": "Round weights of MODEL to few bits; all channels stay: `onnxprune prune --ratio 0 --weights 8`.",
    "rknn": "Convert MODEL with rknn-toolkit2, and show what its compiler charges for each layer.",
    "sensitivity": "Show what each group of channels of MODEL costs a metric when it is cut alone, at several ratios.",
    "sparsify": "Make weights of MODEL zero; all channels stay: `onnxprune prune --ratio 0 --sparsity 0.5`.",
    "sparsity": "Show the zeros among the weights of MODEL, layer by layer, and what targets do with them.",
    "targets": "List the chips and engines that --target knows, or print the file of one.",
    "trials": "Show the trials that --trials wrote to TABLES, and which of them no other beats.",
}


class _DefaultsToPrune(click.Group):
    """``onnxprune MODEL ...`` is short for ``onnxprune prune MODEL ...``. A command is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (as click calls them)
        """Their names."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """One of them."""
        if cmd_name not in COMMANDS:
            return None
        found = getattr(import_module(f"onnxprune.cli.commands.{cmd_name}"), cmd_name)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list, for which none of them is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([*COMMANDS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"--help", "-h", "--version"}
        if args and args[0] not in COMMANDS and args[0] not in own:
            self._not_a_command(args[0])
            args = ["prune", *args]
        return super().parse_args(ctx, args)

    def _not_a_command(self, name: str) -> None:
        """Raise OptionError for a word that is no file: what it may have meant is one of the commands."""
        if name.replace("-", "").isalpha() and not name.startswith("-") and not Path(name).exists():
            hint = nearest(name, COMMANDS, f"commands: {', '.join(COMMANDS)}; a model is a path")
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
    """Remove channels from an exported ONNX model, and prove that the cut is exact.

    `onnxprune MODEL ...` is short for `onnxprune prune MODEL ...`.

    Exit codes: 0 done; 1 a check failed, no model was written; 2 bad usage, or a model that cannot be read or is not
    valid.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(ExitCode.USAGE)


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
