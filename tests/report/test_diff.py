"""What differs between two models: each kind of difference is told, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

import onnxprune
from tests.commands import CHAIN, SKIP, Run, assert_one_line, files_in, put
from tests.models import build

Edit = Callable[[ModelProto], object]


@dataclass(frozen=True)
class Difference:
    """An edit of CHAIN, the fields of a comparison that are not empty for it, and what one of them says."""

    name: str
    edit: Edit
    fields: frozenset[str]
    says: str = ""

    def __str__(self) -> str:
        return self.name


def weight(name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> Edit:
    def edit(proto: ModelProto) -> None:
        (tensor,) = (t for t in proto.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), name))

    return edit


def without_relu(proto: ModelProto) -> None:
    proto.graph.node.pop(3)
    proto.graph.node[3].input[0] = "c"


def named(proto: ModelProto) -> None:
    proto.graph.node[0].name = "stem"


def twice(proto: ModelProto) -> None:
    proto.graph.node.insert(2, helper.make_node("Relu", ["b"], ["again"]))
    proto.graph.node[3].input[0] = "again"


def other_input(proto: ModelProto) -> None:
    proto.graph.input[0].name = proto.graph.node[0].input[0] = "image"


def metadata(proto: ModelProto) -> None:
    proto.metadata_props.add(key="stride", value="32")
    proto.producer_name = "somebody"


SAME = frozenset[str]()
DIFFERENCES = (
    Difference("nothing", lambda _: None, SAME),
    Difference("values", weight("w1", lambda w: w + 1), frozenset({"revalued"}), "w1"),
    Difference("metadata", metadata, frozenset({"changed"}), "metadata 'stride'"),
    Difference(
        "opset", lambda p: p.opset_import[0].CopyFrom(helper.make_opsetid("", 16)), frozenset({"changed"}), "16"
    ),
    Difference("removed", without_relu, frozenset({"removed", "nodes"}), "Relu Relu:d"),
    Difference("added", twice, frozenset({"added", "nodes"}), "Relu Relu:again"),
    Difference("renamed", named, frozenset({"nodes"}), "stem"),
    Difference(
        "attribute",
        lambda p: p.graph.node[0].attribute.append(helper.make_attribute("group", 1)),
        frozenset({"nodes"}),
        "group",
    ),
    Difference("input", other_input, frozenset({"changed", "nodes", "notes"}), "the models were not run"),
)


@pytest.mark.parametrize("row", DIFFERENCES, ids=str)
def test_each_kind_of_difference_is_told_and_no_other(row: Difference) -> None:
    before, after = build(CHAIN), build(CHAIN)
    row.edit(after)
    found = onnxprune.diff(before, after)
    kinds = ("changed", "nodes", "resized", "revalued", "removed", "added", "notes")
    assert {kind for kind in kinds if getattr(found, kind)} == row.fields
    assert row.says in found.to_json()
    ran = "notes" not in row.fields
    assert [e.name for e in found.outputs] == (["y"] if ran else [])
    moved = ran and row.name in ("values", "removed")
    assert any(e.max_abs > 1e-3 for e in found.outputs) == moved


def test_widths_are_told_by_node_and_sizes_follow() -> None:
    before = build(CHAIN)
    result = onnxprune.prune(before, ratio=0.5, check_n=1)
    found = onnxprune.diff(before, result.model)
    shapes = {(r.node, r.weight): (r.before, r.after) for r in found.resized}
    assert shapes[("Conv:c", "w1")] == ((32, 16, 1, 1), (16, 8, 1, 1))
    assert shapes[("Conv:a", "b0")] == ((16,), (8,))
    assert found.parameters == result.report.parameters
    assert found.macs == result.report.macs
    assert (found.changed, found.removed, found.added, found.nodes) == ((), (), (), ())
    assert result.report.proof is not None
    assert found.outputs[0].cosine == pytest.approx(result.report.proof.pruning[0].cosine, abs=0.1)


def test_calibration_data_is_what_both_are_run_on() -> None:
    before = build(CHAIN)
    after = build(CHAIN)
    weight("w0", lambda w: w * 2)(after)
    data = {"x": np.zeros((5, 3, 8, 8), np.float32)}
    silent = onnxprune.diff(before, after, data=data)
    assert silent.outputs[0].max_abs == 0  # zeros tell nothing of the first layer's weights
    assert silent.inputs == "5 samples of x:1,3,8,8"
    assert onnxprune.diff(before, after).outputs[0].max_abs > 0


def test_each_sample_counts_for_itself() -> None:
    before, after = build(CHAIN), build(CHAIN)
    weight("w0", lambda w: w * 2)(after)
    data = np.zeros((5, 3, 8, 8), np.float32)
    data[3] = 1
    found = onnxprune.diff(before, after, data={"x": data})
    assert [s.sample for s in found.by_sample] == [0, 1, 2, 3, 4]
    assert [s.sample for s in found.by_sample if s.error > 0] == [3]
    assert len(onnxprune.diff(before, after, check_n=4).by_sample) == 4
    assert onnxprune.diff(before, after, check_n=0).by_sample == ()


def test_layers_add_up_in_both_models_and_those_of_one_are_there() -> None:
    before, after = build(CHAIN), onnxprune.prune(build(CHAIN), ratio=0.5, check_n=0).model
    after.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32).reshape(1, 4, 1, 1), "scale"))
    after.graph.node.append(helper.make_node("Mul", ["y", "scale"], ["y2"], name="scaled"))
    after.graph.output[0].name = "y2"
    for first, second in ((before, after), (after, before)):
        found = onnxprune.diff(first, second)
        for size in ("parameters", "macs"):
            sizes = [getattr(x, size) for x in found.layers]
            assert sum(s.before for s in sizes) == getattr(found, size).before
            assert sum(s.after for s in sizes) == getattr(found, size).after
        (own,) = (x for x in found.layers if x.node == "scaled")
        assert sorted((own.parameters.before, own.parameters.after)) == [0, 4]
        assert sorted((own.before, own.after)) == [(), (1, 4, 1, 1)]


def test_an_output_that_one_of_them_lacks_is_noted() -> None:
    after = build(CHAIN)
    after.graph.output.append(helper.make_tensor_value_info("d", onnx.TensorProto.FLOAT, [1, 32, 8, 8]))
    found = onnxprune.diff(build(CHAIN), after)
    assert found.notes == ("output 'd' is in one of the models only",)
    assert [e.name for e in found.outputs] == ["y"]


BRANCHES = """(float[1,3,8,8] x, bool c) => (float[1,4,8,8] y)
    <float[8,3,1,1] w0, float[8,8,1,1] v, float[8,8,1,1] u, float[4,8,1,1] w1> {
    a = Conv(x, w0)
    b = If(c) <then_branch = one () => (float[1,8,8,8] t) { h = Conv(a, v) t = Conv(h, u) },
               else_branch = two () => (float[1,8,8,8] e) { e = Relu(a) }>
    y = Conv(b, w1) }"""


def test_what_is_in_branches_counts() -> None:
    model = build(BRANCHES)
    found = onnxprune.diff(model, onnxprune.prune(model, ratio=0.5, check_n=1, input_values={"c": 1}).model)
    assert found.parameters.before == 3 * 8 + 2 * 8 * 8 + 4 * 8
    assert found.macs.before == 64 * found.parameters.before
    assert max(found.parameters.ratio, found.macs.ratio) < 0.6
    assert "weights" not in found.same


def test_a_branch_that_is_always_taken_counts_as_in_a_run() -> None:
    """Its shapes are known by running it alone; what a run writes has it in the place of its If."""
    model = build("""(float[6,4] x) => (float[6,2] y) <float[4,5] w, float[5,2] u, int64 rank = {2}, int64[1] one = {1},
        int64[1] nil = {0}, int64[2] rows = {6, -1}> {
        n = Shape(x)
        k = Size(n)
        e = Equal(k, rank)
        b = If(e) <then_branch = one_way () => (float[6,5] t) {
                       z = NonZero(x) s = Shape(z) i = Slice(s, nil, one) q = Mul(i, nil) o = Add(rows, q)
                       h = Reshape(x, o) t = MatMul(h, w) },
                   else_branch = other_way () => (float[6,5] f) {
                       p = Constant<value_ints=[6,5]>() f = ConstantOfShape(p) }>
        r = Relu(b)
        y = MatMul(r, u) }""")
    result = onnxprune.prune(model, ratio=0.4, check_n=1)
    found = onnxprune.diff(model, result.model)
    assert found.macs.before == result.report.macs.before == 6 * (4 * 5 + 5 * 2)
    assert found.macs.after == result.report.macs.after


def test_a_model_that_cannot_be_run_is_still_compared() -> None:
    before = build(CHAIN)
    before.graph.node[1].domain, before.graph.node[1].op_type = "some.vendor", "Swish"
    before.opset_import.append(helper.make_opsetid("some.vendor", 1))
    after = onnx.ModelProto.FromString(before.SerializeToString())
    weight("w1", lambda w: w[:20])(after)
    weight("w2", lambda w: w[:, :20])(after)
    found = onnxprune.diff(before, after)
    assert [r.weight for r in found.resized] == ["w1", "w2"]
    assert found.outputs == ()
    assert "the outputs were not compared" in found.notes[0]


def test_the_command_shows_and_writes_what_it_found(run: Run, tmp_path: Path) -> None:
    path = put(tmp_path / "m.onnx", CHAIN)
    run(path, "-o", tmp_path / "small.onnx", "--ratio", 0.5, "-q", "--check-n", 1)
    outcome = run("diff", path, tmp_path / "small.onnx", "--json", tmp_path / "d.json", "--check-n", 2)
    assert (outcome.code, outcome.err) == (0, "")
    for part in ("w1", "[32, 16, 1, 1]", "[16, 8, 1, 1]", "1 more initializers", "-68.2 %", "the same: inputs"):
        assert part in outcome.out
    assert "output error: 'y'" in outcome.out
    assert "2 random inputs of x:1,3,8,8" in outcome.out
    assert "b0" in run("diff", path, tmp_path / "small.onnx", "-v").out
    found = json.loads((tmp_path / "d.json").read_text())
    assert (found["format"], found["version"]) == ("onnxprune-diff", 1)
    assert found["parameters"].keys() == {"before", "after", "ratio"}
    assert found["command"].startswith("onnxprune diff ")
    assert [s["sample"] for s in found["by_sample"]] == [0, 1]
    assert found["resized"][0] == {
        "node": "Conv:a",
        "weight": "w0",
        "before": [16, 3, 1, 1],
        "after": [8, 3, 1, 1],
    }


def test_dynamic_inputs_take_a_shape(run: Run, tmp_path: Path) -> None:
    path = put(tmp_path / "m.onnx", SKIP)
    given = run("diff", path, path, "--input-shape", "x:1,3,20,12").out
    assert "x:1,3,20,12" in given
    assert "note: " not in given
    assert "note: input 'x' is 1,3,?,?: measured at 1,3," in run("diff", path, path).out


def test_a_small_constant_in_place_of_another_is_told_by_its_numbers() -> None:
    text = """(float[1,{c}] x) => (float y) <int64[2] s = {{{c}, 1}}, int64[1] {t} = {{{a}}}>
        {{ a = Reshape(x, s) y = Slice(a, zero, {t}, zero) }}"""
    before, after = (
        build(text.format(c=8, t=t, a=a).replace("int64[2]", "int64[1] zero = {0}, int64[2]"))
        for t, a in (("end", 8), ("end_1", 4))
    )
    (change,) = onnxprune.diff(before, after).nodes
    assert (change.before, change.after) == ("end = [8]", "end_1 = [4]")


def test_errors_are_one_line_and_nothing_is_written(run: Run, tmp_path: Path) -> None:
    path = put(tmp_path / "m.onnx", CHAIN)
    before = files_in(tmp_path)
    for args, says in (
        ([path, tmp_path / "none.onnx"], "none.onnx"),
        ([path, path, "--check-n", "-1"], "--check-n"),
        ([path, path, "--json", path], "the model itself"),
        ([path, path, "--report", path], "the model itself"),
        ([path, path, "--data", "nowhere"], "nowhere"),
        ([path], "Missing argument 'AFTER'"),
    ):
        outcome = run("diff", *args)
        assert outcome.code == 2
        assert_one_line(outcome.err, says)
    assert files_in(tmp_path) == before


def test_a_size_that_two_models_do_not_have_is_bad_usage(run: Run, tmp_path: Path) -> None:
    """A gate on it could never hold, and would look as if the model had failed."""
    path = put(tmp_path / "a.onnx", CHAIN)
    outcome = run("diff", path, path, "--require", "cycles<=0.5")
    assert outcome.code == 2
    assert_one_line(outcome.err, "--require: there is no size 'cycles' here", "params", "macs", "bytes")
