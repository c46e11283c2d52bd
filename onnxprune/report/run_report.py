"""The report: all that a run has to say, as one value. Terminal and JSON are both rendered from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.cost.measures import Cost
from onnxprune.labels.groups import Group, Groups
from onnxprune.model.graph import Shape
from onnxprune.proof.exact import Proof
from onnxprune.running.differences import OutputError
from onnxprune.widths.plan_contest import Tried

FORMAT, VERSION = "onnxprune-report", 1


@dataclass(frozen=True)
class GroupReport:
    """One group before and after. ``asked`` and ``achieved`` are shares of its channels removed.

    ``scores``: [width] the importance of each channel, to 4 digits; none where a saved plan was applied. ``removed``:
    positions of those that went.
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
    """Before and after, of the whole model."""

    before: int
    after: int

    @property
    def ratio(self) -> float:
        """What is left."""
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
class SampleError:
    """How far the outputs are from the original's on one held-out sample: noise over signal, the mean over outputs.

    ``sample``: its position in the calibration data. ``pruned`` and ``final`` as in `Learnt`.
    """

    sample: int
    pruned: float
    final: float


@dataclass(frozen=True)
class Learnt:
    """What calibration data did, and how far the outputs are from the original's on held-out samples.

    ``pruned``: with the channels gone; ``final``: as written. They are the same where compensation did not help.
    ``solved``: layers with new weights, of ``layers`` that could have them. ``steps``: of training, of which
    ``best_step`` was the best held out, 0 where none was better than before.
    """

    samples: int
    held_out: int
    pruned: tuple[OutputError, ...]
    final: tuple[OutputError, ...]
    solved: int
    layers: int
    tried: tuple[Tried, ...] = ()
    steps: int = 0
    best_step: int = 0
    by_sample: tuple[SampleError, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Check:
    """One check of a result: its name, whether it passed, and what was found."""

    name: str
    passed: bool
    found: str


@dataclass(frozen=True)
class Report:
    """One run of `prune`. Shares are of prunable channels; ``lossless``: how many of those removed nobody misses.

    ``costs``: by cost model, what a target or a budget makes interesting: cycles, activations. ``checks``: the proof
    and what else the result had to hold. ``seconds`` by stage.
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
    learnt: Learnt | None = None
    parts: tuple[PartReport, ...] = field(default=(), repr=False)
    layers: tuple[LayerReport, ...] = field(default=(), repr=False)
    slices: tuple[SliceReport, ...] = field(default=(), repr=False)
    command: str = ""  # the command line that makes it again
    costs: Mapping[str, SizeReport] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed: no model is written."""
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
            elif name == "learnt":
                value = None if value is None else asdict(value)
            document[name] = value
        return _text(plain(document)) + "\n"


def plain(value: Any) -> Any:
    """JSON has no infinity: it becomes a string."""
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


def group_reports(
    groups: Groups,
    gone: NDArray[np.bool_],
    asked: Mapping[int, float],
    notes: Mapping[int, str],
    scores: Sequence[NDArray[np.float64]],
) -> tuple[GroupReport, ...]:
    """A line for each group; ``gone``: by unit; ``scores``: [width] of each group, or none at all."""
    found = []
    for place, g in enumerate(groups):
        removed = np.flatnonzero(gone[g.units])
        found.append(
            GroupReport(
                g.name,
                g.width,
                g.width - len(removed),
                asked[g.index],
                len(removed) / g.width,
                notes.get(g.index, ""),
                tuple(float(f"{s:.4g}") for s in scores[place]) if scores else (),
                tuple(removed.tolist()),
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class InspectGroup:
    """One group as `inspect` lists it. ``macs``: of the nodes that make or read its channels."""

    name: str
    width: int
    parameters: int
    macs: int
    nodes: tuple[str, ...]
    initializers: tuple[dict[str, Any], ...]
    equal_rows: int
    heads: int  # that may go as a whole, of the first family of them


@dataclass(frozen=True)
class InspectHeld:
    """A weight whose output channels, or some of them, must stay."""

    node: str
    initializer: str
    width: int
    held: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Inspection:
    """What could be pruned, and what could not and why."""

    model: str
    input_shapes: Mapping[str, tuple[int, ...]]
    cost: Cost
    channels: int
    lossless: int  # of the channels, those that nobody would miss
    groups: tuple[InspectGroup, ...]
    held: tuple[InspectHeld, ...]

    def to_json(self) -> str:
        """The file's text."""
        return (
            json.dumps(plain({"format": "onnxprune-inspection", "version": VERSION, **asdict(self)}), indent=2) + "\n"
        )


def inspect_group(group: Group, parameters: int, macs: int) -> InspectGroup:
    """One line of `inspect`."""
    parts = tuple(
        {"name": s.constant, "axis": s.axis, "size": int(s.units.shape[-1]), "role": s.role or "elementwise"}
        for s in group.slices
    )
    return InspectGroup(
        group.name,
        group.width,
        parameters,
        macs,
        group.nodes,
        parts,
        max(b.rows for b in group.blocks),
        next((h.count for h in group.heads), 0),
    )
