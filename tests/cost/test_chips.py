"""Targets: their files, and the cycles that follow, against rows that rknn-toolkit2 2.5.0 printed."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import ModelProto, parser

from fixtures import build as built
from onnxprune.cost import macs_and_bytes as cost
from onnxprune.cost.chips import Cycles, chip, cycles, find, shipped
from onnxprune.cost.chips.cycles import Around
from onnxprune.errors import OptionError
from onnxprune.labels.ops import Kernel
from onnxprune.model.onnx_model import Model, from_proto
from onnxprune.running import tensor_shapes, tried_input_shapes
from tests.commands import Run, assert_one_line

DENSE, ADDED = Around(), Around(added=True)
INPUT, OUTPUT = Around(from_input=True), Around(to_output=True)

#: target, type, (Cin, Cout, groups, kernel, input side, output side), what is around it, and DDR/NPU as printed
ROWS: list[tuple[str, str, tuple[int, ...], Around, tuple[int, int]]] = [
    ("rk3588", "int8", (17, 24, 1, 3, 56, 56), DENSE, (8789, 28224)),
    ("rk3588", "int8", (48, 49, 1, 3, 56, 56), DENSE, (15766, 112896)),
    ("rk3588", "int8", (64, 7, 1, 1, 8, 8), DENSE, (249, 256)),  # weights of an even number of channels
    ("rk3588", "int8", (64, 80, 1, 1, 8, 8), DENSE, (639, 768)),  # at least four blocks
    ("rk3588", "int8", (24, 56, 1, 3, 8, 4), DENSE, (663, 288)),  # a last block that is not full: nothing is added
    ("rk3588", "int8", (48, 48, 1, 3, 16, 16), ADDED, (2457, 9216)),
    ("rk3588", "int8", (3, 32, 1, 3, 56, 56), INPUT, (4846, 28224)),
    ("rk3588", "int8", (32, 1, 1, 1, 256, 256), OUTPUT, (177328, 262144)),
    ("rk3588", "int8", (72, 72, 72, 3, 28, 28), DENSE, (5374, 14112)),
    ("rk3588", "fp16", (33, 40, 1, 1, 28, 28), DENSE, (5423, 4704)),
    ("rk3588", "fp16", (24, 20, 1, 1, 28, 28), OUTPUT, (3759, 3136)),
    ("rk3588", "fp16", (1, 24, 1, 7, 56, 28), INPUT, (1961, 38416)),  # one input channel: like a depthwise one
    ("rk3588", "fp16", (16, 18, 1, 1, 56, 56), OUTPUT, (12758, 12544)),
    ("rk3588", "fp16", (56, 56, 56, 3, 28, 28), DENSE, (7484, 7056)),
    ("rk3566", "int8", (64, 23, 1, 1, 8, 8), DENSE, (1121, 512)),
    ("rk3566", "int8", (33, 33, 33, 3, 28, 28), DENSE, (9668, 14112)),
    ("rk3566", "fp16", (25, 64, 1, 1, 8, 8), DENSE, (2455, 1024)),
    ("rk3566", "fp16", (65, 72, 1, 1, 28, 28), DENSE, (34876, 35280)),
    ("rk3576", "int8", (1, 32, 1, 3, 56, 56), INPUT, (14052, 28224)),
    ("rk3576", "int8", (24, 24, 24, 5, 28, 28), DENSE, (6881, 19600)),
    ("rk3576", "fp16", (56, 56, 56, 3, 28, 28), DENSE, (23695, 7056)),
    ("rk3562", "int8", (64, 31, 1, 1, 8, 8), DENSE, (1132, 512)),
    ("rk3562", "fp16", (33, 33, 33, 3, 28, 28), DENSE, (16946, 7056)),
    ("rv1106", "int8", (16, 64, 1, 1, 8, 8), DENSE, (1081, 1024)),
    ("rv1103", "int8", (16, 8, 1, 1, 28, 28), DENSE, (4115, 3136)),
    ("rv1126b", "fp16", (24, 144, 1, 1, 56, 56), DENSE, (142464, 56448)),
]


def kernel(sizes: tuple[int, ...]) -> Kernel:
    into, out, groups, side, read, written = sizes
    return Kernel(into, out, groups, (side, side), read**2, written**2, 1)


@pytest.mark.parametrize(("target", "dtype", "sizes", "beside", "printed"), ROWS)
def test_a_row_costs_what_the_compiler_printed(
    target: str, dtype: str, sizes: tuple[int, ...], beside: Around, printed: tuple[int, int]
) -> None:
    (row,) = cycles.rows(kernel(sizes), beside, find(target).precisions[dtype])
    assert (row.ddr, row.npu) == printed
    assert row.total == max(printed)


@pytest.mark.parametrize(
    ("target", "dtype", "into", "side", "tiles"),
    [
        ("rk3588", "fp16", 160, 3, [160]),
        ("rk3588", "fp16", 176, 3, [160, 16]),
        ("rk3588", "fp16", 384, 3, [128, 128, 128]),
        ("rk3588", "fp16", 192, 5, [48, 48, 48, 48]),
        ("rk3588", "int8", 336, 3, [336]),
        ("rk3588", "int8", 400, 3, [336, 64]),
        ("rk3566", "fp16", 400, 3, [200, 200]),
        ("rk3566", "int8", 480, 3, [480]),
        ("rk3576", "fp16", 480, 3, [480]),
        ("rk3576", "fp16", 512, 3, [256, 256]),
    ],
)
def test_wide_inputs_are_tiled_as_the_compiler_does(
    target: str, dtype: str, into: int, side: int, tiles: list[int]
) -> None:
    found = cycles.rows(kernel((into, 16, 1, side, 8, 8)), DENSE, find(target).precisions[dtype])
    assert [row.into for row in found] == tiles


@pytest.mark.parametrize(
    ("parts", "out", "split"),
    [
        ((32, 32), 32, False),
        ((32, 32), 31, True),  # dearer joined
        ((16, 16, 16), 16, False),
        ((16, 16, 16), 15, True),
        ((24, 24), 64, False),
        ((32, 20), 32, False),  # no part stands behind the one that is not aligned
        ((20, 32), 32, True),
        ((36, 36), 64, True),
        ((33, 31), 64, True),
        ((4, 4), 32, True),
        ((8, 8), 32, False),
    ],
)
def test_a_convolution_behind_a_concat_is_split_as_the_compiler_does(
    parts: tuple[int, ...], out: int, split: bool
) -> None:
    sizes = kernel((sum(parts), out, 1, 3, 16, 16))
    found = cycles.rows(sizes, Around(parts=parts), find("rk3588").precisions["fp16"])
    assert [row.into for row in found] == (list(parts) if split else [sum(parts)])


def test_pooling_into_one_position_goes_by_sevens() -> None:
    pool = Kernel(96, 96, 96, (80, 80), 6400, 1, 1)
    found = cycles.rows(pool, DENSE, find("rk3588").precisions["fp16"])
    assert [(row.ddr, row.npu) for row in found] == [(53532, 14112), (1616, 1568), (90, 128)]


def analysed(proto: ModelProto) -> tuple[Model, tensor_shapes.Shapes]:
    model = from_proto(proto)
    inputs = tried_input_shapes.choose_shapes(model, {})
    return model, tried_input_shapes.shapes_at(model, inputs)


@pytest.mark.parametrize(
    ("target", "dtype", "total"),
    [
        ("rk3588", "fp16", 15_896_320),
        ("rk3588", "int8", 8_372_224),
        ("rk3576", "fp16", 16_473_147),
        ("rk3576", "int8", 8_671_969),
        ("rk3566", "fp16", 61_618_543),
        ("rk3566", "int8", 16_109_072),
    ],
)
def test_the_unet_costs_what_the_compiler_charges(target: str, dtype: str, total: int) -> None:
    model, shapes = analysed(built.unet(fold_bn=True))
    found = cost.by_node(Cycles.of(find(target), dtype), model.graph, shapes.shape)
    assert sum(found.values()) == total


@pytest.mark.parametrize(
    ("between", "added"),
    [("Identity", False), ("Relu", True), ("LeakyRelu", True), ("Sigmoid", False), ("HardSwish", False)],
)
def test_an_add_is_fused_through_the_activations_that_the_compiler_fuses(between: str, added: bool) -> None:
    model, shapes = analysed(
        parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,4,8,8] X) => (float[1,4,8,8] Y) <float[4,4,1,1] W = {{{", ".join(["1"] * 16)}}}>
        {{ A = Relu(X) B = Conv(A, W) C = {between}(B) Y = Add(A, C) }}""")
    )
    node = model.graph.nodes[1]
    around = cycles.around(model.graph, node, shapes.shape, find("rk3588").precisions["fp16"])
    assert around.added is added


