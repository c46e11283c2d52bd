"""Weights stay in their files: nothing is lost by that, and nothing makes a copy of them all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from fixtures import build
from onnxprune import pipeline
from onnxprune.errors import ModelError
from onnxprune.model import files, onnx_model
from onnxprune.model.mapped_weights import INLINE, Later, Stored
from onnxprune.options import Options
from tests.models import build as parse

PROC = Path("/proc/self/status")

#: Loads and prunes in a process of its own; says how far its anonymous memory rose above that of the imports.
WATCHED = """
import json, re, sys, threading, time
from pathlib import Path
import onnx.reference, onnx_graphsurgeon, onnxruntime
from onnxprune import pipeline
from onnxprune.model import files
from onnxprune.options import Options

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def watch():
    while True:
        peak[0] = max(peak[0], anonymous())
        time.sleep(0.001)

source, target, ratio, samples = sys.argv[1:]
before = anonymous()
peak = [before]
threading.Thread(target=watch, daemon=True).start()
result = pipeline.prune(files.load(source), Options(ratio=float(ratio), check_n=int(samples), data="none"))
files.write({Path(target): result.model})
report = result.report
bytes_ = [report.file_bytes.before, report.file_bytes.after]
print(json.dumps({"rise": peak[0] - before, "bytes": bytes_, "error": report.proof.rewrite_error}))
"""

watched = pytest.mark.skipif(not PROC.exists() or "RssAnon" not in PROC.read_text(), reason="needs Linux's /proc")


def with_constants() -> ModelProto:
    """A weight in a Constant node, and one of a type that numpy has not."""
    text = """(float[1,16,8,8] x) => (float[1,16,8,8] y, float[600] z) <float[16,64,3,3] w1> {
        h = Conv<pads=[1,1,1,1]>(x, w0)
        y = Conv<pads=[1,1,1,1]>(h, w1)
        z = Cast<to=1>(half)
    }"""
    proto = parse(text)
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal((64, 16, 3, 3)).astype(np.float32), "")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w0"], value=weight))
    del proto.graph.initializer[1:]
    proto.graph.initializer.add(name="half", data_type=TensorProto.BFLOAT16, dims=[600], raw_data=bytes(range(200)) * 6)
    return proto


MODELS = {
    "convs": lambda: build.conv_chain(3, width=16),
    "unet": lambda: build.unet(fold_bn=False, size=32, base=8),
    "constants": with_constants,
}


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_the_same_from_a_file_and_from_memory(name: str, external: bool, tmp_path: Path) -> None:
    proto = MODELS[name]()
    onnx.save(proto, tmp_path / "whole.onnx")
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=external, location="m.data", convert_attribute=True)
    whole = (tmp_path / "whole.onnx").read_bytes()
    loaded = files.load(tmp_path / "m.onnx")
    assert b"".join(loaded.pieces()) == whole
    assert loaded.byte_size == len(whole)
    assert any(isinstance(w, Stored) for w in loaded.weights.values())
    assert loaded.proto.ByteSize() < len(whole) / 2
    known = onnx_model.from_proto(onnx.load(tmp_path / "whole.onnx"))
    pruned = [pipeline.prune(m, Options(ratio=0.5)).model for m in (loaded, known)]
    assert b"".join(pruned[0].pieces()) == pruned[1].proto.SerializeToString(deterministic=True)
    assert any(isinstance(w, Later) for w in pruned[0].weights.values())


def test_a_written_file_is_what_protobuf_writes(tmp_path: Path) -> None:
    onnx.save(build.unet(fold_bn=True, size=32, base=8), tmp_path / "m.onnx")
    result = pipeline.prune(files.load(tmp_path / "m.onnx"), Options())
    files.write({tmp_path / "out.onnx": result.model})
    files.write({tmp_path / "parts.onnx": result.model}, external=True)
    written = (tmp_path / "out.onnx").read_bytes()
    assert onnx.load(tmp_path / "out.onnx").SerializeToString() == written
    assert onnx.load(tmp_path / "parts.onnx").graph.node == onnx.load(tmp_path / "out.onnx").graph.node
    parts = onnx.load(tmp_path / "parts.onnx", load_external_data=False)
    small = {t.name for t in parts.graph.initializer if t.raw_data}
    large = {t.name for t in onnx.load(tmp_path / "out.onnx").graph.initializer if len(t.raw_data) > INLINE}
    assert large
    assert not small & large


@pytest.mark.parametrize("length", [INLINE + 4, 4 * 16 * 16 * 9 + 4])
def test_data_that_does_not_fit_its_shape_is_refused(length: int, tmp_path: Path) -> None:
    proto = build.conv_chain(1, width=16)
    proto.graph.initializer[0].raw_data = bytes(length)
    onnx.save(proto, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=f"tensor '{proto.graph.initializer[0].name}'"):
        files.load(tmp_path / "m.onnx")


def watch(source: Path, target: Path, ratio: float, samples: int) -> dict[str, Any]:
    command = [sys.executable, "-c", WATCHED, *map(str, (source, target, ratio, samples))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@watched
@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_no_whole_copy_of_the_weights_is_made(external: bool, tmp_path: Path) -> None:
    proto = build.conv_chain(42, width=256, size=4)
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=external, location="m.data")
    found = watch(tmp_path / "m.onnx", tmp_path / "out.onnx", 0.3, 1)
    assert found["bytes"][0] > 99e6
    assert 0 < found["error"] < 1e-5
    assert found["rise"] < found["bytes"][0] / 2


@pytest.mark.slow
@watched
@pytest.mark.parametrize(("ratio", "files_written"), [(0.05, ["out.onnx", "out.onnx.data"]), (0.5, ["out.onnx"])])
def test_a_model_over_two_gigabytes_is_pruned(ratio: float, files_written: list[str], tmp_path: Path) -> None:
    found = watch(build.gemms(tmp_path, 36, apart=1 << 18), tmp_path / "out.onnx", ratio, 1)
    assert found["bytes"][0] > 2 << 30
    assert 0 < found["error"] < 1e-5
    assert found["rise"] < found["bytes"][0] / 4
    assert sorted(p.name for p in tmp_path.glob("out.*")) == files_written
    again = files.load(tmp_path / "out.onnx")
    assert again.graph.constants["w1"][1][0] == pytest.approx(4096 * (1 - ratio), abs=2)
