"""What a model's matrix products see on calibration data: moments of their inputs, and sampled rows of their outputs.

One pass over the data, a batch at a time. Of each product as many rows are drawn (seeded) as its number of columns
asks for; rows of outputs, and whatever else is needed again, lie in a temporary folder, so that memory is bounded by
a batch.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np

from onnxprune.calibration.least_squares import Moments, Taking
from onnxprune.calibration.samples import CalibrationSet
from onnxprune.file_system.arrays_on_disk import Spill
from onnxprune.labels import ops
from onnxprune.labels.labels import Tensor
from onnxprune.labels.ops.table import Array, Linear, Rows
from onnxprune.labels.outputs.parts import Compared, compared, ends
from onnxprune.memory_and_threads import Doing, another_thread
from onnxprune.model.graph import Graph, Naming, Node, Shape
from onnxprune.model.onnx_model import Model
from onnxprune.progress import Progress, silent
from onnxprune.running import session as runtime
from onnxprune.running.batch_size import batch_size
from onnxprune.running.session import Feeds
from onnxprune.running.tensor_shapes import ensure_as_traced

#: Rows drawn of a product, by its number of columns, within these bounds.
ROWS_PER_COLUMN, LEAST_ROWS, MOST_ROWS = 8, 16384, 65536

#: Positions that there are to be of every product, in all samples: rows of one sample are alike.
ENOUGH_ROWS = 16384

#: About so many rows of a product's columns are kept of the held-out samples.
HELD_OUT_ROWS = 512

#: Products of more columns a group than this are not looked at: their moments would fill the memory.
MOST_COLUMNS = 6144

#: Up to so many columns a group, moments are kept of columns; above, of channels, every tap a row of its own.
MOST_FINE = 1152


@dataclass(frozen=True)
class Product:
    """A matrix product: a node that multiplies with a constant weight [groups, outputs, channels, taps].

    Where its output is one of two terms of a sum, ``total`` is the sum's tensor and ``partner`` the other term.
    ``beside`` is the partner too, where nothing else reads the output and the partner is computed before it.
    """

    node: Node
    form: Linear = field(repr=False)
    groups: int
    outputs: int
    channels: int
    taps: int
    total: str = ""
    partner: str = ""
    beside: str = ""

    @property
    def columns(self) -> int:
        """Columns in each group."""
        return self.channels * self.taps

    @property
    def fine(self) -> bool:
        """Whether moments are kept of single taps, not only of channels."""
        return self.columns <= MOST_FINE

    @property
    def source(self) -> str:
        """The name of its input tensor."""
        return self.node.inputs[0]

    @property
    def target(self) -> str:
        """The name of its output tensor."""
        return self.node.outputs[0]

    def targets_of(self, y: Array, rows: Rows) -> Array:
        """The entries of the output ``y`` at ``rows``: [rows, groups, outputs]."""
        last = np.moveaxis(y, self.form.made, -1)
        return np.asarray(last[np.unravel_index(rows, last.shape[:-1])].reshape(len(rows), self.groups, -1))

    def columns_at(self, x: Array, made: Shape, rows: Rows) -> Array:
        """What of the input ``x`` moments are sums of, at ``rows`` of an output of shape ``made``: [rows, groups, n].

        Where they are of channels, every tap is a row of its own, and fewer of ``rows`` are looked at.
        """
        if self.fine:
            return as_float(self.form.patches(x, made, rows)).reshape(len(rows), self.groups, -1)
        patches = as_float(self.form.patches(x, made, rows[:: self.taps]))
        return patches.transpose(0, 3, 1, 2).reshape(-1, self.groups, self.channels)

    def parts_of(self, other: Array, shape: Shape, rows: Rows) -> Array:
        """As `targets_of` of what is added to an output of ``shape``; that may be one for all samples."""
        whole = list(shape)
        whole[self.form.made] = other.shape[self.form.made]
        return as_float(self.targets_of(np.broadcast_to(other, whole), rows))

    def rows_of(self, y: Array, batch: int, samples: int) -> Rows:
        """Draw row numbers of the output ``y`` in batch number ``batch``; all batches together hold ``samples``."""
        there = y.size // y.shape[self.form.made]
        wanted = min(MOST_ROWS, max(LEAST_ROWS, ROWS_PER_COLUMN * self.columns))
        count = min(there, math.ceil(wanted * y.shape[0] / samples))
        rng = np.random.default_rng([zlib.crc32(self.node.label.encode()), batch])
        return np.sort(rng.choice(there, count, replace=False)).astype(np.int64)


def products(model: Model, shapes: Mapping[str, Shape], *, every: bool = False) -> list[Product]:
    """The matrix products of ``model`` whose weight is a constant of floats, in the order of the graph.

    ``shapes``: those of all tensors that are not constants. ``every``: include products whose weights cannot be solved.
    """
    shapes = {**shapes, **{n: s for n, (_, s) in model.graph.constants.items()}}
    found = []
    for node in model.graph.nodes:
        rule = ops.find(node)
        known = all(n in shapes for n in (*node.inputs[:1], *node.outputs))
        if rule is None or rule.linear is None or not known or node.inputs[1] not in model.graph.constants:
            continue
        inputs = [Tensor(n, shapes[n], shapes[n]) if n in shapes else None for n in node.inputs]
        with Naming(node, model.path or ""):
            form = rule.linear(node, inputs)
        array = model.array(node.inputs[1])
        if form is None or array.dtype.kind != "f" or not array.size:
            continue
        groups, outputs, channels, taps = form.matrix(array).shape
        if every or (_plain(node, form, shapes) and channels * taps <= MOST_COLUMNS):
            joined = _beside(model.graph, node, shapes)
            found.append(Product(node, form, groups, outputs, channels, taps, *joined))
    return found


def samples_for(rows: int, found: Iterable[Product], shapes: Mapping[str, Shape]) -> int:
    """How many samples it takes to give every product ``rows`` rows; ``shapes`` are those of one sample."""
    own = [math.prod(shapes[p.target]) / shapes[p.target][p.form.made] / shapes[p.target][0] for p in found]
    return max([1, *(math.ceil(rows / max(r, 1.0)) for r in own)])


def _beside(graph: Graph, node: Node, shapes: Mapping[str, Shape]) -> tuple[str, str, str]:
    """`Product.total`, `Product.partner` and `Product.beside` of the result of ``node``."""
    (target, *_), outputs = node.outputs, {o.name for o in graph.outputs}
    readers = [reader for reader, _ in graph.consumers.get(target, ())]
    total = next((r for r in readers if ops.gathers_of(r) == "adds"), None)
    others = [n for n in total.inputs if n != target] if total is not None and target not in outputs else []
    fits = len(others) == 1 and others[0] not in graph.constants and shapes.get(others[0]) == shapes[target]
    if total is None or not fits:
        return "", "", ""
    before = len(readers) == 1 and (others[0] not in graph.producer or graph.producer[others[0]].index < node.index)
    return total.outputs[0], others[0], others[0] if before else ""


def _plain(node: Node, form: Linear, shapes: Mapping[str, Shape]) -> bool:
    """Whether Y = W . X + B without factors, B the same in every row, and X is read in the order in which Y is made."""
    scaled = form.alpha != 1 or (form.beta != 1 and len(node.inputs) > 2)
    in_order = form.summed in (1, len(shapes[node.inputs[0]]) - 1) and form.made == form.summed
    return not scaled and in_order and all(size == 1 for size in shapes.get(node.input(2), ())[:-1])


@dataclass(frozen=True)
class Part:
    """The number of a batch of calibration samples, and whether it is held out to judge models by."""

    number: int
    samples: int
    held_out: bool


@dataclass(frozen=True)
class Observations:
    """What was observed of a model on calibration data.

    ``products`` and ``moments`` are by node label. Moments are sums over the samples that are not held out, of columns
    or of channels (`Product.fine`), without targets; of held-out samples some rows of these are kept as they are. For
    each part ``spill`` holds its feeds, sampled rows of every product's output, every graph output, and all tensors of
    `ends`; ``compared`` tells which of those are compared.
    ``any_batch``: parts may hold more samples than the model declares.
    """

    products: Mapping[str, Product] = field(repr=False)
    moments: Mapping[str, Moments] = field(repr=False)
    spill: Spill = field(repr=False)
    parts: tuple[Part, ...]
    compared: Compared = field(default_factory=Compared)
    any_batch: bool = False

    def head(self, samples: int) -> Observations:
        """The same with about ``samples`` samples, at least one part of each kind; moments stay as they are."""
        kept: list[Part] = []
        for held in (False, True):
            own = [p for p in self.parts if p.held_out == held]
            share = samples * sum(p.samples for p in own) / sum(p.samples for p in self.parts)
            count = max(1, round(share / own[0].samples)) if own else 0
            kept += [own[i * len(own) // count] for i in range(min(count, len(own)))]
        return replace(self, parts=tuple(kept))

    def feeds(self, part: Part) -> Feeds:
        """The inputs of the model in ``part``."""
        return {n: self.spill.get(f"feed {n}", part.number) for n in self.spill.names("feed ", part.number)}

    def rows_of(self, node: str, part: Part) -> tuple[Array, Rows]:
        """Sampled rows of a product's output [rows, groups, outputs], and their row numbers."""
        return self.spill.get(f"target {node}", part.number), self.spill.get(f"rows {node}", part.number)

    def held_out_rows(self, node: str) -> int:
        """How many sampled rows of a product's output are held out."""
        return sum(self.spill.size(f"rows {node}", p.number) for p in self.parts if p.held_out)

    def held_out_columns(self, node: str) -> Array:
        """Some rows of what a product's moments are sums of, of samples that are held out: [rows, groups, n]."""
        return np.concatenate([self.spill.get(f"columns {node}", p.number) for p in self.parts if p.held_out])

    def beside(self, node: str, part: Part) -> Array:
        """The sampled rows of the product's `Product.partner`."""
        return self.spill.get(f"beside {node}", part.number)

    def shape_of(self, node: str, part: Part) -> Shape:
        """The shape of the product's output in ``part``."""
        return tuple(self.spill.get(f"shape {node}", part.number))

    def output(self, name: str, part: Part) -> Array:
        """A graph output, or one of its `ends`, in ``part``."""
        return self.spill.get(f"output {name}", part.number)

    def with_compared(self, model: Model) -> Observations:
        """The same, with ``compared`` found from the held-out parts."""
        held = [p for p in self.parts if p.held_out]
        return replace(self, compared=compared(model.graph, lambda n: (self.output(n, p) for p in held)))


