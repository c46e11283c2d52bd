"""Drawn inputs: what is drawn for which input, in which range, and what a run makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

import onnxprune
from onnxprune.calibration.data_options import Data
from onnxprune.calibration.samples import CalibrationSet
from onnxprune.calibration.synthetic import drawing
from onnxprune.calibration.synthetic.value_range import ValueRange
from onnxprune.errors import OptionError
from onnxprune.labels.analysis import analyse
from onnxprune.model.onnx_model import from_proto
from tests.commands import CHAIN, Run, put
from tests.models import build

Array = NDArray[Any]


FEW = Data(None, samples=12)


def draw(text: str, how: Data = FEW, seed: int = 0) -> CalibrationSet:
    trace = analyse(from_proto(build(text))).trace
    return drawing.load(how, trace.model, trace.shapes, seed)


def whole(data: CalibrationSet) -> dict[str, Array]:
    """All of a set, {input: [count, ...]}."""
    batches = list(data.batches(1000))
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


def identity(inputs: str) -> str:
    """A model that hands its inputs through."""
    names = [part.split()[-1] for part in inputs.split("; ")]
    types = inputs.replace("; ", ", ")
    outs = ", ".join(f"{part.rsplit(' ', 1)[0]} {part.split()[-1]}_out" for part in inputs.split("; "))
    body = "\n".join(f"{n}_out = Identity({n})" for n in names)
    return f"({types}) => ({outs}) {{ {body} }}"


def neighbours(x: Array) -> float:
    """How alike values at neighbouring places of the last axis are: 1 is the same, 0 is white noise."""
    return float(np.corrcoef(x[..., 1:].ravel(), x[..., :-1].ravel())[0, 1])


@pytest.mark.parametrize("shape", ["1,1,16,20", "1,3,16,20", "1,4,16,20"])
def test_pictures_are_in_range_and_of_regions(shape: str) -> None:
    x = whole(draw(identity(f"float[{shape}] x")))["x"]
    assert x.shape == (12, *(int(s) for s in shape.split(",")[1:]))
    assert x.min() >= 0
    assert x.max() <= 1
    assert x.std() > 0.1
    assert neighbours(x) > 0.5


@pytest.mark.parametrize("size", [(48, 320), (96, 96), (8, 300), (5, 5)])
def test_one_colour_picture_in_four_is_written_on(size: tuple[int, int]) -> None:
    found = whole(draw(f"(float[N,3,{size[0]},{size[1]}] x) => (float y) {{ y = Relu(x) }}", Data(None, samples=16)))[
        "x"
    ]
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found.std(axis=(1, 2, 3)) > 0.01).all()
    # Two colours and what lies under them: along the line between ink and paper there is nearly all that varies.
    pixels = found.reshape(16, 3, -1)
    strengths = np.linalg.eigvalsh(np.stack([np.cov(p) for p in pixels]))
    beside = strengths[:, :2].sum(axis=1) / strengths.sum(axis=1)
    if min(size) > 40:
        assert np.median(beside[3::4]) < np.median(np.delete(beside, np.s_[3::4]))


def test_a_fourth_channel_is_not_always_the_same() -> None:
    pictures = whole(draw(identity("float[1,4,32,32] x")))["x"]
    spread = np.ptp(pictures[:, 3], axis=(1, 2))
    assert (spread > 0.1).sum() == (spread == 0).sum() == len(pictures) / 2


def test_channels_of_pictures_may_be_last() -> None:
    x = whole(draw(identity("float[1,16,20,3] x")))["x"]
    assert neighbours(x.transpose(0, 3, 1, 2)) > 0.5


def test_uint8_pictures_are_pixels() -> None:
    x = whole(draw(identity("uint8[1,3,16,16] x")))["x"]
    assert x.dtype == np.uint8
    assert x.max() > 128


@pytest.mark.parametrize("shape", ["1,16,8,8", "1,40,12", "1,30", "1,2,8,8,8", "1,1"])
def test_other_numbers_have_about_unit_variance(shape: str) -> None:
    x = whole(draw(identity(f"float[{shape}] x"), Data(None, samples=64)))["x"]
    assert 0.3 < x.std() < 3


def test_sounds_and_point_clouds_are_bounded() -> None:
    found = whole(draw(identity("float[1,1,4000] wave; float[1,3,200] points")))
    assert np.abs(found["wave"]).max() <= 1
    assert np.linalg.norm(found["points"], axis=1).max() <= 1.001


def test_ids_stay_in_the_table_that_they_index() -> None:
    text = """(int64[1,6] ids) => (float[1,6,4] y) <float[50,4] table>
    { same = Identity(ids)
      y = Gather(table, same) }"""
    ids = whole(draw(text, Data(None, samples=200)))["ids"]
    assert ids.min() >= 0
    assert ids.max() == 49


def test_ids_that_become_one_hot_are_all_that_there_are() -> None:
    text = "(int64[1,9] ids) => (float y) <float[40,8] w, int64 d = {40}, float[2] v = {0, 1}>"
    ids = whole(draw(f"{text} {{ o = OneHot<axis=-1>(ids, d, v)\ny = MatMul(o, w) }}"))["ids"]
    assert (ids.min(), ids.max()) == (0, 39)


def test_masks_are_ones_in_front() -> None:
    mask = whole(draw(identity("int64[1,9] attention_mask; bool[1,4] other")))["attention_mask"]
    assert (np.diff(mask, axis=-1) <= 0).all()
    assert mask[:, 0].all()
    assert 0 < mask.mean() < 1


def test_the_same_seed_draws_the_same_bytes() -> None:
    text = identity("float[1,3,16,16] x; float[1,30] v")
    first, again, other = (whole(draw(text, seed=s)) for s in (1, 1, 2))
    assert all(first[n].tobytes() == again[n].tobytes() for n in first)
    assert not any(np.array_equal(first[n], other[n]) for n in first)


# --- the range ------------------------------------------------------------------------------------------------------


def normalised(mean: float, deviation: float) -> str:
    """A layer that was trained on pictures of this mean and deviation: its BatchNormalization says so."""
    return f"""(float[1,3,16,16] x) => (float[1,3,16,16] y)
    <float[3,1,1,1] w = {{1, 1, 1}}, float[3] one = {{1, 1, 1}}, float[3] zero = {{0, 0, 0}},
     float[3] mean = {{{mean}, {mean}, {mean}}}, float[3] var = {{{deviation**2}, {deviation**2}, {deviation**2}}}>
    {{ a = Conv<group=3>(x, w)
      y = BatchNormalization(a, one, zero, mean, var) }}"""


RANGES: Mapping[str, tuple[float, float]] = {
    "0..1": (0.5, 0.28),
    "-1..1": (0.0, 0.56),
    "imagenet": (0.1, 1.2),
    "-118..137": (9.5, 70.0),
    "0..255": (127.0, 70.0),
}


@pytest.mark.parametrize("name", RANGES)
def test_the_range_is_found_by_the_statistics_of_the_first_layer(name: str) -> None:
    found = draw(normalised(*RANGES[name]))
    assert any(f"taken to be in {name}" in note for note in found.notes)


def test_the_range_is_as_said() -> None:
    text = normalised(0.5, 0.28)
    x = whole(draw(text, Data(None, samples=8, input_range="-3..5")))["x"]
    assert x.min() < -1.5
    assert x.max() > 3.5
    by_mean = whole(draw(text, Data(None, samples=8, mean=(127.5,), std=(127.5,))))["x"]
    assert by_mean.min() < -0.5
    assert by_mean.max() <= 1


@pytest.mark.parametrize("text", ["1", "5..1", "a..b", ""])
def test_no_range_is_an_error(text: str) -> None:
    with pytest.raises(OptionError, match="is no range"):
        ValueRange.parse(text)


@pytest.mark.drawn
@pytest.mark.parametrize("options", [["--input-range", "a"], ["--std", "0"], ["--samples", "0"]])
def test_what_is_said_wrongly_of_drawn_inputs_is_an_error(run: Run, chain: Path, options: list[str]) -> None:
    outcome = run(chain, *options)
    assert outcome.code == 2
    assert options[0] in outcome.err


# --- runs -----------------------------------------------------------------------------------------------------------


def trained_like() -> onnx.ModelProto:
    """`CHAIN` with weights of a size that keeps signals going."""
    proto = build(CHAIN)
    rng = np.random.default_rng(0)
    for tensor in proto.graph.initializer:
        shape = tuple(tensor.dims)
        size = np.prod(shape[1:]) if len(shape) > 1 else 16
        tensor.CopyFrom(numpy_helper.from_array((rng.standard_normal(shape) / np.sqrt(size)).astype("f4"), tensor.name))
    return proto


@pytest.mark.drawn
def test_without_data_weights_are_solved_anew_and_the_run_says_on_what() -> None:
    recovered = (report := onnxprune.prune(trained_like(), ratio=0.3).report).recovered
    assert recovered is not None
    assert recovered.drawn
    assert recovered.solved > 0
    assert recovered.final[0].snr_db > recovered.pruned[0].snr_db
    assert any("no data was given" in note for note in report.notes)
    assert report.options["data"]["source"] == "drawn inputs"


@pytest.mark.drawn
def test_none_leaves_weights_alone() -> None:
    kept = onnxprune.prune(trained_like(), ratio=0.3, data="none")
    assert kept.report.recovered is None
    assert "data" not in kept.report.options


@pytest.mark.drawn
def test_in_front_of_an_if_the_range_is_looked_for_too() -> None:
    text = """(float[1,3,8,8] x, bool c) => (float[1,4,8,8] y)
        <float[8,3,1,1] w0, float[8,8,1,1] w1, float[4,8,1,1] w2> {
        a = Conv(x, w0)
        b = If(c) <then_branch = one () => (float[1,8,8,8] t) { t = Relu(a) },
                   else_branch = two () => (float[1,8,8,8] e) { e = Sigmoid(a) }>
        d = Conv(b, w1)
        r = Relu(d)
        y = Conv(r, w2) }"""
    report = onnxprune.prune(build(text), data=Data(None, samples=8), ratio=0.5).report
    assert report.recovered is not None, report.notes


def test_the_same_seed_gives_the_same_file() -> None:
    one, two = (onnxprune.prune(trained_like(), ratio=0.3, seed=3).model for _ in range(2))
    assert one.SerializeToString() == two.SerializeToString()


@pytest.mark.drawn
def test_what_cannot_be_drawn_for_is_pruned_by_weights_alone() -> None:
    text = """(float[1,3,8,8] x, string[1] s) => (float[1,4,8,8] y, string[1] t)
    <float[16,3,1,1] w0, float[4,16,1,1] w1>
    { a = Conv(x, w0)
      b = Relu(a)
      y = Conv(b, w1)
      t = Identity(s) }"""
    report = onnxprune.prune(build(text), ratio=0.5, check_n=0).report
    assert report.recovered is None
    assert report.channels.after < report.channels.before
    assert any("drawn inputs did not serve" in note for note in report.notes)


@pytest.mark.drawn
@pytest.mark.parametrize("asked", [{}, {"align": 4}, {"sparsity": 0.5}], ids=str)
def test_a_model_of_integers_has_nothing_to_solve_and_the_run_says_so(asked: dict[str, Any]) -> None:
    proto = build(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y) <float s = {0.02}, uint8 z = {120}, int8 v = {0},
        int8[16,3,1,1] w0, int8[16,16,1,1] w1, int8[4,16,1,1] w2>
        { q = QuantizeLinear(x, s, z) a = QLinearConv(q, s, z, w0, s, v, s, z) b = QLinearConv(a, s, z, w1, s, v, s, z)
          c = QLinearConv(b, s, z, w2, s, v, s, z) y = DequantizeLinear(c, s, z) }"""
    )
    result = onnxprune.prune(proto, **{"ratio": 0.3, **asked})
    assert result.report.recovered is not None
    assert result.report.recovered.solved == 0
    assert any("prune it before" in note for note in result.report.notes)


