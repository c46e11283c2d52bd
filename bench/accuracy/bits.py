"""What is left of the metric with few bits: ``python -m bench.accuracy.bits [NET ...] [--seeds N] [--drawn]``.

The networks of ``bench.accuracy``, which must be trained; calibrated on its samples, or on drawn inputs. Beside each:
rounded to the nearest (symmetric, per channel, by numpy), and, at 8 bits, onnxruntime's quantize_static. Where
activations have few bits, the network is measured with them rounded.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

import onnxprune
from bench.accuracy import cache, command_line, metric
from bench.measure import publish
from onnxprune.activations.simulated import simulated
from onnxprune.model.opening import opened, to_proto
from onnxprune.passes.bits import grids_of

NETS, SEGMENTING = ("ResNet-20", "MobileNetV2", "U-Net", "VGG-8"), ("U-Net",)

#: Options by name, and what is to be left, in percent.
VARIANTS: Mapping[str, tuple[Mapping[str, Any], float]] = {
    "W8A8": ({"weights": 8, "activations": 8}, 99.5),
    "W4": ({"weights": 4}, 99.5),
    "W3": ({"weights": 3}, 99.0),
    "W2": ({"weights": 2}, 97.0),
    "W4A4": ({"weights": 4, "activations": 4}, 98.0),
    "mean 3": ({"weights": "mean:3"}, 99.5),
    "mean 2.5": ({"weights": "mean:2.5"}, 99.5),
    "channels": ({"budget": "macs=0.5"}, 98.0),
    "all three": ({"budget": "macs=0.5", "sparsity": 0.5, "weights": 4, "activations": 8}, 98.0),
}


@dataclass(frozen=True)
class Measured:
    """One network in one way: ``kept`` in percent of the original's metric, seconds of processor by stage."""

    net: str
    seed: int
    variant: str
    drawn: bool
    original: float
    kept: float
    off: int
    seconds: float
    compensating: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, a line for each to stderr as it is there; then one table."""
    parser = command_line.parser(__doc__, NETS, seeds=(0, 1))
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--drawn", action="store_true", help="on drawn inputs")
    options = parser.parse_args(arguments)
    nets = command_line.networks(options)
    found = [m for net in nets for m in measure(net, options.variants, drawn=options.drawn)]
    rows = [row([m for m in found if (m.net, m.seed) == (n.name, n.seed)]) for n in nets]
    publish({"Bits": rows}, {"measured": [asdict(m) for m in found]}, options.json)


def row(found: Sequence[Measured]) -> dict[str, str]:
    """One network."""
    cells = {m.variant: f"{m.kept:.1f}" for m in found}
    return {"network": f"{found[0].net}, {found[0].seed} ({found[0].original:.4f})", **cells}


def measure(net: cache.TrainedNet, variants: Sequence[str], *, drawn: bool) -> Iterator[Measured]:
    """All variants of one network, and its peers."""
    original = metric.of_file(net.folded)
    samples = cache.calibration(net.name in SEGMENTING)

    def told(variant: str, value: float, off: int = 0, seconds: float = 0.0, compensating: float = 0.0) -> Measured:
        kept = 100 * value / original
        one = Measured(net.name, net.seed, variant, drawn, original, kept, off, seconds, compensating)
        print(one, file=sys.stderr, flush=True)
        return one

    for name in variants:
        given, _ = VARIANTS[name]
        started = time.process_time()
        result = onnxprune.prune(net.folded, data=None if drawn else str(samples), check_n=1, **given)
        took = time.process_time() - started
        proto = rounded(result)
        off = result.report.grids.missed if result.report.grids else 0
        yield told(name, of_proto(proto), off, took, result.report.seconds["compensate"])
    if not drawn:
        for bits in (4, 3, 2):
            if f"W{bits}" in variants:
                yield told(f"nearest, W{bits}", of_proto(nearest(onnx.load(net.folded), bits)))
        if "W8A8" in variants:
            for per_channel in (False, True):
                made = statically_quantized(net.folded, samples, per_channel=per_channel)
                yield told(f"quantize_static, {'per channel' if per_channel else 'defaults'}", of_proto(made))


def rounded(result: onnxprune.Result) -> onnx.ModelProto:
    """The model with its activations rounded as its plan says."""
    return to_proto(simulated(opened(result.model), grids_of(result.plan).activations))


def of_proto(proto: onnx.ModelProto) -> float:
    """The metric of a model in memory."""
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(proto, Path(folder, "m.onnx"))
        return metric.of_file(Path(folder, "m.onnx"))


def nearest(proto: onnx.ModelProto, bits: int) -> onnx.ModelProto:
    """Weights of all matrix products rounded to the nearest, per output channel, by the largest."""
    transposed = {n.input[1] for n in proto.graph.node if n.op_type == "ConvTranspose"}
    read = {n.input[1] for n in proto.graph.node if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")}
    for tensor in proto.graph.initializer:
        if tensor.name in read:
            array = numpy_helper.to_array(tensor)
            axes = tuple(a for a in range(array.ndim) if a != (1 if tensor.name in transposed else 0))
            step = np.maximum(np.abs(array).max(axis=axes, keepdims=True), 1e-12) / (2 ** (bits - 1) - 1)
            codes = np.clip(np.rint(array / step), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
            tensor.CopyFrom(numpy_helper.from_array((codes * step).astype(array.dtype), tensor.name))
    return proto


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Samples one by one."""

    def __init__(self, images: np.ndarray[Any, Any], name: str) -> None:
        self._left = iter({name: image[None]} for image in images)

    def get_next(self) -> dict[str, Any] | None:
        """The next, None behind the last."""
        return next(self._left, None)


def statically_quantized(path: Path, samples: Path, *, per_channel: bool) -> onnx.ModelProto:
    """What onnxruntime's quantize_static makes of it, prepared as it asks for: QDQ, uint8 activations, int8 weights."""
    name = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()[0].name
    with tempfile.TemporaryDirectory() as folder:
        prepared, out = Path(folder, "p.onnx"), Path(folder, "q.onnx")
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        reader = _Reader(np.load(samples), name)
        quantize_static(
            prepared, out, reader, QuantFormat.QDQ, per_channel=per_channel, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )  # fmt: skip
        return onnx.load(out)


if __name__ == "__main__":
    main()
