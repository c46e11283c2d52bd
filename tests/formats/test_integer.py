"""Networks in integers: onnxruntime gives what numpy does, bit for bit, and both what the grids say, to a step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from fixtures.skeleton import load_skeleton
from onnxprune import prune
from onnxprune.constraints.grids import Grids
from onnxprune.errors import CheckError, ModelError
from onnxprune.formats import integer, qdq
from onnxprune.formats.export import check_model
from onnxprune.formats.format_options import FormatOptions, Rounding
from onnxprune.formats.integers import on_numpy
from onnxprune.formats.integers.steps import Code, Program, Requantize, multiplier_of
from onnxprune.labels.analysis import analyse
from onnxprune.model.edits import Edits
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model, from_proto
from onnxprune.passes import FuseBatchNorm
from onnxprune.passes import run as run_passes
from onnxprune.running import session as runtime
from onnxprune.running.seeded_inputs import seeded_feeds
from onnxprune.running.tried_input_shapes import choose_inputs
from tests.formats.grids import grid, outputs_of, quantized
from tests.formats.test_qdq import NET
from tests.models import TAKES_ALL, build

ZOO = Path(__file__).parents[2] / "fixtures" / "zoo"

ROUNDINGS: tuple[Rounding, ...] = ("half-up", "gemmlowp")

#: A middle from c [N,8,8,8] to g; what it declares; how many steps it may be off.
MIDDLES: Mapping[str, tuple[str, str, float]] = {
    "Relu": ("g = Relu(c)", "", 1),
    "Clip": ("g = Clip(c, lo, hi)", ", float lo = {0}, float hi = {6}", 1),
    "LeakyRelu": ("g = LeakyRelu<alpha=0.1>(c)", "", 1),
    "PRelu": ("a = Abs(s)\ng = PRelu(c, a)", ", float[8,1,1] s", 1),
    "Sigmoid": ("g = Sigmoid(c)", "", 1),
    "SiLU": ("s = Sigmoid(c)\ng = Mul(c, s)", "", 2),
    "HardSwish": ("g = HardSwish(c)", "", 1),
    "Exp of its square": ("s = Mul(c, c)\nn = Neg(s)\ng = Exp(n)", "", 2),
    "depthwise": ("g = Conv<pads=[1,1,1,1], group=8>(c, w2, b2)", ", float[8,1,3,3] w2, float[8] b2", 1),
    "grouped": ('g = Conv<group=2, strides=[2,2], auto_pad="SAME_UPPER">(c, w2)', ", float[8,4,3,3] w2", 1),
    "dilated": ("g = Conv<dilations=[2,2], pads=[0,1,2,3]>(c, w2)", ", float[8,8,3,3] w2", 1),
    "ConvTranspose 2": ("g = ConvTranspose<strides=[2,2]>(c, w2, b2)", ", float[8,8,2,2] w2, float[8] b2", 1),
    "ConvTranspose 3": (
        "g = ConvTranspose<strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(c, w2)", ", float[8,8,3,3] w2", 1
    ),
    "ConvTranspose groups": ("g = ConvTranspose<strides=[2,1], group=2>(c, w2)", ", float[8,4,3,1] w2", 1),
    "Add": ("d = Conv(c, w2)\nr = Relu(d)\ng = Add(c, r)", ", float[8,8,1,1] w2", 2),
    "Add of a constant": ("g = Add(c, k)", ", float[8,1,1] k", 2),
    "Sub": ("g = Sub(c, c2)", "", 2),
    "Mul by a constant": ("g = Mul(c, k)", ", float[8,1,1] k", 2),
    "Div by a constant": ("g = Div(c, k)", ", float k = {-3}", 2),
    "BatchNormalization": ("v = Exp(a)\ng = BatchNormalization(c, a, b, b, v)", ", float[8] a, float[8] b", 2),
    "gates": ("p = GlobalAveragePool(c)\nf = Conv(p, w2)\ns = Sigmoid(f)\ng = Mul(c, s)", ", float[8,8,1,1] w2", 2),
    "MaxPool": ("g = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(c)", "", 1),
    "MaxPool ceil": ("g = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(c)", "", 1),
    "AveragePool": ("g = AveragePool<kernel_shape=[2,2], strides=[2,2]>(c)", "", 1),
    "AveragePool pads": ("g = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(c)", "", 1),
    "AveragePool counting": ("g = AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>(c)", "", 1),
    "ReduceMean": ("g = ReduceMean<axes=[2,3]>(c)", "", 1),
    "ReduceMax": ("g = ReduceMax<axes=[2]>(c)", "", 1),
    "Concat": ("d = Conv(c, w2)\ng = Concat<axis=1>(c, d)", ", float[8,8,1,1] w2", 2),
    "shuffle": (
        "r = Reshape(c, s)\nt = Transpose<perm=[0,2,1,3,4]>(r)\ng = Reshape(t, u)",
        ", int64[5] s = {0,2,4,8,8}, int64[4] u = {0,8,8,8}",
        1,
    ),
    "Split": ("u, v = Split<axis=1>(c, n)\ng = Mul(u, v)", ", int64[2] n = {4,4}", 2),
    "Slice": ("g = Slice(c, a, b, d)", ", int64[1] a = {1}, int64[1] b = {7}, int64[1] d = {3}", 1),
    "Pad": ("g = Pad(c, p)", ", int64[8] p = {0,0,1,1,0,0,2,2}", 1),
    "Pad reflecting": ('g = Pad<mode="reflect">(c, p)', ", int64[8] p = {0,0,1,1,0,0,2,2}", 1),
    "nearest": (
        'g = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(c,, f)',
        ", float[4] f = {1,1,2,2}",
        1,
    ),
    "bilinear": (
        'g = Resize<mode="linear", coordinate_transformation_mode="align_corners">(c,, , f)',
        ", int64[4] f = {2,8,16,12}",
        2,
    ),
    "cubic": ('g = Resize<mode="cubic">(c,, f)', ", float[4] f = {1,1,2,1.5}", 2),
    "a size of its own": (
        "s = Shape(c)\nd = Gather(s, i)\nm = Unsqueeze(d, o)\nl = Concat<axis=0>(m, n)\nr = Reshape(c, l)\ng = Relu(r)",
        ", int64 i = {0}, int64[1] o = {0}, int64[1] n = {-1}",
        1,
    ),
    "attention": (
        "r = Reshape(c, s)\nt = Transpose<perm=[0,2,1]>(r)\nq = MatMul(t, w2)\ng = MatMul(r, q)",
        ", int64[3] s = {0,8,64}, float[8,8] w2",
        2,
    ),
}  # fmt: skip


def net(middle: str, more: str, batch: str = "2") -> Model:
    second = "c2 = Conv(x, w3)\n" if "c2" in middle else ""
    weights = "float[8,3,3,3] w1, float[8] b1" + (", float[8,3,3,3] w3" if second else "") + more
    nodes = f"c = Conv(x, w1, b1)\n{second}{middle}\ny = Identity(g)"
    return Model(build(f"(float[{batch},3,10,10] x) => (float y) <{weights}> {{ {nodes} }}"))


def shape_of(model: Model, batch: int) -> Shape:
    return (batch, *(d or 1 for d in (model.graph.inputs[0].dims or ())[1:]))


def made(model: Model, weights: int = 8, activations: int = 8, **how: bool) -> tuple[Model, Grids, runtime.Feeds]:
    feeds = seeded_feeds(model.graph.inputs, {"x": shape_of(model, 2)}, 1)
    return *quantized(model, feeds, weights, activations, **how), feeds


def off(model: Model, grids: Grids, feeds: runtime.Feeds, steps: Program, written: Model) -> float:
    """How many steps of the output's grid the integers are from the floats on grids, at most."""
    own, code = grids.activations["x"], steps.codes["y"]
    codes = (own.of_rank(4).codes(feeds["x"]) - own.low).astype(np.uint8)
    found = runtime.results(written, {"x": codes})["y"].astype(np.int64)
    floats = runtime.results(qdq.write(model, grids), feeds)["y"]
    return float(np.abs((found - code.zero) - floats / code.scale).max())


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("name", MIDDLES)
def test_an_operator_in_integers(name: str, rounding: Rounding) -> None:
    middle, more, steps_off = MIDDLES[name]
    model, grids, feeds = made(net(middle, more))
    check_model(FormatOptions(format="integer"), analyse(model))
    steps = integer.program(model, grids, {}, rounding)
    written = integer.write(model, grids, {}, rounding)
    integer.verify(steps, written)
    assert off(model, grids, feeds, steps, written) <= steps_off + 0.01 + (rounding == "gemmlowp")  # it rounds twice


