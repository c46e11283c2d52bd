"""Tells how time and memory of ``--data`` grow, with the width, with the samples, and with the size of an image.

``python -m bench.calibration``: the seed's U-Net of random weights, half of its MACs, a fresh process for each line.
Around one network (32 channels at the top, 64x64, 128 samples) one thing at a time changes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx

from bench.measure import publish, python
from fixtures import build

STAGES = ("observe", "choose", "compensate")


@dataclass(frozen=True)
class Case:
    """A U-Net of ``base`` channels at the top, for images of ``size`` squared, and so many samples."""

    base: int = 32
    size: int = 64
    samples: int = 128


CASES = (
    *(Case(base=base) for base in (8, 16, 32, 64)),
    *(Case(samples=samples) for samples in (32, 64, 256, 512)),
    *(Case(size=size) for size in (128, 256)),
)


def measure(case: Case, folder: Path) -> dict[str, float]:
    """Seconds of the run and of its stages, and the peak of anonymous memory in bytes."""
    model, data, report = folder / "model.onnx", folder / "data.npy", folder / "report.json"
    onnx.save(build.unet(fold_bn=True, base=case.base, size=case.size), model)
    drawn = np.random.default_rng(0).standard_normal((case.samples, 1, case.size, case.size), dtype=np.float32)
    np.save(data, drawn)
    options: Sequence[str | Path] = (
        "--budget",
        "macs=0.5",
        "--align",
        "8",
        "--data",
        data,
        "--samples",
        str(case.samples),
    )
    done = python("onnxprune", model, *options, "-o", folder / "pruned.onnx", "--json", report)
    if done.failure:
        raise RuntimeError(done.failure)
    written = json.loads(report.read_text())
    stages = {stage: written["seconds"][stage] for stage in STAGES}
    return {"seconds": done.seconds, **stages, "bytes": done.anonymous_bytes, "used": written["learnt"]["samples"]}


def main() -> None:
    """Print the table, a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="PATH")
    options = parser.parse_args()
    rows, data = [], []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(case, Path(folder))
        data.append({**asdict(case), **found})
        row = {"channels": str(case.base), "image": str(case.size), "samples": str(case.samples)}
        row |= {"of them used": str(found["used"]), "seconds": f"{found['seconds']:.1f}"}
        row |= {stage: f"{found[stage]:.1f}" for stage in STAGES}
        rows.append(row | {"peak MB": f"{found['bytes'] / 1e6:.0f}"})
    publish({"A U-Net to half of its MACs": rows}, {"cases": data}, options.json)


if __name__ == "__main__":
    main()
