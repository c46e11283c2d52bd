"""The report: all that a run has to say, as one value. Terminal and JSON are both rendered from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxprune.model.graph import Shape
from onnxprune.passes.recover import Recovered
from onnxprune.proof.exact import Proof
from onnxprune.proof.revalued import Revalued
from onnxprune.proof.weights import GridsProof, ZerosProof
from onnxprune.report.sparsity import Sparsity
from onnxprune.search.smallest import SearchReport

FORMAT, VERSION = "onnxprune-report", 1

#: Fields that the file, in this version, calls otherwise.
KEYS = {"recovered": "learnt"}


@dataclass(frozen=True)
class GroupReport:
    """One group before and after; ``asked`` and ``achieved`` are the shares of its channels to be removed, and removed.

    ``scores``: [width] the importance of each channel, to 4 digits; empty where a saved plan was applied. ``removed``:
    positions of the removed channels.
    """

    name: str
    width: int
    kept: int
    asked: float
    achieved: float
    note: str = ""
    scores: tuple[float, ...] = field(default=(), repr=False)
    removed: tuple[int, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class SizeReport:
    """One size of the whole model, before and after."""

    before: int
    after: int

    @property
    def ratio(self) -> float:
        """The share that is left."""
        return self.after / self.before if self.before else 1.0

    def to_json(self) -> dict[str, float]:
        """As the report's file has it."""
        return {"before": self.before, "after": self.after, "ratio": round(self.ratio, 6)}


@dataclass(frozen=True)
class PartReport:
    """A group, by its position among the groups, or (None) channels that are held, and why (``reasons``).

    ``name``: the node that makes them. ``feeds``: positions of the parts that read it; an earlier one where it is added
    to what that one made.
    """

    name: str
    group: int | None
    width: int
    kept: int
    reasons: tuple[str, ...]
    feeds: tuple[int, ...]


@dataclass(frozen=True)
class LayerReport:
    """A node with weights or MACs, before and after. ``weight``: the largest constant that it reads, if any.

    ``cycles`` of the target, where there is one, and how many of them are ``padding``: for channels that are none.
    """

    node: str
    weight: str
    before: Shape
    after: Shape
    parameters: SizeReport
    macs: SizeReport
    cycles: SizeReport | None = None
    padding: SizeReport | None = None


@dataclass(frozen=True)
class SliceReport:
    """An axis of the initializer ``tensor`` that is cut: of ``size`` positions ``kept`` stay, ``removed`` go ("0-3,7").

    ``blocks``: more than one where each block of axis 0 keeps others; ``removed`` is then of the first.
    """

    groups: tuple[str, ...]
    node: str
    tensor: str
    axis: int
    size: int
    kept: int
    removed: str
    blocks: int


@dataclass(frozen=True)
class Check:
    """One check of a result: its name, whether it passed, and what was measured."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True)
class Report:
    """All that is reported of one run of `prune`. Shares are shares of the prunable channels.

    ``lossless``: how many of the removed channels no reader notices. ``costs``: sizes by cost model, those that a
    target or budget makes interesting. ``checks``: the proof, and every limit that was set. ``seconds``: by stage.
    ``revalued``: the constants that solving weights changed. ``zeros`` and ``grids``: proof that weights are 0, or on
    their grids, where that was asked for; ``sparsity``: all zeros that there are then.
    """

    model: str
    output: str
    sha256: str
    options: Mapping[str, Any]
    asked: float
    achieved: float
    lossless: int
    channels: SizeReport
    parameters: SizeReport
    macs: SizeReport
    file_bytes: SizeReport
    groups: tuple[GroupReport, ...] = field(repr=False)
    proof: Proof | None
    changes: tuple[str, ...] = field(repr=False)
    notes: tuple[str, ...]
    versions: Mapping[str, str]
    seconds: Mapping[str, float]
    recovered: Recovered | None = None
    revalued: Revalued | None = None
    search: SearchReport | None = None
    parts: tuple[PartReport, ...] = field(default=(), repr=False)
    layers: tuple[LayerReport, ...] = field(default=(), repr=False)
    slices: tuple[SliceReport, ...] = field(default=(), repr=False)
    command: str = ""  # the command line that makes it again
    costs: Mapping[str, SizeReport] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    zeros: ZerosProof | None = None
    sparsity: Sparsity | None = field(default=None, repr=False)
    grids: GridsProof | None = None

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed; if there are any, no model is written."""
        return tuple(c for c in self.checks if not c.passed)

    def to_json(self) -> str:
        """The file's text."""
        sizes = ("channels", "parameters", "macs", "file_bytes")
        document: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if name in sizes:
                value = value.to_json()
            elif name == "costs":
                value = {n: size.to_json() for n, size in value.items()}
            elif name in ("groups", "parts", "layers", "slices", "checks"):
                value = [asdict(v) for v in value]
            elif name == "proof":
                value = (
                    None
                    if value is None
                    else {**asdict(value), "rewrite_error": value.rewrite_error, "inside_error": value.inside_error}
                )
            elif name in ("recovered", "revalued", "search", "zeros", "sparsity", "grids"):
                value = None if value is None else asdict(value)
                if value is None and name in ("revalued", "zeros", "sparsity", "grids"):
                    continue
            document[KEYS.get(name, name)] = value
        return _text(plain(document)) + "\n"


def plain(value: Any) -> Any:
    """Replace infinities, which JSON does not have, by strings."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _text(value: Any, margin: str = "") -> str:
    """JSON with a line for each entry, but lists of numbers and texts on one."""
    inner = f"{margin}  "
    if isinstance(value, dict) and value:
        lines = [f"{inner}{json.dumps(k)}: {_text(v, inner)}" for k, v in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{margin}}}"
    if isinstance(value, list) and any(isinstance(v, (dict, list)) for v in value):
        return "[\n" + ",\n".join(f"{inner}{_text(v, inner)}" for v in value) + f"\n{margin}]"
    return json.dumps(value)
