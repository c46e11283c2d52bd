"""The plan: which channels stay, by initializer, as JSON that outlives the run.

    {
      "format": "onnxprune-plan", "version": 1,
      "model": {"name": ..., "sha256": ...},
      "options": {...},                               # as given, for the reader
      "initializers": {
        "conv1.weight": [{"axis": 0, "size": 64, "keep": [0, 2, 3, ...]}],
        "conv2.weight": [{"axis": 1, "size": 32, "blocks": 2, "keep": [[...], [...]]}]   # each block of axis 0 its own
      },
      "copies": {"bias_1": {"of": "bias", "node": "conv3", "input": 2}},  # a vector whose uses are cut differently
      "masks": {"conv1.weight": {"shape": [...], "keep": "eJz..."}},      # version 2: which weights are not zero
      "grids": {"conv1.weight": {"bits": 4, "signed": true, "shape": [...], "scale": "eJz...", "zero_point": "eJz..."}},
      "activations": {"relu1": {...}}                                     # version 3: weights and tensors of few bits
    }

A mask has the shape of the weight after the cut: base64 of zlib of numpy.packbits. A grid's scales (float32) and zero
points (int32; left out where all are 0), of their ``shape``, are base64 of zlib of their bytes, the lowest first.

The same lists cut a PyTorch state_dict: ``tensor.index_select(axis, keep)``. A plan can be applied again, to the same
model or to one retrained with the same shapes.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import PlanError
from onnxprune.file_system.regular_file import ensure_regular
from onnxprune.labels.cut_or_copied_initializers import Kept
from onnxprune.labels.label_propagation import Trace, Use
from onnxprune.labels.rewrite import Rewrite, rewrite

T = TypeVar("T")

#: The second version is for plans with masks, the third for those with grids: who reads one must not overlook more.
FORMAT, VERSION, WITH_MASKS, WITH_GRIDS = "onnxprune-plan", 1, 2, 3


@dataclass(frozen=True)
class AxisKept:
    """What stays along one axis of ``size``: [n], or [blocks, n] where each block of axis 0 keeps its own."""

    axis: int
    size: int
    keep: NDArray[np.int64] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """As in the file."""
        blocks = {"blocks": len(self.keep)} if self.keep.ndim > 1 else {}
        return {"axis": self.axis, "size": self.size, **blocks, "keep": self.keep.tolist()}

    @property
    def removed(self) -> str:
        """The removed positions as ranges, "0-3,7"; of the first block where blocks differ."""
        keep = self.keep if self.keep.ndim == 1 else self.keep[0]
        gone = np.setdiff1d(np.arange(self.size), keep)
        runs = np.split(gone, np.flatnonzero(np.diff(gone) > 1) + 1) if len(gone) else []
        return ",".join(str(r[0]) if len(r) == 1 else f"{r[0]}-{r[-1]}" for r in runs)


@dataclass(frozen=True)
class PlannedGrid:
    """Scales and zero points of numbers of so many ``bits``, along a tensor as their shape says; codes with a sign."""

    scale: NDArray[np.float32] = field(repr=False)
    zero_point: NDArray[np.int64] = field(repr=False)
    bits: int
    signed: bool

    def to_json(self) -> dict[str, Any]:
        """As in the file."""
        document = {"bits": self.bits, "signed": self.signed, "shape": list(self.scale.shape)}
        document["scale"] = _text_of(self.scale.astype("<f4").tobytes())
        if self.zero_point.any():
            document["zero_point"] = _text_of(self.zero_point.astype("<i4").tobytes())
        return document

    @staticmethod
    def from_json(entry: Mapping[str, Any]) -> PlannedGrid:
        """Raises ValueError for what is none."""
        shape = tuple(_of(int, n) for n in entry["shape"])
        count = math.prod(shape)
        scale = np.frombuffer(_bytes_of(entry["scale"], 4 * count, shape), "<f4").astype(np.float32).reshape(shape)
        zero = np.zeros(shape, np.int64)
        if "zero_point" in entry:
            zero = (
                np.frombuffer(_bytes_of(entry["zero_point"], 4 * count, shape), "<i4").astype(np.int64).reshape(shape)
            )
        bits, signed = _of(int, entry["bits"]), _of(bool, entry["signed"])
        low = -(2 ** (bits - 1)) if signed and 2 <= bits <= 16 else 0
        fine = 2 <= bits <= 16 and np.isfinite(scale).all() and (scale > 0).all()
        if not fine or (zero < low).any() or (zero > low + 2**bits - 1).any():
            raise ValueError("not a grid")
        return PlannedGrid(scale, zero, bits, signed)


@dataclass(frozen=True)
class Plan:
    """Kept positions by initializer name; ``copies``: new name -> (initializer, node, input position).

    ``masks``: by weight, in its shape after the cut, false where it is zero; ``grids``: by weight, and ``activations``:
    by tensor, what they are rounded to.
    """

    model_name: str
    model_sha256: str
    options: Mapping[str, Any]
    initializers: Mapping[str, tuple[AxisKept, ...]] = field(repr=False)
    copies: Mapping[str, tuple[str, str, int]] = field(default_factory=dict, repr=False)
    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict, repr=False)
    grids: Mapping[str, PlannedGrid] = field(default_factory=dict, repr=False)
    activations: Mapping[str, PlannedGrid] = field(default_factory=dict, repr=False)

    @property
    def weighed(self) -> bool:
        """Whether it asks anything of the weights that stay."""
        return bool(self.masks or self.grids or self.activations)

    def to_json(self) -> str:
        """The file's text; the same plan gives the same text."""
        on_grid = {"grids": self.grids, "activations": self.activations}
        document = {
            "format": FORMAT,
            "version": WITH_GRIDS if self.grids or self.activations else WITH_MASKS if self.masks else VERSION,
            "model": {"name": self.model_name, "sha256": self.model_sha256},
            "options": dict(self.options),
            "initializers": {n: [a.to_json() for a in axes] for n, axes in self.initializers.items()},
            "copies": {n: {"of": of, "node": node, "input": i} for n, (of, node, i) in self.copies.items()},
            **({"masks": {n: _packed(m) for n, m in self.masks.items()}} if self.masks else {}),
            **{key: {n: g.to_json() for n, g in found.items()} for key, found in on_grid.items() if found},
        }
        return _compact(document) + "\n"


