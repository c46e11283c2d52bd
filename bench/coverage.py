"""How much of any exported file can be pruned, next to onnxsim and Torch-Pruning: ``python -m bench.coverage``.

Every skeleton of the zoo and every trained model: which share of its multiply-accumulates is in layers that
have channels to remove, what each tool leaves of it at a ratio of 0.3 (as in ``bench.peers`` and
``bench.torch_pruning``), and which of their results are crashes, invalid or wrong. A layer counts as prunable if an
axis of its weight holds channels of a group; a product of two activations, if any axis of them does.

The tools round a share of a group's channels to whole ones in their own ways: onnxprune and Torch-Pruning remove at
least the ratio of each group, onnxsim rounds to the nearest in each layer.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from statistics import fmean

import numpy as np
import numpy.typing as npt
import onnx

from bench import judge, peers, torch_pruning
from bench.measure import markdown, publish
from fixtures import trained
from fixtures.skeleton import load_skeleton
from onnxprune.cost import macs_and_bytes as cost
from onnxprune.importance import criteria as scores
from onnxprune.importance.criterion import Subject
from onnxprune.labels.analysis import analyse
from onnxprune.labels.label_propagation import Trace
from onnxprune.model import files
from onnxprune.model.graph import Graph, Node
from onnxprune.options import Options
from onnxprune.proof import exact as verify
from onnxprune.widths.choose_channels import choose

FOLDER = Path(__file__).parents[1] / "fixtures" / "zoo"
ZOO = {path.stem: path for path in sorted(FOLDER.glob("*.onnx"))}
RATIO = 0.3
ENOUGH = 0.95  #: of the MACs of a convolutional network's Convs, in prunable layers
TIMEOUT = 300
TORCH_PRUNING = torch_pruning.THEIRS
TOOLS = ("onnxprune", "onnxsim", TORCH_PRUNING)
OTHER_EXPORT = 0.0015  #: shares of two exports of a network differ so much by constants and BatchNormalization
NOT_BUILT = "PyTorch does not have this network"
LEGEND = """\
Parameters and MACs: the share of the given file that is left; for Torch-Pruning, of the module's own export.
Rewrite error: distance to the original with the removed weights zeroed, relative to the output's range, judged
by a script that shares no code with any of the tools. s: the whole process, with onnxprune's proof.
Torch-Pruning is given what torchvision and timm have, the U-Net, and what onnx2torch reads back from the file
with the same parameters and MACs; one module stands for all exports of a network. A module that was read back
holds the sizes that its exporter wrote down, as in view(-1, 400): where Torch-Pruning crashes on an own_
network, it may be over one of these."""
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
    outcomes: tuple[peers.Outcome, ...]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the chosen files, print the tables, and write all that was measured if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="stems of fixtures/zoo, keys of fixtures.trained")
    parser.add_argument("--json", type=Path, metavar="PATH", help="all that was measured")
    parser.add_argument("--markdown", type=Path, metavar="PATH", help="the tables, with date and versions")
    options = parser.parse_args(arguments)
    lines: list[Line] = []
    for name in options.names or [*ZOO, *trained.MODELS]:
        print(f"{len(lines) + 1} {name}", file=sys.stderr)
        lines.append(measure(name))
    tables = tables_of(lines)
    publish(tables, {line.name: asdict(line) for line in lines}, options.json)
    if options.markdown is not None:
        before = options.markdown.read_text(encoding="utf-8") if options.markdown.exists() else ""
        _, title, own = before.partition(BY_HAND)
        options.markdown.write_text(document(tables) + title + own, encoding="utf-8")


def tables_of(lines: Sequence[Line]) -> dict[str, list[dict[str, str]]]:
    """Every table that has a row, by title."""
    tables = {
        "Summary": [summary(lines, tool) for tool in TOOLS],
        "Where both have a result": [head_to_head(lines, tool) for tool in TOOLS[1:]],
        "MACs in prunable layers, mean": [share_row([line.share for line in lines])],
        "Parameters or MACs kept where another tool removes more": list(behind_rows(lines)),
        "Crashed, invalid and wrong": list(fault_rows(lines)),
        f"Convolutional, and less than {ENOUGH:.0%} of the Conv MACs in prunable layers": list(pinned_rows(lines)),
        f"{RATIO:.0%} of each group, by L2": [row(line) for line in lines],
    }
    return {title: rows for title, rows in tables.items() if rows}


#: What was measured by hand stays at the end of the document.
BY_HAND = "\n## Models out of other packages\n"


def document(tables: Mapping[str, Sequence[dict[str, str]]]) -> str:
    """``docs/coverage.md``: what was run, when, with which versions, and the tables."""
    names = (
        "onnxprune",
        "onnx",
        "onnxruntime",
        "onnxsim",
        "torch",
        "torchvision",
        "timm",
        "torch-pruning",
        "onnx2torch",
    )
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in names)
    today = dt.datetime.now(dt.timezone.utc).date()
    head = f"# Coverage\n\n`python -m bench.coverage --markdown docs/coverage.md`, {today}, on {versions}.\n\n{LEGEND}"
    return "\n\n".join([head, *(f"## {title}\n\n{markdown(rows)}" for title, rows in tables.items())]) + "\n"


def measure(name: str) -> Line:
    """Analyse one file here, prune it with every tool in fresh processes, and judge what they wrote."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        if name in ZOO:
            source, sizes = folder / f"{name}.onnx", {}
            onnx.save(load_skeleton(ZOO[name]), source)
        else:
            source, sizes = trained.path(name), dict(trained.MODELS[name].input_shapes)
        share, limit = examine(source, sizes)
        feeds = judge.random_feeds(source, sizes)
        outcomes = (
            *peers.compare(source, feeds, RATIO, folder, timeout=TIMEOUT),
            by_torch_pruning(arch(name)) or peers.Outcome(TORCH_PRUNING, 0, NOT_BUILT, None),
        )
        return Line(name, share, limit, outcomes)


