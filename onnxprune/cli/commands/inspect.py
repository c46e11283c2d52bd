"""``onnxprune inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxprune.cli import options as shared
from onnxprune.cli.config_file import informed


@informed("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the inspection (JSON).")
@shared.taken("exclude", "input_shapes", "input_values", "custom", "outputs")
@click.option("-v", "--verbose", is_flag=True, help="Show the nodes of every group.")
@shared.bounded
def inspect(model: Path, json_path: Path | None, *, verbose: bool, **given: Any) -> None:
    """Show which channels of MODEL can be pruned, which cannot, and which node is why."""
    from onnxprune.cli.printing import report_tables as render
    from onnxprune.cli.printing import table_style
    from onnxprune.model import files
    from onnxprune.report import model_reports

    loaded = files.load(model)
    if json_path is not None:
        files.ensure_writable([json_path], keep=model)
    with table_style.status() as announce:
        announce("analyse")
        found = model_reports.inspect(loaded, operators=given.pop("custom"), **given)
    if json_path is not None:
        files.write({json_path: found.to_json()})
    table_style.show(render.inspection_text(found, verbose=verbose))
