"""The property that every test of a rule comes down to: removing channels is exact, and changes nothing else.

    pruned(x) == original(x) with zeros in every weight slice that reads a removed channel

but where `onnxprune.labels.lossless_removal` says that the reader does not notice: there the original is left alone,
so that a claim that is wrong shows.

The zeros are written into a copy of the original's weights, so that neither a rule nor `onnxprune.proof.exact` has a
say in the reference. Only where nothing constant does the reading (Q @ K^T) is the activation multiplied with a mask.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto
from onnx.reference import ReferenceEvaluator

from onnxprune.errors import ModelError
from onnxprune.labels.analysis import Analysis, analyse
from onnxprune.labels.attention_heads import Heads
from onnxprune.labels.groups import Groups, Slice, group
from onnxprune.labels.label_propagation import Pinned, Read, Trace, Use, use_of
from onnxprune.labels.rewrite import Rewrite, rewrite
from onnxprune.model.dtypes import to_tensor
from onnxprune.model.files import write
from onnxprune.model.graph import Node, Shape
from onnxprune.model.onnx_model import Model, from_proto
from onnxprune.model.written_out.functions import restore
from onnxprune.plans.applied import applied, plan_of
from onnxprune.plans.plan_file import load_plan
from onnxprune.proof import exact
from onnxprune.running import seeded_inputs
from onnxprune.running import session as runtime

Units = NDArray[np.int64]
DeadOf = Callable[[Groups], Units]

#: Rounding, relative to the largest output value, by the narrowest float type in the model.
RTOL = {TensorProto.DOUBLE: 1e-9, TensorProto.FLOAT: 1e-4, TensorProto.FLOAT16: 2e-2, TensorProto.BFLOAT16: 1e-1}
ATOL = 1e-5

#: Where activations are rounded to 8 bits, rounding before that moves some of them by a step.
RTOL_ROUNDED = 2e-2

#: Attributes that mention a size, and may change.
SIZES = {
    "num_groups",
    "group",
    "K",
    "N",
    "split",
    "num_outputs",
    "pads",
    "starts",
    "ends",
    "value",
    "value_ints",
    "value_floats",
    "hidden_size",
    "scale",
    "num_heads",
    "q_num_heads",
    "kv_num_heads",
}

#: Element types of sizes and positions.
INTS = {TensorProto.INT64, TensorProto.INT32}

#: Through these a weight is still the weight, under other dimensions or in another type.
MOVES = {"Identity", "Cast", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}


#: Operators that quantize what they read by its range, in which a channel counts whatever it is multiplied with.
RANGED = {"DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}


class InfiniteError(AssertionError):
    """The original itself gives values that cannot be compared."""


@dataclass(frozen=True)
class Removal:
    """A model, what was removed of it, and what came out; ``given`` and ``written`` are these with their functions."""

    given: ModelProto = field(repr=False)
    original: ModelProto = field(repr=False)
    analysis: Analysis = field(repr=False)
    groups: Groups = field(repr=False)  # without what a node could not follow
    dead: Units
    rewrite: Rewrite = field(repr=False)
    pruned: ModelProto = field(repr=False)
    refusals: tuple[Pinned, ...] = ()

    @cached_property
    def written(self) -> ModelProto:
        """What came out, with its branches, and with calls of the functions that it left as they were."""
        whole = self.analysis.flat.restore(Model(self.pruned))
        return restore(self.analysis.inlined, whole)[0].proto

    @property
    def removed(self) -> int:
        """How many channels were removed."""
        return len(self.dead)

    @property
    def folded(self) -> set[str]:
        """Biases that may have taken constants, and nodes that may have been given one."""
        nodes = [self.trace.model.graph.nodes[r.node] for r in self.trace.reads if r.fold is not None]
        return {name for node in nodes for name in (node.label, *node.inputs[2:])}

    @property
    def trace(self) -> Trace:
        """The original on labels."""
        return self.analysis.trace

    @property
    def reasons(self) -> str:
        """Why the rest stays, a line each."""
        found = [str(r) for h in self.groups.held for r in h.reasons]
        return "\n".join(dict.fromkeys(found))

    @cached_property
    def effect(self) -> float:
        """What the removed channels contributed to the outputs."""
        before, after = self.outputs(self.original), self.outputs(self.pruned)
        pairs = [(array.astype(np.float64), after[name].astype(np.float64)) for name, array in before.items()]
        return max(float(np.abs(a - b).max(initial=0)) for a, b in pairs)

    def outputs(self, proto: ModelProto, *, restored: bool = False, nudged: bool = False) -> dict[str, NDArray[Any]]:
        """What ``proto``, which has the original's inputs, gives for seeded ones, as far as it can be run.

        ``restored``: it has its branches and sequences already; ``nudged``: inputs are changed in their last bits.
        """
        severed = self.analysis.severed
        whole = Model(proto) if restored else self.analysis.flat.restore(Model(proto))
        part, renamed = severed.again(whole), severed.renamed(whole)
        shapes = {**self.trace.shapes.inputs, **severed.fed}
        feeds = seeded_inputs.seeded_feeds(part.graph.inputs, shapes, 0)
        found = run(part.proto, {n: exact._nudged(a) for n, a in feeds.items()} if nudged else feeds)
        return {**found, **{before: found[now] for now, before in renamed.items()}}


def some(seed: int = 0, most: float = 0.6, skip: float = 0, *, lossless_first: bool = False) -> DeadOf:
    """Seeded random channels: of each block up to a share of ``most``, the same number in each row, one always left.

    Where whole heads can go, some do, in about half of the cases. ``skip``: the share of blocks that are left as they
    are, and of heads that all stay.
    """

    def dead_of(groups: Groups) -> Units:
        rng = np.random.default_rng(seed)
        found = [np.zeros(0, np.int64)]
        for g in groups:
            gone = {h: _some_heads(rng, h, most) for h in g.heads if rng.uniform() >= max(skip, 0.5)}
            found += [heads.places[h] for heads, chosen in gone.items() for h in chosen]
            for index, block in enumerate(g.blocks):
                whole = _rows_of(index, gone)
                found += list(block.units[whole])
                count = min(block.width - 1, int(np.ceil(rng.uniform(0.2, 1) * most * block.width)))
                count = 0 if rng.uniform() < skip else count
                for row in np.delete(block.units, whole, axis=0):
                    order = rng.permutation(row)
                    if lossless_first:
                        order = order[np.argsort(~np.isin(order, groups.lossless), kind="stable")]
                    found.append(order[:count])
        return np.sort(np.concatenate(found))

    return dead_of


def all_lossless(groups: Groups) -> Units:
    """As many lossless channels as can go: of each block the same number in each row, one always left."""
    found = [np.zeros(0, np.int64)]
    for block in (b for g in groups for b in g.blocks):
        rows = [row[np.isin(row, groups.lossless)] for row in block.units]
        count = min(block.width - 1, *map(len, rows))
        found += [row[:count] for row in rows]
    return np.sort(np.concatenate(found))


def assert_lossless(model: ModelProto, input_shapes: Mapping[str, Shape] | None = None) -> Removal:
    """Remove all lossless channels: beside all that is true of any removal, the original itself is the reference."""
    removal = assert_exact(model, all_lossless, input_shapes)
    assert_equal(removal, removal.original)
    return removal


def _some_heads(rng: np.random.Generator, heads: Heads, most: float) -> Units:
    """At least one head, at most a share of ``most``; one always stays."""
    count = min(heads.count - 1, int(np.ceil(rng.uniform(0.2, 1) * most * heads.count)))
    return np.sort(rng.permutation(heads.count)[:count])


def _rows_of(block: int, gone: Mapping[Heads, Units]) -> Units:
    """The rows of a block that go with their heads."""
    rows = [
        own[chosen].reshape(-1)
        for heads, chosen in gone.items()
        for at, own in zip(heads.blocks, heads.rows, strict=True)
        if at == block
    ]
    return np.concatenate([np.zeros(0, np.int64), *rows])


def assert_exact(
    model: ModelProto, dead_of: DeadOf | None = None, input_shapes: Mapping[str, Shape] | None = None
) -> Removal:
    """Remove what ``dead_of`` chooses and check all that must be true of the result."""
    removal = remove(model, dead_of or some(), input_shapes)
    check(removal)
    return removal


def remove(
    model: ModelProto, dead_of: DeadOf | None = None, input_shapes: Mapping[str, Shape] | None = None
) -> Removal:
    """ModelProto -> Model -> labels -> groups -> a choice -> rewrite; what cannot follow is pinned, as in a run."""
    given = stamped(model)
    before = given.SerializeToString(deterministic=True)
    analysis = analyse(from_proto(given), input_shapes=input_shapes or {})
    trace, groups = analysis.trace, analysis.groups
    pins: dict[int, Pinned] = {}
    refusals: list[Pinned] = []
    while not isinstance(result := rewrite(trace, dead := (dead_of or some())(groups)), Rewrite):
        fresh = [int(u) for u in result.units if int(u) not in pins and int(u) not in trace.pinned]
        assert fresh, f"{result.reason}, and nothing is left to pin"
        pins.update((u, result.reason) for u in fresh)
        refusals.append(result.reason)
        groups = group(trace, pins)
    pruned = trace.model.apply(result.edits).proto
    assert given.SerializeToString(deterministic=True) == before, "the input was changed"
    return Removal(given, trace.model.proto, analysis, groups, dead, result, pruned, tuple(refusals))


def stamped(model: ModelProto) -> ModelProto:
    """A copy with all that a careless rewrite loses."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.doc_string, copy.producer_name, copy.model_version, copy.domain = "a model", "tests", 3, "example"
    for key, value in (("names", "{0: 'cat'}"), ("stride", "32")):
        copy.metadata_props.add(key=key, value=value)
    copy.graph.doc_string = "a graph"
    for index, node in enumerate(copy.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
        node.doc_string = f"node {index}"
    for tensor in copy.graph.initializer:
        tensor.doc_string = f"weight {tensor.name}"
    return copy


def check(removal: Removal) -> None:
    """Valid, equal to the masked original, unchanged in all else, and made again by its plan."""
    if not removal.analysis.flat.choices:  # a branch that is not taken need not fit
        onnx.checker.check_model(removal.pruned, full_check=True)
    assert_equals_masked(removal)
    assert_rest_unchanged(removal)
    assert_calls_stay(removal)
    assert_plan_repeats(removal)


# --- exactness ------------------------------------------------------------------------------------------------------


def assert_equals_masked(removal: Removal) -> None:
    """The pruned model computes what the original does with zeros where removed channels are read."""
    assert_equal(removal, masked(removal))


def assert_equal(removal: Removal, reference: ModelProto) -> None:
    """The pruned model computes what ``reference`` does, to rounding."""
    computed = [t.name for t in removal.trace.tensors.values() if not t.constant]
    types = {removal.trace.shapes.elem_type.get(name) for name in computed}
    rtol = max(tolerance for kind, tolerance in RTOL.items() if kind in types | {TensorProto.DOUBLE})
    if "DynamicQuantizeLinear" in types_of(removal.original):
        rtol = max(rtol, RTOL_ROUNDED)
    wanted, found = removal.outputs(reference), removal.outputs(removal.pruned)
    for name, want in wanted.items():
        have = found[name]
        assert (want.shape, want.dtype) == (have.shape, have.dtype), name
        if want.dtype.kind not in "fV":
            assert (want == have).all(), name
            continue
        a, b = want.astype(np.float64), have.astype(np.float64)
        if not np.isfinite(a).all():
            raise InfiniteError(f"{name}: proves nothing with infinite values")
        error, limit = np.abs(a - b).max(initial=0), ATOL + rtol * np.abs(a).max(initial=0)
        if error > limit and "MaxUnpool" in types_of(removal.original):  # rounding decides between equal largest ones
            again = removal.outputs(reference, nudged=True)[name]
            limit = max(limit, exact.NOISE_FACTOR * np.abs(a - again).max(initial=0))
        assert error <= limit, f"{name}: off by {error:.3g}, rounding is {limit:.3g}"


def types_of(model: ModelProto) -> set[str]:
    """The operators of its graph."""
    return {n.op_type for n in model.graph.node}


def masked(removal: Removal) -> ModelProto:
    """The original with zeros in every slice that reads removed channels."""
    trace, dead = removal.trace, removal.dead
    nodes = trace.model.graph.nodes
    noticed = np.setdiff1d(dead, np.concatenate([dead[:0], *(read.silent for read in trace.reads)]))
    whole: dict[Use | None, Units] = {}  # what a fused operator reads of itself, and what it notices there
    for read in trace.reads:
        use = _constant_behind(trace, nodes[read.node], read.position)
        whole[use] = np.union1d(whole.get(use, dead[:0]), np.setdiff1d(dead, read.silent))
    slices = [s for g in removal.groups for s in g.slices if s.role == "in" or s.use in whole]
    parts = [s for s in slices if np.isin(s.units, whole.get(s.use, noticed)).any()]
    left = [read for read in trace.reads if not _zeros_cover(trace, read, parts, noticed, dead)]
    arrays: dict[Use, NDArray[Any]] = {}
    for part in parts:
        array = arrays.setdefault(part.use, trace.model.array(part.constant).copy())
        gone = np.isin(part.units, whole.get(part.use, noticed))
        array[gone if gone.ndim > 1 else (slice(None),) * part.axis + (gone,)] = 0
    zeroed = ModelProto()
    zeroed.CopyFrom(removal.original)
    for index, (use, array) in enumerate(arrays.items()):
        _give(zeroed, use, array, f"zeroed_{index}")
    return exact.masked(replace(trace, model=Model(zeroed), reads=left), dead).proto


def _zeros_cover(trace: Trace, read: Read, parts: list[Slice], noticed: Units, dead: Units) -> bool:
    """Whether every removed channel that is read there, and noticed, meets a zero in a constant."""
    node = trace.model.graph.nodes[read.node]
    tensor = trace.input(node, read.position)
    units = [trace.unit[layer.labels].reshape(-1) for layer in tensor.layers] if tensor else []
    others = [_constant_behind(trace, node, p) for p in range(len(node.inputs)) if p != read.position]
    zeros = [np.intersect1d(part.units, noticed) for part in parts if part.use in others and part.role == "in"]
    wanted = np.setdiff1d(np.intersect1d(np.concatenate([*units, dead[:0]]), dead), read.silent)
    return (
        read.zero is None and node.op not in RANGED and bool(np.isin(wanted, np.concatenate([*zeros, dead[:0]])).all())
    )


def _constant_behind(trace: Trace, node: Node, position: int) -> Use | None:
    name = node.inputs[position]
    if name in trace.model.graph.constants:
        return use_of(trace.model, name, node.index, position)
    maker = trace.model.graph.producer.get(name)
    return _constant_behind(trace, maker, 0) if maker is not None and maker.op in MOVES else None


def _give(proto: ModelProto, use: Use, array: NDArray[Any], name: str) -> None:
    """Let a use of a constant, or all that share their labels, read ``array``."""
    constant, node, position = use
    kind = Model(proto).graph.constants[constant][0]
    proto.graph.initializer.append(to_tensor(array, name, kind))
    places = [(node, position)] if node >= 0 else [(n, p) for n in range(len(proto.graph.node)) for p in range(99)]
    for n, p in places:
        inputs = proto.graph.node[n].input
        if p < len(inputs) and inputs[p] == constant:
            inputs[p] = name


def run(proto: ModelProto, feeds: runtime.Feeds) -> dict[str, NDArray[Any]]:
    """Outputs from onnxruntime, or, of operators that it does not have, from onnx's reference."""
    try:
        with runtime.session(Model(proto), "test") as active:
            return {n: np.asarray(v) for n, v in runtime.run(active, feeds, "test").items()}
    except ModelError as error:
        if "opset" not in error.what:
            raise
    results = ReferenceEvaluator(proto).run(None, feeds)
    return {o.name: np.asarray(v) for o, v in zip(proto.graph.output, results, strict=True)}


# --- nothing else ---------------------------------------------------------------------------------------------------


def assert_rest_unchanged(removal: Removal) -> None:
    """What no removed channel touches is byte for byte what it was."""
    before, after = removal.original, removal.pruned
    assert _without(before, "graph") == _without(after, "graph"), "the model around the graph changed"
    lists = ("node", "initializer", "input", "value_info")
    assert _without(before.graph, *lists) == _without(after.graph, *lists), "the graph around the nodes changed"
    constants = {t.name for t in before.graph.initializer}
    assert [i.name for i in before.graph.input] == [i.name for i in after.graph.input]
    for old, new in zip(before.graph.input, after.graph.input, strict=True):
        assert old == new or old.name in constants, f"input {old.name} changed"
    _assert_nodes_unchanged(removal)
    _assert_constants_unchanged(removal)
    declared = {v.name for v in before.graph.value_info}
    assert {v.name for v in after.graph.value_info} <= declared


def _without(message: Any, *names: str) -> bytes:
    copy = type(message)()
    copy.CopyFrom(message)
    for name in names:
        copy.ClearField(name)
    data: bytes = copy.SerializeToString(deterministic=True)
    return data


def _assert_nodes_unchanged(removal: Removal) -> None:
    old = {tuple(n.output): n for n in removal.original.graph.node}
    new = {tuple(n.output): n for n in removal.pruned.graph.node}
    assert [o for o in old if o in new] == list(new), "nodes were added, or changed places"
    for outputs, node in old.items():
        if outputs not in new:
            assert _only_gave_sizes(removal, outputs), f"{node.name} went, and was read"
            continue
        assert _without(node, "input", "attribute") == _without(new[outputs], "input", "attribute"), node.name
        before, after = _attributes(node), _attributes(new[outputs])
        differ = {k for k in before.keys() | after.keys() if before.get(k) != after.get(k)}
        assert differ <= SIZES, f"{node.name}: {differ}"


def _only_gave_sizes(removal: Removal, outputs: tuple[str, ...]) -> bool:
    """Whether tensors are, or lead to nothing but, sizes that are now written down."""
    if all(o in removal.trace.shapes.value for o in outputs):
        return True
    readers = [n for n in removal.original.graph.node if set(n.input) & set(outputs)]
    return bool(readers) and all(_only_gave_sizes(removal, tuple(n.output)) for n in readers)


def _attributes(node: NodeProto) -> dict[str, bytes]:
    return {a.name: a.SerializeToString(deterministic=True) for a in node.attribute}


def _assert_constants_unchanged(removal: Removal) -> None:
    old, new = (Model(p).constant_protos for p in (removal.original, removal.pruned))
    touched = {u[0] for u, t in removal.trace.uses.items() for la in t.layers if _dies(removal, la.labels)}
    for name, tensor in new.items():
        source = old.get(name) or old.get(name.rpartition("_")[0])
        if source is None and name.partition("_input2")[0] in removal.folded:
            continue
        if source is None:
            computed = name.rpartition("_")[0] in removal.trace.shapes.value
            assert computed or tensor.data_type in INTS, f"{name} is new, and no size"
            continue
        assert tensor.data_type == source.data_type, name
        if name in old and name not in touched | removal.folded and tensor.data_type not in INTS:
            assert tensor == source, f"{name} changed, and no removed channel touches it"
    read = {i for n in removal.pruned.graph.node for i in n.input} | {o.name for o in removal.pruned.graph.output}
    assert not {n for n in read if n in old and n not in new}, "a constant went that is read"


def assert_calls_stay(removal: Removal) -> None:
    """Functions that are left are what they were and are called; the model with calls computes what it does without."""
    before, after = removal.given, removal.written
    flat = removal.analysis.flat
    if not before.functions and not flat.choices and flat.written is flat.model:
        assert after == removal.pruned
        return
    onnx.checker.check_model(after, full_check=True)
    fields = ("graph", "functions", "opset_import")
    assert _without(before, *fields) == _without(after, *fields), "the model around the graph changed"
    assert [o for o in after.opset_import if o in before.opset_import] == list(before.opset_import)
    assert [f for f in before.functions if f in after.functions] == list(after.functions), "a function changed"
    if not removal.removed and _ifs(before) == _ifs(after):
        # One that is always taken is written as its branch, and its function out: compared by what they compute, below.
        assert before == after
    if removal.analysis.severed.gone:
        return
    whole = removal.outputs(removal.pruned)
    for name, array in removal.outputs(after, restored=True).items():
        np.testing.assert_allclose(array, whole[name], rtol=1e-5, atol=1e-6)


def _ifs(model: ModelProto) -> int:
    """How many there are, in the graph and in the functions that it calls."""
    functions = {(f.domain, f.name): [n.op_type for n in f.node].count("If") for f in model.functions}
    return sum(functions.get((n.domain, n.op_type), int(n.op_type == "If")) for n in model.graph.node)


def _dies(removal: Removal, labels: NDArray[np.int64]) -> bool:
    return bool(np.isin(removal.trace.unit[labels], removal.dead).any())


# --- the plan -------------------------------------------------------------------------------------------------------


def assert_plan_repeats(removal: Removal) -> None:
    """The plan, written and read, makes the same model of the same original."""
    plan = plan_of(removal.trace, removal.rewrite, {"seed": 0})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "plan.json")
        write({path: plan.to_json()})
        loaded = load_plan(path)
    assert loaded.to_json() == plan.to_json()
    again = analyse(from_proto(removal.given), input_shapes=removal.trace.shapes.inputs)
    _, result = applied(again.trace, loaded, "plan")
    repeated = again.trace.model.apply(result.edits).proto
    assert repeated.SerializeToString(deterministic=True) == removal.pruned.SerializeToString(deterministic=True)