#: Not whole without grids of their own: a weight by activations of more than 8 bits, or a window over sums.
NEED_GRIDS = {"Slice", "shuffle", "Split", "Pad", "Pad reflecting", "nearest", "a size of its own", "attention"}
NEED_GRIDS |= {n for n in MIDDLES if "MaxPool" in n} | {"ReduceMax", "Exp of its square"}


@pytest.mark.parametrize("name", sorted({*MIDDLES} - NEED_GRIDS))
def test_an_operator_on_sums(name: str) -> None:
    """Only what layers read is on a grid; what is between them is not rounded but for a table's 16 bits."""
    model, grids, feeds = made(net(*MIDDLES[name][:2]))
    layers = [n for n in model.graph.nodes if n.op in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    read = {i for n in layers for i in n.inputs}
    grids = replace(grids, activations={n: g for n, g in grids.activations.items() if n in read})
    steps, written = integer.program(model, grids, {}), integer.write(model, grids, {})
    integer.verify(steps, written)
    floats = runtime.results(qdq.write(model, grids), feeds)["y"]
    assert off(model, grids, feeds, steps, written) * steps.codes["y"].scale.item() <= 5e-3 * np.ptp(floats)


@pytest.mark.parametrize(
    ("weights", "activations", "how"),
    [
        (8, 8, {"symmetric": False}),
        (4, 8, {"signed": True}),
        (12, 8, {}),
        (16, 8, {}),
        (3, 5, {"symmetric": False, "signed": True}),
        (2, 2, {}),
    ],
)
def test_bits(weights: int, activations: int, how: Mapping[str, bool]) -> None:
    if weights > 8 and not TAKES_ALL:
        pytest.skip("floats of more than 8 bits came with opset 21")
    model = Model(build(NET))
    feeds = seeded_feeds(model.graph.inputs, {"x": (8, 3, 8, 8)}, 1)
    model, grids = quantized(model, feeds, weights, activations, **how)
    steps = integer.program(model, grids, {})
    written = integer.write(model, grids, {})
    integer.verify(steps, written)
    assert off(model, grids, feeds, steps, written) <= 2.01
    assert {i.type.tensor_type.elem_type for i in written.proto.graph.input} == {TensorProto.UINT8}


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_thousand_inputs(rounding: Rounding) -> None:
    model = Model(build(NET))
    model, grids = quantized(model, seeded_feeds(model.graph.inputs, {"x": (8, 3, 8, 8)}, 1))
    steps, written = integer.program(model, grids, {}, rounding), integer.write(model, grids, {}, rounding)
    feeds = integer.drawn(steps, 0, batch=1000)
    assert np.array_equal(runtime.results(written, feeds)["y"], on_numpy.run(steps, feeds)["y"])


def doubling_high(a: int, b: int) -> int:
    """SaturatingRoundingDoublingHighMul of gemmlowp, fixedpoint.h."""
    nudge = 1 << 30 if a * b >= 0 else 1 - (1 << 30)
    whole = a * b + nudge
    return whole // 2**31 if whole >= 0 else -(-whole // 2**31)


def divide_by_power(x: int, exponent: int) -> int:
    """RoundingDivideByPOT of gemmlowp, fixedpoint.h."""
    mask = (1 << exponent) - 1
    threshold = (mask >> 1) + (1 if x < 0 else 0)
    return (x >> exponent) + (1 if x & mask > threshold else 0)


def test_gemmlowp_is_gemmlowp() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-(2**22), 2**22, 2000)
    code = Code("x", np.ones(1), 0, -(2**22), 2**22)
    for ratio in (2.0**-9, 0.00131, 0.0007, 0.4, 0.9):
        multiplier, shift, bits = multiplier_of(np.asarray([ratio]), code.size, 255)
        step = Requantize("y", code, multiplier, shift, bits, 7, 255, "gemmlowp")
        program = Program((step,), {}, {"x": (2000,)}, {}, {}, "gemmlowp", 17)
        found = on_numpy.run(program, {"x": x})["y"]
        exponent = int(shift[0]) - 31
        wanted = [divide_by_power(doubling_high(int(v), int(multiplier[0])), exponent) + 7 for v in x]
        assert bits == 31
        assert np.array_equal(found, np.clip(wanted, 0, 255))


