"""The customer at the other end: pruned models go through the real RKNN compiler, and get cheaper there.

The compiler and the simulator need rknn-toolkit2 in the same environment: ``pytest -m rknn``.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from fixtures import build as models
from fixtures import trained
from tests.rknn_build import Array, Layer, build, parse

#: Rounding only weights and inputs of a model to fp16 moves its outputs in onnxruntime; the simulator, which
#: rounds activations too, may be this many times as far off. The unpruned U-Net measures 1.7, NudeNet 1.6.
TIMES_ROUNDING = 4
FP16_SMALLEST = 2**-14  # the smallest normal number: what is less cannot be told from zero

UNET_CYCLES = 15_896_320  # rknn-toolkit2 2.5.0, rk3588, fp16

needs_rknn = pytest.mark.skipif(
    importlib.util.find_spec("rknn") is None, reason="rknn-toolkit2 is not installed in this environment"
)


@pytest.mark.rknn
@needs_rknn
def test_unet_costs_what_the_compiler_charged_before(tmp_path: Path) -> None:
    path, inputs = original("unet", tmp_path)
    assert build(path, tmp_path / "unet.rknn", inputs).cycles == UNET_CYCLES


@pytest.mark.rknn
@needs_rknn
@pytest.mark.parametrize("name", ["unet", "nudenet"])
def test_pruned_model_builds_agrees_and_costs_less(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, inputs = original(name, tmp_path)
    pruned = tmp_path / "pruned.onnx"
    options = ["--ratio", "0.3", "--align", "16", "-o", str(pruned)]
    subprocess.run([sys.executable, "-m", "onnxprune", str(path), *options], check=True)

    before = build(path, tmp_path / "original.rknn", inputs)
    after = build(pruned, tmp_path / "pruned.rknn", inputs)

    with capsys.disabled():
        saved = 1 - after.cycles / before.cycles
        sys.stdout.write(f"\n{name}: {before.cycles} -> {after.cycles} cycles, rk3588 fp16 (-{saved:.1%})\n")
    assert agrees(before.outputs, onnx.load(path), inputs)
    assert agrees(after.outputs, onnx.load(pruned), inputs)
    assert after.cycles < before.cycles


def test_agreement_bar_sees_one_missing_channel() -> None:
    model = models.unet(fold_bn=True, size=64)
    inputs = {"input": np.random.default_rng(0).standard_normal((1, 1, 64, 64), dtype=np.float32)}
    outputs = infer(model, inputs)
    assert agrees(outputs, model, inputs)
    weight = next(w for w in model.graph.initializer if w.name == "down3.1.conv.weight")
    values = numpy_helper.to_array(weight).copy()
    values[:, 17] = 0
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    assert not agrees(outputs, model, inputs)


def test_layer_table_is_read_from_the_log() -> None:
    log = """\
D RKNN: [17:56:10.894] ID   OpType     DataType Target InputShape               OutputShape     Cycles(DDR/NPU/Total)    RW(KB)  FullName
D RKNN: [17:56:10.894] 0    InputOperator FLOAT16 CPU  \\                        (1,1,256,256)   0/0/0                    0       InputOperator:input
D RKNN: [17:56:10.894] 2    ConvRelu   FLOAT16  NPU    (1,32,256,256),(32),...  (1,32,256,256)  355423/1179648/1179648   4114    Conv:inc.1.conv
D RKNN: [18:08:18.486] 42   Conv       FLOAT16  NPU    (1,32,256,256),(1,32,...  (1,1,256,256)   842831/131072/842831     0%      4096    Conv:outc
D RKNN: [17:56:10.894] <<<<<<<< end: rknn::RKNNModelRegCmdbuildPass
"""  # noqa: E501
    assert parse(log) == (
        Layer("InputOperator", "CPU", 0, 0, 0, "InputOperator:input"),
        Layer("ConvRelu", "NPU", 355423, 1179648, 1179648, "Conv:inc.1.conv"),
        Layer("Conv", "NPU", 842831, 131072, 842831, "Conv:outc"),
    )


def original(name: str, folder: Path) -> tuple[Path, dict[str, Array]]:
    """Return a model's file and inputs like those it was made for: noise, or an image of coarse patches."""
    random = np.random.default_rng(0)
    if name == "unet":
        path = folder / "unet.onnx"
        onnx.save(models.unet(fold_bn=True), path)
        return path, {"input": random.standard_normal((1, 1, 256, 256), dtype=np.float32)}
    image = np.kron(random.random((1, 3, 10, 10), dtype=np.float32), np.ones((32, 32), np.float32))
    return trained.path(name), {"images": image}


def infer(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(inputs)))


def agrees(outputs: Sequence[Array], model: onnx.ModelProto, inputs: Mapping[str, Array]) -> bool:
    """Tell whether ``outputs`` are the model's own to fp16 rounding."""
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    for weight in rounded.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(weight)
            weight.CopyFrom(numpy_helper.from_array(to_fp16(values), weight.name))
    wanted = infer(model, inputs)
    moved = infer(rounded, {name: to_fp16(array) for name, array in inputs.items()})
    return all(
        disagreement(output, want) < TIMES_ROUNDING * disagreement(shifted, want)
        for output, want, shifted in zip(outputs, wanted, moved, strict=True)
    )


def disagreement(got: Array, want: Array) -> float:
    """Return the worst over channels (axis 1) of rms(got - want) / rms(want).

    Channel by channel, because boxes in pixels would hide any error in scores below one.
    """
    axes = tuple(axis for axis in range(want.ndim) if axis != 1)
    rms = np.sqrt(np.mean(np.square(want, dtype=np.float64), axes))
    error = np.sqrt(np.mean(np.square(got - want, dtype=np.float64), axes))
    return float(np.max(error / np.maximum(rms, FP16_SMALLEST)))


def to_fp16(values: Array) -> Array:
    return values.astype(np.float16).astype(np.float32)
