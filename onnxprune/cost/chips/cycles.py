"""Cycles of a target, as its compiler counts them: each row costs the larger of moving its data and computing.

    computing = up(Ho*Wo) * max(kh*kw * ceil(Cin / in_block), least_blocks) * ceil(Cout / out_block)
    moving    = cycles_per_byte * (input + weights + bias + output, and the output once more where an Add is fused)

docs/rknn-compiler.md has the sweeps that show this. A convolution is one row, or several: it is split at the parts of
a Concat before it, and over input channels where its kernel is too large for the buffer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from onnxprune.cost.chips.chip import Chip, Precision, find
from onnxprune.errors import OptionError
from onnxprune.labels import ops
from onnxprune.labels.ops import Kernel
from onnxprune.model.graph import Graph, Node, Shape


@dataclass(frozen=True)
class Row:
    """One row of a compiler's layer table, in cycles; ``into`` and ``out``: the channels that it computes."""

    ddr: int
    npu: int
    into: int
    out: int

    @property
    def total(self) -> int:
        """What the row is charged."""
        return max(self.ddr, self.npu)


@dataclass(frozen=True)
class Around:
    """What a kernel's cost depends on beside its own sizes."""

    parts: tuple[int, ...] = ()  # channels of what a Concat before it joins; empty: it reads one tensor
    latest: int = 0  # which of the first two parts is written later
    from_input: bool = False
    to_output: bool = False
    added: bool = False
    biased: bool = True


@dataclass(frozen=True)
class Cycles:
    """The cost model of a chip at one precision."""

    chip: Chip
    dtype: str
    name: str = "cycles"
    stepped: bool = True

    @classmethod
    def of(cls, chip: Chip, dtype: str | None) -> Cycles:
        """The chip at ``dtype``, or at its first. Raises OptionError."""
        return cls(chip, chip.precision(dtype)[0])

    def __str__(self) -> str:
        return f"{self.chip.name} {self.dtype}"

    @property
    def precision(self) -> Precision:
        """How the chip computes in ``dtype``."""
        return self.chip.precisions[self.dtype]

    def node(self, graph: Graph, node: Node, shapes: Mapping[str, Shape]) -> float:
        """Cycles of one run of the node."""
        return sum(row.total for row in self.rows(graph, node, shapes))

    def rows(self, graph: Graph, node: Node, shapes: Mapping[str, Shape]) -> tuple[Row, ...]:
        """The rows that the node becomes; none where it costs no cycles of its own, or its shapes are not known."""
        kernel = ops.kernel_of(node, shapes)
        return () if kernel is None else rows(kernel, around(graph, node, shapes, self.precision), self.precision)

    def padding(self, graph: Graph, node: Node, shapes: Mapping[str, Shape]) -> float:
        """Of the node's cycles, those beyond its real share of the blocks that it fills: for channels that are none.

        What a group convolution pads is not known: 0.
        """
        kernel, p = ops.kernel_of(node, shapes), self.precision
        if kernel is None or kernel.groups > 1:
            return 0.0
        wasted = 0.0
        for row in self.rows(graph, node, shapes):
            real = row.npu * (row.into / up(row.into, p.in_block)) * (row.out / up(row.out, p.out_block))
            wasted += row.total - max(real, min(row.ddr, row.total))
        return wasted


def costs(target: str | None, dtype: str | None) -> Cycles | None:
    """The cycles of a target by name or path, None without one. Raises OptionError."""
    if target is not None:
        return Cycles.of(find(target), dtype)
    if dtype is not None:
        raise OptionError("is what a target computes in", where="--dtype", hint="give --target too")
    return None


@dataclass(frozen=True)
class Milliseconds:
    """The cost model of a chip at one precision and its clock: what its compiler estimates, not a board's time."""

    cycles: Cycles
    name: str = "ms"
    stepped: bool = True

    def __post_init__(self) -> None:
        """Raise OptionError for a chip whose clock is not known."""
        chip = self.cycles.chip
        if not chip.clock_mhz:
            hint = (
                f"cycles=..., or a file that says clock_mhz: `onnxprune targets {chip.name}` prints one to start from"
            )
            raise OptionError(f"target {chip.name} has no clock", where="--budget", hint=hint)

    def node(self, graph: Graph, node: Node, shapes: Mapping[str, Shape]) -> float:
        """Milliseconds of one run of the node."""
        return self.cycles.node(graph, node, shapes) / self.cycles.chip.clock_mhz / 1000


