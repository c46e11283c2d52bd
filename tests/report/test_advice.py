"""What `onnxprune advise` finds, on models that waste in one known way each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper, parser

from fixtures import build as built
from onnxprune.cli.main import main
from onnxprune.cost.chips import Cycles, find
from onnxprune.labels.analysis import analyse
from onnxprune.model.onnx_model import from_proto
from onnxprune.report.advice import Advice, advise


def advised(proto: ModelProto, target: str = "rk3588", dtype: str = "fp16") -> Advice:
    analysis = analyse(from_proto(proto))
    return advise(analysis.trace, analysis.groups, Cycles.of(find(target), dtype))


def filled(text: str, **shapes: tuple[int, ...]) -> ModelProto:
    """A model of opset 17 from its graph, with random weights of these shapes."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}')
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    model.graph.initializer.extend(numpy_helper.from_array(w, n) for n, w in weights.items())
    return model


def chain(width: int) -> ModelProto:
    """64 -> ``width`` -> 64 channels, 3x3 at 16x16."""
    text = """g (float[1,64,16,16] X) => (float[1,64,16,16] Y)
    { A = Conv<pads=[1,1,1,1]>(X, W) B = Relu(A) Y = Conv<pads=[1,1,1,1]>(B, V) }"""
    return filled(text, W=(width, 64, 3, 3), V=(64, width, 3, 3))


def test_full_blocks_waste_nothing() -> None:
    found = advised(chain(64))
    assert [*found.padding, *found.edges, *found.copies, *found.elsewhere] == []
    assert found.wasted == 0
    assert found.cycles > 0


def test_channels_that_do_not_exist_are_counted() -> None:
    """33 channels are computed as 48 on the way in, and as 64 on the way out."""
    found = advised(chain(33))
    wasted = {p.node: p.wasted / p.cycles for p in found.padding}
    assert wasted == pytest.approx({"Conv:A": 1 - 33 / 48, "Conv:Y": 1 - 33 / 64}, abs=1e-3)
    assert found.wasted == sum(p.wasted for p in found.padding)


@pytest.mark.parametrize(("width", "drop"), [(33, 1), (35, 3), (64, None), (50, 2), (63, None)])
def test_a_width_just_above_an_edge_is_named(width: int, drop: int | None) -> None:
    edges = advised(chain(width)).edges
    assert [e.drop for e in edges] == ([] if drop is None else [drop])
    if edges:
        now, after = advised(chain(width)).cycles, advised(chain(width - edges[0].drop)).cycles
        assert edges[0].saved == now - after
        assert edges[0].share == edges[0].drop / width


def test_edges_follow_the_type() -> None:
    """49 channels fill four blocks of 16 in fp16, where 48 fill three, but two of 32 in int8."""
    assert advised(chain(49), dtype="fp16").edges[0].drop == 1
    assert advised(chain(49), dtype="int8").edges == ()


def test_parts_of_a_concat_that_no_boundary_separates_are_named() -> None:
    text = """g (float[1,32,8,8] X) => (float[1,64,8,8] Y)
    { A = Conv(X, W) B = Conv(X, V) C = Concat<axis = 1>(A, B) D = Relu(C) Y = Conv(D, U) }"""
    ragged = filled(text, W=(20, 32, 1, 1), V=(44, 32, 1, 1), U=(64, 64, 1, 1))
    even = filled(text, W=(16, 32, 1, 1), V=(48, 32, 1, 1), U=(64, 64, 1, 1))
    assert [c.parts for c in advised(ragged).copies] == [(20, 44)]
    assert advised(even).copies == ()


def test_what_falls_to_the_cpu_is_named() -> None:
    """The U-Net's bilinear upsampling with aligned corners."""
    found = advised(built.unet(fold_bn=True, size=64))
    assert found.elsewhere == ("up1.up", "up2.up", "up3.up", "up4.up")
    assert advised(built.unet(fold_bn=True, size=64), "tensorrt").elsewhere == ()


def test_the_command_says_it_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, report = tmp_path / "model.onnx", tmp_path / "advice.json"
    onnx.save(chain(33), path)
    with pytest.raises(SystemExit) as done:
        main(["advise", str(path), "--target", "rk3588", "--dtype", "fp16", "--json", str(report)])
    said = capsys.readouterr().out
    assert done.value.code == 0
    assert "Conv:A: drop 1 of 33 channels: -" in said
    assert "rk3588 fp16 at X:1,64,16,16, as rknn-toolkit2 2.5.0 counts them" in said
    saved = json.loads(report.read_text())
    assert saved["format"] == "onnxprune-advice"
    assert [e["drop"] for e in saved["edges"]] == [1]


def test_a_target_from_documents_is_not_called_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(chain(33), path)
    with pytest.raises(SystemExit):
        main(["advise", str(path), "--target", "tensorrt", "--dtype", "int8"])
    assert "from documents, not measured" in capsys.readouterr().out


def test_targets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["targets", "-v"])
    said = capsys.readouterr().out
    assert done.value.code == 0
    assert "rk3588" in said
    assert "not measured" in said
    assert "MlasNchwcGetBlockSize" in said