def test_other_widths_cost_in_blocks() -> None:
    """The shapes given decide: that is how an allocator tries widths."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,64,8,8] X) => (float[1,8,8,8] Y)
    <float[33,64,3,3] W, float[8,33,3,3] V> { A = Conv<pads=[1,1,1,1]>(X, W) Y = Conv<pads=[1,1,1,1]>(A, V) }"""
    graph = Model(parser.parse_model(text)).graph
    at = {"X": (1, 64, 8, 8), "Y": (1, 8, 8, 8)}
    costs = Cycles.of(find("rk3588"), "int8")

    def first(width: int) -> float:
        shapes = {**at, "A": (1, width, 8, 8), "W": (width, 64, 3, 3), "V": (8, width, 3, 3)}
        return costs.node(graph, graph.nodes[0], shapes)

    assert first(33) == first(64) == 2 * first(32)


# --- target files ---------------------------------------------------------------------------------------------------


def test_every_shipped_target_says_where_its_numbers_came_from() -> None:
    names = {c.name for c in shipped()}
    assert {"rk3588", "rk3576", "rk3566", "rk3568", "rk3562", "rv1103", "rv1106", "rv1126b"} <= names
    for one in shipped():
        assert len(one.source) > 20
        assert one.measured.startswith("rknn-toolkit2") == one.name.startswith(("rk", "rv"))


