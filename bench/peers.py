"""onnxprune against onnxsim's structured pruning, on trained models: ``python -m bench.peers``.

Both prune 30 % of every group's channels by the L2 norm of their weights, each in a fresh process, and
``bench.judge`` counts and checks both files in the same way. onnxsim's matchers expect BatchNormalization
to be folded already, so a second table gives both tools what ``onnxsim.simplify`` makes of the model.
Shares are of the file that was given, seconds are wall time with interpreter start and, for onnxprune, its
numeric proof.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import judge
from bench.measure import publish, python, run
from fixtures import trained

PLAIN, SIMPLIFIED = "Models as they are published", "The same models after onnxsim.simplify"
SIMPLIFY = "import sys, onnx, onnxsim; onnx.save(onnxsim.simplify(onnx.load(sys.argv[1]))[0], sys.argv[2])"
ONNXSIM = """
import sys, onnx, onnxsim
pruned = onnxsim.apply_structured_pruning(onnx.load(sys.argv[1]), sparsity=float(sys.argv[3]))
onnx.save(pruned, sys.argv[2])
"""


@dataclass(frozen=True)
class Outcome:
    """What one tool made of one model; ``own_error`` is the rewrite error that onnxprune reports."""

    tool: str
    seconds: float
    crash: str
    verdict: judge.Verdict | None
    own_error: float | None = None


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the chosen models, print two tables, and write all that was measured if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=", ".join(trained.MODELS))
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--json", type=Path, metavar="PATH")
    options = parser.parse_args(arguments)
    measured: dict[str, dict[str, tuple[Outcome, Outcome]]] = {PLAIN: {}, SIMPLIFIED: {}}
    for key in options.models or trained.MODELS:
        with tempfile.TemporaryDirectory() as folder:
            simplified = Path(folder, "simplified.onnx")
            run([sys.executable, "-c", SIMPLIFY, trained.path(key), simplified])
            feeds = judge.random_feeds(trained.path(key), dict(trained.MODELS[key].input_shapes))
            for title, source in ((PLAIN, trained.path(key)), (SIMPLIFIED, simplified)):
                if source.exists():
                    measured[title][key] = compare(source, feeds, options.ratio, Path(folder))
    tables = {title: [row(key, *both) for key, both in lines.items()] for title, lines in measured.items()}
    publish(tables, {title: as_json(lines) for title, lines in measured.items()}, options.json)


def compare(
    source: Path, feeds: judge.Feeds, ratio: float, folder: Path, *, timeout: int = 1800
) -> tuple[Outcome, Outcome]:
    """Prune ``source`` with either tool, killed after ``timeout`` seconds, and judge what they wrote."""
    ours, theirs, report = folder / "ours.onnx", folder / "theirs.onnx", folder / "report.json"
    for stale in (ours, theirs, report):
        stale.unlink(missing_ok=True)
    options = ("--ratio", str(ratio), "--scope", "group", "--no-fuse-bn", "-o", ours, "--json", report)
    mine = python("onnxprune", source, *options, timeout=timeout)
    peer = run([sys.executable, "-c", ONNXSIM, source, theirs, str(ratio)], timeout=timeout)
    own_error = rewrite_error(json.loads(report.read_text())) if report.exists() else None
    verdicts = [judge.judge(source, file, feeds) if file.exists() else None for file in (ours, theirs)]
    return (
        Outcome("onnxprune", mine.seconds, mine.failure, verdicts[0], own_error),
        Outcome("onnxsim", peer.seconds, peer.failure, verdicts[1]),
    )


def rewrite_error(report: dict[str, Any]) -> float | None:
    """Find the rewrite error in onnxprune's JSON report, None if it proved nothing."""
    proof = report["proof"]
    return None if proof is None else float(proof["rewrite_error"])


def row(key: str, ours: Outcome, theirs: Outcome) -> dict[str, str]:
    """One model's line: what each tool kept, how long it took, whether its file is valid, how exact it is."""
    cells = {"model": key}
    columns = {"parameters kept": _kept, "MACs kept": _kept_macs, "s": _seconds, "valid": _valid}
    for title, cell in (columns | {"rewrite error, judged": _judged}).items():
        cells |= {f"{title}: {outcome.tool}": cell(outcome) for outcome in (ours, theirs)}
    return cells | {"reported: onnxprune": _small(ours.own_error)}


def as_json(lines: dict[str, tuple[Outcome, Outcome]]) -> dict[str, list[dict[str, Any]]]:
    """Return what was measured, by model."""
    return {key: [asdict(outcome) for outcome in both] for key, both in lines.items()}


def _kept(outcome: Outcome) -> str:
    return f"{outcome.verdict.kept:.3f}" if outcome.verdict else "-"


def _kept_macs(outcome: Outcome) -> str:
    return f"{outcome.verdict.kept_macs:.3f}" if outcome.verdict else "-"


def _seconds(outcome: Outcome) -> str:
    return f"{outcome.seconds:.2f}"


def _valid(outcome: Outcome) -> str:
    if outcome.crash or outcome.verdict is None:
        return f"crashed: {outcome.crash[:80] or 'wrote nothing'}"
    refusing = [reason.split(":")[0] for reason in outcome.verdict.refused.split("; ") if reason]
    return f"refused by {' and '.join(refusing)}" if refusing else "yes"


def _judged(outcome: Outcome) -> str:
    return _small(outcome.verdict.error if outcome.verdict else None)


def _small(error: float | None) -> str:
    return "-" if error is None else f"{error:.0e}"


if __name__ == "__main__":
    main()
