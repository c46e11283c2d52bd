"""The customer at the other end: pruned models go through the real RKNN compiler, and get cheaper there.

The compiler and the simulator need rknn-toolkit2: ``pytest -m rknn`` with the toolkit in the same environment, or in
that of the interpreter that ONNXPRUNE_RKNN_PYTHON names.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import onnxprune
from fixtures import build as models
from fixtures import trained
from onnxprune.cli.main import main
from onnxprune.cost import rknn
from onnxprune.cost.chips import find
from onnxprune.cost.rknn import Built, Job, Layer, calibrate, log, parse
from onnxprune.errors import ToolError

Array = npt.NDArray[Any]

#: Rounding only weights and inputs of a model to fp16 moves its outputs in onnxruntime; the simulator, which
#: rounds activations too, may be this many times as far off. The unpruned U-Net measures 1.7, NudeNet 1.6.
TIMES_ROUNDING = 4
FP16_SMALLEST = 2**-14  # the smallest normal number: what is less cannot be told from zero

ODD_ROWS = 4  #: numbers of a sweep that the arithmetic does not explain: see docs/rknn-compiler.md

UNET_CYCLES = 15_896_320  # rknn-toolkit2 2.5.0, rk3588, fp16

ELSEWHERE = os.environ.get("ONNXPRUNE_RKNN_PYTHON")
PYTHON = Path(ELSEWHERE) if ELSEWHERE else None

needs_rknn = pytest.mark.skipif(
    PYTHON is None and importlib.util.find_spec("rknn") is None,
    reason="rknn-toolkit2 is not installed in this environment, and ONNXPRUNE_RKNN_PYTHON names no other",
)


def build(path: Path, out: Path, inputs: Mapping[str, Array]) -> Built:
    """Convert the model in fp16 for rk3588, with the shapes of ``inputs``, and simulate it."""
    (built,) = rknn.build([Job(path, inputs, out)], "rk3588", "fp16", PYTHON)
    return built


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


@pytest.mark.rknn
@needs_rknn
@pytest.mark.parametrize("dtype", ["fp16", "int8"])
@pytest.mark.parametrize("target", ["rk3588", "rk3566"])
def test_shipped_tables_explain_what_the_installed_compiler_charges(target: str, dtype: str) -> None:
    chip = find(target)
    if dtype not in chip.precisions:
        pytest.skip(f"{target} has no {dtype}")
    swept, _ = calibrate.measure(chip, dtype, PYTHON)
    assert sum(len(s.layers) for s in swept) > 80
    assert calibrate.misses(chip, dtype, chip.precisions[dtype], swept) <= ODD_ROWS


@pytest.mark.rknn
@needs_rknn
def test_calibration_finds_a_table_again_from_another_chips() -> None:
    chip = find("rk3566")
    swept, _ = calibrate.measure(chip, "int8", PYTHON)
    start = find("rk3588").precisions["int8"]
    found = calibrate.fit(chip, "int8", start, swept)
    own = chip.precisions["int8"]
    assert (found.out_block, found.in_block, found.store_block) == (own.out_block, own.in_block, own.store_block)
    assert found.cycles_per_byte == pytest.approx(own.cycles_per_byte, rel=1e-4)


@pytest.mark.rknn
@needs_rknn
def test_the_toolkit_finds_the_grid_of_weights_again(tmp_path: Path) -> None:
    # The first input is always 0: its weights set the grids of all outputs, and not the range of what comes out.
    wide = np.tile(np.array([1.0, -0.7, 0.3, -1.3], np.float32), 4)
    small = np.linspace(0.003, 0.05, 16, dtype=np.float32)
    path, prepared = tmp_path / "model.onnx", tmp_path / "prepared.onnx"
    onnx.save(one_convolution(np.stack([wide, small], 1)[:, :, None, None]), path)
    onnxprune.prune(path, ratio=0, weights="8", symmetric=False, ranges="minmax", data="none").save(prepared)
    x = np.random.default_rng(0).random((1, 2, 8, 8), dtype=np.float32)
    x[0, 0] = 0
    steps = []
    for file in (path, prepared):
        (built,) = rknn.build([Job(file, {"x": x})], "rk3588", "int8", PYTHON)
        (wanted,) = infer(onnx.load(file), {"x": x})
        (got,) = built.outputs
        steps.append(np.abs(got - wanted).max() * 255 / wanted.max())
    assert steps[1] < 1.5 < steps[0]  # of the 8 bits of what comes out


# --- without the toolkit --------------------------------------------------------------------------------------------

#: What the worker needs of rknn-toolkit2, and what it prints: a toolkit that charges ten cycles for anything.
STUB = """
import sys
import numpy

class RKNN:
    def __init__(self, verbose): pass
    def config(self, target_platform): self.target = target_platform
    def load_onnx(self, path, inputs, input_size_list):
        self.shapes = input_size_list
        if "bad" in path:
            print("E load_onnx: Unsupported opset")
            return -1
    def build(self, do_quantization, dataset):
        self.samples = open(dataset).read() if do_quantization else ""
        print("D RKNN: [0] >>>>>> start: rknn::RKNNTilingPass")
        row = "D RKNN: [0] 1 ConvRelu INT8 NPU (1),(2) (3) 10/7/10 0 Conv:A"
        cpu = "D RKNN: [0] 2 Resize INT8 CPU (1),(2) (3) 0/0/0 0 Resize:up"
        print("\\x1b[1;31m" + row + "\\x1b[0m")
        print(cpu)
    def export_rknn(self, path): open(path, "w").write(f"{self.target} {self.shapes} {self.samples}")
    def init_runtime(self): pass
    def inference(self, inputs, data_format): return [numpy.maximum(i, 0) for i in inputs]
    def release(self): pass
