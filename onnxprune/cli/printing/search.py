"""Text about searches: what was tried, and how far the metric let go."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.search.drop import told
from onnxprune.search.smallest import SearchReport, Tested


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
