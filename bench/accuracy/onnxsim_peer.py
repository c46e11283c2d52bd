"""onnxsim's structured pruning at a budget of MACs, plain and with all that it has to repair: its best pipeline.

    python -m bench.accuracy.onnxsim_peer --macs 0.5 [NET ...]

By sizes of weights, and by Wanda on the calibration images; as it is, with its ridge re-solving of MatMul and Gemm
(``apply_pruning_finetune``), and with a BatchNormalization that it puts behind each convolution and fits to the
original (``recover_batch_norm``), then both. One line of Markdown a network; needs onnxsim.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim

from bench.accuracy import cache, command_line, metric
from bench.accuracy.__main__ import NETS, SEEDS, SEGMENTING
from bench.onnxsim_at import macs

_HALVINGS, _BATCH = 7, 32
Pruning = Callable[[onnx.ModelProto, float], onnx.ModelProto]


def main() -> None:
    """Prune, repair, measure."""
    parser = command_line.parser(__doc__, NETS, seeds=SEEDS, json=False)
    parser.add_argument("--macs", type=float, default=0.5)
    options = parser.parse_args()
    for net in command_line.networks(options):
        original = metric.of_file(net.folded)
        for title, kept in _attempts(net, net.name in SEGMENTING, options.macs):
            print(f"| {net.name}, {net.seed} | {title} | {kept} | {original:.4f} |", flush=True)


def _attempts(net: cache.TrainedNet, segmenting: bool, share: float) -> Iterator[tuple[str, str]]:
    model, simplified = onnxsim.simplify(onnx.load(net.folded))
    if not simplified:
        raise SystemExit(f"onnxsim cannot simplify {net}")
    images = np.load(cache.calibration(segmenting))
    name = model.graph.input[0].name
    data = [{name: images[at : at + _BATCH]} for at in range(0, len(images), _BATCH)]
    ways: dict[str, Pruning] = {
        "magnitude": lambda m, s: onnxsim.apply_structured_pruning(m, sparsity=s),
        "magnitude, global": lambda m, s: onnxsim.apply_structured_pruning(m, sparsity=s, global_sparsity=True),
        "Wanda": lambda m, s: onnxsim.apply_structured_wanda_pruning(m, calibration_data=data[:4], sparsity=s),
    }
    for title, prune in ways.items():
        pruned, left = _at(model, prune, share)
        if pruned is None:
            yield title, f"cannot be met: {left:.3f} of the MACs is the least"
            continue
        repairs: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
            "": lambda m: m,
            " + finetune": lambda m: onnxsim.apply_pruning_finetune(model, m, calibration_data=data),
            " + BN": lambda m: onnxsim.recover_batch_norm(m, calibration_data=data, target_model=model),
            " + BN + finetune": lambda m: onnxsim.apply_pruning_finetune(
                model,
                onnxsim.recover_batch_norm(m, calibration_data=data, target_model=model),
                calibration_data=data,
            ),
        }
        for said, repair in repairs.items():
            yield title + said, _measured(lambda repair=repair, pruned=pruned: repair(pruned))  # type: ignore[misc]


def _measured(make: Callable[[], onnx.ModelProto]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made.onnx"
        try:
            onnx.save(make(), path)
            return f"{metric.of_file(path):.4f}"
        except Exception as error:  # noqa: BLE001 (whatever a peer raises is its result)
            print(error, file=sys.stderr)
            return type(error).__name__


def _at(model: onnx.ModelProto, prune: Pruning, share: float) -> tuple[Any, float]:
    """The largest network within the budget; or None, and the least that was left."""
    whole, low, high, found, least = macs(model), 0.0, 1.0, None, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        made = prune(model, middle)
        left = macs(made) / whole
        least = min(least, left)
        if left <= share:
            high, found = middle, made
        else:
            low = middle
    return found, least


if __name__ == "__main__":
    main()
