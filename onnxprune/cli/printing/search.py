"""Text about searches: what was tried, how far the metric let go, and what each group costs it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnxprune.cli.printing.table_style import paragraph, shortened, table
from onnxprune.search.drop import told
from onnxprune.search.sensitivity import Sensitivity, Step, by_ratio
from onnxprune.search.smallest import SearchReport, Tested
from onnxprune.search.trials import Row, front


def searched(search: SearchReport) -> Iterator[str]:
    """The trials, the answer, and what a metric that steered nothing says of it."""
    for number, trial in enumerate(search.trials):
        verdict = "taken" if number == search.taken else "holds" if trial.holds else "does not hold"
        left = f"{100 * trial.cost:.1f} % of the {search.minimised}"
        yield f"tried: {left}: {search.metric} {trial.metric:.6g}, drop {told(trial.drop, trial.error)}: {verdict}"
    best = search.best
    on = f" on {search.samples} samples" if search.samples else ""
    sure = f", {search.confidence:g} standard errors away" if search.confidence and best.error is not None else ""
    yield (
        f"metric: {search.metric} {search.original:.6g} -> {best.metric:.6g}, drop {told(best.drop, best.error)} "
        f"({search.limit}{sure}){on}, which steered: optimistic"
    )
    if search.test is not None:
        yield f"test: {_tested(search.test)}, which steered nothing"
    if best.error is None:
        yield "note: the error of the metric is not known: it gives one number, and neither one a sample nor parts"


def _tested(test: Tested) -> str:
    on = f" on {test.samples} samples" if test.samples else ""
    return f"{test.metric} {test.original:.6g} -> {test.pruned:.6g}, drop {told(test.drop, test.error)}{on}"


def sensitivity_text(found: Sensitivity) -> list[str]:
    """A line for each group: the metric at each ratio, compensated, and in brackets as it was cut."""
    header = ("group", "width", *(f"{100 * r:g} %" for r in found.ratios))
    rows = []
    for group in found.groups:
        steps = by_ratio(group)
        rows.append((shortened(group.name), str(group.width), *(_cell(steps.get(r)) for r in found.ratios)))
    parts: list[str] = [table(header, rows, right=frozenset(range(1, len(header))))] if rows else []
    on = f" on {found.samples} samples" if found.samples else ""
    lines = [
        f"{found.metric} of the original: {found.original:.4g}{on}",
        "in brackets: as cut, before weights are solved anew",
        "~: not told apart from the original by these samples",
        *(f"note: {note}" for note in found.notes),
        f"{sum(len(g.steps) for g in found.groups)} points in {found.seconds:.1f} s",
    ]
    return [*parts, paragraph(lines)]


def _cell(step: Step | None) -> str:
    if step is None:
        return ""
    about = "~" if step.best.within_noise else ""
    raw = "" if step.solved is None else f" ({step.raw.metric:.3g})"
    return f"{about}{step.best.metric:.3g}{raw}"


def trials_text(rows: Sequence[Row]) -> list[str]:
    """A line for each trial of a search, the largest model first, then one for each step of a sensitivity."""
    searches = sorted((r for r in rows if r.get("cost") is not None), key=lambda r: -r["cost"])
    best = front(searches)
    header = ("metric", "minimised", "left", "value", "drop", "noise", "seconds", "front")
    lines = [
        (
            r["metric"],
            r["minimised"],
            f"{100 * r['cost']:.1f} %",
            f"{r['value']:.6g}",
            told(r["drop"], r["error"]),
            "" if r["noise"] is None else f"{100 * r['noise']:.2f} %",
            f"{r['seconds']:.1f}",
            "*" if r["key"] in best else "",
        )
        for r in searches
    ]
    parts: list[str] = [table(header, lines, right=frozenset(range(2, 7)))] if lines else []
    steps = [r for r in rows if "group" in r]
    if steps:
        told_of = [
            (r["metric"], shortened(r["group"]), f"{100 * r['ratio']:g} %", str(r["kept"]), *_values(r)) for r in steps
        ]
        heads = ("metric", "group", "removed", "kept", "as cut", "compensated")
        parts.append(table(heads, told_of, right=frozenset(range(2, 6))))
    return [*parts, f"{len(rows)} trials, of which {len(best)} are beaten by none in cost and metric"]


def _values(row: Row) -> tuple[str, str]:
    solved = row["solved"]
    return f"{row['raw']['metric']:.4g}", "" if solved is None else f"{solved['metric']:.4g}"
