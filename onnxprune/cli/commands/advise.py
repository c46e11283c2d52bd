"""``onnxprune advise``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxprune.cli import options as shared
from onnxprune.cli.config_file import informed


@informed("advise")
@click.argument("model", type=click.Path(path_type=Path))
@shared.taken("target", required=True)
@shared.taken("dtype", "exclude", "input_shapes", "input_values", "custom", "outputs")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the advice (JSON).")
@click.option("-v", "--verbose", is_flag=True, help="Show every layer and group, not only the most expensive ones.")
@shared.bounded
def advise(model: Path, target: str, dtype: str | None, json_path: Path | None, *, verbose: bool, **given: Any) -> None:
    """Show where MODEL wastes the target, without changing it.

    Channels that are computed but do not exist, layers that fall to the CPU, parts of Concat and Split that are
    copied, and widths just above an edge, where few channels cost much.
    """
    from onnxprune.cli.printing import table_style
    from onnxprune.cli.printing import target as render_target
    from onnxprune.cost import chips as targets
    from onnxprune.model import files
    from onnxprune.report import model_reports

    chip = targets.find(target)
    costs = targets.Cycles.of(chip, dtype)
    loaded = files.load(model)
    if json_path is not None:
        files.ensure_writable([json_path], keep=model)
    with table_style.status() as announce:
        announce("analyse")
        found = model_reports.advise(loaded, costs, operators=given.pop("custom"), progress=announce, **given)
    if json_path is not None:
        files.write({json_path: found.to_json()})
    table_style.show(render_target.advice_text(found, verbose=verbose))