"""


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An interpreter that finds the stub."""
    package = tmp_path / "site" / "rknn"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "api.py").write_text(STUB)
    info = tmp_path / "site" / "rknn_toolkit2-9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rknn-toolkit2\nVersion: 9.9\n")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return Path(sys.executable)


def relu(path: Path) -> Path:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,4,2,2] X) => (float[1,4,2,2] Y) { Y = Relu(X) }"""
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def test_a_model_goes_through_another_interpreter(
    stub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, report = relu(tmp_path / "model.onnx"), tmp_path / "report.json"
    np.save(tmp_path / "sample.npy", np.zeros((1, 4, 2, 2), np.float32))
    (tmp_path / "set.txt").write_text("sample.npy\n")
    options = ["--target", "rk3588", "--dtype", "int8", "--dataset", str(tmp_path / "set.txt"), "--python", str(stub)]
    with pytest.raises(SystemExit) as done:
        main(["rknn", str(path), *options, "--against", str(path), "--json", str(report)])
    said = capsys.readouterr().out
    assert done.value.code == 0
    written = (tmp_path / "model.rknn").read_text()
    assert written.startswith("rk3588 [[1, 4, 2, 2]]")
    assert str(tmp_path / "sample.npy") in written  # whatever folder the toolkit runs in
    assert "10 cycles, +0.0 % (rk3588 int8, rknn-toolkit2 9.9)" in said
    assert "on the CPU: Resize:up" in said
    assert "simulator against onnxruntime: 'Y' cosine 1.00000" in said
    saved = json.loads(report.read_text())
    assert [m["cycles"] for m in saved["models"]] == [10, 10]


def test_what_the_toolkit_refuses_is_one_line_and_leaves_no_file(stub: Path, tmp_path: Path) -> None:
    good, bad = relu(tmp_path / "good.onnx"), relu(tmp_path / "bad.onnx")
    feeds = {"X": np.zeros((1, 4, 2, 2), np.float32)}
    jobs = [Job(good, feeds, tmp_path / "good.rknn"), Job(bad, feeds, tmp_path / "bad.rknn")]
    with pytest.raises(ToolError, match=r"bad\.onnx.*refuses the model: E load_onnx: Unsupported opset"):
        rknn.build(jobs, "rk3588", "fp16", stub)
    assert not list(tmp_path.glob("*.rknn"))


def test_progress_names_the_model_and_what_the_toolkit_does(stub: Path, tmp_path: Path) -> None:
    said: list[str] = []
    feeds = {"X": np.zeros((1, 4, 2, 2), np.float32)}
    rknn.build([Job(relu(tmp_path / "model.onnx"), feeds)], "rk3588", "fp16", stub, said.append)
    assert said == ["model.onnx: load", "model.onnx: TilingPass"]


def test_an_interpreter_without_the_toolkit_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = relu(tmp_path / "model.onnx")
    alone = tmp_path / "python"
    alone.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    alone.chmod(0o755)
    for python, what in ((alone, "is not installed there"), (tmp_path / "none", "cannot be run")):
        with pytest.raises(SystemExit) as done:
            main(["rknn", str(path), "--target", "rk3588", "--python", str(python)])
        assert done.value.code == 2
        assert what in capsys.readouterr().err
    assert not (tmp_path / "model.rknn").exists()


def test_rows_are_given_to_the_nodes_that_they_stand_for() -> None:
    rows = [Layer("Conv", "NPU", 1, 2, 2, f"Conv:{n}") for n in ("conv1", "conv10", "conv1_tile0", "skip_y_conv_Add")]
    copy = Layer("Reshape", "CPU", 0, 0, 0, "Reshape:conv1_rs")
    found = log.by_node([*rows, copy], ["conv1", "conv10", "joined"], {"skip_y_conv": "joined"})
    names = {node: [r.name for r in own] for node, own in found.items()}
    assert names == {
        "conv1": ["Conv:conv1", "Conv:conv1_tile0"],
        "conv10": ["Conv:conv10"],
        "joined": ["Conv:skip_y_conv_Add"],
        "": ["Reshape:conv1_rs"],
    }


def test_layer_table_is_read_from_the_log() -> None:
    printed = """\
D RKNN: [17:56:10.894] ID   OpType     DataType Target InputShape               OutputShape     Cycles(DDR/NPU/Total)    RW(KB)  FullName
D RKNN: [17:56:10.894] 0    InputOperator FLOAT16 CPU  \\                        (1,1,256,256)   0/0/0                    0       InputOperator:input
D RKNN: [17:56:10.894] 2    ConvRelu   FLOAT16  NPU    (1,32,256,256),(32),...  (1,32,256,256)  355423/1179648/1179648   4114    Conv:inc.1.conv
D RKNN: [18:08:18.486] 42   Conv       FLOAT16  NPU    (1,32,256,256),(1,32,...  (1,1,256,256)   842831/131072/842831     0%      4096    Conv:outc
D RKNN: [17:56:10.894] <<<<<<<< end: rknn::RKNNModelRegCmdbuildPass
"""  # noqa: E501
    assert parse(printed.splitlines()) == (
        Layer("InputOperator", "CPU", 0, 0, 0, "InputOperator:input"),
        Layer("ConvRelu", "NPU", 355423, 1179648, 1179648, "Conv:inc.1.conv"),
        Layer("Conv", "NPU", 842831, 131072, 842831, "Conv:outc"),
    )


def one_convolution(weight: Array) -> onnx.ModelProto:
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,8,8] x) => (float[1,16,8,8] y) { y = Conv(x, w) }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return model


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
