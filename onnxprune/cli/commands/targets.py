"""``onnxprune targets``."""

from __future__ import annotations

import click


@click.command()
@click.argument("name", required=False)
@click.option("-v", "--verbose", is_flag=True, help="Show where the numbers of each come from.")
def targets(*, name: str | None, verbose: bool) -> None:
    """List the chips and engines that --target knows, or print the file of one.

    Another one is a TOML file of the same keys: --target PATH.toml. The file of NAME is one to start from.
    """
    from onnxprune.cli.printing import table_style
    from onnxprune.cost import chips as known

    if name is not None:
        click.echo(known.text(known.find(name)), nl=False)
        return
    rows = [
        (
            chip.name,
            dtype,
            str(precision.out_block),
            str(precision.in_block),
            str(precision.align),
            chip.measured or "not measured",
            chip.title,
        )
        for chip in known.shipped()
        for dtype, precision in chip.precisions.items()
    ]
    header = ("target", "type", "out", "in", "align", "measured with", "")
    table_style.show([table_style.table(header, rows, right=frozenset({2, 3, 4}))])
    if verbose:
        click.echo("\n" + "\n".join(f"{chip.name}: {chip.source}" for chip in known.shipped()))
