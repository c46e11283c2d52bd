"""The layer table in the log of a verbose build."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: ID, OpType, DataType, Target, shapes, Cycles(DDR/NPU/Total), on some targets SparseRatio, RW(KB), FullName
_ROW = re.compile(r"\] \d+ +(\S+) +\S+ +(\S+) .* (\d+)/(\d+)/(\d+) +(?:\d+% +)?\d+ +(\S.*)")


@dataclass(frozen=True)
class Layer:
    """A row of the compiler's layer table; ``total`` is the larger of ``ddr`` and ``npu``, in cycles."""

    kind: str  #: as fused by the compiler: "ConvRelu"
    device: str  #: "NPU" or "CPU"
    ddr: int
    npu: int
    total: int
    name: str  #: "Conv:down1.0.conv"

    @property
    def on_cpu(self) -> bool:
        """Whether the layer fell to the CPU; that the model's inputs and outputs are there is a matter of course."""
        return self.device == "CPU" and self.kind not in ("InputOperator", "OutputOperator")


def parse(lines: Iterable[str]) -> tuple[Layer, ...]:
    """Read the layer tables of a verbose build."""
    rows = (_ROW.search(line) for line in lines)
    return tuple(Layer(row[1], row[2], int(row[3]), int(row[4]), int(row[5]), row[6].strip()) for row in rows if row)


def by_node(layers: Iterable[Layer], nodes: Iterable[str], begins: Mapping[str, str]) -> dict[str, list[Layer]]:
    """The rows of each node, by its name; those that are no node's, which the compiler inserted, under ''.

    A node that was split has rows whose names begin with its own, as "conv_tile0", or as ``begins`` says.
    """
    whose = {**{n: n for n in nodes if n}, **begins}
    longest = sorted(whose, key=len, reverse=True)
    found: dict[str, list[Layer]] = {}
    for layer in layers:
        own = layer.name.partition(":")[2]
        start = own if own in whose else next((n for n in longest if layer.total and own.startswith(n)), "")
        found.setdefault(whose.get(start, ""), []).append(layer)
    return found