def seen_of(model: Model, found: Iterable[Product]) -> list[str]:
    """The tensors inside ``model`` that `observe` needs."""
    given = {*(o.name for o in model.graph.outputs), *(i.name for i in model.graph.inputs)}
    names = (*ends(model.graph), *(n for p in found for n in (p.source, p.target, p.partner)))
    return [n for n in dict.fromkeys(names) if n and n not in given]


def observe(
    model: Model,
    found: Sequence[Product],
    data: CalibrationSet,
    shapes: Mapping[str, Shape],
    spill: Spill,
    progress: Progress = silent,
) -> Observations:
    """Run ``model`` once over ``data``. Raises ModelError where onnxruntime cannot run it."""
    where = str(model.path or "model")
    outputs = [o.name for o in model.graph.number_outputs]
    joined, names = ends(model.graph), seen_of(model, found)
    seen = Observations(
        {p.node.label: p for p in found},
        {p.node.label: empty_moments(p) for p in found},
        spill,
        (),
        any_batch=data.inputs.any_batch,
    )
    parts: list[Part] = []
    with ExitStack() as stack:
        active = stack.enter_context(
            runtime.session(model, where, optimize=True, outputs=names, any_batch=seen.any_batch)
        )
        doing = stack.enter_context(another_thread())
        takers = {n: stack.enter_context(m.gathering(doing)) for n, m in seen.moments.items()}
        for part, feeds in fed(data, batch_size(model.graph, shapes), spill):
            values = {**feeds, **runtime.run(active, feeds, where)}
            for product in found:
                y = values[product.target]
                ensure_as_traced(product.target, y.shape, shapes[product.target], [product.form.made])
            _take(seen, part, values, data, takers, doing)
            for name in dict.fromkeys((*outputs, *joined)):
                doing(spill.put, f"output {name}", part.number, values[name])
            del values  # before there are those of the next batch
            parts.append(part)
            progress("observe", sum(p.samples for p in parts), data.count)
    return replace(seen, parts=tuple(parts)).with_compared(model)


