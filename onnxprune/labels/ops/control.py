"""Control flow. Branches of an If are written out (branches.py), and an operator of our own joins them."""

from __future__ import annotations

from collections.abc import Sequence

from onnxprune.labels.labels import Op, merge
from onnxprune.labels.ops.table import Layers, rule


@rule("Branches", domain="onnxprune")
def branches(op: Op) -> Sequence[Layers]:
    """Y_i = T_i if C else E_i, for each i: inputs are C, then all T, then all E. Position by position one channel."""
    found: list[Layers] = []
    count = len(op.node.outputs)
    for index, out in enumerate(op.outputs):
        pair = [op.tensor(1 + index), op.tensor(1 + count + index)]
        if any(t is None or t.full != out.full for t in pair):
            for tensor in pair:
                op.keep_all(tensor, "has another shape in the other branch")
            found.append(())
        else:
            found.append(merge(op, pair, "has fixed channels in the other branch"))
    return found
