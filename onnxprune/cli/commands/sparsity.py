"""``onnxprune sparsity``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxprune.cli import options as shared
from onnxprune.cli.config_file import informed


@informed("sparsity")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write what was found (JSON).")
@shared.taken("input_shapes", "input_values")
@shared.bounded
def sparsity(model: Path, json_path: Path | None, **given: Any) -> None:
    """Show the zeros among the weights of MODEL, layer by layer, and what targets do with them."""
    from onnxprune.cli.printing import sparsity_tables, table_style
    from onnxprune.model import files
    from onnxprune.report import model_reports

    loaded = files.load(model)
    if json_path is not None:
        files.ensure_writable([json_path], keep=model)
    with table_style.status() as announce:
        announce("analyse")
        found = model_reports.sparsity(loaded, **given)
    if json_path is not None:
        files.write({json_path: found.to_json()})
    table_style.show(sparsity_tables.sparsity_text(found))
