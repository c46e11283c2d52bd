"""Two models as a page: what differs, what each layer costs, and how far the outputs are apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from onnxprune.report.diff import Comparison
from onnxprune.report.html import number_format
from onnxprune.report.html.strings import sayer
from onnxprune.report.html.template import PAGE, Size, checked, layer_table, ranked, rendered


def comparison(found: Comparison, language: str) -> str:
    """The page's text in ``language``. The same comparison gives the same text."""
    say, rows = sayer(language), list(_rows(found))
    return rendered(
        "comparison.html",
        language,
        (found.before, found.after),
        ("found_changes", "changes", "layers"),
        title="title_comparison",
        find="find_changes",
        failed_about="failed_gates",
        contents=["changes", "layers", *(["errors"] if found.outputs else [])],
        told=found,
        sizes=[Size(key, say(key), getattr(found, key)) for key in ("parameters", "macs", "file_bytes")],
        changes=rows,
        kinds=list(Counter(r.kind for r in rows).items()),
        **layer_table(found.layers),
        samples=ranked([(s.sample, (s.error,)) for s in found.by_sample]),
        long=max(len(rows), len(found.layers)) > PAGE,
        drawn={},
        made=list(checked(found.checks, say, language)),
    )


@dataclass(frozen=True)
class Row:
    """Something that differs; ``of``: what it belongs to."""

    kind: str
    what: str
    before: str = ""
    after: str = ""
    of: str = ""


def _rows(found: Comparison) -> Iterator[Row]:
    """Everything that differs, the most telling first."""
    for resized in found.resized:
        yield Row(
            "width", resized.weight, number_format.dims(resized.before), number_format.dims(resized.after), resized.node
        )
    for kind, nodes in (("removed", found.removed), ("added", found.added)):
        for node in nodes:
            op, _, name = node.partition(" ")
            yield Row(kind, name, *((op, "") if kind == "removed" else ("", op)))
    for kind, changes in (("node", found.nodes), ("declared", found.changed)):
        for change in changes:
            yield Row(kind, change.what, change.before, change.after)
    for weight in found.revalued:
        yield Row("values", weight)