@pytest.mark.drawn
def test_the_command_line_says_it_too(run: Run, tmp_path: Any) -> None:
    path = put(tmp_path / "chain.onnx", CHAIN)
    out = run(path, "--ratio", "0.3").out
    assert "no data was given" in out
    assert "drawn inputs" in out
    assert "no data was given" not in run(path, "--ratio", "0.3", "--data", "none").out


@pytest.mark.drawn
@pytest.mark.parametrize("inputs", ["float f, float[{}] x", "float[{}] x, float f", "float[1] f, float[{}] x"])
@pytest.mark.parametrize("shape", ["N,3,20,20", "2,3,20,20"])
@pytest.mark.parametrize("asked", [{}, {"sparsity": 0.5}], ids=str)
def test_a_number_may_stand_beside_pictures(inputs: str, shape: str, asked: dict[str, Any]) -> None:
    model = build(
        f"({inputs.format(shape)}) => (float[{shape[0]},4,18,18] y) "
        "<float[16,3,3,3] w0, float[16,16,1,1] w1, float[4,16,1,1] w2> "
        "{ a = Conv(x, w0) b = Relu(a) s = Mul(b, f) c = Conv(s, w1) d = Relu(c) y = Conv(d, w2) }"
    )
    recovered = onnxprune.prune(model, ratio=0.3, **asked).report.recovered
    assert recovered is not None
    assert recovered.solved
    assert len(recovered.by_sample) == recovered.held_out


@pytest.mark.parametrize(
    ("room", "drawn", "told"),
    [
        (3, drawing.FEWEST, "--samples 128 takes longer and may keep more"),
        (49, 49, "--samples 128 takes longer and may keep more"),
        (100, 100, "--samples 200 takes longer and may keep more"),  # twice as many
        (200, 200, "--samples 256 takes longer and may keep more"),  # more would not be looked at
        (255, 255, "--samples 256 takes longer and may keep more"),
        (256, 256, ""),
        (900, 256, ""),
    ],
)
def test_where_few_are_drawn_to_stay_quick_more_are_offered(
    room: int, drawn: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 give each layer of 8 x 8 positions rows enough."""
    known = analyse(from_proto(build(CHAIN))).trace.shapes.shape
    one = sum(float(np.prod(shape)) for shape in known.values())
    monkeypatch.setattr(drawing, "MOST_ELEMENTS", room * one)
    data = draw(CHAIN, Data(None))
    said = [n for n in data.notes if "to stay quick" in n]
    assert data.count == drawn
    assert said == ([f"no more are drawn, to stay quick: {told}"] if told else [])
    assert not [n for n in draw(CHAIN, Data(None, samples=30)).notes if "to stay quick" in n]
