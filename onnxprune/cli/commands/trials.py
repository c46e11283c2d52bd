"""``onnxprune trials``."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from onnxprune.cli import options as shared
from onnxprune.errors import OutputError


@click.command()
@click.argument("tables", type=click.Path(path_type=Path), nargs=-1, required=True)
@shared.page
def trials(tables: tuple[Path, ...], page_path: Path | None, lang: str | None) -> None:
    """Show the trials that --trials wrote to TABLES, and which of them no other beats.

    Tables of several machines may also be put one behind the other.
    """
    from onnxprune.cli.printing import table_style
    from onnxprune.cli.printing.search import trials_text
    from onnxprune.model import files
    from onnxprune.search.trials import rows

    found = rows(tables)
    if page_path is not None:
        from onnxprune.report import html

        if any(page_path.resolve() == t.resolve() for t in tables):
            raise OutputError("is a table that is read", where=str(page_path), hint="name another file")
        files.ensure_writable([page_path], keep=None)
        command = shlex.join(["onnxprune", *click.get_current_context().obj])
        name = ", ".join(t.name for t in tables)
        files.write({page_path: html.trials(found, name, command, lang or html.of_locale(os.environ))})
    table_style.show(trials_text(found))
