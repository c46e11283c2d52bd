"""onnxprune against Torch-Pruning, on networks that both can have: ``python -m bench.torch_pruning``.

Torch-Pruning gets the module (``bench.nets``), onnxprune the file that ``torch.onnx.export`` makes of it.
Either one runs in a fresh process that imports what it needs, prunes 30 % of each group by L2 and writes
its result; seconds are wall time with interpreter start. Torch-Pruning proves nothing, so onnxprune is
timed without its proof too. Torch-Pruning's result is exported afterwards, unmeasured, so that
``bench.judge`` counts both from ONNX files.

For developers: needs torch and torch-pruning, which onnxprune never imports.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measure import Run, publish, python

if TYPE_CHECKING:
    import torch

    from bench import nets

NAMES = ("U-Net", "ResNet-18", "C2f detector", "MobileNetV2")
RATIO = 0.3
OPSET = 17
MODULE, PRUNED = "pruned.pt", "pruned.onnx"
OURS, OURS_UNPROVEN, THEIRS = "onnxprune", "onnxprune --check-n 0", "Torch-Pruning"


@dataclass(frozen=True)
class Outcome:
    """One tool on one network: wall seconds per repeat, highest peak, any crash, and what the judge says."""

    tool: str
    seconds: list[float]
    peak_bytes: int
    crash: str
    kept: float | None = None
    kept_macs: float | None = None
    error: float | None = None
    refused: str = ""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the chosen networks, print one table, and write all that was measured if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("nets", nargs="*", metavar="NET", help=", ".join(NAMES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="PATH")
    parser.add_argument("--work", nargs=3, metavar=("WHAT", "NET", "PATH"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.work:
        what, name, path = options.work
        WORK[what](name, Path(path))
        return
    measured = {name: compare(name, options.repeats) for name in options.nets or NAMES}
    rows = [row(name, outcome) for name, outcomes in measured.items() for outcome in outcomes]
    data = {name: [asdict(outcome) for outcome in outcomes] for name, outcomes in measured.items()}
    publish({f"{RATIO:.0%} of each group, by L2": rows}, data, options.json)


def compare(name: str, repeats: int) -> list[Outcome]:
    """Prune the network with either tool, by turns, and judge what they wrote."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "net.onnx")
        exported = worker("export", name, file)
        if exported.failure:
            raise RuntimeError(exported.stderr)
        pruned = {tool: Path(folder, f"{tool}.onnx") for tool in (OURS, OURS_UNPROVEN)} | {THEIRS: Path(folder, PRUNED)}
        runs: dict[str, list[Run]] = {tool: [] for tool in pruned}
        options = ("--ratio", str(RATIO), "--scope", "group", "-o")
        for _ in range(repeats):
            runs[OURS].append(python("onnxprune", file, *options, pruned[OURS]))
            runs[OURS_UNPROVEN].append(python("onnxprune", file, "--check-n", "0", *options, pruned[OURS_UNPROVEN]))
            runs[THEIRS].append(worker("prune", name, Path(folder, MODULE)))
        worker("export-both", name, file)
        return [_outcome(tool, runs[tool], file, path) for tool, path in pruned.items()]


def worker(what: str, name: str, path: Path, *, timeout: int = 1800) -> Run:
    """One of ``WORK`` in a fresh process."""
    return python("bench.torch_pruning", "--work", what, name, path, timeout=timeout)


def _outcome(tool: str, runs: Sequence[Run], original: Path, pruned: Path) -> Outcome:
    crash = next((done.failure for done in runs if done.failure), "")
    seconds, peak = [done.seconds for done in runs], max(done.peak_bytes for done in runs)
    if not pruned.exists():
        return Outcome(tool, seconds, peak, crash or "wrote nothing")
    judged = python("bench.judge", original, pruned).value
    verdict = {key: judged[key] for key in ("kept", "kept_macs", "error", "refused")}
    return Outcome(tool, seconds, peak, crash, **verdict)


def row(name: str, outcome: Outcome) -> dict[str, str]:
    """One tool's line for one network."""
    return {
        "network": name,
        "tool": outcome.tool,
        "s: min": f"{min(outcome.seconds):.2f}",
        "s: median": f"{statistics.median(outcome.seconds):.2f}",
        "peak, MB": f"{outcome.peak_bytes / 1e6:.0f}",
        "parameters kept": "-" if outcome.kept is None else f"{outcome.kept:.3f}",
        "MACs kept": "-" if outcome.kept_macs is None else f"{outcome.kept_macs:.3f}",
        "rewrite error, judged": "-" if outcome.error is None else f"{outcome.error:.0e}",
        "valid": f"crashed: {outcome.crash[:80]}" if outcome.crash else outcome.refused[:80] or "yes",
    }


def build(name: str) -> nets.Net:
    """Make a network of ``bench.nets``, or of a file of the zoo."""
    if name in NAMES:
        from bench import nets  # noqa: PLC0415

        return nets.build(name)
    from bench import zoo_nets  # noqa: PLC0415

    return zoo_nets.build(name)


def export(name: str, path: Path) -> None:
    """Write the whole network as an ONNX file."""
    net = build(name)
    export_module(net.module, net.inputs, path)


def export_both(name: str, path: Path) -> None:
    """Write the whole network, and the module that ``prune`` left beside ``path``, if any, as ``PRUNED`` beside it."""
    import torch  # noqa: PLC0415

    net = build(name)
    export_module(net.module, net.inputs, path)
    if path.with_name(MODULE).exists():
        export_module(torch.load(path.with_name(MODULE), weights_only=False), net.inputs, path.with_name(PRUNED))


def export_module(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], path: Path) -> None:
    """Write a module as an ONNX file."""
    import torch  # noqa: PLC0415

    # onnx2torch's modules ask for the opset under a name that torch no longer has
    vars(torch.onnx.symbolic_helper).setdefault("_export_onnx_opset_version", OPSET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module(*inputs)  # a module that cannot run is said so in its own words
        torch.onnx.export(module, inputs, str(path), opset_version=OPSET, dynamo=False)


def prune(name: str, path: Path) -> None:
    """Do what a user of Torch-Pruning does: imports, the module, the dependency graph, one step, saving."""
    import torch  # noqa: PLC0415

    net = build(name)
    by_l2(net, RATIO)
    torch.save(net.module, path)


def by_l2(net: nets.Net, ratio: float, round_to: int | None = None) -> None:
    """Take the same share of every layer but the heads, by L2 norms, in place; widths are multiples of ``round_to``."""
    import torch_pruning  # noqa: PLC0415

    pruner = torch_pruning.pruner.BasePruner(
        net.module,
        net.inputs,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=list(net.heads),
        round_to=round_to,
    )
    pruner.step()


WORK = {"export": export, "prune": prune, "export-both": export_both}


if __name__ == "__main__":
    main()
