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

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.constraints.grids import Grid
from onnxprune.errors import PlanError
from onnxprune.file_system.regular_file import ensure_regular
from onnxprune.plans.packed_arrays import grid_of, mask_of, of, packed_grid, packed_mask

#: The second version is for plans with masks, the third for those with grids: who reads one must not overlook more.
FORMAT, VERSION, WITH_MASKS, WITH_GRIDS = "onnxprune-plan", 1, 2, 3


@dataclass(frozen=True)
class AxisKept:
    """The positions that stay along an axis of ``size``: [n], or [blocks, n] where blocks of axis 0 keep others."""

    axis: int
    size: int
    keep: NDArray[np.int64] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """As the plan's file has it."""
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
    grids: Mapping[str, Grid] = field(default_factory=dict, repr=False)
    activations: Mapping[str, Grid] = field(default_factory=dict, repr=False)

    @property
    def weighed(self) -> bool:
        """Whether the plan has zeros or grids for the weights that stay."""
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
            **({"masks": {n: packed_mask(m) for n, m in self.masks.items()}} if self.masks else {}),
            **{key: {n: packed_grid(g) for n, g in found.items()} for key, found in on_grid.items() if found},
        }
        return _compact(document) + "\n"


_BY_NAME = ("initializers", "copies", "masks", "grids", "activations")


def _compact(document: Mapping[str, Any]) -> str:
    """JSON with one line an initializer: readable, and diffs well."""
    lines = [f'  "{k}": {json.dumps(v)}' for k, v in document.items() if k not in _BY_NAME]
    for key in (k for k in _BY_NAME if k in document):
        inner = ",\n".join(f"    {json.dumps(n)}: {json.dumps(v)}" for n, v in document[key].items())
        lines.append(f'  "{key}": {{\n{inner}\n  }}' if inner else f'  "{key}": {{}}')
    return "{\n" + ",\n".join(lines) + "\n}"


def load_plan(path: Path) -> Plan:
    """Read a plan. Raises PlanError."""
    try:
        ensure_regular(path)
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT or document["version"] not in (VERSION, WITH_MASKS, WITH_GRIDS):
            raise PlanError("is not a plan of a version that this onnxprune reads", where=str(path))
        return Plan(
            of(str, document["model"]["name"]),
            of(str, document["model"]["sha256"]),
            _asked(of(dict, document["options"])),
            {
                n: tuple(AxisKept(of(int, a["axis"]), of(int, a["size"]), _positions(a["keep"])) for a in axes)
                for n, axes in document["initializers"].items()
            },
            {n: (of(str, c["of"]), of(str, c["node"]), of(int, c["input"])) for n, c in document["copies"].items()},
            {n: mask_of(entry) for n, entry in document.get("masks", {}).items()},
            {n: grid_of(entry) for n, entry in document.get("grids", {}).items()},
            {n: grid_of(entry) for n, entry in document.get("activations", {}).items()},
        )
    except OSError as error:
        raise PlanError(f"cannot read the plan: {error.strerror}", where=str(path)) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise PlanError(
            "is not a plan, or was edited into something else", where=str(path), hint="save it again with --save-plan"
        ) from None


def _asked(options: dict[str, Any]) -> dict[str, Any]:
    """The options, those of which are what they must be that are done again. Raises ValueError and TypeError."""
    for key in ("outputs", "gone_branches"):
        for name in of(list, options.get(key, [])):
            of(str, name)
    for positions in of(dict, options.get("keep_outputs", {})).values():
        if any(of(int, p) < 0 for p in of(list, positions)):
            raise ValueError("not positions")
    return options


def _positions(given: Any) -> NDArray[np.int64]:
    """[n] or [blocks, n] from JSON. Raises ValueError for anything but ascending positions."""
    keep = np.asarray(given)
    if keep.dtype.kind != "i" or keep.ndim not in (1, 2) or keep.min() < 0 or (np.diff(keep) <= 0).any():
        raise ValueError("not positions")
    return keep.astype(np.int64)