def arch(name: str) -> str:
    """The first file of the zoo with the same network, "" for what is not in the zoo: one module stands for all."""
    rows = json.loads((FOLDER / "index.json").read_text())
    archs = {row["name"]: row["arch"] for row in rows}
    return next((other for other in archs if archs[other] == archs.get(name)), "")


@cache
def by_torch_pruning(name: str) -> peers.Outcome | None:
    """What Torch-Pruning makes of the network of a file of the zoo; None where PyTorch does not have it.

    Judged on the ONNX files of the module before and after. A module that was read back from the file only counts if
    it has as many parameters and MACs as the file.
    """
    if not name:
        return None
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        whole, pruned = folder / "whole.onnx", folder / torch_pruning.PRUNED
        run = torch_pruning.worker("prune", name, folder / torch_pruning.MODULE, timeout=TIMEOUT)
        exported = torch_pruning.worker("export-both", name, whole, timeout=TIMEOUT)
        if not whole.exists() or not is_same(name, whole):
            print(f"{name}: no module: {exported.failure or 'another size'}", file=sys.stderr)
            return None
        verdict = judge.judge(whole, pruned, judge.random_feeds(whole)) if pruned.exists() else None
        return peers.Outcome(TORCH_PRUNING, run.seconds, run.failure or exported.failure, verdict)


def is_same(name: str, whole: Path) -> bool:
    """Whether the export of a module is the network of the file: always, if it is a library's own."""
    if not name.startswith("own_"):
        return True
    sizes: list[tuple[int, int]] = []
    for model in (load_skeleton(ZOO[name]), onnx.load(whole)):
        onnx.save(model, whole.with_name("size.onnx"))
        feeds = judge.random_feeds(whole.with_name("size.onnx"))
        sizes.append((judge.parameters(model), judge.macs(model, feeds)))
    return all(abs(a - b) <= 0.02 * a for a, b in zip(*sizes, strict=True))


def examine(source: Path, sizes: judge.Shapes) -> tuple[Share, float]:
    """Which layers can be pruned, found as ``onnxprune inspect`` does; and ``Line.limit``."""
    model = files.load(source)
    options = Options(ratio=0.5, importance="random", input_shapes=sizes)
    analysis = analyse(model, input_shapes=sizes)
    trace, subject = analysis.trace, Subject(analysis.trace)
    groups = choose(analysis, options, subject, options.ways[0], scores.resolve("random")(subject)).groups
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


def fault(line: Line, outcome: peers.Outcome) -> tuple[str, str]:
    """One of ``FAULTS`` and what it is, or two empty strings."""
    verdict = outcome.verdict
    if outcome.crash or verdict is None:
        return "crashed", outcome.crash or "wrote nothing"
    if verdict.refused:
        return "invalid", verdict.refused
    if verdict.error is None:
        return "not judged", verdict.note
    limit = verify.RTOL if outcome.tool == TORCH_PRUNING else line.limit  # its modules are of single precision
    return ("", "") if verdict.error <= limit else ("wrong", f"{verdict.error:.0e}")


def sizes_kept(verdict: judge.Verdict | None) -> tuple[float, float]:
    """The shares of parameters and of MACs left, to three places: all of them, if there is no file."""
    return (round(verdict.kept, 3), round(verdict.kept_macs, 3)) if verdict else (1.0, 1.0)


def is_ahead(line: Line, other: peers.Outcome) -> bool:
    """Whether ``other`` wrote a valid and exact file with fewer parameters or MACs than onnxprune."""
    mine, theirs = sizes_kept(line.outcomes[0].verdict), sizes_kept(other.verdict)
    slack = OTHER_EXPORT if other.tool == TORCH_PRUNING else 0
    return not fault(line, other)[0] and any(b < a - slack for a, b in zip(mine, theirs, strict=True))


