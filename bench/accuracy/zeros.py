"""What is left of the metric with zeros: ``python -m bench.accuracy.zeros [NET ...] [--seeds N] [--ways WAY ...]``.

The networks of ``bench.accuracy``, which must be trained; on its samples, on drawn inputs, and by others at the same
shares: ``torch.nn.utils.prune`` with L1, over the network and layer by layer, by numpy; and, where it is installed,
onnxsim's magnitude pruning, Wanda and SparseGPT on the same samples. Beside each the share of the weights of all matrix
products that is zero.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

import onnxprune
from bench.accuracy import cache, command_line, metric
from bench.accuracy.bits import NETS, SEGMENTING, of_proto
from bench.measure import publish

SHARES, PATTERN = (0.5, 0.7, 0.9), "2:4"
_BATCH = 32
Weights = dict[str, npt.NDArray[np.float32]]
Pruning = Callable[[onnx.ModelProto, Mapping[str, Any]], onnx.ModelProto]


@dataclass(frozen=True)
class Measured:
    """One network in one way: the share that is zero and what is ``kept`` of the metric, in percent; processor."""

    net: str
    seed: int
    way: str
    asked: str
    zeros: float
    kept: float
    seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, a line for each to stderr as it is there; then one table."""
    parser = command_line.parser(__doc__, NETS, seeds=(0,))
    parser.add_argument("--ways", nargs="+", metavar="WAY", help="parts of the names of ways; all of them")
    options = parser.parse_args(arguments)
    found = [m for net in command_line.networks(options) for m in measure(net, options.ways or [""])]
    keys = dict.fromkeys((m.net, m.seed, m.way) for m in found)
    rows = [row([m for m in found if (m.net, m.seed, m.way) == key]) for key in keys]
    publish({"Zeros, % kept (% that is zero)": rows}, {"measured": [asdict(m) for m in found]}, options.json)


def row(found: Sequence[Measured]) -> dict[str, str]:
    """One network in one way."""
    cells = dict.fromkeys((*(f"{share:.0%}" for share in SHARES), PATTERN), "-")
    cells |= {m.asked: f"{m.kept:.1f} ({m.zeros:.1f})" for m in found}
    return {"network": f"{found[0].net}, {found[0].seed}", "way": found[0].way, **cells}


def measure(net: cache.TrainedNet, ways: Sequence[str]) -> Iterator[Measured]:
    """All ways of one network whose names have one of ``ways`` in them."""
    original = metric.of_file(net.folded)
    asked = {f"{share:.0%}": {"sparsity": share} for share in SHARES} | {PATTERN: {"pattern": PATTERN}}
    for way, prune in _prunings(cache.calibration(net.name in SEGMENTING)).items():
        if not any(part in way for part in ways):
            continue
        for name, given in asked.items():
            if way.startswith("torch") and "pattern" in given:
                continue
            started = time.process_time()
            made = prune(onnx.load(net.folded), given)
            seconds = time.process_time() - started
            one = Measured(net.name, net.seed, way, name, zeros(made), 100 * of_proto(made) / original, seconds)
            print(one, file=sys.stderr, flush=True)
            yield one


def _prunings(samples: Path) -> dict[str, Pruning]:
    """By name, what is given a model and the options of a share or a pattern."""
    own: dict[str, Pruning] = {
        way: lambda m, g, data=data: onnxprune.prune(m, data=data, check_n=1, ratio=0.0, **g).model  # type: ignore[misc]
        for way, data in {"real samples": str(samples), "drawn inputs": None, "--data none": "none"}.items()
    }
    torch: dict[str, Pruning] = {
        "torch, L1 over the network": lambda m, g: smallest(m, g["sparsity"], whole=True),
        "torch, L1 by layer": lambda m, g: smallest(m, g["sparsity"], whole=False),
    }
    return own | torch | (_onnxsim(samples) if importlib.util.find_spec("onnxsim") else {})


def _onnxsim(samples: Path) -> dict[str, Pruning]:
    import onnxsim  # noqa: PLC0415

    images = np.load(samples)

    def data(model: onnx.ModelProto) -> list[dict[str, Any]]:
        return [{model.graph.input[0].name: images[at : at + _BATCH]} for at in range(0, len(images), _BATCH)]

    def asked(given: Mapping[str, Any]) -> dict[str, Any]:
        return {"n": 2, "m": 4} if "pattern" in given else dict(given)

    return {
        "onnxsim, Wanda": lambda m, g: onnxsim.apply_wanda_pruning(m, calibration_data=data(m), **asked(g)),
        "onnxsim, SparseGPT": lambda m, g: onnxsim.apply_sparsegpt_pruning(m, calibration_data=data(m), **asked(g)),
    }


def smallest(proto: onnx.ModelProto, share: float, *, whole: bool) -> onnx.ModelProto:
    """The smallest weights of all matrix products made zero, over the network or in each layer."""
    weights = weights_of(proto)
    cut = np.sort(np.concatenate([np.abs(w).ravel() for w in weights.values()]))
    for tensor in proto.graph.initializer:
        if tensor.name in weights:
            array = weights[tensor.name]
            among = cut if whole else np.sort(np.abs(array).ravel())
            least = among[min(round(share * among.size), among.size - 1)]
            tensor.CopyFrom(numpy_helper.from_array(np.where(np.abs(array) < least, 0, array), tensor.name))
    return proto


def weights_of(proto: onnx.ModelProto) -> Weights:
    """Constant weights of all matrix products, by name."""
    read = {
        i for n in proto.graph.node if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") for i in n.input[:2]
    }
    found = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer if t.name in read}
    return {name: array for name, array in found.items() if array.ndim > 1}


def zeros(proto: onnx.ModelProto) -> float:
    """The share of the weights of all matrix products that is 0, in percent."""
    weights = weights_of(proto).values()
    return 100 * sum(int((w == 0).sum()) for w in weights) / sum(w.size for w in weights)


if __name__ == "__main__":
    main()
