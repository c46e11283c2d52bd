"""``onnxprune sensitivity``."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import click

from onnxprune.cli import options as shared
from onnxprune.cli.config_file import informed
from onnxprune.options import Options


@informed("sensitivity")
@click.argument("model", type=click.Path(path_type=Path))
@shared.measured
@shared.calibration(drawn=True)
@shared.taken(
    "metric_lower_is_better", "trials", "resume", "cache", "jobs", "cluster", "align", "target", "dtype", "importance",
    "exclude", "input_shapes", "input_values", "custom", "fuse_bn", "seed",
)  # fmt: skip
@click.option("--csv", "csv_path", type=click.Path(path_type=Path), help="Write layername,0.1,0.2,... (CSV).")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write all that was measured (JSON).")
@shared.page
@shared.bounded
def sensitivity(
    model: Path,
    metric: str,
    early_stop: str | None,
    csv_path: Path | None,
    json_path: Path | None,
    page_path: Path | None,
    *,
    ratios: tuple[float, ...],
    ratios_for: tuple[tuple[str, tuple[float, ...]], ...],
    threshold: float,
    lang: str | None,
    **given: Any,
) -> None:
    """Show what each group of channels of MODEL costs a metric when it is cut alone, at several ratios.

    As it is cut, and with the weights behind it solved anew, which repairs most of it. No model is written.
    """
    from onnxprune import pipeline
    from onnxprune.cli.printing import table_style
    from onnxprune.cli.printing.search import sensitivity_text
    from onnxprune.model import files
    from onnxprune.report.sensitivity_report import to_json
    from onnxprune.search.sensitivity import SensitivityRequest, csv
    from onnxprune.widths.metric_options import RATIOS

    asked = SensitivityRequest(metric, ratios or RATIOS, ratios_for, early_stop, threshold)
    options = Options(**given)
    loaded = files.load(model)
    table = Path(options.trials) if options.trials else None
    places = [p for p in (csv_path, json_path, page_path, table) if p is not None]
    files.ensure_writable(places, keep=model, read=[options.reading.named if options.reading else None])
    with table_style.status() as announce:
        found = pipeline.sensitivity(loaded, options, asked, announce)
    command = shlex.join(["onnxprune", *click.get_current_context().obj])
    texts = {csv_path: csv(found), json_path: to_json(found, options.to_json(), command)}
    if page_path is not None:
        from onnxprune.report import html

        texts[page_path] = html.sensitivity(found, command, lang or html.of_locale(os.environ))
    files.write({path: text for path, text in texts.items() if path is not None})
    table_style.show(sensitivity_text(found))
