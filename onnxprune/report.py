"""The report: all that a run has to say, as one value. Terminal and JSON are both rendered from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxprune.candidates import Tried
from onnxprune.cost import Cost
from onnxprune.differ import OutputError
from onnxprune.groups import Group, Groups
from onnxprune.verify import Proof

FORMAT, VERSION = "onnxprune-report", 1


@dataclass(frozen=True)
class GroupReport:
    """One group before and after. ``asked`` and ``achieved`` are shares of its channels removed."""

    name: str
    width: int
    kept: int
    asked: float
    achieved: float
    note: str = ""


@dataclass(frozen=True)
class SizeReport:
    """Before and after, of the whole model."""

    before: int
    after: int

    @property
    def ratio(self) -> float:
        """What is left."""
        return self.after / self.before if self.before else 1.0


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


@dataclass(frozen=True)
class Report:
    """One run of `prune`. Shares are of prunable channels; ``lossless``: how many of those removed nobody misses.

    ``seconds`` by stage.
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

    def to_json(self) -> str:
        """The file's text."""
        sizes = ("channels", "parameters", "macs", "file_bytes")
        document: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if name in sizes:
                value = {"before": value.before, "after": value.after, "ratio": round(value.ratio, 6)}
            elif name == "groups":
                value = [asdict(g) for g in value]
            elif name == "proof":
                value = (
                    None
                    if value is None
                    else {**asdict(value), "rewrite_error": value.rewrite_error, "inside_error": value.inside_error}
                )
            elif name == "learnt":
                value = None if value is None else asdict(value)
            document[name] = value
        return json.dumps(plain(document), indent=2) + "\n"


def plain(value: Any) -> Any:
    """JSON has no infinity: it becomes a string."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def group_reports(
    groups: Groups, removed: Mapping[int, int], asked: Mapping[int, float], notes: Mapping[int, str]
) -> tuple[GroupReport, ...]:
    """A line for each group; ``removed``: units by group index."""
    return tuple(
        GroupReport(
            g.name,
            g.width,
            g.width - removed.get(g.index, 0),
            asked[g.index],
            removed.get(g.index, 0) / g.width,
            notes.get(g.index, ""),
        )
        for g in groups
    )


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
