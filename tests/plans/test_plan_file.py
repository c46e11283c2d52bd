"""The plan: what is written down cuts weights by itself, can be applied again, and is refused where it does not fit."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from fixtures.build import unet
from onnxprune import pipeline
from onnxprune.errors import PlanError
from onnxprune.model import files, onnx_model
from onnxprune.options import Options
from onnxprune.plans.plan_file import Plan, load_plan
from tests.models import build

Array = NDArray[Any]

CHAIN = """(float[1,3,6,6] x) => (float y)
<float[8,3,1,1] w0, float[8] b0, float[8,8,3,3] w1, float[4,8,1,1] w2>
{ a = Conv(x, w0, b0)
  b = Relu(a)
  c = Conv(b, w1)
  y = Conv(c, w2) }"""
#: Both halves of v's inputs are cut in their own way.
BLOCKS = """(float[1,3,6,6] x) => (float y)
<float[8,3,1,1] w, float[6,4,1,1] v, float[4,6,1,1] u>
{ a = Conv(x, w)
  b = Conv<group=2>(a, v)
  y = Conv(b, u) }"""
#: A bias that an exporter merged: its two uses keep other channels.
SHARED = """(float[1,3,6,6] x) => (float y)
<float[8,3,1,1] w0, float[8,3,1,1] w1, float[8] bias, float[4,16,1,1] w2>
{ a = Conv(x, w0, bias)
  b = Conv(x, w1, bias)
  c = Concat<axis=1>(a, b)
  y = Conv(c, w2) }"""
TRANSPOSED = """(float[1,3,6,6] x) => (float y)
<float[3,8,1,1] w, float[6,4,1,1] v, float[8] bias, float[4,8,1,1] u>
{ a = ConvTranspose(x, w, bias)
  y = Conv(a, u) }"""
GROUPED_TRANSPOSE = """(float[1,6,6,6] x) => (float y)
<float[6,4,1,1] w, float[8] bias, float[4,8,1,1] u>
{ a = ConvTranspose<group=2>(x, w, bias)
  y = Conv(a, u) }"""
MODELS = {"chain": CHAIN, "blocks": BLOCKS, "shared": SHARED, "transposed": TRANSPOSED, "grouped": GROUPED_TRANSPOSE}


def prune(proto: ModelProto, plan: Plan | None = None, **options: Any) -> pipeline.Result:
    settings = Options(**{"ratio": 0.5, "importance": "random", "fuse_bn": False, **options})
    return pipeline.prune(onnx_model.from_proto(proto), settings, plan)


def saved(plan: Plan, folder: Path) -> Plan:
    """The plan after a round trip through its file."""
    files.write({folder / "plan.json": plan.to_json()})
    return load_plan(folder / "plan.json")


def arrays(proto: ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def retrained(proto: ModelProto) -> ModelProto:
    """The same model with other weights."""
    other = copy.deepcopy(proto)
    for tensor in other.graph.initializer:
        if not tensor.name.endswith("scales"):  # Resize's
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(array * np.float32(0.5) + np.flip(array), tensor.name))
    return other


def index_select(array: Array, axes: list[dict[str, Any]]) -> Array:
    """What the README tells an owner of a state_dict to do."""
    for axis in axes:
        assert array.shape[axis["axis"]] == axis["size"]
        if "blocks" in axis:
            parts = zip(np.split(array, axis["blocks"]), axis["keep"], strict=True)
            array = np.concatenate([part.take(keep, axis["axis"]) for part, keep in parts])
        else:
            array = array.take(axis["keep"], axis["axis"])
    return array


@pytest.mark.parametrize("text", MODELS.values(), ids=MODELS)
def test_the_plan_cuts_weights_as_index_select_does(text: str) -> None:
    proto = build(text)
    result = prune(proto)
    document = json.loads(result.plan.to_json())
    before, after = arrays(proto), arrays(result.model.proto)
    sources = {name: document["copies"].get(name, {"of": name})["of"] for name in document["initializers"]}
    assert document["initializers"]
    for name, axes in document["initializers"].items():
        np.testing.assert_array_equal(index_select(before[sources[name]], axes), after[name])
    for name in after.keys() - document["initializers"].keys():
        np.testing.assert_array_equal(before[name], after[name])


@pytest.mark.parametrize("text", MODELS.values(), ids=MODELS)
def test_a_saved_plan_applied_again_gives_the_same_model(text: str, tmp_path: Path) -> None:
    proto = build(text)
    first = prune(proto)
    again = prune(proto, saved(first.plan, tmp_path))
    assert again.model.proto.SerializeToString(deterministic=True) == first.model.proto.SerializeToString(
        deterministic=True
    )
    assert again.plan.to_json() == first.plan.to_json()
    assert again.report.channels == first.report.channels
    assert again.report.achieved == again.report.asked == first.report.achieved


def test_a_plan_fits_a_model_retrained_with_the_same_shapes(tmp_path: Path) -> None:
    proto = unet(fold_bn=False, size=32, base=8)
    plan = saved(prune(proto, check_n=0).plan, tmp_path)
    other = retrained(proto)
    result = prune(other, plan, check_n=1)
    kept = json.loads(plan.to_json())["initializers"]
    before, after = arrays(other), arrays(result.model.proto)
    for name, axes in kept.items():
        np.testing.assert_array_equal(index_select(before[name], axes), after[name])
    assert result.report.proof is not None
    assert not result.report.proof.failures()


def test_a_plan_with_folding_applied_again_gives_the_same_model(tmp_path: Path) -> None:
    proto = unet(fold_bn=False, size=32, base=8)
    first = prune(proto, fuse_bn=True, check_n=0)
    again = prune(proto, saved(first.plan, tmp_path), fuse_bn=True, check_n=0)
    assert again.model.proto == first.model.proto


def test_group_convolutions_keep_their_own_inputs_in_each_block() -> None:
    axes = json.loads(prune(build(BLOCKS)).plan.to_json())["initializers"]
    (out,) = axes["w"]
    rows = next(a for a in axes["v"] if a["axis"] == 1)
    assert (rows["size"], rows["blocks"]) == (4, 2)
    assert sorted([*rows["keep"][0], *(4 + i for i in rows["keep"][1])]) == out["keep"]
    assert rows["keep"][0] != rows["keep"][1]


def test_a_shared_bias_is_copied_for_each_way_of_cutting_it() -> None:
    result = prune(build(SHARED))
    document = json.loads(result.plan.to_json())
    assert document["copies"] == {
        "bias_1": {"of": "bias", "node": "Conv:a", "input": 2},
        "bias_2": {"of": "bias", "node": "Conv:b", "input": 2},
    }
    kept = document["initializers"]
    assert kept["bias_1"] == kept["w0"]
    assert kept["bias_2"] == kept["w1"]
    assert "bias" not in kept
    assert "bias" not in arrays(result.model.proto)


def test_an_empty_plan_changes_nothing(tmp_path: Path) -> None:
    proto = build(CHAIN)
    result = prune(proto, saved(prune(proto, ratio=0.0).plan, tmp_path))
    assert result.model.proto == proto
    assert result.report.achieved == 0


# --- plans that do not fit ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edit:
    """A change by hand to the plan of CHAIN, and what is said about it."""

    name: str
    change: Callable[[dict[str, Any]], object] = field(repr=False)
    says: str

    def __str__(self) -> str:
        return self.name


def keeps(plan: dict[str, Any], name: str, axis: int) -> list[int]:
    found: list[int] = next(a["keep"] for a in plan["initializers"][name] if a["axis"] == axis)
    return found


def other_channel(name: str, axis: int) -> Callable[[dict[str, Any]], object]:
    """Keep one channel instead of another, along one axis alone."""

    def change(plan: dict[str, Any]) -> None:
        keep = keeps(plan, name, axis)
        free = next(i for i in range(8) if i not in keep)
        keep[:] = sorted([*keep[1:], free])

    return change


EDITS = (
    Edit("one-of-three-says-otherwise", other_channel("w1", 1), "keeps other channels"),
    Edit("bias-says-otherwise", other_channel("b0", 0), "keeps other channels"),
    Edit("one-more-channel-in-one-place", lambda p: keeps(p, "w2", 1).pop(), "keeps other channels"),
    Edit("initializer-left-out", lambda p: p["initializers"].pop("b0"), "keeps other channels of 'b0'"),
    Edit("axis-left-out", lambda p: p["initializers"]["w1"].pop(), "keeps other channels of 'w1'"),
    Edit("in-another-order", lambda p: keeps(p, "w0", 0).reverse(), "is not a plan, or was edited"),
    Edit("twice-the-same", lambda p: keeps(p, "w0", 0).append(keeps(p, "w0", 0)[-1]), "is not a plan, or was edited"),
    Edit("unknown-initializer", lambda p: p["initializers"].update(zz=p["initializers"]["w0"]), "no initializer 'zz'"),
    Edit("position-beyond-the-end", lambda p: keeps(p, "w0", 0).append(8), "initializer 'w0' is "),
    Edit("negative-position", lambda p: keeps(p, "w0", 0).insert(0, -1), "is not a plan, or was edited"),
    Edit("other-size", lambda p: p["initializers"]["w0"][0].update(size=9), "initializer 'w0' is "),
    Edit("no-such-axis", lambda p: p["initializers"]["w0"][0].update(axis=7), "initializer 'w0' is "),
    Edit("axis-without-channels", lambda p: p["initializers"]["w0"][0].update(axis=2), "initializer 'w0' is "),
    Edit(
        "graph-output",
        lambda p: p["initializers"]["w2"].insert(0, {"axis": 0, "size": 4, "keep": [0, 1]}),
        "must stay: is the graph output 'y'",
    ),
    Edit("nothing-left", lambda p: keeps(p, "w0", 0).__delitem__(slice(None)), "is not a plan, or was edited"),
    Edit("blocks-that-are-not-there", lambda p: p["initializers"]["w0"][0].update(keep=[[0], [1], [2]]), "'w0'"),
    Edit(
        "copy-of-nothing", lambda p: p["copies"].update(b0={"of": "q", "node": "Conv:a", "input": 2}), "no initializer"
    ),
    Edit(
        "copy-at-no-node", lambda p: p["copies"].update(b0={"of": "b0", "node": "q", "input": 2}), "no initializer 'b0'"
    ),
    Edit("axes-of-text", lambda p: p["initializers"].update(w0="all"), "is not a plan, or was edited"),
    Edit("keep-of-text", lambda p: p["initializers"]["w0"][0].update(keep="all"), "is not a plan, or was edited"),
    Edit("keep-of-fractions", lambda p: p["initializers"]["w0"][0].update(keep=[0.5]), "is not a plan, or was edited"),
    Edit("keep-of-nothing", lambda p: p["initializers"]["w0"][0].update(keep=None), "is not a plan, or was edited"),
    Edit("keep-of-ragged-blocks", lambda p: p["initializers"]["w0"][0].update(keep=[[0], [1, 2]]), "is not a plan"),
    Edit("size-of-text", lambda p: p["initializers"]["w0"][0].update(size="8"), "is not a plan, or was edited"),
    Edit("no-copies", lambda p: p.pop("copies"), "is not a plan, or was edited"),
    Edit("another-format", lambda p: p.update(format="onnxprune-report"), "is not a plan of a version"),
    Edit("another-version", lambda p: p.update(version=4), "is not a plan of a version"),
)


@pytest.mark.parametrize("row", EDITS, ids=str)
def test_a_plan_edited_by_hand_is_refused(row: Edit, tmp_path: Path) -> None:
    proto = build(CHAIN)
    plan = prune(proto, check_n=0).plan
    document = json.loads(plan.to_json())
    assert len(keeps(document, "w0", 0)) == 4
    row.change(document)
    (tmp_path / "plan.json").write_text(json.dumps(document))
    with pytest.raises(PlanError) as refused:
        prune(proto, load_plan(tmp_path / "plan.json"), check_n=0)
    assert row.says in str(refused.value)


def test_an_unedited_plan_is_accepted(tmp_path: Path) -> None:
    proto = build(CHAIN)
    document = json.loads(prune(proto, check_n=0).plan.to_json())
    (tmp_path / "plan.json").write_text(json.dumps(document))
    assert prune(proto, load_plan(tmp_path / "plan.json")).report.achieved == 0.5


def test_a_consistent_edit_is_accepted(tmp_path: Path) -> None:
    """Everywhere the same: that is a plan of its owner's own."""
    proto = build(CHAIN)
    document = json.loads(prune(proto, check_n=0).plan.to_json())
    for name, axis in (("w0", 0), ("b0", 0), ("w1", 1)):
        keeps(document, name, axis)[:] = [2, 5, 7]
    (tmp_path / "plan.json").write_text(json.dumps(document))
    result = prune(proto, load_plan(tmp_path / "plan.json"))
    np.testing.assert_array_equal(arrays(result.model.proto)["w0"], arrays(proto)["w0"][[2, 5, 7]])


