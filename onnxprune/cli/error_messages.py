"""How errors are shown to a user: one line, and the exit code that belongs to it."""

from __future__ import annotations

import click

from onnxprune.cli.wall import out_of_memory
from onnxprune.errors import ExitCode, OnnxPruneError, one_line

_INTERRUPTED = 130


def error_message(error: BaseException) -> tuple[str, int]:
    """The line and the exit code for ``error``; for wrong usage the line names the command's help."""
    if isinstance(error, OnnxPruneError):
        return str(error), error.exit_code
    if isinstance(error, click.ClickException):
        place = f" ({error.ctx.command_path} --help)" if isinstance(error, click.UsageError) and error.ctx else ""
        return f"{one_line(error.format_message())}{place}", ExitCode.USAGE
    if isinstance(error, MemoryError):
        return out_of_memory(), ExitCode.USAGE
    if isinstance(error, OSError):  # a disk that is full, a folder that went: where it is foreseen it says more
        place = f"{error.filename}: " if error.filename else ""
        return one_line(f"{place}{error.strerror or error} (is there space, also in TMPDIR?)"), ExitCode.USAGE
    return "interrupted", _INTERRUPTED