_BY_NAME = ("initializers", "copies", "masks", "grids", "activations")


def _packed(mask: NDArray[np.bool_]) -> dict[str, Any]:
    return {"shape": list(mask.shape), "keep": _text_of(np.packbits(mask).tobytes())}


def _text_of(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")


def _bytes_of(text: Any, length: int, shape: tuple[int, ...]) -> bytes:
    """What `_text_of` packed, so many bytes and no more. Raises ValueError."""
    opened = zlib.decompressobj()
    try:
        data = opened.decompress(base64.b64decode(_of(str, text)), length + 1)
    except zlib.error:
        raise ValueError("not packed") from None
    if min(shape, default=0) < 0 or len(data) != length:
        raise ValueError("not of this shape")
    return data


def _unpacked(entry: Mapping[str, Any]) -> NDArray[np.bool_]:
    """A mask from JSON. Raises ValueError where it is not as long as its shape says."""
    shape = tuple(_of(int, n) for n in entry["shape"])
    count = math.prod(shape)
    bits = _bytes_of(entry["keep"], -(-count // 8), shape)
    return np.unpackbits(np.frombuffer(bits, np.uint8), count=count).astype(np.bool_).reshape(shape)


def _compact(document: Mapping[str, Any]) -> str:
    """JSON with one line an initializer: readable, and diffs well."""
    lines = [f'  "{k}": {json.dumps(v)}' for k, v in document.items() if k not in _BY_NAME]
    for key in (k for k in _BY_NAME if k in document):
        inner = ",\n".join(f"    {json.dumps(n)}: {json.dumps(v)}" for n, v in document[key].items())
        lines.append(f'  "{key}": {{\n{inner}\n  }}' if inner else f'  "{key}": {{}}')
    return "{\n" + ",\n".join(lines) + "\n}"


def make(trace: Trace, result: Rewrite, options: Mapping[str, Any]) -> Plan:
    """Write down what ``result`` keeps."""
    model = trace.model
    shapes = {
        **{n: s for n, (_, s) in model.graph.constants.items()},
        **{n: a.shape for n, a in result.edits.added.items()},
    }
    copies = {}
    for index, positions in result.edits.inputs.items():
        for position, name in positions.items():
            source = (
                model.graph.nodes[index].inputs[position] if position < len(model.graph.nodes[index].inputs) else ""
            )
            if name in result.kept and source in model.graph.constants:
                copies[name] = (source, model.graph.nodes[index].label, position)
                shapes[name] = model.graph.constants[source][1]
    name = model.path.name if model.path else ""
    kept = {n: tuple(_axis(part, shapes[n]) for part in parts) for n, parts in result.kept.items()}
    return Plan(name, model.sha256, options, kept, copies)


def _axis(part: Kept, shape: tuple[int, ...]) -> AxisKept:
    """Rows of one block are alike: one is enough."""
    keep = part.positions
    if keep.ndim > 1:
        changes = np.flatnonzero((keep[1:] != keep[:-1]).any(axis=1))
        rows = np.gcd.reduce([*(changes + 1), len(keep)])
        keep = keep[:: int(rows)]
    return AxisKept(part.axis, shape[part.axis], keep)


def load(path: Path) -> Plan:
    """Read a plan. Raises PlanError."""
    try:
        ensure_regular(path)
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT or document["version"] not in (VERSION, WITH_MASKS, WITH_GRIDS):
            raise PlanError("is not a plan of a version that this onnxprune reads", where=str(path))
        return Plan(
            _of(str, document["model"]["name"]),
            _of(str, document["model"]["sha256"]),
            _asked(_of(dict, document["options"])),
            {
                n: tuple(AxisKept(_of(int, a["axis"]), _of(int, a["size"]), _positions(a["keep"])) for a in axes)
                for n, axes in document["initializers"].items()
            },
            {n: (_of(str, c["of"]), _of(str, c["node"]), _of(int, c["input"])) for n, c in document["copies"].items()},
            {n: _unpacked(entry) for n, entry in document.get("masks", {}).items()},
            {n: PlannedGrid.from_json(entry) for n, entry in document.get("grids", {}).items()},
            {n: PlannedGrid.from_json(entry) for n, entry in document.get("activations", {}).items()},
        )
    except OSError as error:
        raise PlanError(f"cannot read the plan: {error.strerror}", where=str(path)) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise PlanError(
            "is not a plan, or was edited into something else", where=str(path), hint="save it again with --save-plan"
        ) from None


def _of(kind: type[T], given: object) -> T:
    """``given``, if it is of this kind; a truth value is no number. Raises TypeError."""
    if type(given) is not kind:
        raise TypeError(f"not {kind.__name__}")
    return given


def _asked(options: dict[str, Any]) -> dict[str, Any]:
    """The options, those of which are what they must be that are done again. Raises ValueError and TypeError."""
    for key in ("outputs", "gone_branches"):
        for name in _of(list, options.get(key, [])):
            _of(str, name)
    for positions in _of(dict, options.get("keep_outputs", {})).values():
        if any(_of(int, p) < 0 for p in _of(list, positions)):
            raise ValueError("not positions")
    return options


def _positions(given: Any) -> NDArray[np.int64]:
    """[n] or [blocks, n] from JSON. Raises ValueError for anything but ascending positions."""
    keep = np.asarray(given)
    if keep.dtype.kind != "i" or keep.ndim not in (1, 2) or keep.min() < 0 or (np.diff(keep) <= 0).any():
        raise ValueError("not positions")
    return keep.astype(np.int64)


def apply(trace: Trace, plan: Plan, where: str) -> tuple[NDArray[np.int64], Rewrite]:
    """The units that ``plan`` removes from this model, and the rewrite.

    Raises PlanError where the plan does not fit.
    """
    by_name: dict[str, Use] = {}
    nodes = {n.label: n for n in trace.model.graph.nodes}
    for known in trace.uses:
        by_name.setdefault(known[0], known)
    dead: list[NDArray[np.int64]] = []
    for name, axes in plan.initializers.items():
        use: Use | None = by_name.get(name)
        if name in plan.copies:
            source, node, position = plan.copies[name]
            use = (source, nodes[node].index, position) if node in nodes else None
        if use is None or use not in trace.uses:
            raise PlanError(f"the model has no initializer '{name}'", where=where, hint=_other(plan))
        dead.extend(_dead(trace, use, axis, name, plan, where) for axis in axes)
    units = trace.heads.completed(np.concatenate(dead)) if dead else np.zeros(0, np.int64)
    held = next(((int(u), trace.pinned[int(u)]) for u in units if int(u) in trace.pinned), None)
    if held is not None:
        raise PlanError(f"removes channels that must stay: {held[1][0]}", where=where, hint=_other(plan))
    result = rewrite(trace, units)
    if not isinstance(result, Rewrite):
        raise PlanError(f"does not fit: {result.reason}", where=where, hint=_other(plan))
    again = make(trace, result, plan.options)
    for name in {**again.initializers, **plan.initializers}:
        if _key(again, name) != _key(plan, name):
            raise PlanError(
                f"keeps other channels of '{name}' than the rest of it asks for", where=where, hint=_other(plan)
            )
    return units, result


def _key(plan: Plan, name: str) -> list[dict[str, Any]]:
    return [a.to_json() for a in plan.initializers.get(name, ())]


def _other(plan: Plan) -> str:
    return f"it was made for {plan.model_name or 'another model'}, sha256 {plan.model_sha256[:12]}"


def _dead(trace: Trace, use: Use, axis: AxisKept, name: str, plan: Plan, where: str) -> NDArray[np.int64]:
    tensor = trace.uses[use]
    layer = next((la for la in tensor.layers if la.columns == axis.axis), None)
    if layer is None or tensor.shape[axis.axis] != axis.size or (axis.keep.size and axis.keep.max() >= axis.size):
        shape = ", ".join(map(str, tensor.shape))
        raise PlanError(
            f"initializer '{name}' is [{shape}], not {axis.size} along axis {axis.axis}", where=where, hint=_other(plan)
        )
    labels = layer.labels.reshape(layer.labels.shape[0], -1) if len(layer.axes) > 1 else layer.labels.reshape(1, -1)
    keep = axis.keep.reshape(-1, axis.keep.shape[-1])
    if labels.shape[0] % len(keep):
        raise PlanError(f"initializer '{name}' has no {len(keep)} blocks", where=where, hint=_other(plan))
    gone = np.ones((len(keep), axis.size), np.bool_)
    np.put_along_axis(gone, keep, values=False, axis=1)
    if len(keep) == 1:
        return np.asarray(trace.unit[labels[:, gone[0]]].reshape(-1))
    size = labels.shape[0] // len(keep)
    blocks = [labels[i * size : (i + 1) * size][:, row] for i, row in enumerate(gone)]
    return np.concatenate([trace.unit[b].reshape(-1) for b in blocks])