def row(line: Line) -> dict[str, str]:
    """The line of one file: the shares in prunable layers, then what each tool left of it, and how."""
    share = line.share
    cells = {
        "model": line.name,
        "MACs in prunable layers": _percent(share.prunable, share.macs),
        "Conv MACs": _percent(share.prunable_conv, share.conv_macs),
    }
    verdicts = [(outcome.tool, outcome.verdict) for outcome in line.outcomes]
    cells |= {f"parameters kept: {tool}": f"{v.kept:.3f}" if v else "-" for tool, v in verdicts}
    cells |= {f"MACs kept: {tool}": f"{v.kept_macs:.3f}" if v else "-" for tool, v in verdicts}
    cells |= {f"s: {o.tool}": f"{o.seconds:.1f}" if o.seconds else "-" for o in line.outcomes}
    return cells | {f"rewrite error: {outcome.tool}": state(line, outcome) for outcome in line.outcomes}


def state(line: Line, outcome: peers.Outcome) -> str:
    """The judged rewrite error, or the fault instead; "-" if the tool could not be given this network."""
    kind, _ = fault(line, outcome)
    if outcome.crash == NOT_BUILT:
        return "-"
    error = outcome.verdict.error if outcome.verdict else None
    return f"wrong: {error:.0e}" if kind == "wrong" else kind or f"{error:.0e}"


def summary(lines: Sequence[Line], tool: str) -> dict[str, str]:
    """One tool over all files that it could be given; means are of what the judge counted, 1 where there is no file."""
    both = [(line, outcome) for line, outcome in outcomes_of(lines, tool) if outcome.crash != NOT_BUILT]
    faults = [fault(line, outcome)[0] for line, outcome in both]
    kept = [sizes_kept(outcome.verdict) for _, outcome in both]
    cells = {"tool": tool, "files": str(len(both)), "valid and exact": str(faults.count(""))}
    cells |= {name: str(faults.count(name)) for name in FAULTS}
    return cells | {
        "nothing removed": str(sum(parameters == 1 for parameters, _ in kept)),
        "mean parameters kept": f"{fmean(parameters for parameters, _ in kept):.3f}" if kept else "-",
        "mean MACs kept": f"{fmean(macs for _, macs in kept):.3f}" if kept else "-",
        "seconds": f"{sum(outcome.seconds for _, outcome in both):.0f}",
    }


def outcomes_of(lines: Sequence[Line], tool: str) -> list[tuple[Line, peers.Outcome]]:
    """Each line with the outcome of ``tool``."""
    return [(line, outcome) for line in lines for outcome in line.outcomes if outcome.tool == tool]


def head_to_head(lines: Sequence[Line], tool: str) -> dict[str, str]:
    """How often onnxprune removes more than ``tool``, over the files where both are valid and exact."""
    good = [(line, o) for line, o in outcomes_of(lines, tool) if not fault(line, o)[0] and line.outcomes[0].verdict]
    pairs = [(line, o, sizes_kept(line.outcomes[0].verdict), sizes_kept(o.verdict)) for line, o in good]
    behind = [(line, outcome) for line, outcome, _, _ in pairs if is_ahead(line, outcome)]
    return {
        "against": tool,
        "files": str(len(pairs)),
        "parameters: onnxprune": f"{fmean(mine[0] for *_, mine, _ in pairs):.3f}" if pairs else "-",
        "parameters: it": f"{fmean(theirs[0] for *_, theirs in pairs):.3f}" if pairs else "-",
        "MACs: onnxprune": f"{fmean(mine[1] for *_, mine, _ in pairs):.3f}" if pairs else "-",
        "MACs: it": f"{fmean(theirs[1] for *_, theirs in pairs):.3f}" if pairs else "-",
        "it removes more": str(len(behind)),
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
    """Name what each tool did wrong."""
    for line in lines:
        for outcome in line.outcomes:
            kind, what = fault(line, outcome)
            if kind and outcome.crash != NOT_BUILT:
                yield {"model": line.name, "tool": outcome.tool, "fault": kind, "what": what[:160]}


def behind_rows(lines: Sequence[Line]) -> Iterator[dict[str, str]]:
    """Both figures of a file that another tool removes more of."""
    for line in lines:
        for other in line.outcomes[1:]:
            if is_ahead(line, other):
                verdicts = {"onnxprune": line.outcomes[0].verdict, "the other": other.verdict}
                cells = {"model": line.name, "other": other.tool}
                cells |= {f"parameters: {who}": f"{sizes_kept(v)[0]:.3f}" for who, v in verdicts.items()}
                yield cells | {f"MACs: {who}": f"{sizes_kept(v)[1]:.3f}" for who, v in verdicts.items()}


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
