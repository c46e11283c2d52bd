"""``onnxprune prune``."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxprune.cli import options as shared
from onnxprune.cli.config_file import Configured, overruled, read

if TYPE_CHECKING:
    from onnxprune.cli.checks import Checking
    from onnxprune.model.onnx_model import Model
    from onnxprune.options import Options
    from onnxprune.widths.budget import Budget


@click.command(cls=Configured)
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=read,
    help="Take options from this file. [default: onnxprune.toml or pyproject.toml here]",
)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Where to write. [default: MODEL.pruned.onnx, beside it]"
)
@click.option(
    "--ratio", type=float, help="Share of the prunable channels to remove. [default: 0.3, or 0 with --lossless]"
)
@click.option(
    "--lossless", is_flag=True, help="Remove all channels that are dead or constant; with --ratio, these first."
)
@click.option(
    "--align", type=int, help="Every width that changes becomes a multiple of this. [default: 1, or by the target]"
)
@click.option(
    "--importance",
    help="l1, l2, fpgm, bn, random; with --data: auto, output, reconstruction, activation, apoz, variance, taylor; or "
    "module:function. [default: l2; with --data: auto]",
)
@click.option(
    "--scope",
    type=click.Choice(["group", "global", "cost"]),
    help="The same ratio in every group; one ranking over the network, by score for each channel; or for what it "
    "saves. [default: group; with --data: what does best]",
)
@shared.budget
@shared.exclude
@shared.ratio_for
@click.option(
    "--max-ratio", type=float, help="Remove no more than this of any one group. [default: 0.9, or RATIO if larger]"
)
@shared.input_shape
@shared.calibration
@click.option(
    "--compensate/--no-compensate",
    default=True,
    help="With --data: solve the weights behind removed channels anew. [default: do]",
)
@click.option(
    "--recover",
    type=int,
    default=0,
    metavar="STEPS",
    help="With --data: then train for so many steps on what the original gives. [default: 0]",
)
@click.option(
    "--flops-reg",
    type=float,
    default=0.001,
    show_default=True,
    help="How much a layer's share of the MACs speaks against its channels, in taylor.",
)
@click.option(
    "--fuse-bn/--no-fuse-bn", default=True, help="Fold BatchNormalization into the layer before. [default: fold]"
)
@click.option("--save-as-external-data", is_flag=True, help="Write weights to OUTPUT.data beside the model.")
@click.option("--plan", "plan_path", type=click.Path(path_type=Path), help="Apply a saved plan instead of choosing.")
@click.option("--save-plan", type=click.Path(path_type=Path), help="Write the plan (JSON).")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the report (JSON).")
@shared.page
@shared.checking(proven=True)
@click.option("--dry-run", is_flag=True, help="Write no model, plan or JSON; the other reports are written.")
@click.option("--check-n", type=int, default=3, show_default=True, help="Seeded inputs to prove on; 0 proves nothing.")
@click.option(
    "--rtol", type=float, help="Limit of the rewrite error, as a share of the output's range. [default: by precision]"
)
@click.option("--atol", type=float, default=0.0, show_default=True, help="Rewrite error that is always accepted.")
@click.option(
    "--seed", type=int, default=0, show_default=True, help="For inputs of the proof and for random importance."
)
@click.option("-v", "--verbose", is_flag=True, help="Show every slice that goes.")
@click.option("-q", "--quiet", is_flag=True, help="Show nothing but errors.")
def prune(
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
    ratio: float | None,
    verbose: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Remove channels from MODEL and write the smaller model.

    Every run proves that the result equals MODEL with the removed channels at zero; where that fails, no model is
    written.
    """
    if model is None:
        raise click.UsageError("Missing argument 'MODEL'.")
    from onnxprune import pipeline
    from onnxprune.cli.printing import report as render
    from onnxprune.cli.printing import terminal
    from onnxprune.labels import plan as plans
    from onnxprune.model import files
    from onnxprune.progress import silent
    from onnxprune.report import html
    from onnxprune.report.limits import Measured, failure

    settings = _settings(ratio, **given)
    target = output or model.with_name(f"{model.stem}.pruned.onnx")
    loaded = files.load(model)
    wanted = (page_path, ci.junit) if dry_run else (target, save_plan, json_path, page_path, ci.junit)
    files.ensure_writable([p for p in wanted if p is not None], keep=model)
    plan = plans.load(plan_path) if plan_path else None
    with nullcontext() if quiet else terminal.status() as announce, ci.proving(model):
        result = pipeline.attempt(loaded, settings, plan, announce or silent, str(plan_path))
    told = result.report
    checks = ci.judge(model, Measured.of_report(told), told.notes, sum(told.seconds.values()))
    failed = pipeline.unproven(told) or failure(checks, str(model))
    writes = failed is None and not dry_run
    report = render.placed(told, str(target) if writes else "", checks, click.get_current_context().obj)
    texts: dict[Path | None, Model | str] = {save_plan: result.plan.to_json()} if writes else {}
    if not dry_run:
        texts[json_path] = report.to_json()
    if page_path is not None:
        texts[page_path] = html.page(report, lang or html.of_locale(os.environ))
    texts |= {target: result.model} if writes else {}
    files.write({path: text for path, text in texts.items() if path is not None}, external=save_as_external_data)
    if not quiet:
        places = {"plan": save_plan, "report": page_path, "JSON": json_path, "JUnit": ci.junit}
        beside = {what: str(path) for what, path in places.items() if path and path in (*texts, ci.junit)}
        slices = [render.plan_text(result.plan, loaded)] if verbose else []
        terminal.show([*slices, *render.report_text(report, beside)])
    if failed is not None:
        raise failed


def _settings(ratio: float | None, *, budget: Budget | None, lossless: bool, **given: Any) -> Options:
    """How to prune: what the command line says of how much is instead of what the file says."""
    from onnxprune.options import Options, ratio_or_default

    context = click.get_current_context()
    if overruled(context, "ratio", "budget"):
        ratio = None
    if overruled(context, "budget", "ratio"):
        budget = None
    ratio = ratio_or_default(ratio, lossless=lossless, budget=budget)
    return Options(ratio=ratio, budget=budget, lossless=lossless, **given)
