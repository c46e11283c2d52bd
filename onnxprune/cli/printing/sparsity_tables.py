"""Text about zeros among weights."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.cli.printing.table_style import paragraph, shortened, table
from onnxprune.errors import thousands
from onnxprune.report.run_report import Report
from onnxprune.report.sparsity import TARGETS, Sparsity


def sparsity_text(found: Sparsity) -> list[str]:
    """Layers, the whole, and what becomes of it."""
    rows = [
        (
            shortened(la.node),
            "x".join(map(str, la.shape)),
            thousands(la.zeros),
            f"{100 * la.share:.1f} %",
            f"{la.outputs} of {la.of}" if la.outputs else "",
            ", ".join(la.patterns),
        )
        for la in found.layers
    ]
    header = ("layer", "weight", "zeros", "share", "whole outputs", "holds")
    parts = [table(header, rows, right=frozenset({1, 2, 3, 4}))] if rows else []
    holds = f"; where channels allow, all are {', '.join(found.patterns)}" if found.patterns else ""
    share = f"{100 * found.share:.2f} % of {thousands(found.size)} weights are zero"
    targets = [f"{name}: {what}" for name, what in TARGETS.items()]
    return [*parts, paragraph([f"{share}{holds}", *targets])]


def zeros_said(report: Report) -> Iterator[str]:
    """What a run says of zeros."""
    if report.zeros is None or report.sparsity is None:
        if (share := report.options.get("sparsity")) or report.options.get("mask"):
            asked = f" (asked for {100 * share:g} %)" if share else ""
            yield f"zeros: none was set{asked}: the notes say why no layer takes them"
        return
    found = report.sparsity
    how = report.options.get("pattern", "unstructured")
    yield f"zeros: {100 * found.share:.2f} % of {thousands(found.size)} weights, {how}"
    masked, zero = thousands(report.zeros.masked), thousands(report.zeros.masked - report.zeros.missed)
    yield f"       of the {masked} weights that must be zero, {zero} are zero in what is written"
    for error in report.zeros.outputs:
        figures = f"cosine {error.cosine:.4f}, SNR {error.snr_db:.1f} dB, max abs {error.max_abs:.3g}"
        yield f"output error: '{error.name}' {figures}, with these zeros, on random inputs"