def test_what_a_number_stands_for_is_in_the_metadata() -> None:
    model, grids, _ = made(Model(build(NET.replace("N,3", "2,3"))))
    (told,) = (p.value for p in integer.write(model, grids, {}).proto.metadata_props)
    assert f'"scale": {grids.activations["x"].scale.item()}' in told
    assert '"type": "uint8"' in told


@pytest.mark.parametrize(
    ("middle", "more", "says"),
    [
        ("g = Softmax(c)", "", "node 'Softmax:g': there are no integers for Softmax"),
        ("e = Abs(c)\ng = Div(c, e)", "", "node 'Div:g': divides by what is computed"),
        ("m, i = MaxPool<kernel_shape=[2,2]>(c)\nf = Cast<to=1>(i)\ng = Add(m, f)", "", "gives indices"),
        ("g = Conv(c, w2)", ", float[8,8,1,1] w2", "its weight 'w2' is on no grid"),
    ],
)
def test_what_is_no_integer_is_named(middle: str, more: str, says: str) -> None:
    model, grids, _ = made(net(middle, more))
    grids = replace(grids, weights={n: g for n, g in grids.weights.items() if n != "w2"})
    with pytest.raises(ModelError, match=says):
        integer.write(model, grids, {})


def test_an_operator_without_integers_is_named_before_samples_are_read() -> None:
    asked: dict[str, Any] = {"weights": 8, "activations": 8, "format": "integer", "data": "nowhere"}
    with pytest.raises(ModelError, match="node 'Softmax:g': there are no integers for Softmax"):
        prune(net("g = Softmax(c)", "").proto, **asked)


