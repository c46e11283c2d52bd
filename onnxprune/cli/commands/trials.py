"""``onnxprune trials``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("tables", type=click.Path(path_type=Path), nargs=-1, required=True)
def trials(tables: tuple[Path, ...]) -> None:
    """Show the trials in TABLES, which --trials wrote, each once, with those that no other beats.

    Tables of several machines may also be put one behind the other.
    """
    from onnxprune.cli.printing import table_style
    from onnxprune.cli.printing.search import trials_text
    from onnxprune.search.trials import rows

    table_style.show(trials_text(rows(tables)))