@pytest.mark.parametrize("name", [c.name for c in shipped()])
def test_a_target_survives_being_written(name: str, tmp_path: Path) -> None:
    path = tmp_path / "chip.toml"
    path.write_text(chip.text(find(name)), encoding="utf-8")
    assert find(str(path)) == find(name)


def test_a_chip_is_added_by_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\ntitle = "Mine"\nsource = "me"\n[int8]\nout_block = 12\nin_block = 8\n')
    mine = find(str(path))
    assert mine.precision(None)[1].align == 24
    (row,) = cycles.rows(kernel((9, 13, 1, 3, 4, 4)), DENSE, mine.precisions["int8"])
    assert (row.ddr, row.npu) == (0, 16 * 9 * 2 * 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no table of a data type"),
        ("[int8]\nout_block = 8\n", "'in_block' is missing"),
        ("[int8]\nout_block = 8\nin_block = 8\nblock = 8\n", "unknown key 'block'"),
        ("[int8]\nout_block = 8\nin_block = 0\n", "'in_block' cannot be 0"),
        ("[int8]\nout_block = 0\nin_block = 8\n", "'out_block' cannot be 0"),
        ("[int8]\nout_block = 8\nin_block = -8\n", "'in_block' cannot be -8"),
        ('[int8]\nout_block = "8"\nin_block = 8\n', "'out_block' cannot be '8'"),
        ("[int8\n", "cannot read the target"),
    ],
)
def test_a_target_file_that_says_nonsense_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "chip.toml"
    path.write_text(f'name = "x"\ntitle = "X"\nsource = "me"\n{text}', encoding="utf-8")
    with pytest.raises(OptionError) as caught:
        find(str(path))
    assert said in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_unknown_target_or_type_names_those_there_are() -> None:
    with pytest.raises(OptionError, match=r"there is no target 'rk3399'.*rk3588"):
        find("rk3399")
    with pytest.raises(OptionError, match=r"rv1106 has no fp16.*int8"):
        Cycles.of(find("rv1106"), "fp16")
    with pytest.raises(OptionError, match="No such file"):
        find("missing.toml")


def test_the_file_of_a_target_is_printed_as_it_is_read(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "board.toml"
    path.write_text(run("targets", "rk3568").out, encoding="utf-8")
    assert find(str(path)) == find("rk3568")
    refused = run("targets", "rk3569")
    assert refused.code == 2
    assert_one_line(refused.err, "there is no target 'rk3569' (did you mean ", "rk3568")
