"""onnxsim's structured pruning at a budget of MACs, for `bench.cycles`: writes the pruned network as ONNX.

    python -m bench.onnxsim_at resnet50.onnx 0.59 resnet50-onnxsim.onnx

For developers: needs onnxsim. Dimensions that the file leaves open count as 1; onnxsim simplifies it before it prunes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import onnxsim

from bench import judge

_HALVINGS = 7


def macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of one run."""
    inputs = {i.name: [d.dim_value or 1 for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    return judge.macs(model, {name: np.zeros(shape, np.float32) for name, shape in inputs.items()})


def main() -> None:
    """Bisect the sparsity; write the largest network within the budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("share", type=float)
    parser.add_argument("path", type=Path)
    options = parser.parse_args()
    model, simplified = onnxsim.simplify(onnx.load(options.source))
    if not simplified:
        raise SystemExit("onnxsim cannot simplify it")
    whole = macs(model)
    low, high, found, least = 0.0, 1.0, None, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        made = onnxsim.apply_structured_pruning(model, sparsity=middle)
        left = macs(made) / whole
        least = min(least, left)
        if left <= options.share:
            high, found = middle, made
        else:
            low = middle
    if found is None:
        raise SystemExit(f"no sparsity meets the budget: {least:.3f} is the least that was left")
    onnx.save(found, options.path)


if __name__ == "__main__":
    main()
