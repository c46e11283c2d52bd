"""The door to all formats, and folders on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune import prune
from onnxprune.constraints.grids import Grids
from onnxprune.errors import ModelError, OptionError, OutputError
from onnxprune.formats import arrays
from onnxprune.formats.export import check_asked, export
from onnxprune.formats.format_options import FORMATS
from onnxprune.formats.format_options import FormatOptions as Options
from onnxprune.model import files
from onnxprune.model.edits import Edits
from onnxprune.model.files import Folder
from onnxprune.model.onnx_model import Model, from_proto
from onnxprune.running import session as runtime
from onnxprune.running.seeded_inputs import seeded_feeds
from tests.formats.grids import quantized
from tests.formats.test_qdq import NET
from tests.models import build


def made(text: str = NET) -> tuple[Model, Grids, runtime.Feeds]:
    model = Model(build(text))
    feeds = seeded_feeds(model.graph.inputs, {"x": (4, 3, 8, 8)}, 1)
    return *quantized(model, feeds), feeds


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_comes_back(name: str, tmp_path: Path) -> None:
    model, grids, _ = made()
    found = export(Options(format=name), model, grids, {})
    near = [n for n in found.notes if "integers against floats" in n]
    assert len(found.notes) == len(near) == (name in ("integer", "npy"))
    assert all(float(n.split("cosine ")[1][:6]) > 0.99 for n in near)
    files.write({tmp_path / "out": found.content})
    if name == "npy":
        assert isinstance(found.content, Folder)
        there = {p.relative_to(tmp_path / "out").as_posix(): p for p in (tmp_path / "out").rglob("*") if p.is_file()}
        assert {n: p.read_bytes() for n, p in there.items()} == dict(found.content.files)
        assert arrays.program_in({n: p.read_bytes() for n, p in there.items()}) is not None
    else:
        onnx.checker.check_model(onnx.load(tmp_path / "out"))


@pytest.mark.parametrize("values", [{}, {"sr": 16000}], ids=str)
def test_what_is_written_is_run_on_inputs_that_the_model_takes(values: dict[str, float], tmp_path: Path) -> None:
    """At another rate than 16 000 a Reshape fails."""
    model = build("""(float[1,4,8] x, int64 sr) => (float y) <float[5,4,3] w, float[2,5,1] v, int64 rate = {16000}> {
        h = Conv(x, w)
        e = Equal(sr, rate)
        g = If(e) <then_branch = one () => (float[1,5,6] t) { t = Relu(h) },
                   else_branch = two () => (float[1,5,6] f) { s = Constant<value_ints=[7,7]>() f = Reshape(h, s) }>
        y = Conv(g, v) }""")
    data = {"x": np.random.default_rng(1).standard_normal((64, 1, 4, 8)).astype(np.float32), "sr": np.full(64, 16000)}
    result = prune(model, ratio=0.0, weights=8, activations=8, format="qdq", data=data, input_values=values)
    result.save(tmp_path / "q.onnx")
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 4, 8)).astype(np.float32), "sr": np.array(16000)}
    found, wanted = (runtime.results(from_proto(m), feeds)["y"] for m in (onnx.load(tmp_path / "q.onnx"), model))
    assert found == pytest.approx(wanted, abs=0.05 * float(np.abs(wanted).max()))


def test_zeros_are_left_out_where_that_is_smaller() -> None:
    model, _, feeds = made()
    thin = model.array("w1") * (np.arange(model.array("w1").size).reshape(model.array("w1").shape) % 5 == 0)
    model = model.apply(Edits(constants={"w1": thin}))
    content = export(Options(format="sparse"), model, Grids(), {}).content
    assert isinstance(content, Model)
    assert [s.values.name for s in content.proto.graph.sparse_initializer] == ["w1"]
    assert content.byte_size < model.byte_size
    assert np.array_equal(runtime.results(content, feeds)["y"], runtime.results(model, feeds)["y"])


def test_a_number_that_is_zero_stays_one() -> None:
    model = Model(
        build("""(float[N,3] x) => (float[N,3] y) <float z = {0}, float[64] w> { a = Add(x, z)
      s = ReduceSum<keepdims=0>(w)
      y = Add(a, s) }""")
    )
    content = export(Options(format="sparse"), model, Grids(), {}).content
    assert isinstance(content, Model)
    assert not content.proto.graph.sparse_initializer


def test_a_folder_says_why_it_has_no_steps() -> None:
    model, grids, _ = made(
        NET.replace("y = Gemm<transB=1>(f, w3, b3)", "z = Gemm<transB=1>(f, w3, b3)\ny = Softmax(z)")
    )
    found = export(Options(format="npy"), model, grids, {})
    assert "there are no integers for Softmax" in found.notes[0]
    with pytest.raises(ModelError, match="there are no integers for Softmax"):
        export(Options(format="integer"), model, grids, {})


@pytest.mark.parametrize("name", FORMATS)
def test_grids_are_asked_for_first(name: str) -> None:
    if name in ("float", "sparse"):
        check_asked(Options(format=name), weights=False, activations=False)
        return
    with pytest.raises(OptionError, match="give --weights 8 --activations 8 too"):
        check_asked(Options(format=name), weights=False, activations=True)
    check_asked(Options(format=name), weights=True, activations=True)


def test_formats_that_nobody_knows() -> None:
    with pytest.raises(OptionError, match="--format: must be float, sparse, qdq, qonnx, integer or npy, not xml"):
        check_asked(Options(format="xml"), weights=True, activations=True)


def test_a_folder_replaces_its_like_and_nothing_else(tmp_path: Path) -> None:
    place, other = tmp_path / "out", tmp_path / "other"
    first, second = Folder({"manifest.json": b"1", "a/b": b"x"}), Folder({"manifest.json": b"2"})
    files.ensure_writable([place], keep=None, folders={place: "manifest.json"})
    files.write({place: first})
    files.ensure_writable([place], keep=None, folders={place: "manifest.json"})
    files.write({place: second})
    assert [p.name for p in place.rglob("*")] == ["manifest.json"]
    assert (place / "manifest.json").read_bytes() == b"2"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    other.mkdir()
    files.ensure_writable([other], keep=None, folders={other: "manifest.json"})
    (other / "precious").write_text("x")
    with pytest.raises(OutputError, match="is there already"):
        files.ensure_writable([other], keep=None, folders={other: "manifest.json"})


def test_no_half_written_folder(tmp_path: Path) -> None:
    broken = Folder({"manifest.json": b"1", "a": b"x", "a/b": b"y"})  # a file is no folder
    with pytest.raises(OutputError):
        files.write({tmp_path / "out": broken})
    assert not list(tmp_path.iterdir())