def test_sums_of_sums_of_sums_stay_fine() -> None:
    """As in a dense block: everything is joined again and again, and averaged, before a layer reads it."""
    joins = ""
    for i in range(4):
        before = f"j{i - 1}" if i else "c"
        joins += f"r{i} = Relu({before})\nd{i} = Conv<pads=[1,1,1,1]>(r{i}, w{8 * (i + 1)})\n"
        joins += f"k{i} = Concat<axis=1>({before}, d{i})\n"
        joins += f"j{i} = AveragePool<kernel_shape=[2,2], pads=[0,0,1,1]>(k{i})\n"
    weights = "".join(f", float[8,{8 * (i + 1)},3,3] w{8 * (i + 1)}" for i in range(4))
    model, grids, feeds = made(net(f"{joins}g = Identity(j3)", weights))
    read = {n.inputs[0] for n in model.graph.nodes if n.op == "Conv"}
    seen = outputs_of(model, feeds, sorted(read))
    grids = replace(grids, activations={n: grid(seen[n], 8, signed=False) for n in read})
    steps, written = integer.program(model, grids, {}), integer.write(model, grids, {})
    integer.verify(steps, written)
    floats = runtime.results(qdq.write(model, grids), feeds)["y"]
    assert off(model, grids, feeds, steps, written) * steps.codes["y"].scale.item() <= 2e-2 * np.ptp(floats)
    assert integer.nearness(model, grids, steps) > 0.999


