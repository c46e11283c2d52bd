"""How much of any exported file can be pruned, next to onnxsim: ``python -m bench.coverage``.

Every skeleton of the zoo and every trained model: which share of its multiply-accumulates is in layers that
have channels to remove, what both tools leave of it at a ratio of 0.3 (as in ``bench.peers``), and which of
their files are crashes, invalid or wrong. A layer counts as prunable if an axis of its weight holds channels
of a group; a product of two activations, if any axis of them does.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt
import onnx

from bench import judge, peers
from bench.measure import publish
from fixtures import trained
from fixtures.skeleton import load_skeleton
from onnxprune import cost, pipeline, scores, verify
from onnxprune import model as files
from onnxprune.graph import Graph, Node
from onnxprune.trace import Trace

ZOO = {path.stem: path for path in sorted(Path(__file__).parents[1].glob("fixtures/zoo/*.onnx"))}
RATIO = 0.3
ENOUGH = 0.95  #: of the MACs of a convolutional network's Convs, in prunable layers
TIMEOUT = 300
FAULTS = ("crashed", "invalid", "wrong", "not judged")


@dataclass(frozen=True)
class Share:
    """MACs of a network and of its Convs, those of either in prunable layers, and by Conv why it is none."""

    macs: int
    prunable: int
    conv_macs: int
    prunable_conv: int
    pinned: Mapping[str, str]

    @property
    def is_convolutional(self) -> bool:
        """Whether more than half of the work is in Convs."""
        return 2 * self.conv_macs > self.macs


@dataclass(frozen=True)
class Line:
    """One file; ``limit``: a judged error up to here is rounding, at the precision of the file."""

    name: str
    share: Share
    limit: float
    ours: peers.Outcome
    theirs: peers.Outcome

    @property
    def outcomes(self) -> tuple[peers.Outcome, peers.Outcome]:
        """Both tools'."""
        return self.ours, self.theirs


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the chosen files, print the tables, and write all that was measured if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="stems of fixtures/zoo, keys of fixtures.trained")
    parser.add_argument("--json", type=Path, metavar="PATH")
    options = parser.parse_args(arguments)
    lines = [measure(name) for name in options.names or [*ZOO, *trained.MODELS]]
    tables = {
        f"{RATIO:.0%} of each group, by L2": [row(line) for line in lines],
        "Summary": [summary(lines, position) for position in (0, 1)],
        "MACs in prunable layers, mean": [share_row([line.share for line in lines])],
        "Crashed, invalid and wrong": list(fault_rows(lines)),
        "Parameters kept where onnxsim removes more": [ahead_row(line) for line in lines if is_behind(line)],
        f"Convolutional, and less than {ENOUGH:.0%} of the Conv MACs in prunable layers": list(pinned_rows(lines)),
    }
    publish({t: rows for t, rows in tables.items() if rows}, {line.name: asdict(line) for line in lines}, options.json)


def measure(name: str) -> Line:
    """Analyse one file here, prune it with either tool in a fresh process, and judge what they wrote."""
    with tempfile.TemporaryDirectory() as folder:
        if name in ZOO:
            source, sizes = Path(folder, f"{name}.onnx"), {}
            onnx.save(load_skeleton(ZOO[name]), source)
        else:
            source, sizes = trained.path(name), dict(trained.MODELS[name].input_shapes)
        share, limit = examine(source, sizes)
        ours, theirs = peers.compare(source, judge.random_feeds(source, sizes), RATIO, Path(folder), timeout=TIMEOUT)
        return Line(name, share, limit, ours, theirs)


def examine(source: Path, sizes: judge.Shapes) -> tuple[Share, float]:
    """Which layers can be pruned, found as ``onnxprune inspect`` does; and the limit of the rewrite error."""
    model = files.load(source)
    options = pipeline.Options(ratio=0.5, importance="random", input_shapes=sizes)
    analysis = pipeline.analyse(model, options)
    trace, groups = analysis.trace, pipeline.choose(analysis, options, scores.resolve("random")).groups
    free = np.zeros(trace.units, np.bool_)
    free[[unit for group in groups for unit in group.units]] = True
    macs = cost.macs_by_node(model.graph, trace.shapes.shape)
    layers = [node for node in model.graph.nodes if node.label in macs]
    prunable = {node.label for node in layers if is_prunable(trace, node, free)}
    convs = {node.label: node for node in layers if "Conv" in node.op}
    reasons = {held.constant: "; ".join(map(str, held.reasons)) for held in groups.held}
    pinned = {n: reasons.get(stored(model.graph, c), "has one filter") for n, c in convs.items() if n not in prunable}

    def work(names: Collection[str]) -> int:
        return sum(macs[name] for name in names)

    share = Share(work(macs), work(prunable), work(convs), work(prunable & convs.keys()), pinned)
    return share, verify.default_rtol(trace)