def around(graph: Graph, node: Node, shapes: Mapping[str, Shape], precision: Precision) -> Around:
    """What the compiler sees beside ``node``."""
    inputs, outputs = {i.name for i in graph.inputs}, {o.name for o in graph.outputs}
    source = graph.producer.get(node.inputs[0])
    joined = source is not None and ops.gathers_of(source) == "joins"
    names = [n for n in source.inputs if n] if source is not None and joined else []
    known = all(len(shapes.get(n, ())) > 1 for n in names)
    whole = shapes[node.inputs[0]]
    parts = tuple(shapes[n][1] for n in names) if known else ()
    return Around(
        parts if sum(parts) == whole[1] else (),
        _latest(graph, names),
        node.inputs[0] in inputs and whole[1] in precision.plain_inputs,
        node.outputs[0] in outputs,
        _is_added(graph, node, shapes, precision),
        _is_biased(graph, node, precision),
    )


def _latest(graph: Graph, names: Sequence[str]) -> int:
    first, second = [p.index if (p := graph.producer.get(n)) else -1 for n in (*names, "", "")[:2]]
    return int(second > first)


def _is_biased(graph: Graph, node: Node, precision: Precision) -> bool:
    """Whether the node has a bias, or an operator with constants follows that is folded into one."""
    if len(node.inputs) != 2:
        return True
    readers = [r for r, _ in graph.consumers.get(node.outputs[0], [])]
    return any(ops.is_one_of(r, precision.fused_through) and len(r.inputs) > 1 for r in readers)


def _is_added(graph: Graph, node: Node, shapes: Mapping[str, Shape], precision: Precision) -> bool:
    """Whether an Add or Mul of two activations follows, and of those that write them this node is the last to run."""
    (name, *_) = node.outputs
    while len(readers := graph.consumers.get(name, [])) == 1:
        reader = readers[0][0]
        others = [n for n in reader.inputs if n and n != name and n not in graph.constants]
        if ops.gathers_of(reader) in ("adds", "multiplies"):
            same = all(shapes.get(n) == shapes.get(name) for n in others)
            before = [p for n in others if (p := graph.producer.get(n)) is not None]
            return bool(others) and same and all(p.index < node.index for p in before)
        if not ops.is_one_of(reader, precision.fused_through):
            return False
        (name, *_) = reader.outputs
    return False


def rows(kernel: Kernel, beside: Around, precision: Precision) -> tuple[Row, ...]:
    """The rows of a kernel."""
    if kernel.depthwise and kernel.sides and kernel.taps == kernel.read and kernel.written == 1:
        return tuple(_depthwise(level, beside, precision) for level in _pooling(kernel, precision.pool_side))
    if kernel.depthwise or kernel.into == 1:
        return (_depthwise(kernel, beside, precision),)
    parts: tuple[int, ...] = (kernel.into,)
    split = False
    if len(beside.parts) > 1 and kernel.groups == 1:
        split = _splits(beside.parts, kernel.out, precision)
        parts = beside.parts if split else parts
    found: list[Row] = []
    for index, part in enumerate(parts):
        added = index != beside.latest if split else beside.added
        whole = replace(beside, added=added, biased=beside.biased and index == len(parts) - 1)
        found += _tiled(kernel, part, whole, precision)
    return tuple(found)


def _tiled(kernel: Kernel, into: int, beside: Around, precision: Precision) -> list[Row]:
    """The rows of what reads one tensor: of several, the second is computed first, and the first adds the bias."""
    tiles = _tiles(into, kernel.taps, precision)
    if len(tiles) == 1:
        return [_dense(kernel, into, beside, precision)]
    sides = [replace(beside, added=i != 1, biased=beside.biased and i == 0) for i in range(len(tiles))]
    return [_dense(kernel, tile, side, precision) for tile, side in zip(tiles, sides, strict=True)]


def _splits(parts: Sequence[int], out: int, precision: Precision) -> bool:
    """Whether a convolution is done for each part of a Concat: where that costs less than joining them."""
    aligned = all(part % precision.split_block == 0 for part in parts[:-1])
    return sum(parts) > len(parts) * out or not aligned


def _pooling(kernel: Kernel, most: int) -> list[Kernel]:
    """The convolutions that pool into one position, none of them longer than ``most``."""
    levels: list[Kernel] = []
    sides = kernel.sides
    while most and (not levels or max(sides) > 1):
        after = tuple(_blocks(s, most) for s in sides)
        taps = tuple(min(s, most) for s in sides)
        levels.append(replace(kernel, sides=taps, read=math.prod(sides), written=math.prod(after)))
        sides = after
    return levels


