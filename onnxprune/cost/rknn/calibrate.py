"""Measuring a target: layers of many widths through its compiler, and the block table that explains what they cost.

The arithmetic is that of `onnxprune.cost.chips.cycles`; what is searched for are its numbers. Starting from those
known, or from another chip's, one key after the other takes the value that leaves the fewest rows unexplained.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from onnxprune.cost.chips import Chip, Cycles, Precision, find
from onnxprune.cost.chips.chip import text
from onnxprune.cost.rknn import sweep
from onnxprune.cost.rknn.convert import Charged, charged
from onnxprune.cost.rknn.toolkit import Job, Progress, build
from onnxprune.errors import OptionError
from onnxprune.file_system import scratch
from onnxprune.model import files
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model
from onnxprune.running import seeded_inputs, tensor_shapes, tried_input_shapes

#: What a key may be. Keys that are not here stay as they are.
CANDIDATES: Mapping[str, tuple[Any, ...]] = {
    "out_block": (4, 8, 16, 32, 64),
    "in_block": (8, 16, 32, 64),
    "pixel_block": (1, 4, 8, 16, 32),
    "depthwise_block": (16, 32, 64, 128),
    "least_blocks": (1, 2, 4, 8),
    "tile_bytes": (0, 1536, 3072, 6144, 12288),
    "tile_block": (1, 8, 16, 32),
    "store_block": (1, 4, 8, 16, 32),
    "output_block": (4, 8, 16, 32),
    "bias_bytes": (4, 6, 8),
    "depthwise_bias_bytes": (0, 4, 6, 8),
    "depthwise_bytes": (0, 16, 32, 64),
    "depthwise_store": ("", "halves", "blocks"),
    "plain_weights": (0, 4),
    "always_bias": (False, True),
    "even_weights": (False, True),
}

#: Where a chip that is not shipped starts from.
_START = "rk3588"


@dataclass(frozen=True)
class Swept:
    """A sweep's model, its shapes, and what the compiler charged for its layers."""

    model: Model
    shapes: Mapping[str, Shape]
    layers: tuple[Charged, ...]


def measured(target: str, python: Path | None, progress: Progress) -> str:
    """The target file of ``target``, a platform of the toolkit, measured anew. Raises ToolError."""
    try:
        chip = find(target)
    except OptionError:
        start = find(_START)
        chip = replace(start, name=target, title=target)
    found = {}
    for dtype, precision in chip.precisions.items():
        swept, version = measure(chip, dtype, python, progress)
        progress(f"{dtype}: fit")
        found[dtype] = fit(chip, dtype, precision, swept)
    return text(replace(chip, precisions=found, measured=f"rknn-toolkit2 {version}"))


def measure(
    chip: Chip, dtype: str, python: Path | None = None, progress: Progress = lambda _: None
) -> tuple[tuple[Swept, ...], str]:
    """Compile the sweep. Gives what was charged, and the toolkit's version."""
    costs = Cycles(chip, dtype)
    with tempfile.TemporaryDirectory(prefix=scratch.prefix()) as folder:
        models, jobs = [], []
        for name, proto in sweep.models().items():
            path = Path(folder, f"{name}.onnx")
            onnx.save(proto, path)
            models.append(files.load(path))
            inputs = tried_input_shapes.choose_shapes(models[-1], {})
            jobs.append(Job(path, seeded_inputs.seeded_feeds(models[-1].graph.inputs, inputs, 0), simulate=False))
        built = build(jobs, chip.name, dtype, python, progress)
        swept = []
        for model, job, done in zip(models, jobs, built, strict=True):
            inputs = {n: tuple(a.shape) for n, a in job.feeds.items()}
            shapes = tensor_shapes.resolve(model, inputs, lambda _: {}, model).shape
            swept.append(Swept(model, shapes, charged(model.graph, done.layers, costs, shapes)))
        return tuple(swept), built[0].version


def fit(chip: Chip, dtype: str, start: Precision, swept: tuple[Swept, ...]) -> Precision:
    """The precision that explains most rows of ``swept``, and of those the one nearest to ``start``."""
    best = _with_rate(chip, dtype, start, swept)
    missed = misses(chip, dtype, best, swept)
    while missed:
        before = missed
        for key, values in CANDIDATES.items():
            for value in values:
                if value != getattr(best, key):
                    tried = _with_rate(chip, dtype, replace(best, **{key: value}), swept)
                    count = misses(chip, dtype, tried, swept)
                    if count < missed:
                        best, missed = tried, count
        if missed == before:
            break
    return best


def misses(chip: Chip, dtype: str, precision: Precision, swept: tuple[Swept, ...]) -> int:
    """How many numbers of the rows, DDR and NPU, the precision does not explain to within a cycle."""
    costs = Cycles(replace(chip, precisions={dtype: precision}), dtype)
    missed = 0
    for one in swept:
        nodes = {n.label: n for n in one.model.graph.nodes}
        for layer in one.layers:
            have = sorted((r.npu, r.ddr) for r in layer.rows)
            rows = costs.rows(one.model.graph, nodes[layer.node], one.shapes) if layer.node in nodes else ()
            want = sorted((r.npu, r.ddr) for r in rows)
            if len(have) != len(want):
                missed += 2 * max(len(have), len(want))
                continue
            pairs = [p for h, w in zip(have, want, strict=True) for p in zip(h, w, strict=True)]
            missed += sum(abs(a - b) > 1 for a, b in pairs)
    return missed


def _with_rate(chip: Chip, dtype: str, precision: Precision, swept: tuple[Swept, ...]) -> Precision:
    """The precision with the cycles per byte that the rows agree on, given the bytes that it counts.

    Rows are rounded up: one of n bytes and c cycles says that the rate is over (c - 1) / n and at most c / n. The
    larger a row the more it says, so these come first; what contradicts them is left for `misses`.
    """
    counting = Cycles(replace(chip, precisions={dtype: replace(precision, cycles_per_byte=1.0)}), dtype)
    said = []
    for one in swept:
        nodes = {n.label: n for n in one.model.graph.nodes}
        for layer in one.layers:
            rows = counting.rows(one.model.graph, nodes[layer.node], one.shapes) if layer.node in nodes else ()
            moved, cycles = sum(r.ddr for r in rows), sum(r.ddr for r in layer.rows)
            if len(rows) == len(layer.rows) and moved:
                said.append((moved, (cycles - len(rows)) / moved, cycles / moved))
    low, high = 0.0, math.inf
    for _, above, below in sorted(said, reverse=True):
        if above < high and below > low:
            low, high = max(low, above), min(high, below)
    return replace(precision, cycles_per_byte=float(f"{(low + high) / 2:.7g}") if said else 0.0)
