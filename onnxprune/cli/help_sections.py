"""Help in sections: the options that are used most come first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

#: Titles, and the options below each by parameter name. What is in none comes last.
PRUNE: Mapping[str, Sequence[str]] = {
    "Most used": (
        "output", "ratio", "budget", "target", "align", "data", "exclude", "input_shapes", "page_path", "dry_run",
    ),
    "Which channels": (
        "dtype", "lossless", "importance", "scope", "ratio_for", "max_ratio", "flops_reg", "fuse_bn", "plan_path",
        "custom", "remove", "keep", "outputs", "keep_outputs",
        "whole_branches",
    ),
    "Zeros": ("sparsity", "pattern", "sparsity_for", "sparsity_scope", "sparsity_criterion", "mask"),
    "Bits": ("weights", "activations", "bits_for", "symmetric", "weights_per", "ranges", "power_of_two"),
    "Calibration data": (
        "samples", "mean", "std", "layout", "color", "input_range", "compensate", "recover", "input_values",
        "cache",
    ),
    "As far as a metric lets it go": (
        "metric", "max_drop", "min_metric", "metric_lower_is_better", "drop", "confidence", "test_metric", "minimise",
        "evaluations", "trials", "resume", "jobs", "cluster", "finetune", "step",
    ),
    "The proof": ("check_n", "rtol", "atol", "seed"),
    "Files": (
        "format", "rounding", "save_plan", "json_path", "lang", "save_as_external_data", "config", "trust_config",
    ),
    "Pipelines": ("require", "max_rewrite_error", "min_cosine", "min_snr", "junit", "summary", "max_memory", "timeout"),
}  # fmt: skip

_NAMES = {"source": "data"}  # parameter names that are not what they are called here


def write(ctx: click.Context, formatter: click.HelpFormatter, sections: Mapping[str, Sequence[str]]) -> None:
    """Write the options of the command of ``ctx``."""
    options = [p for p in ctx.command.get_params(ctx) if isinstance(p, click.Option)]
    found = {_NAMES.get(str(p.name), str(p.name)): p.get_help_record(ctx) for p in options}
    rows = {name: record for name, record in found.items() if record is not None}
    listed = {title: [rows.pop(name) for name in names if name in rows] for title, names in sections.items()}
    for title, records in {**listed, "Others": list(rows.values())}.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)
