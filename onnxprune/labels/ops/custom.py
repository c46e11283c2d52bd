"""Operators that a user declares: entries of the rule table for the time of a run.

elementwise   every element of the output follows from those at its position: channels that meet are one
channelwise   each channel of axis 1 by itself, along other axes as the operator likes; its other inputs stay
opaque        nothing is known: what it reads stays, whatever rule there is
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from onnxprune.errors import OptionError
from onnxprune.labels.labels import Layer, Op, Tensor, line
from onnxprune.labels.ops.elementwise import elementwise
from onnxprune.labels.ops.reduction import hold_axes
from onnxprune.labels.ops.table import Layers, Rule, replaced
from onnxprune.running import stand_in_nodes

#: (domain, operator, what it is).
Declared = tuple[str, str, str]

KINDS = ("elementwise", "channelwise", "opaque")


def read(text: str) -> Declared:
    """DOMAIN::OP=KIND. Raises OptionError."""
    operator, _, kind = text.rpartition("=")
    domain, colons, op = operator.rpartition("::")
    if not colons or not op or kind not in KINDS:
        raise OptionError(f"'{text}' is not DOMAIN::OP={'|'.join(KINDS)}", where="--custom")
    return domain, op, kind


def _channelwise(op: Op) -> Sequence[Layers]:
    """The layers of axis 1 of the first input go through."""
    x = op.inputs[0]
    assert x is not None
    for other in op.inputs[1:]:
        op.keep_all(other, f"is read by {op.node.op}, which works on each channel of another input")
    found = hold_axes(op, x, [a for a in range(x.rank) if a != 1], f"is worked along by {op.node.op}")
    return [tuple(_on(y, found)) for y in op.outputs]


def _on(y: Tensor, layers: Layers) -> Iterator[Layer]:
    for layer in layers:
        yield line(layer.labels, 1, y.rank)


_RULES = {"elementwise": Rule(elementwise), "channelwise": Rule(_channelwise), "opaque": None}


@contextmanager
def declared(operators: Sequence[Declared]) -> Iterator[None]:
    """Run with these operators declared."""
    before = dict(stand_in_nodes.DECLARED)
    with replaced({(domain, op): _RULES[kind] for domain, op, kind in operators}):
        stand_in_nodes.DECLARED.update({(domain, op): kind for domain, op, kind in operators})
        try:
            yield
        finally:
            stand_in_nodes.DECLARED.clear()
            stand_in_nodes.DECLARED.update(before)