def is_prunable(trace: Trace, node: Node, free: npt.NDArray[np.bool_]) -> bool:
    """Whether the weights of ``node`` hold channels that can go; if it has none, whether what it reads does."""
    tensors = [tensor for i in range(len(node.inputs)) if (tensor := trace.input(node, i)) is not None]
    weights = [tensor for tensor in tensors if tensor.constant and tensor.layers]
    return any(free[trace.unit[layer.labels]].any() for tensor in weights or tensors for layer in tensor.layers)


def stored(graph: Graph, conv: Node) -> str:
    """The constant that the weight of ``conv`` is made of."""
    name = conv.inputs[3 if conv.op == "QLinearConv" else 1]
    while name not in graph.constants and name in graph.producer:
        name = graph.producer[name].inputs[0]
    return name


def fault(outcome: peers.Outcome, limit: float) -> tuple[str, str]:
    """One of ``FAULTS`` and what it is, or two empty strings."""
    verdict = outcome.verdict
    if outcome.crash or verdict is None:
        return "crashed", outcome.crash or "wrote nothing"
    if verdict.refused:
        return "invalid", verdict.refused
    if verdict.error is None:
        return "not judged", verdict.note
    return ("", "") if verdict.error <= limit else ("wrong", f"{verdict.error:.0e}")


def kept(outcome: peers.Outcome) -> float:
    """The share of parameters left: all of them, if there is no file."""
    return outcome.verdict.kept if outcome.verdict else 1.0


def is_behind(line: Line) -> bool:
    """Whether onnxsim leaves fewer parameters."""
    return kept(line.theirs) < kept(line.ours)


def row(line: Line) -> dict[str, str]:
    """The line of one file: the shares in prunable layers, then what ``bench.peers`` says."""
    share = line.share
    head = {
        "model": line.name,
        "MACs in prunable layers": _percent(share.prunable, share.macs),
        "Conv MACs": _percent(share.prunable_conv, share.conv_macs),
    }
    return head | peers.row(line.name, line.ours, line.theirs)


def summary(lines: Sequence[Line], position: int) -> dict[str, str]:
    """One tool over all files; means are of the shares that the judge counted, 1 where there is no file."""
    outcomes = [line.outcomes[position] for line in lines]
    faults = [fault(outcome, line.limit)[0] for outcome, line in zip(outcomes, lines, strict=True)]
    cells = {"tool": outcomes[0].tool, "files": str(len(lines)), "valid and exact": str(faults.count(""))}
    cells |= {name: str(faults.count(name)) for name in FAULTS}
    return cells | {
        "nothing removed": str(sum(kept(outcome) == 1 for outcome in outcomes)),
        "mean parameters kept": f"{fmean(map(kept, outcomes)):.3f}",
        "mean MACs kept": f"{fmean(o.verdict.kept_macs if o.verdict else 1.0 for o in outcomes):.3f}",
        "seconds": f"{sum(outcome.seconds for outcome in outcomes):.0f}",
    }


def share_row(shares: Sequence[Share]) -> dict[str, str]:
    """Of all files, all layers; of those that are convolutional networks, the Convs, and how many have enough."""
    convs = [share.prunable_conv / share.conv_macs for share in shares if share.is_convolutional]
    return {
        "all layers": f"{fmean(share.prunable / max(share.macs, 1) for share in shares):.1%}",
        "convolutional networks": str(len(convs)),
        "their Convs": f"{fmean(convs):.1%}" if convs else "-",
        f"at least {ENOUGH:.0%}": str(sum(part >= ENOUGH for part in convs)),
    }


def fault_rows(lines: Sequence[Line]) -> Iterator[dict[str, str]]:
    """Name what either tool did wrong."""
    for line in lines:
        for outcome in line.outcomes:
            kind, what = fault(outcome, line.limit)
            if kind:
                yield {"model": line.name, "tool": outcome.tool, "fault": kind, "what": what[:160]}


def ahead_row(line: Line) -> dict[str, str]:
    """Both figures of a file that onnxsim removes more of, and whether what it wrote is any good."""
    figures = {outcome.tool: f"{kept(outcome):.3f}" for outcome in line.outcomes}
    return {"model": line.name, **figures, "onnxsim's file": fault(line.theirs, line.limit)[0] or "valid and exact"}


def pinned_rows(lines: Sequence[Line]) -> Iterator[dict[str, str]]:
    """Say of convolutional networks that can hardly be pruned why their Convs cannot."""
    for line in lines:
        share = line.share
        if share.is_convolutional and share.prunable_conv < ENOUGH * share.conv_macs:
            for conv, why in share.pinned.items():
                prunable = _percent(share.prunable_conv, share.conv_macs)
                yield {"model": line.name, "Conv MACs": prunable, "Conv": conv, "why": why}


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"


if __name__ == "__main__":
    main()
