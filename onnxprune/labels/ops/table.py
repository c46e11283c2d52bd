"""The rule table: what each operator does with channel labels, by (domain, operator).

A rule is a pure function from an `Op` to the layers of its outputs. Beside it an operator may have

    rewrite   for operators that mention a size: what to write into the node once channels have gone
    macs      for operators that multiply: how many multiply-accumulates one run takes
    blocks    for operators whose weight is cut differently in each block: how its labels start
    known     how constants in its inputs become constants in its outputs; without it, nothing is known of these
    linear    for operators that are Y = W . X + B: as a matrix product, and whether B can take what a constant gives
    kernel    for operators that convolve: their sizes, as hardware counts them
    gathers   for operators that put inputs one after the other, take one apart, move it, add or multiply
    positions  inputs that may hold positions in another tensor, which change with its channels

An operator without a rule pins the channels that reach it: that costs coverage, never correctness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxprune.labels.constant_channels import KnownFunction
from onnxprune.labels.labels import Alive, Layer, Op, Tensor, cut_shape
from onnxprune.model.graph import Naming, Node, Shape

F = TypeVar("F", bound=Callable[..., Any])
Layers = tuple[Layer, ...]
Array = NDArray[Any]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Change:
    """Changes to a node: its attributes (None removes one), and values of inputs by position."""

    attrs: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[int, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """What a rewrite function sees: node and labelled outputs before the cut, inputs after it, and live labels."""

    op: Op
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    alive: Alive


RuleFunction = Callable[[Op], Sequence[Layers]]
RewriteFunction = Callable[[Cut], Change]
MacsFunction = Callable[[Node, Sequence[Shape], Sequence[Shape]], int]


@dataclass(frozen=True)
class Blocks:
    """A weight whose labels along ``columns`` differ between ``count`` equal blocks of its axis ``rows``."""

    rows: int
    columns: int
    count: int


@dataclass(frozen=True)
class Kernel:
    """The sizes of a convolution: ``into`` channels in ``groups`` blocks, ``out`` channels, a kernel of ``sides``.

    ``read``, ``written``: positions of one image in the input and in the output.
    """

    into: int
    out: int
    groups: int
    sides: tuple[int, ...]
    read: int
    written: int
    batch: int

    @property
    def taps(self) -> int:
        """Positions of the kernel: kh * kw."""
        return math.prod(self.sides)

    @property
    def depthwise(self) -> bool:
        """Whether each channel is a group of its own."""
        return self.groups > 1 and self.groups == self.into


BlocksFunction = Callable[[Node], Mapping[int, Blocks]]

KernelFunction = Callable[[Node, Sequence[Shape], Sequence[Shape]], Kernel]
Gathers = Literal["", "joins", "parts", "moves", "adds", "multiplies"]


@dataclass(frozen=True)
class Linear:
    """Y = alpha * W . X + beta * B: X is input 0, W input 1, B input 2 where ``bias`` says that there is such an input.

    ``matrix`` gives W as [group, O/group, C/group, taps], and ``weight`` W again. X is summed along ``summed``, Y made
    along ``made``, where B lies. ``uniform``: every position of Y sees all taps, so that a constant channel adds the
    same to each. ``patches`` gives of X, for a Y of some shape, what makes the positions of Y that *rows* count (all
    axes but ``made``, in order): [rows, group, C/group, taps], so that Y[row] = matrix @ patches[row].
    """

    matrix: Callable[[Array], Array] = field(repr=False)
    weight: Callable[[Array], Array] = field(repr=False)
    patches: Callable[[Array, Shape, Rows], Array] = field(repr=False)
    summed: int
    made: int
    uniform: bool = True
    bias: bool = True
    alpha: float = 1.0
    beta: float = 1.0


LinearFunction = Callable[[Node, Sequence[Tensor | None]], Linear | None]


@dataclass
class Rule:
    """All that is known of one operator; the module describes the fields."""

    trace: RuleFunction
    rewrite: RewriteFunction | None = None
    macs: MacsFunction | None = None
    blocks: BlocksFunction | None = None
    known: KnownFunction | None = None
    linear: LinearFunction | None = None
    kernel: KernelFunction | None = None
    gathers: Gathers = ""
    positions: tuple[int, ...] = ()


_RULES: dict[tuple[str, str], Rule] = {}


def rule(*ops: str, domain: str = "", positions: tuple[int, ...] = ()) -> Callable[[RuleFunction], RuleFunction]:
    """Register the label rule of ``ops``; ``positions``: inputs that may count positions (`Tensor.counted`).

    Raises ValueError for an operator that has one.
    """

    def register(function: RuleFunction) -> RuleFunction:
        for op in ops:
            if (domain, op) in _RULES:
                raise ValueError(f"two rules for {domain}:{op}")
            _RULES[domain, op] = Rule(function, positions=positions)
        return function

    return register


def _facet(name: str, domain: str, ops: Sequence[str]) -> Callable[[F], F]:
    """Register a function as field ``name`` of the rules of ``ops``, which exist. Raises ValueError for a second."""

    def register(function: F) -> F:
        for op in ops:
            if getattr(_RULES[domain, op], name) is not None:
                raise ValueError(f"two functions for {name} of {domain}:{op}")
            setattr(_RULES[domain, op], name, function)
        return function

    return register


def rewrite(*ops: str, domain: str = "") -> Callable[[RewriteFunction], RewriteFunction]:
    """Register how ``ops`` mention sizes."""
    return _facet("rewrite", domain, ops)


def macs(*ops: str, domain: str = "") -> Callable[[MacsFunction], MacsFunction]:
    """Register what ``ops`` cost: (node, input shapes, output shapes) -> MACs."""
    return _facet("macs", domain, ops)


def blocks(*ops: str, domain: str = "") -> Callable[[BlocksFunction], BlocksFunction]:
    """Register which inputs of ``ops`` are cut differently in each block."""
    return _facet("blocks", domain, ops)


def known(*ops: str, domain: str = "") -> Callable[[KnownFunction], KnownFunction]:
    """Register how ``ops`` carry constants."""
    return _facet("known", domain, ops)


def kernel(*ops: str, domain: str = "") -> Callable[[KernelFunction], KernelFunction]:
    """Register the sizes of ``ops``: (node, input shapes, output shapes) -> Kernel."""
    return _facet("kernel", domain, ops)


def linear(*ops: str, domain: str = "") -> Callable[[LinearFunction], LinearFunction]:
    """Register that ``ops`` are Y = W . X + B: (node, inputs) -> how, or None where a node is not."""
    return _facet("linear", domain, ops)


def gathers(what: Gathers, *ops: str) -> None:
    """Say that ``ops`` join inputs, take one apart, move its elements, add or multiply."""
    for op in ops:
        _RULES["", op].gathers = what


@contextmanager
def replaced(rules: Mapping[tuple[str, str], Rule | None]) -> Iterator[None]:
    """Use other rules for some (domain, operator), or none, inside the block."""
    before = dict(_RULES)
    for key, own in rules.items():
        if own is None:
            _RULES.pop(key, None)
        else:
            _RULES[key] = own
    try:
        yield
    finally:
        _RULES.clear()
        _RULES.update(before)


def find(node: Node) -> Rule | None:
    """The rule of ``node``, or None. A node with subgraphs has none: what they capture is pinned."""
    return None if node.captured else _RULES.get((node.domain, node.op))


def kernel_of(node: Node, shapes: Mapping[str, Shape]) -> Kernel | None:
    """The sizes of ``node`` at these shapes; None where it does not convolve or shapes are unknown."""
    known = find(node)
    names = (*node.inputs[:2], *node.outputs[:1])
    if known is None or known.kernel is None or not all(n in shapes for n in names):
        return None
    with Naming(node):
        return known.kernel(node, [shapes[n] for n in node.inputs[:2]], [shapes[node.outputs[0]]])


def gathers_of(node: Node) -> Gathers:
    """Whether ``node`` joins its inputs, takes one apart, moves its elements, adds or multiplies."""
    known = find(node)
    return known.gathers if known else ""


def is_one_of(node: Node, names: Collection[str], attrs: Mapping[str, Any] | None = None) -> bool:
    """Whether ``node`` is a standard operator of one of these names, with these ``attrs``: for lists in data files."""
    return node.op in names and not node.domain and all(node.attrs.get(k) == v for k, v in (attrs or {}).items())


def may_give_text(node: Node) -> bool:
    """Whether the operator's schema allows text in its first output; what onnx has no schema of gives numbers."""
    try:
        schema = onnx.defs.get_schema(node.op, node.version, node.domain)
    except onnx.defs.SchemaError:
        return False
    return "tensor(string)" in schema.outputs[0].types


def known_operators() -> list[tuple[str, str]]:
    """Every (domain, operator) with a rule, sorted."""
    return sorted(_RULES)


def ints(op: Op, attribute: str, position: int) -> list[int] | None:
    """A list of integers that older opsets keep in an attribute and newer ones in an input; None where it is absent.

    Raises LookupError where it is an input that is not known before running.
    """
    if attribute in op.attrs:
        given = op.attrs[attribute]
        return [int(v) for v in (given if isinstance(given, (list, tuple)) else [given])]
    if not op.has(position):
        return None
    value = op.value(position)
    if value is None:
        raise LookupError(f"its {attribute} are computed at run time")
    return [int(v) for v in np.atleast_1d(value)]


def unwritten(cut: Cut, position: int) -> Change:
    """No change of a node whose sizes in input ``position`` are not known before running, if there are any.

    Raises LookupError where channels are counted in them: what is not known cannot be changed, nor left as it is.
    """
    changes = any(cut_shape(y, cut.alive) != y.shape for y in cut.outputs)
    if changes and cut.op.has(position) and cut.op.value(position) is None:
        raise LookupError(
            f"its size '{cut.op.node.inputs[position]}' is computed in a way that is not known before running"
        )
    return Change()
