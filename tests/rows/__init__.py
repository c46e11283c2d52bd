"""The table of operators and their forms: a model, how many of its channels can go, and why the others cannot.

A new rule comes with its row here, and joins `tests/strategies.py`.
"""

from __future__ import annotations

from tests.rows import along_axes, contracting, elementwise, integers_and_fused, movement, whole_graphs
from tests.rows.row import Row

__all__ = ["ROWS", "Row"]

ROWS: tuple[Row, ...] = tuple(
    row
    for family in (
        elementwise.unary,
        elementwise.binary,
        elementwise.quantized,
        contracting.convolutions,
        contracting.products,
        contracting.heads,
        movement.concats,
        movement.slices,
        movement.layouts,
        movement.space,
        movement.zeros,
        movement.repeats,
        along_axes.reductions,
        along_axes.over_named_axes,
        along_axes.sampling,
        along_axes.norms,
        along_axes.recurrent,
        whole_graphs.sequences,
        along_axes.indexed,
        integers_and_fused.integers,
        integers_and_fused.dynamic,
        whole_graphs.qonnx,
        integers_and_fused.in_blocks,
        integers_and_fused.fused,
        whole_graphs.weights,
        whole_graphs.sizes,
        whole_graphs.carried_sizes,
        whole_graphs.vectors,
        whole_graphs.opaque,
    )
    for row in family()
)
