"""``onnxprune prune``."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.cli import options as shared
from onnxprune.cli.config_file import AMOUNTS, Configured, configured, in_file, overruled, read
from onnxprune.formats.format_options import FOLDER
from onnxprune.options import Options
from onnxprune.widths.metric_options import OF_TRIALS

if TYPE_CHECKING:
    from onnxprune.cli.junit_summary import Checking
    from onnxprune.model.files import Folder
    from onnxprune.model.onnx_model import Model


@click.command(cls=Configured)
@click.argument("model", type=click.Path(path_type=Path), required=False)
@configured(read, "Take options from this file. [default: onnxprune.toml or pyproject.toml here]")
@shared.of_prune
@shared.bounded
def prune(**given: Any) -> None:
    """Remove channels from MODEL and write the smaller model.

    Every run proves that the cut equals MODEL with the removed channels at zero, and that nothing but weights changes
    when these are solved anew after it; where that fails, no model is written.
    """
    run(**given)


def run(
    model: Path | None,
    output: Path | None,
    plan_path: Path | None,
    save_plan: Path | None,
    json_path: Path | None,
    page_path: Path | None,
    ci: Checking,
    *,
    lang: str | None,
    save_as_external_data: bool,
    dry_run: bool,
    verbose: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """What the command does, and those that are short for it."""
    if model is None:
        raise click.UsageError("Missing argument 'MODEL'.")
    from onnxprune import pipeline
    from onnxprune.cli.printing import report_tables as render
    from onnxprune.cli.printing import table_style
    from onnxprune.formats.arrays import MANIFEST
    from onnxprune.model import files
    from onnxprune.plans.plan_file import load_plan
    from onnxprune.progress import silent
    from onnxprune.report.gates import Measured, failure
    from onnxprune.training import rounds

    shared.ensure_the_plan_decides(plan_path)
    settings = _settings(**given)
    folder = settings.format == FOLDER
    loaded = files.load(model)
    target = output or model.with_name(f"{model.stem}.pruned{'' if folder else '.onnx'}")
    wanted = [json_path, page_path, ci.junit, *([] if dry_run else [target, save_plan])]
    marks = {target: MANIFEST} if folder else {}
    files.ensure_writable(**_paths(settings, wanted, plan_path), keep=model, folders=marks, appended=[ci.summary])
    plan = load_plan(plan_path) if plan_path else None
    with nullcontext() if quiet else table_style.status() as announce, ci.proving(model):
        result = rounds.attempt(loaded, settings, plan, announce or silent, str(plan_path))
    told = result.report
    checks = ci.judge(model, Measured.of_report(told), told.notes, sum(told.seconds.values()))
    failed = pipeline.unproven(told) or failure(checks, str(model))
    writes = failed is None and not dry_run
    report = render.placed(told, str(target) if writes else "", checks, click.get_current_context().obj)
    texts: dict[Path | None, Model | Folder | str] = {save_plan: result.plan.to_json()} if writes else {}
    texts[json_path] = report.to_json()
    if page_path is not None:
        from onnxprune.report import html

        texts[page_path] = html.page(report, lang or html.of_locale(os.environ))
    texts |= {target: result.exported or result.model} if writes else {}
    files.write({path: text for path, text in texts.items() if path is not None}, external=save_as_external_data)
    if not quiet:
        beside_it = {"plan": save_plan, "report": page_path, "JSON": json_path, "JUnit": ci.junit}
        beside = {what: str(path) for what, path in beside_it.items() if path and path in (*texts, ci.junit)}
        slices = [render.plan_text(result.plan, loaded)] if verbose else []
        table_style.show([*slices, *render.report_text(report, beside)])
    if failed is not None:
        raise failed


def _paths(settings: Options, wanted: list[Path | None], plan: Path | None) -> dict[str, Any]:
    """What is written, the table of trials too, and what is read beside the model."""
    table = Path(settings.trials) if settings.trials else None
    data = settings.reading.named if settings.reading else None
    return {"paths": [p for p in (*wanted, table) if p is not None], "read": (data, plan, settings.mask)}


def _settings(**given: Any) -> Options:
    """How to prune: what the command line says of how much is instead of what the file says, trials of it too."""
    context = click.get_current_context()
    ruled_out = {name for names in AMOUNTS for name in names if overruled(context, name)}
    settled = {**given, **dict.fromkeys(ruled_out)}
    if settled["metric"] is None:
        search = {n: v for n, v in Options.without_metric().items() if "metric" in ruled_out or n in OF_TRIALS}
        settled |= {n: v for n, v in search.items() if in_file(context, n)}
    return Options(**settled)
