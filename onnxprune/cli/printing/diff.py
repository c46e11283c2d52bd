"""Text for the terminal about two models. All figures come from the values shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnxprune.cli.printing.report_tables import size_row
from onnxprune.cli.printing.table_style import paragraph, shortened, table
from onnxprune.report.diff import Changed, Comparison

_SHOWN, _LINE = 12, 160

#: What does not differ, in words.
_SAME = {
    "structure": "nodes and shapes",
    "weights": "weights",
    "declarations": "inputs, outputs, opset and metadata",
}


def comparison_text(found: Comparison, *, verbose: bool) -> list[str]:
    """Widths, nodes and declarations that differ; sizes; how far the outputs are apart."""
    most = None if verbose else _SHOWN
    parts: list[str] = [*_widths(found, most)]
    for title, names in (("removed", found.removed), ("added", found.added), ("other values", found.revalued)):
        if names:
            parts.append(_listed(title, names, most))
    if found.nodes:
        parts.append(_listed("changed", [_change(c) for c in found.nodes], most))
    if found.changed:
        parts.append(_listed("declared", [_change(c) for c in found.changed], None))
    sizes = [
        size_row("parameters", found.parameters),
        size_row("MACs", found.macs),
        size_row("bytes", found.file_bytes),
    ]
    parts += [table(("", "before", "after", ""), sizes, right=frozenset({1, 2, 3})), paragraph(_verdict(found))]
    return parts


def _widths(found: Comparison, most: int | None) -> Iterator[str]:
    """Weights of another shape; vectors are told with -v only."""
    shown = [r for r in found.resized if most is None or max(len(r.before), len(r.after)) > 1]
    if found.resized and not shown:
        shown = list(found.resized)
    rows = [(shortened(r.node), shortened(r.weight), _shape(r.before), _shape(r.after)) for r in shown[:most]]
    if rows:
        yield table(("node", "weight", "before", "after"), rows)
    if left := len(found.resized) - len(rows):
        yield f"{left} more initializers of another shape (-v shows them)"


def _listed(title: str, lines: Sequence[str], most: int | None) -> str:
    more = [f"  {len(lines) - most} more (-v shows them)"] if most is not None and len(lines) > most else []
    shown = lines if most is None else [shortened(line, _LINE) for line in lines[:most]]
    return paragraph([f"{title}: {len(lines)}", *(f"  {line}" for line in shown), *more])


def _change(change: Changed) -> str:
    return f"{change.what}: {_said(change.before)} -> {_said(change.after)}"


def _said(text: str) -> str:
    text = " ".join(text.split())
    return "nothing" if not text else text if len(text) <= 60 else f"{text[:57]}..."


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _verdict(found: Comparison) -> Iterator[str]:
    if found.same:
        yield f"the same: {', '.join(_SAME[name] for name in found.same)}"
    for error in found.outputs:
        figures = f"cosine {error.cosine:.4f}, SNR {error.snr_db:.1f} dB, max abs {error.max_abs:.3g}"
        yield f"output error: '{error.name}' {figures}, on {found.inputs}"
    yield from (f"note: {note}" for note in found.notes)