def fed(data: CalibrationSet, size: int, spill: Spill) -> Iterator[tuple[Part, Feeds]]:
    """Read the samples in batches of ``size``, those that are held out last, and store every batch in ``spill``."""
    number = 0
    for held, own in zip((False, True), data.split(), strict=True):
        for feeds in own.batches(size):
            for name, array in feeds.items():
                spill.put(f"feed {name}", number, array)
            yield Part(number, own.inputs.count(feeds), held), feeds
            number += 1


def _take(
    seen: Observations,
    part: Part,
    values: Feeds,
    data: CalibrationSet,
    takers: Mapping[str, Taking],
    doing: Doing,
) -> None:
    held_out = data.split()[1].count
    for label, product in seen.products.items():
        rows = product.rows_of(values[product.target], part.number, data.count)
        doing(seen.spill.put, f"rows {label}", part.number, rows)
        doing(seen.spill.put, f"shape {label}", part.number, np.asarray(values[product.target].shape))
        target = as_float(product.targets_of(values[product.target], rows))
        doing(seen.spill.put, f"target {label}", part.number, target)
        if product.partner:
            beside = product.parts_of(values[product.partner], values[product.target].shape, rows)
            doing(seen.spill.put, f"beside {label}", part.number, beside)
        if part.held_out:
            rows = rows[:: max(1, len(rows) * held_out // (HELD_OUT_ROWS * part.samples))]
        x = product.columns_at(values[product.source], values[product.target].shape, rows)
        doing(seen.spill.put, f"columns {label}", part.number, x if part.held_out else x[:0])
        if not part.held_out:
            takers[label](x, np.zeros((*x.shape[:2], 0), np.float32))


def empty_moments(product: Product) -> Moments:
    """Moments of a product's columns, over no rows yet."""
    return Moments.empty(product.groups, product.columns if product.fine else product.channels, 0, bias=True)


def as_float(array: Array) -> Array:
    """The array in single precision if its type is narrower."""
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def centred(moments: Moments) -> Array:
    """The covariance of the columns [groups, n, n]; the last column of ``moments`` must be ones."""
    mean = moments.xx[:, -1, :-1] / moments.rows
    return np.asarray(moments.xx[:, :-1, :-1] / moments.rows - mean[:, :, None] * mean[:, None, :])
