"""The state of writing a model in integers: which tensor is which integers by now, and what rules ask of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from onnxprune.constraints.grids import Grid, Grids
from onnxprune.errors import ModelError
from onnxprune.formats.carried import keeps_grid
from onnxprune.formats.format_options import Rounding
from onnxprune.formats.integers.one_node import run_alone
from onnxprune.formats.integers.steps import Add, Code, Float, Ints, Requantize, Step, multiplier_of
from onnxprune.model.graph import Node, Shape
from onnxprune.model.onnx_model import Model
from onnxprune.running.tensor_shapes import Shapes

#: The way out where a node cannot be written in integers.
_ELSEWHERE = "--format qdq writes it, or cut the model before it with --outputs"

#: Bits of the codes that a table is looked up by, where nobody gave its input a grid.
FINE = 16

#: Sums of more bits are brought to fewer before they go on.
_LONGEST, _COARSE = 30, 24

#: Codes that a product takes.
_BYTE = 255


def refusal(model: Model, node: Node, what: str, hint: str = _ELSEWHERE) -> ModelError:
    """Why ``node`` is not written."""
    where = f"{model.path or 'model'}, node '{node.label}'"
    return ModelError(f"{what}; it cannot be written in integers", where=where, hint=hint)


@dataclass
class Lowering:
    """``codes``: of each tensor so far, by the model's name; ``steps``: so far."""

    model: Model
    grids: Grids
    shapes: Shapes
    rounding: Rounding
    codes: dict[str, Code] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    whole: set[str] = field(default_factory=set)  # tensors of the model that were integers before
    weights: dict[str, Grid] = field(init=False)
    folded: dict[str, NDArray[Any]] = field(default_factory=dict)  # what follows from constants
    public: set[str] = field(init=False)  # tensors that somebody but their readers sees as they are
    copies: dict[tuple[Any, ...], Code] = field(default_factory=dict)  # what was made of a code for its readers

    def __post_init__(self) -> None:
        """Grids of weights are those that were given, until a weight has another name."""
        self.weights = dict(self.grids.weights)
        graph = self.model.graph
        self.public = {o.name for o in graph.outputs} | {n for node in graph.nodes for n in node.captured}

    def refuse(self, node: Node, what: str, hint: str = _ELSEWHERE) -> NoReturn:
        """Raise ModelError that names the node."""
        raise refusal(self.model, node, what, hint)

    def add(self, step: Step) -> None:
        """One more step."""
        self.steps.append(step)

    def constant(self, name: str) -> NDArray[Any] | None:
        """The value of a constant, or of what follows from shapes alone."""
        if name in self.folded:
            return self.folded[name]
        if name in self.model.graph.constants:
            return self.model.array(name)
        value = self.shapes.value.get(name)
        return None if value is None or value.dynamic.any() else value.array

    def fold(self, node: Node) -> bool:
        """Whether the node computes a constant; then it is one from here on."""
        values = [self.constant(n) for n in node.inputs if n]
        if not values or len(node.outputs) != 1 or node.captured or any(v is None for v in values):
            return False
        first = values[0]
        assert first is not None
        rest = {f"_{i}": self.constant(n) for i, n in enumerate(node.inputs) if i and n}
        self.folded[node.outputs[0]] = run_alone(
            self.model, node, first, {n: v for n, v in rest.items() if v is not None}
        )
        return True

    def floats(self, name: str) -> Float | None:
        """A constant in double precision."""
        found = self.constant(name)
        return None if found is None else found.astype(np.float64)

    def shape(self, node: Node, name: str) -> Shape:
        """Of a tensor of the model."""
        if name not in self.shapes.shape:
            self.refuse(node, f"nobody knows the shape of '{name}'", "--input-shape gives that of the inputs")
        return self.shapes.shape[name]

    def alone(self, node: Node, x: NDArray[np.float32], **constants: NDArray[Any]) -> NDArray[np.float32]:
        """What ``node`` gives for ``x`` in the place of its input 0, in floats: its other inputs are as they were.

        ``constants``: by position as "_2", what others are instead.
        """
        found = {f"_{i}": self.constant(n) for i, n in enumerate(node.inputs) if i and n} | constants
        if any(v is None for v in found.values()):
            self.refuse(node, "its other inputs are computed")
        return run_alone(self.model, node, x, {n: v for n, v in found.items() if v is not None})

    def code(self, node: Node, name: str) -> Code:
        """What ``node`` reads as ``name``, as it is: codes, or sums."""
        if name not in self.codes:
            self.refuse(node, f"'{name}' is on no grid")
        own = self.codes[name]
        # units of units: other sums would be nothing beside them
        return self._once(own, "coarse", (), self._coarse) if own.size > 2**_LONGEST else own

    def _coarse(self, own: Code, name: str) -> Code:
        """Sums in fewer bits, of one scale."""
        scale = np.full((1,), float(own.scale.max()) * own.size / 2**_COARSE)
        multiplier, shift, bits = multiplier_of(own.scale / scale, own.size, 2 ** (_COARSE + 1))
        zero = 2**_COARSE
        self.add(Requantize(name, own, multiplier, shift, bits, zero, 2 * zero, self.rounding))
        return Code(name, scale, zero, 0, 2 * zero)

    def _once(self, own: Code, what: str, how: tuple[Any, ...], make: Callable[[Code, str], Code]) -> Code:
        """What ``make`` makes of ``own`` for those who read it, for all of them who want it ``how``."""
        key = (what, own.name, own.zero, own.scale.shape, own.scale.tobytes(), *how)
        if key not in self.copies:
            number = sum(k[:2] == key[:2] for k in self.copies)
            self.copies[key] = make(own, f"{own.name}__{what}{number or ''}")
        return self.copies[key]

    def byte(self, node: Node, name: str) -> Code:
        """As codes of 8 bits and one scale, rounded where they are sums, to the grid that they are on next."""
        own = self.code(node, name)
        if not own.is_codes:
            grid = self._next(node, name)
            if grid is None:
                hint = _ELSEWHERE if self.grids.activations else "--activations 8 gives what layers read a grid"
                self.refuse(node, f"reads sums '{name}', that are on no grid of 8 bits", hint)
            own = self._copy(own, grid)
        if own.high > _BYTE:
            self.refuse(node, f"reads '{name}' of more than 8 bits", "--activations 8 or fewer")
        return own

    def single(self, node: Node, name: str) -> Code:
        """With one scale: as it is, as codes, or as sums of a finer one."""
        own = self.code(node, name)
        if own.scale.size == 1:
            return own
        grid = self._next(node, name)
        return self._once(own, "even", (), self.evened) if grid is None else self._copy(own, grid)

    def _copy(self, own: Code, grid: Grid) -> Code:
        """``own`` on ``grid``, for those who read it so."""
        to = code_of(grid, own.name)
        how = (to.zero, to.high, to.scale.tobytes())
        return self._once(own, "codes", how, lambda code, name: self.rounded(code, grid, name))

    def fine(self, node: Node, name: str) -> Code:
        """As codes of one scale that a table may be looked up by."""
        own = self.code(node, name)
        if own.is_codes:
            return own
        grid = self.grids.activations.get(name)
        if grid is None:
            size = float((own.scale * own.size).max())
            scale = np.full((1,), 2 * size / (2**FINE - 2), np.float32)
            grid = Grid(scale, np.full((1,), 2 ** (FINE - 1)), FINE, signed=False)
        return self._copy(own, grid)

    def rounded(self, own: Code, grid: Grid, name: str) -> Code:
        """``own`` on ``grid``, as ``name``; itself where it is there already."""
        to = code_of(grid, name)
        if same_grid(own, to):
            return own
        multiplier, shift, bits = multiplier_of(own.scale / to.scale, own.size, to.high)
        self.add(Requantize(name, own, multiplier, shift, bits, to.zero, to.high, self.rounding))
        return to

    def evened(self, own: Code, name: str) -> Code:
        """Sums with one scale, as ``name``: those of channels are whole multiples of it."""
        if own.scale.size == 1:
            return own
        unit = float(own.scale.max()) / 2**FINE
        multiplier = np.rint(own.scale / unit).astype(np.int64)
        self.add(Add(name, ((own, multiplier),)))
        size = own.size * int(multiplier.max())
        return Code(name, np.full((1,), unit), 0, -size, size)

    def ahead(self, name: str) -> Grid | None:
        """The grid of a tensor, or of what only moves and chooses among its numbers, as rounding comes to the same."""
        graph = self.model.graph
        while name not in self.grids.activations:
            readers = graph.consumers.get(name, [])
            if name in self.public or len(readers) != 1 or not keeps_grid(readers[0][0]) or readers[0][1] != 0:
                return None
            name = readers[0][0].outputs[0]
        return self.grids.activations[name]

    def _next(self, node: Node, name: str) -> Grid | None:
        """The grid that ``node`` may read ``name`` on: its own, or that of what only comes of it by this node."""
        if name not in self.grids.activations and keeps_grid(node) and name == node.inputs[0]:
            return self.ahead(node.outputs[0])
        return self.ahead(name)


def code_of(grid: Grid, name: str) -> Code:
    """Codes of a grid of one scale, from 0 on."""
    scale, zero = grid.scale.reshape(-1)[0], int(grid.zero_point.reshape(-1)[0])
    return Code(name, np.full((1,), scale, np.float64), zero - grid.low, 0, grid.high - grid.low)


def same_grid(a: Code, b: Code) -> bool:
    """Whether the same integers stand for the same numbers, and all of ``a`` are among those of ``b``."""
    return np.array_equal(a.scale, b.scale) and a.zero == b.zero and b.low <= a.low and a.high <= b.high


def bounds_of(low: Ints, high: Ints, weights: Ints) -> tuple[Ints, Ints]:
    """The least and the largest sum of weights [outputs, n] with integers between ``low`` and ``high``."""
    up, down = np.maximum(weights, 0).sum(axis=1), np.minimum(weights, 0).sum(axis=1)
    return np.asarray(up * low + down * high), np.asarray(up * high + down * low)