def _tiles(into: int, taps: int, precision: Precision) -> list[int]:
    """Input channels of each row: equal shares if they are multiples of ``tile_block``, else full ones and a rest."""
    block = precision.tile_block
    most = precision.tile_bytes // precision.item_bytes // taps // block * block
    if not most or into <= most:
        return [into]
    count = math.ceil(into / most)
    if into % (block * count) == 0:
        return [into // count] * count
    return [most] * (into // most) + ([into % most] if into % most else [])


def _dense(kernel: Kernel, into: int, beside: Around, precision: Precision) -> Row:
    p = precision
    blocks = max(kernel.taps * _blocks(into, p.in_block), p.least_blocks)
    npu = kernel.batch * up(kernel.written, p.pixel_block) * blocks * _blocks(kernel.out, p.out_block)
    weights = _weights(kernel.out, into, p, beside) * kernel.taps * p.item_bytes
    bias = _bias(kernel.out, p.out_block, p.bias_bytes, p) if beside.biased or p.always_bias else 0
    written = up(kernel.out, max(p.output_block, p.store_block) if beside.to_output else p.store_block)
    read = into if beside.from_input else up(into, p.store_block)
    added = 1 if beside.added else 0
    moved = kernel.batch * p.item_bytes * (read * kernel.read + (1 + added) * written * kernel.written)
    return Row(math.ceil((moved + weights + bias) * p.cycles_per_byte), npu, into, kernel.out)


def _depthwise(kernel: Kernel, beside: Around, precision: Precision) -> Row:
    """A kernel for each channel. One of a single input channel is computed in the same way."""
    p = precision
    block = p.depthwise_block or p.out_block
    npu = kernel.batch * up(kernel.written, p.pixel_block) * kernel.taps * _blocks(kernel.out, block)
    stored = (p.depthwise_bytes or block) // p.item_bytes
    if kernel.depthwise:
        weights = _channels(kernel.out, stored, p) * kernel.taps * p.item_bytes
        bias = _bias(kernel.out, stored, p.depthwise_bias_bytes or p.bias_bytes, p)
    else:
        weights = _weights(kernel.out, 1, p, beside) * kernel.taps * p.item_bytes
        bias = _bias(kernel.out, p.out_block, p.bias_bytes, p)
    written = up(kernel.out, max(p.output_block, p.store_block) if beside.to_output else p.store_block)
    read = kernel.into if beside.from_input else up(kernel.into, p.store_block)
    added = 1 if beside.added else 0
    moved = kernel.batch * p.item_bytes * (read * kernel.read + (1 + added) * written * kernel.written)
    return Row(math.ceil((moved + weights + bias) * p.cycles_per_byte), npu, kernel.into, kernel.out)


def _bias(out: int, block: int, each: int, p: Precision) -> int:
    """Bytes of bias and, quantized, of scales; a single channel needs no scale of its own."""
    return up(out, block) * (each // 2 if out == 1 and p.item_bytes == 1 else each)


def _channels(channels: int, block: int, p: Precision) -> int:
    """Channels that the weights of a depthwise convolution are stored for."""
    if p.depthwise_store == "blocks":
        return up(channels, block)
    if p.depthwise_store == "halves":
        return _stored(channels, block, 1)
    return up(channels, p.store_block) if channels <= block else channels


def _weights(out: int, into: int, p: Precision, beside: Around) -> int:
    """Weights that are stored for each tap. Where the last of several output blocks is not full, none is added."""
    even = up(out, 2) if p.even_weights else out
    if even > p.out_block and even % p.out_block:
        return out * into
    if beside.from_input and p.plain_weights:
        return (up(even, 16) if p.even_weights else even) * up(into, p.plain_weights)
    return even * _stored(into, p.in_block, p.store_block)


def _stored(channels: int, block: int, store: int) -> int:
    """Channels that weights are stored for: the last block whole if it is more than half full, else as it is."""
    if channels <= block // 2:
        return up(channels, store)
    return up(channels, block) if channels % block > block // 2 else channels


def _blocks(channels: int, block: int) -> int:
    return -(-channels // block)


def up(number: int, block: int) -> int:
    """``number`` rounded up to a multiple of ``block``."""
    return -(-number // block) * block
