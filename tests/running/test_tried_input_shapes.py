"""Inputs as people have them: what a file leaves open is guessed so that the model takes it, and does what it does."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune import pipeline
from onnxprune.errors import ModelError, OptionError
from onnxprune.model.onnx_model import Model, from_proto
from onnxprune.options import Options
from onnxprune.running.id_ranges import compared_with, id_rows
from onnxprune.running.seeded_inputs import Draws, seeded_feeds
from onnxprune.running.tried_input_shapes import choose_inputs
from tests.models import build


def loaded(text: str, opset: int = 17) -> Model:
    return from_proto(build(text, opset))


#: Needs audio of 400 samples at least; a state of the same batch; and a rate, without which it fails.
VAD = """(float[B,T] x, float[2,B,3] state, int64 sr) => (float y, float[2,B,3] z) <float[8,1,400] w0, float[5,8,1] w9,
  int64[1] one = {1}, int64 rate = {16000}>
{ u = Unsqueeze(x, one)
  h = Conv<strides=[160]>(u, w0)
  e = Equal(sr, rate)
  g = If(e)<then_branch = t () => (float[?,8,?] a) { a = Relu(h) },
            else_branch = f () => (float[?,8,?] b) { v = Constant<value_ints=[7,7]>()
                                                    b = Reshape(h, v) }>
  y = Conv(g, w9)
  n = Shape<start=0, end=1>(x)
  k = Concat<axis=0>(one, n, one)
  z = Expand(state, k) }"""


def vad() -> Model:
    """`VAD`, in which the branch that is not taken cannot run."""
    return loaded(VAD)


def test_audio_is_long_enough_a_state_has_the_batch_and_a_number_is_what_it_is_compared_with() -> None:
    chosen = choose_inputs(vad(), {})
    assert chosen.shapes == {"x": (1, 16000), "state": (2, 1, 3), "sr": ()}
    assert chosen.draws.values == {"sr": 16000}


def test_what_was_guessed_is_said() -> None:
    notes = pipeline.prune(vad(), Options()).report.notes
    assert any("'sr' is fed 16000" in n for n in notes)
    assert any("'x' is ?,?: measured at 1,16000" in n for n in notes)
    notes = pipeline.prune(vad(), Options(input_values={"sr": 16000})).report.notes
    assert not any("'sr'" in n for n in notes)


def test_a_model_that_refuses_names_the_input_that_drove_it() -> None:
    with pytest.raises(ModelError) as refused:
        choose_inputs(vad(), {}, {"sr": 8000})
    assert "'sr' (8000" in str(refused.value)
    assert "--input-value" in str(refused.value)


#: Takes pictures of any size.
OPEN = "(float[B,3,H,W] x) => (float y) { p = GlobalAveragePool(x)\ny = ReduceSum(p) }"


def exported_at(noted: str, text: str = OPEN) -> Model:
    proto = build(text)
    proto.metadata_props.add(key="imgsz", value=noted)
    return from_proto(proto)


def test_pictures_have_the_size_that_the_exporter_noted() -> None:
    model = exported_at("[320, 416]")
    assert choose_inputs(model, {}).shapes == {"x": (1, 3, 320, 416)}
    assert any("1,3,320,416, as 'imgsz' in the file says" in n for n in pipeline.prune(model, Options()).report.notes)
    assert choose_inputs(model, {"x": (1, 3, 64, 64)}).shapes == {"x": (1, 3, 64, 64)}
    declared = exported_at("[320, 416]", OPEN.replace("H,W", "96,W"))
    assert choose_inputs(declared, {}).shapes == {"x": (1, 3, 96, 416)}


@pytest.mark.parametrize(
    "noted",
    [
        "",
        "320",
        "[320]",
        "[320, 320, 3]",
        "[0, 320]",
        "[320, 1e9]",
        "[true, 1]",
        "[99999999, 2]",
        "{",
        '"ab"',
        "[" * 10**5,
    ],
    ids=lambda t: t[:20],
)
def test_a_size_that_is_none_says_nothing(noted: str) -> None:
    assert choose_inputs(exported_at(noted), {}).shapes == {"x": (1, 3, 224, 224)}


def test_a_noted_size_that_the_model_does_not_take_is_not_the_last_word() -> None:
    text = """(float[B,3,H,W] x) => (float y) <int64[2] s = {150528, 1}>
    { r = Reshape(x, s)\ny = ReduceSum(r) }"""
    assert choose_inputs(exported_at("[320, 320]", text), {}).shapes == {"x": (1, 3, 224, 224)}


def test_one_name_is_one_size() -> None:
    text = "(float[B,T,4] x, float[T,4] p, float[2,B,4] h) => (float y) { a = Add(x, p)\ny = ReduceSum(a) }"
    shapes = choose_inputs(loaded(text), {}).shapes
    assert shapes["x"][1] == shapes["p"][0]
    assert shapes["x"][0] == shapes["h"][1]


def test_a_shape_that_is_given_holds_for_other_inputs_of_its_names() -> None:
    text = "(float[B,T,4] x, float[B,T,4] p) => (float y) { a = Add(x, p)\ny = ReduceSum(a) }"
    assert choose_inputs(loaded(text), {"x": (3, 7, 4)}).shapes["p"] == (3, 7, 4)


def test_a_name_that_is_a_sum_of_names_is_their_sum() -> None:
    proto = build(
        "(float[1,past,4] x, float[1,now,4] q, float[1,M,4] p) => (float y) "
        "{ c = Concat<axis=1>(x, q)\na = Add(c, p)\ny = ReduceSum(a) }"
    )
    proto.graph.input[2].type.tensor_type.shape.dim[1].dim_param = "past + now"
    shapes = choose_inputs(from_proto(proto), {}).shapes
    assert shapes["p"][1] == shapes["x"][1] + shapes["q"][1]


WORDS = """(int64[1,T] ids, int64[1,T] kinds, int64[1,T] mask) => (float y) <float[500,8] words, float[3,8] types>
{ i = Identity(ids)
  a = Gather(words, i)
  j = Cast<to=6>(kinds)
  b = Gather(types, j)
  c = Add(a, b)
  m = Cast<to=1>(mask)
  y = ReduceSum(c) }"""


def test_ids_are_drawn_over_the_table_that_they_index() -> None:
    model = loaded(WORDS)
    assert id_rows(model) == {"ids": 500, "kinds": 3}
    chosen = choose_inputs(model, {})
    feeds = seeded_feeds(model.graph.inputs, chosen.shapes, 0, chosen.draws)
    assert feeds["ids"].max() > 2
    assert feeds["ids"].max() < 500
    assert feeds["kinds"].max() <= 2
    assert set(feeds["mask"].reshape(-1)) <= {0, 1}


@pytest.mark.parametrize(
    "one_hot",
    [
        "o = OneHot<axis=-1>(ids, d, v)",
        "u = Unsqueeze(ids, last)\ne = Equal(u, every)\no = Cast<to=1>(e)",  # as TensorFlow and JAX write it
    ],
)
def test_ids_that_become_one_hot_are_drawn_over_its_depth(one_hot: str) -> None:
    text = (
        "(int64[1,9] ids) => (float y) <float[40,8] words, int64 d = {40}, float[2] v = {0, 1}, int64[1] last = {-1}, "
    )
    text += f"int64[40] every = {{{', '.join(map(str, range(40)))}}}> {{ {one_hot}\ny = MatMul(o, words) }}"
    assert id_rows(loaded(text)) == {"ids": 40}


def test_the_smallest_table_counts() -> None:
    text = WORDS.replace("b = Gather(types, j)", "d = Gather(types, i)\n  b = Gather(types, j)")
    assert id_rows(loaded(text))["ids"] == 3


def test_a_number_is_compared_with_constants_in_the_order_of_the_graph() -> None:
    text = "(int64[1] a, int64 b) => (bool y) <int64 n = {5}, int64 m = {3}> { e = Equal(a, n)\nf = Less(m, a)\n"
    text += "g = Equal(b, a)\ny = And(e, f) }"
    assert compared_with(loaded(text)) == {"a": (5, 3)}


def test_a_number_without_dimensions_is_drawn_and_nudged() -> None:
    text = "(float[2,6] x, float s) => (float[2,5] y) <float[6,8] w0, float[8,5] w9> "
    model = loaded(text + "{ h = MatMul(x, w0)\nr = Mul(h, s)\ny = MatMul(r, w9) }")
    feeds = seeded_feeds(model.graph.inputs, {"x": (2, 6), "s": ()}, 0)
    assert isinstance(feeds["s"], np.ndarray)
    assert pipeline.prune(model, Options()).report.channels.after == 5
    assert seeded_feeds(model.graph.inputs, {"x": (2, 6), "s": ()}, 0, Draws(values={"s": 2.5}))["s"] == 2.5


def test_an_unknown_input_is_refused() -> None:
    with pytest.raises(OptionError, match="no input 'rate'"):
        choose_inputs(vad(), {}, {"rate": 1})


def test_an_output_that_does_not_react_is_said() -> None:
    proto = build(
        "(float[2,6] x) => (float[2,5] y, float[2,6] z, bool[2,5] t) <float[6,8] w0, float[8,5] w9, float no = {-99}> "
        "{ h = MatMul(x, w0)\nr = Relu(h)\ny = MatMul(r, w9)\nz = Neg(x)\nt = Less(y, no) }"
    )
    notes = pipeline.prune(from_proto(proto), Options()).report.notes
    assert any("output 't' did not react" in n for n in notes)
    assert not any("'y'" in n or "'z'" in n for n in notes)


def test_a_closed_model_that_cannot_run_is_left_to_what_runs_it() -> None:
    table = numpy_helper.from_array(np.zeros((4, 2), np.float32), "t")
    node = helper.make_node("Gather", ["t", "i"], ["y"])
    bad = helper.make_node("Reshape", ["y", "s"], ["z"])
    shape = numpy_helper.from_array(np.array([7]), "s")
    inputs = [helper.make_tensor_value_info("i", TensorProto.INT64, [3])]
    outputs = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    graph = helper.make_graph([node, bad], "g", inputs, outputs, [table, shape])
    model = Model(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]))
    assert choose_inputs(model, {}).shapes == {"i": (3,)}


def test_ids_that_are_cast_from_floats_are_no_sound() -> None:
    text = "(float[N,T] x) => (float y) <float[9,4] t> { i = Cast<to=6>(x)\ng = Gather(t, i)\ny = ReduceSum(g) }"
    assert choose_inputs(loaded(text), {}).shapes["x"][1] < 100
