"""``onnxprune rknn``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxprune.cli import options as shared
from onnxprune.cli.config_file import informed


@informed("rknn")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@shared.taken("target", required=True)
@shared.taken("dtype")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write. [default: MODEL.rknn]")
@click.option("--against", type=click.Path(path_type=Path), help="A model to compare with, as MODEL before pruning.")
@click.option(
    "--dataset",
    type=click.Path(path_type=Path),
    help="For int8: a text file with one line of .npy or image paths per sample.",
)
@click.option("--python", type=click.Path(path_type=Path), help="An interpreter with rknn-toolkit2. [default: this]")
@shared.taken("input_shapes")
@click.option("--calibrate-target", type=click.Path(path_type=Path), help="Measure the target and write its TOML here.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the report (JSON).")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the simulator's inputs.")
@click.option("-v", "--verbose", is_flag=True, help="Show every layer, not only the most expensive ones.")
@shared.bounded
def rknn(
    model: Path | None,
    target: str,
    dtype: str | None,
    output: Path | None,
    against: Path | None,
    calibrate_target: Path | None,
    json_path: Path | None,
    *,
    verbose: bool,
    **given: Any,
) -> None:
    """Convert MODEL with rknn-toolkit2, and show what its compiler charges for each layer.

    The cycles are the compiler's own estimate, not a measurement on a board. With --calibrate-target no model is
    needed: layers of many widths are compiled, and the target's file is written from what they cost.
    """
    from onnxprune.cli.printing import table_style
    from onnxprune.cli.printing import target as render_target
    from onnxprune.cost import rknn as toolkit
    from onnxprune.model import files

    if calibrate_target is not None:
        with table_style.status() as announce:
            text = toolkit.measured(target, given["python"], announce)
        files.write({calibrate_target: text})
        click.echo(f"written: {calibrate_target}")
        return
    if model is None:
        raise click.UsageError("Missing argument 'MODEL'.")
    place = output or model.with_suffix(".rknn")
    loaded = files.load(model)
    other = files.load(against) if against else None
    read = (against, given["dataset"])
    files.ensure_writable([p for p in (place, json_path) if p is not None], keep=model, read=read)
    request = toolkit.Request(loaded, place, other, **given)
    with table_style.status() as announce:
        found = toolkit.convert(request, target, dtype or "fp16", announce)
    if json_path is not None:
        files.write({json_path: found.to_json()})
    table_style.show(render_target.conversion_text(found, verbose=verbose))
