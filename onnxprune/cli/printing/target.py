"""Text for the terminal about targets. All figures come from the values shown."""

from __future__ import annotations

from collections.abc import Iterator

from onnxprune.cli.printing.table_style import Table, paragraph, table
from onnxprune.cost.rknn.convert import Compiled, Conversion
from onnxprune.errors import thousands
from onnxprune.report.advice import Advice

_SHOWN = 12


def conversion_text(found: Conversion, *, verbose: bool) -> list[str]:
    """Each layer's cycles, before and after where two models are compared; then what a reader must not miss."""
    last = found.models[-1]
    parts = [_layers(found, verbose=verbose), *(paragraph(_compiled(c, found)) for c in found.models)]
    lines = [f"note: {note}" for note in found.notes]
    lines.append("cycles are the compiler's own estimate, not a measurement on a board")
    lines.append(f"written: {last.output}")
    return [*parts, paragraph(lines)]


def _layers(found: Conversion, *, verbose: bool) -> Table:
    """A row per layer of the last model, with the first model's cycles of the same name."""
    last = found.models[-1]
    before = {x.node: x.cycles for x in found.models[0].layers} if len(found.models) > 1 else {}
    ranked = sorted(last.layers, key=lambda x: -x.cycles)
    shown = last.layers if verbose else tuple(x for x in last.layers if x in ranked[:_SHOWN])
    rows = []
    for layer in shown:
        ddr, npu = sum(r.ddr for r in layer.rows), sum(r.npu for r in layer.rows)
        old = [thousands(before.get(layer.node, 0))] if before else []
        bound = "memory" if ddr > npu else "compute"
        rows.append((layer.node, *old, thousands(layer.cycles), thousands(layer.predicted), bound))
    if len(shown) < len(last.layers):
        left = [x for x in last.layers if x not in shown]
        old = [thousands(sum(before.values()) - sum(before.get(x.node, 0) for x in shown))] if before else []
        cycles, predicted = sum(x.cycles for x in left), sum(x.predicted for x in left)
        rows.append((f"{len(left)} others (-v shows them)", *old, thousands(cycles), thousands(predicted), ""))
    header = ("layer", *(["before"] if before else []), "cycles", "predicted", "bound by")
    return table(header, rows, right=frozenset(range(1, len(header) - 1)))


def _compiled(compiled: Compiled, found: Conversion) -> Iterator[str]:
    change = ""
    first = found.models[0]
    if compiled is not first and first.cycles:
        change = f", {100 * (compiled.cycles / first.cycles - 1):+.1f} %"
    where = f"{found.target} {found.dtype}, rknn-toolkit2 {found.toolkit}"
    yield f"{compiled.model}: {thousands(compiled.cycles)} cycles{change} ({where})"
    for what, layers in (("on the CPU", compiled.cpu), ("inserted", compiled.inserted)):
        names = [layer.name for layer in layers]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield f"  {what}: {', '.join(names[:_SHOWN])}{more}" if names else f"  {what}: nothing"
    for error in compiled.errors:
        figures = f"cosine {error.cosine:.5f}, SNR {error.snr_db:.1f} dB, max abs {error.max_abs:.3g}"
        yield f"  simulator against onnxruntime: '{error.name}' {figures}"


def advice_text(found: Advice, *, verbose: bool) -> list[str]:
    """What is wasted, most first."""
    most = None if verbose else _SHOWN
    total = max(found.cycles, 1)
    parts: list[str] = []
    if found.padding:
        rows = [
            (
                p.node,
                f"{p.into} -> {p.out}",
                thousands(p.cycles),
                thousands(p.wasted),
                f"{100 * p.wasted / total:.1f} %",
            )
            for p in found.padding[:most]
        ]
        header = ("layer", "channels", "cycles", "padding", "of all")
        parts.append(table(header, rows, right=frozenset({1, 2, 3, 4}), title="cycles for channels that do not exist:"))
    if found.edges:
        lines = [
            f"  {e.group}: drop {e.drop} of {e.width} channels: -{100 * e.saved / total:.1f} % of the model's cycles"
            f" for {100 * e.share:.1f} % of its channels"
            for e in found.edges[:most]
        ]
        parts.append(paragraph(["just above an edge:", *lines]))
    if found.copies:
        lines = [f"  {c.node}: {' + '.join(map(str, c.parts))}" for c in found.copies[:most]]
        parts.append(
            f"parts of a Concat that are no multiples of {found.join_block} (the compiler may copy them):\n"
            + paragraph(lines)
        )
    if found.elsewhere:
        parts.append(paragraph(["on the CPU: " + ", ".join(found.elsewhere)]))
    source = f"as {found.measured} counts them" if found.measured else "from documents, not measured"
    share = 100 * found.wasted / total
    shapes = ", ".join(f"{n}:{','.join(map(str, s))}" for n, s in found.input_shapes.items())
    told = (
        f"{thousands(found.cycles)} cycles on {found.target} at {shapes}, {source}; {share:.1f} % of them for channels "
        f"that do not exist. Widths should be multiples of {found.align}"
    )
    return [*parts, paragraph([told])]