@pytest.mark.parametrize(
    ("asked", "other", "says"),
    [
        (
            {"sparsity": 0.5},
            CHAIN.replace("[8,8,3,3] w1", "[6,8,3,3] w1").replace("[4,8", "[4,6"),
            r"of 'w1' is \[8, 8,",
        ),
        ({"sparsity": 0.5}, CHAIN.replace("w1", "w3"), "its mask of 'w1'"),
        ({"weights": 4}, CHAIN.replace("w2", "w3"), "its grid of 'w2' lies along no"),
        ({"activations": 8}, CHAIN.replace("c = ", "d = ").replace("(c,", "(d,"), "its grid of 'c' is of no tensor"),
    ],
    ids=["another-shape", "no-such-mask", "no-such-grid", "no-such-tensor"],
)
@pytest.mark.parametrize("data", ["none", "samples"])
def test_a_plan_of_zeros_or_bits_is_refused_by_another_model(
    asked: dict[str, Any], other: str, says: str, data: str
) -> None:
    """No initializer is cut, so that only masks and grids tell the models apart."""
    given = {"x": np.random.default_rng(0).standard_normal((70, 3, 6, 6)).astype(np.float32)}
    plan = prune(build(CHAIN), ratio=0.0, data=given, **asked).plan
    with pytest.raises(PlanError, match=f"^plan: .*{says}.*made for another model"):
        prune(build(other), plan, data=given if data == "samples" else "none")