#: More outputs than one, and readers of one tensor that want it otherwise; only what layers read is on grids.
SEVERAL: Mapping[str, str] = {
    "an output by two names": "y = Conv(x, w1, b1)\nz = Identity(y)",
    "an output by two names, the other first": "z = Conv(x, w1, b1)\ny = Identity(z)",
    "an output and a multiple": "y = Conv(x, w1, b1)\nz = Mul(y, k)",
    "an output that is read on": "y = Conv(x, w1, b1)\nr = Relu(y)\nz = Conv(r, w2)",
    "an output that a pool reads": (
        "c = Conv(x, w1, b1)\ny = Relu(c)\nm = MaxPool<kernel_shape=[2,2]>(y)\nz = Conv(m, w2)"
    ),
    "an output before a pool and a Relu": (
        "y = Conv(x, w1, b1)\nm = MaxPool<kernel_shape=[2,2]>(y)\nr = Relu(m)\nz = Conv(r, w2)"
    ),
    "a sum that is added to": "c = Conv(x, w1, b1)\nd = Conv(x, w3)\ny = Add(c, d)\nr = Relu(y)\nz = Conv(r, w2)",
    "two tables of one tensor": "c = Conv(x, w1, b1)\ns = Sigmoid(c)\nt = Tanh(c)\ny = Mul(s, t)\nz = Conv(s, w2)",
    "laid flat": "c = Conv(x, w1, b1)\ny = Flatten(c)\nz = Identity(y)",
    "cut in two": "c = Conv(x, w1, b1)\ny, z = Split<axis=1>(c, n)",
}


@pytest.mark.parametrize("name", SEVERAL)
def test_every_output_is_what_floats_give(name: str) -> None:
    weights = "float[8,3,3,3] w1, float[8] b1, float[8,8,1,1] w2, float[8,3,3,3] w3, float k = {3}, int64[2] n = {4, 4}"
    proto = build(f"(float[2,3,10,10] x) => (float y, float z) <{weights}> {{ {SEVERAL[name]} }}")
    model, grids, feeds = made(Model(proto))
    read = {n.inputs[0] for n in model.graph.nodes if n.op == "Conv"}
    seen = outputs_of(model, feeds, sorted(read))
    grids = replace(grids, activations={n: grid(seen[n], 8, signed=False) for n in read})
    assert_near(model, grids, feeds)


@pytest.mark.parametrize("ends", ["{-1}, float hi = {3.4028234e38}", "{-3.4028234e38}, float hi = {0.5}"])
def test_a_bound_that_is_beyond_all_numbers_is_none(ends: str) -> None:
    model, grids, feeds = made(net("g = Clip(c, lo, hi)", f", float lo = {ends}"))
    assert_near(model, replace(grids, activations={"x": grids.activations["x"]}), feeds)


def test_bounds_that_leave_out_all_that_there_is_are_refused() -> None:
    model, grids, _ = made(net("r = Relu(c)\ng = Clip(r, lo, hi)", ", float lo = {-6}, float hi = {-0.1}"))
    with pytest.raises(ModelError, match="node 'Clip:g': its bounds leave out"):
        integer.write(model, replace(grids, activations={"x": grids.activations["x"]}), {})


@pytest.mark.parametrize("kind", ["float", "int64"])
def test_an_output_that_is_the_same_always(kind: str) -> None:
    text = f"(float[2,3,10,10] x) => (float y, {kind}[2] k) <float[8,3,3,3] w1, {kind}[2] v = {{3, 4}}>"
    model, grids, feeds = made(Model(build(f"{text} {{ y = Conv(x, w1) k = Identity(v) }}")))
    if kind == "float":
        with pytest.raises(ModelError, match="output 'k': is a constant of floats"):
            integer.write(model, grids, {})
        return
    written = integer.write(model, grids, {})
    integer.verify(integer.program(model, grids, {}), written)
    codes = (grids.activations["x"].codes(feeds["x"]) - grids.activations["x"].low).astype(np.uint8)
    assert runtime.results(written, {"x": codes})["k"].tolist() == [3, 4]


