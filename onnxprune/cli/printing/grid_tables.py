"""Text about numbers of few bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from onnxprune.errors import thousands
from onnxprune.report.run_report import Report


def grids_said(report: Report) -> Iterator[str]:
    """What a run says of bits."""
    found = report.grids
    if found is None:
        asked = [n for n in ("weights", "activations") if report.options.get(n)]
        if asked:
            yield f"bits: none of the {' and '.join(asked)} are rounded: the notes say why no layer takes them"
        return
    if found.layers:
        bits = _counted(bits for bits, _ in found.layers.values())
        yield f"bits: {thousands(found.weights)} weights of {len(found.layers)} layers, {bits}"
        fitting = thousands(found.weights - found.missed)
        yield f"      {fitting} of these weights are on their grid; {thousands(found.bytes)} bytes at these bits"
    if found.activations:
        yield f"activations: {len(found.activations)} tensors, {_counted(found.activations.values())}"
        if report.recovered is not None:
            floats = "; the file computes in floats" if "format" not in report.options else ""
            yield f"             errors are of the network with these rounded{floats}"
    for error in found.outputs:
        figures = f"cosine {error.cosine:.4f}, SNR {error.snr_db:.1f} dB, max abs {error.max_abs:.3g}"
        yield f"output error: '{error.name}' {figures}, weights rounded, on random inputs"


def _counted(bits: Iterable[int]) -> str:
    counts = Counter(bits)
    if len(counts) == 1:
        return f"{next(iter(counts))} bits each"
    return ", ".join(f"{n} of {b} bits" for b, n in sorted(counts.items()))
