"""Text about runs of `prune` and `inspect`. All figures come from the report value."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from onnxprune.cli.printing.grid_tables import grids_said
from onnxprune.cli.printing.search import searched
from onnxprune.cli.printing.sparsity_tables import zeros_said
from onnxprune.cli.printing.table_style import paragraph, shortened, table
from onnxprune.errors import thousands
from onnxprune.model.graph import sizes_in_words
from onnxprune.model.onnx_model import Model
from onnxprune.passes.recover import Recovered
from onnxprune.plans.plan_file import AxisKept, Plan
from onnxprune.proof.revalued import Revalued
from onnxprune.report.inspection import InspectHeld, Inspection
from onnxprune.report.run_report import Check, Report, SizeReport
from onnxprune.report.weights_accounted import in_words

#: Letters of a reason in a table; the JSON has all of them.
_REASON = 120

#: Below so many dB, held out, noise is more than half of what an output says.
_RUINED = 3.0


def placed(report: Report, output: str, checks: Sequence[Check], given: Sequence[str]) -> Report:
    """The report with the place where the model goes, what was checked, and the command line, ``given``."""
    return replace(report, output=output, checks=tuple(checks), command=shlex.join(["onnxprune", *given]))


def size_row(name: str, size: SizeReport) -> tuple[str, ...]:
    """A row of a table of sizes."""
    change = f"{100 * (size.ratio - 1):+.1f} %" if size.after != size.before else "unchanged"
    return (name, thousands(size.before), thousands(size.after), change)


def report_text(report: Report, beside: Mapping[str, str]) -> list[str]:
    """What a reviewer asks: widths, sizes, both errors, and where the files are; ``beside``: others than the model."""
    asked = not _by_cost(report) and not report.options.get("budget")  # which say nothing of single groups
    rows = [
        (
            shortened(g.name),
            str(g.width),
            str(g.kept),
            *([f"{100 * g.asked:.1f} %"] if asked else []),
            f"{100 * g.achieved:.1f} %",
            g.note,
        )
        for g in report.groups
    ]
    parts: list[str] = []
    if rows:
        header = ("group", "width", "kept", *(["asked"] if asked else []), "removed", "")
        parts.append(table(header, rows, right=frozenset(range(1, len(header) - 1))))
    sizes = [
        size_row("prunable channels", report.channels),
        size_row("parameters", report.parameters),
        size_row("MACs", report.macs),
        size_row("bytes", report.file_bytes),
        *(size_row(name, size) for name, size in report.costs.items()),
    ]
    parts.append(table(("", "before", "after", ""), sizes, right=frozenset({1, 2, 3})))
    parts.append(paragraph([*_verdict(report), *_places(report, beside)]))
    return parts


def _verdict(report: Report) -> Iterator[str]:
    budget = report.options.get("budget")
    asked = f"budget {budget}" if budget else f"asked for {100 * report.asked:.2f} %"
    if _by_cost(report):
        saved = "cycles" if report.options.get("target") else "MACs"
        share = f"{100 * report.asked:.2f} %"
        asked = f"asked for: as many {saved} as {share} of every group would save, from where least is lost"
    yield f"channels removed: {100 * report.achieved:.2f} % ({asked})"
    if report.lossless or report.options.get("lossless"):
        gone = report.channels.before - report.channels.after
        yield f"lossless: {thousands(report.lossless)} of the {thousands(gone)} removed channels were dead or constant"
    proof = report.proof
    if proof is None:
        yield "rewrite error: not checked (--check-n 0)"
    else:
        limit = f"limit {proof.rtol:.0e}"
        inputs = f"{proof.samples} inputs of {sizes_in_words(proof.shapes)}"
        yield f"rewrite error: {proof.rewrite_error:.1e} of the output's range ({limit}), {inputs}"
        if proof.inside:
            yield f"               {proof.inside_error:.1e} at most at {len(proof.inside)} tensors inside the network"
        for error in proof.excused():
            moved = f"max abs {error.max_abs:.1e}, where rounding alone moves the original by {error.noise:.1e}"
            yield f"               '{error.name}' is over the limit: {moved}"
        for error in proof.pruning:
            figures = f"cosine {error.cosine:.4f}, SNR {error.snr_db:.1f} dB, max abs {error.max_abs:.3g}"
            yield f"pruning error: '{error.name}' {figures}, on random inputs"
    yield from zeros_said(report)
    yield from grids_said(report)
    if report.recovered is not None:
        yield from _recovered(report.recovered, asked=report.zeros is not None or report.grids is not None)
    if report.revalued is not None:
        yield _revalued(report.revalued, "proof" if proof else "cut")
    if report.search is not None:
        yield from searched(report.search)
    yield from (f"note: {note}" for note in report.notes)


def _by_cost(report: Report) -> bool:
    """Whether a ratio says how much is saved, and not where."""
    named = report.options.get("budget") or not report.asked or report.asked == report.achieved
    return not named and report.options.get("scope") in ("auto", "cost")


def _places(report: Report, beside: Mapping[str, str]) -> Iterator[str]:
    """Where the files are, and what is to be done now."""
    if report.output:
        yield f"written: {report.output}"
    else:
        yield "failed: no model was written" if report.failed else "dry run: no model was written"
    yield from (f"{what}: {path}" for what, path in beside.items())
    yield f"next: {_next(report)}"


def _next(report: Report) -> str:
    if report.failed:
        return "other options, or another limit"
    if not report.output:
        return "run it without --dry-run to write the model"
    if report.channels.after == report.channels.before and report.zeros is None and report.grids is None:
        return _next_of_nothing(report)
    if report.recovered is not None:
        worst = min(report.recovered.final, key=lambda e: e.snr_db, default=None)
        if worst is not None and worst.snr_db < _RUINED:
            real = ", or --data with real samples" if report.recovered.drawn else ", or --finetune"
            return f"a smaller --ratio{real}: at {worst.snr_db:.1f} dB output '{worst.name}' is as good as lost"
        return "measure its accuracy on your own test set, then onnxprune rknn --target NAME compiles it"
    return "fine-tune it by its plan (--save-plan), or prune with --data, which brings accuracy back without training"


def _next_of_nothing(report: Report) -> str:
    """Where nothing was done."""
    if any(report.options.get(n) for n in ("sparsity", "weights", "activations")):
        return 'the notes say why nothing was done; --require "bytes<=0.9" or "sparsity>=0.5" makes such a run fail'
    if any(g.note for g in report.groups):
        return "a smaller --align or another --target: no group can be narrower in these multiples"
    return "a larger --ratio or a --budget, or onnxprune inspect, which says what cannot be pruned and why"


def _recovered(recovered: Recovered, *, asked: bool) -> Iterator[str]:
    """``asked``: whether something was asked of the weights that stay, which costs more than it makes up for."""
    nearest = min(recovered.tried, key=lambda t: t.distance, default=None)
    for tried in recovered.tried:
        taken = ", taken" if tried is nearest else ""
        yield f"tried: {tried.way}: noise {100 * tried.distance:.2f} % of the signal on held-out samples{taken}"
    yield (
        f"compensated: {recovered.solved} of {recovered.layers} layers solved anew"
        if recovered.solved
        else "compensated: none"
    )
    if recovered.steps:
        best = f"the best after {recovered.best_step}" if recovered.best_step else "to no avail: left as it was"
        yield f"trained: {recovered.steps} steps on the original's outputs, {best}"
    how = " by compensation" if recovered.solved or recovered.best_step else ""
    how = " with what was asked of weights" if asked else how
    for before, after in zip(recovered.pruned, recovered.final, strict=True):
        change = f"cosine {after.cosine:.4f}, SNR {after.snr_db:.1f} dB"
        if math.isfinite(before.snr_db):  # else no channel went, and there was no error
            pair = f"cosine {before.cosine:.4f} -> {after.cosine:.4f}"
            change = f"{pair}, SNR {before.snr_db:.1f} -> {after.snr_db:.1f} dB"
        yield f"output error: '{after.name}' {change}{how}, on {recovered.on}"


def _revalued(found: Revalued, before: str) -> str:
    which = f"{found.added} biases are" if found.added > 1 else "one bias is"
    more = f"{found.parameters} parameter{'s' if found.parameters > 1 else ''}"
    biases = f", {which} new ({more} beside those above)" if found.added else ""
    only = f"{found.changed} of {found.of} initializers have new numbers{biases}"
    return f"since the {before} only weights changed: {only}; all else is the same bit for bit"


def plan_text(plan: Plan, model: Model) -> str:
    """Every slice that goes, in the order of the graph, with the parameters that go with it."""
    lines = []
    readers = model.graph.consumers
    sources = {**{n: n for n in plan.initializers}, **{n: of for n, (of, _, _) in plan.copies.items()}}
    order = {n: readers[s][0][0].index for n, s in sources.items() if readers.get(s)}
    total = 0
    for name in sorted(plan.initializers, key=lambda n: order.get(n, 0)):
        shape = list(model.graph.constants[sources[name]][1])
        for axis in plan.initializers[name]:
            kept = int(axis.keep.shape[-1])
            count = math.prod(shape) // shape[axis.axis] * (axis.size - kept)
            shape[axis.axis] = kept
            total += count
            node = readers[sources[name]][0][0]
            widths = f"{axis.size} -> {kept}, -{thousands(count)} parameters"
            lines.append(f"{node.op} {node.label}: {name} axis {axis.axis}, {widths}, {_gone(axis)}")
    return paragraph([*lines, f"-{thousands(total)} parameters in all"])


def _gone(axis: AxisKept) -> str:
    return f"removed {axis.removed or 'none'}" + (" in its first block" if axis.keep.ndim > 1 and axis.removed else "")


def _first(held: InspectHeld) -> str:
    return held.reasons[0] if held.reasons else ""


def inspection_text(found: Inspection, *, verbose: bool) -> list[str]:
    """Groups, then what is held and why."""
    rows = [
        (
            shortened(g.name),
            str(g.width),
            thousands(g.parameters),
            thousands(g.macs),
            str(len(g.nodes)),
            _extra(g.equal_rows, g.heads),
        )
        for g in found.groups
    ]
    parts: list[str] = []
    if rows:
        parts.append(table(("group", "width", "parameters", "MACs", "nodes", ""), rows, right=frozenset({1, 2, 3, 4})))
    if verbose:
        parts.extend(paragraph([g.name, *(f"  {n}" for n in g.nodes)]) for g in found.groups)
    if found.held:
        held = [(shortened(h.node), f"{h.held} of {h.width}", shortened(_first(h), _REASON)) for h in found.held]
        header = ("node", "channels", "because")
        parts.append(table(header, held, right=frozenset({1}), title="cannot be pruned:"))
    listed = {h.node for h in found.held}
    others = [
        (shortened(n.node), thousands(n.parameters), n.state, shortened(n.because, _REASON))
        for n in found.nodes
        if n.state not in ("prunable", "unread") and n.node not in listed and (n.parameters > 1 or n.macs != 0)
    ]
    if others:
        columns = ("node", "parameters", "state", "because")
        parts.append(table(columns, others, right=frozenset({1}), title="also stay, with all their weights:"))
    total = sum(h.held for h in found.held)
    parts.append(
        f"{thousands(found.channels)} prunable channels in {len(found.groups)} groups, {thousands(found.lossless)} of "
        f"them lossless, {thousands(total)} output channels held; "
        f"{thousands(found.cost.parameters)} parameters, {thousands(found.cost.macs)} MACs at "
        f"{sizes_in_words(found.input_shapes)}"
    )
    parts[-1] = paragraph([parts[-1], *in_words(found.nodes, found.cost.parameters)])
    return parts


def _extra(rows: int, heads: int) -> str:
    equal = f"equal counts in {rows} rows" if rows > 1 else ""
    return f"whole heads of {heads}, and {equal}" if heads else equal