def assert_near(model: Model, grids: Grids, feeds: runtime.Feeds) -> None:
    """Each output is, within a few steps of 8 bits, what the floats on the same grids give."""
    steps, written = integer.program(model, grids, {}), integer.write(model, grids, {})
    integer.verify(steps, written)
    own = grids.activations["x"]
    found = runtime.results(written, {"x": (own.codes(feeds["x"]) - own.low).astype(np.uint8)})
    for name, floats in runtime.results(qdq.write(model, grids), feeds).items():
        code = steps.codes[name]
        assert (found[name].astype(np.int64) - code.zero) * code.scale.item() == pytest.approx(
            floats, abs=0.015 * float(np.abs(floats).max())
        )


def test_integers_that_are_not_near_floats_are_no_result() -> None:
    model, grids, _ = made(net("g = Relu(c)", ""))
    steps = integer.program(model, grids, {})
    assert integer.nearness(model, grids, steps) > 0.999
    wrong = replace(steps, codes={**steps.codes, "y": replace(steps.codes["y"], scale=-steps.codes["y"].scale)})
    with pytest.raises(CheckError, match="integers do not give"):
        integer.nearness(model, grids, wrong)


def test_a_table_over_what_is_infinite_is_refused() -> None:
    model, grids, _ = made(net("g = Exp(c)", ""))
    only = replace(
        grids, activations={"x": replace(grids.activations["x"], scale=np.full((1, 1, 1, 1), 9, np.float32))}
    )
    with pytest.raises(ModelError, match="node 'Exp:g': 'g' is on no grid, and is infinite"):
        integer.write(model, only, {})


def test_sums_without_a_grid_are_named() -> None:
    model, grids, _ = made(net("d = Conv(c, w2)\ng = Relu(d)", ", float[8,8,1,1] w2"))
    del grids.activations["c"]  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="reads sums 'c', that are on no grid"):
        integer.write(model, grids, {})


def test_a_bias_in_units_too_small_is_refused() -> None:
    model, grids, _ = made(Model(build(NET)))
    own = grids.weights["w1"]
    tiny = replace(own, scale=np.full_like(own.scale, 1e-30))
    model = model.apply(Edits(constants={"w1": np.zeros_like(model.array("w1"))}))
    with pytest.raises(ModelError, match="its bias does not fit into 32 bits"):
        integer.write(model, replace(grids, weights={**grids.weights, "w1": tiny}), {})


def test_blocks_of_inputs_are_refused() -> None:
    model, grids, _ = made(Model(build(NET)))
    own = grids.weights["w1"]
    scale = (own.scale * np.arange(1, 4).reshape(1, 3, 1, 1)).astype(np.float32)
    blocks = replace(own, scale=scale, zero_point=own.zero_point.repeat(3, 1))
    with pytest.raises(ModelError, match="unlike units"):
        integer.write(model, replace(grids, weights={**grids.weights, "w1": blocks}), {})


def test_other_integers_are_found_out() -> None:
    model, grids, _ = made(Model(build(NET)))
    steps = integer.program(model, grids, {})
    wrong = integer.write(model, replace(grids, activations={**grids.activations, "y": grids.activations["g"]}), {})
    with pytest.raises(CheckError, match="not what they were"):
        integer.verify(steps, wrong)


#: Exported networks that are integers whole: layers in a row, pixel shuffle, gates, joins, focus, shared weights.
NETWORKS = (
    *("own_lenet5_view.ts11", "own_espcn.ts11", "own_cbam.ts17", "own_film.ts17", "own_pointnet.ts17"),
    *("own_focusnet.ts11", "own_tied_autoencoder.ts17"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_exported_networks_on_a_thousand_inputs(name: str) -> None:
    model = from_proto(load_skeleton(ZOO / f"{name}.onnx"))
    model = run_passes(model, [FuseBatchNorm()]).model
    chosen = choose_inputs(model, {})
    model, grids = quantized(model, seeded_feeds(model.graph.inputs, chosen.shapes, 0, chosen.draws))
    steps, written = integer.program(model, grids, chosen.shapes), integer.write(model, grids, chosen.shapes)
    integer.verify(steps, written)
    with runtime.session(written, name) as active:
        for seed in range(1000):
            feeds = integer.drawn(steps, seed)
            wanted = on_numpy.run(steps, feeds)
            for output, found in runtime.run(active, feeds, name).items():
                assert np.array_equal(found, wanted[output])
