"""The property is only worth something if it fails: on every kind of broken model, and on a broken rule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from onnxprune.labels.labels import Layer, Op
from onnxprune.labels.ops import find
from onnxprune.labels.ops.movement import joining
from onnxprune.labels.ops.table import Layers
from tests.models import build
from tests.property import Removal, assert_exact, check, remove

#: a: 6 channels and b: 4, side by side, read by c.
TEXT = """(float[2,3,5,5] x) => (float y, float z)
<float[6,3,1,1] wa, float[6] ba, float[4,3,1,1] wb, float[4] bb, float[5,10,1,1] wc, float[2,3,1,1] wz> {
  a = Conv(x, wa, ba)
  r = Relu(a)
  b = Conv(x, wb, bb)
  g = Concat<axis=1>(r, b)
  y = Conv(g, wc)
  z = Conv(x, wz)
}"""

Breakage = Callable[[ModelProto], None]


@pytest.fixture(scope="module")
def removal() -> Removal:
    return remove(build(TEXT))


def initializer(model: ModelProto, name: str) -> TensorProto:
    found: list[TensorProto] = [t for t in model.graph.initializer if t.name == name]
    return found[0]


def set_array(model: ModelProto, name: str, change: Callable[[NDArray[Any]], NDArray[Any]]) -> None:
    tensor = initializer(model, name)
    doc = tensor.doc_string
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(tensor))), name))
    tensor.doc_string = doc


def wrong_kept_index_in_a_consumer(model: ModelProto) -> None:
    set_array(model, "wc", lambda w: np.roll(w, 1, axis=1))


def dropped_bias(model: ModelProto) -> None:
    set_array(model, "ba", np.zeros_like)


def wrong_bias_slice(model: ModelProto) -> None:
    set_array(model, "ba", lambda b: np.roll(b, 1))


def wrong_filters(model: ModelProto) -> None:
    set_array(model, "wa", lambda w: w[::-1])


def swapped_concat(model: ModelProto) -> None:
    node = next(n for n in model.graph.node if n.op_type == "Concat")
    node.input[0], node.input[1] = node.input[1], node.input[0]


def changed_metadata(model: ModelProto) -> None:
    model.metadata_props[0].value = "{}"


def lost_metadata(model: ModelProto) -> None:
    del model.metadata_props[:]


def other_opset(model: ModelProto) -> None:
    model.opset_import[0].version += 1


def lost_doc_string(model: ModelProto) -> None:
    model.graph.node[0].doc_string = ""


def renamed_node(model: ModelProto) -> None:
    model.graph.node[0].name = "other"


def changed_attribute(model: ModelProto) -> None:
    next(n for n in model.graph.node if n.op_type == "Concat").attribute[0].i = -3


def output_shape(model: ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 0


def narrower_output(model: ModelProto) -> None:
    set_array(model, "wc", lambda w: w[:-1])
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value -= 1


def other_output_dtype(model: ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def renamed_input(model: ModelProto) -> None:
    model.graph.input[0].name = "image"


def stale_value_info(model: ModelProto) -> None:
    next(v for v in model.graph.value_info if v.name == "a").type.tensor_type.shape.dim[1].dim_value = 6


def touched_other_weight(model: ModelProto) -> None:
    set_array(model, "wz", lambda w: np.nextafter(w, np.float32(9)))


def added_node(model: ModelProto) -> None:
    node = model.graph.node.add()
    node.CopyFrom(model.graph.node[1])
    node.output[0] = "more"


BREAKAGES: tuple[Breakage, ...] = (
    wrong_kept_index_in_a_consumer,
    dropped_bias,
    wrong_bias_slice,
    wrong_filters,
    swapped_concat,
    changed_metadata,
    lost_metadata,
    other_opset,
    lost_doc_string,
    renamed_node,
    changed_attribute,
    output_shape,
    narrower_output,
    other_output_dtype,
    renamed_input,
    stale_value_info,
    touched_other_weight,
    added_node,
)


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda b: b.__name__)
def test_broken_model_is_found(removal: Removal, breakage: Breakage) -> None:
    broken = ModelProto()
    broken.CopyFrom(removal.pruned)
    breakage(broken)
    with pytest.raises(Exception):  # noqa: B017, PT011 (onnx.checker, onnxruntime and asserts have no common base)
        check(replace(removal, pruned=broken))


def test_sound_model_passes(removal: Removal) -> None:
    check(removal)
    assert removal.removed > 0
    assert removal.effect > 0


def test_other_channels_than_said_are_found(removal: Removal) -> None:
    units = removal.groups.groups[0].units
    others = np.setdiff1d(units, removal.dead)[: len(np.intersect1d(units, removal.dead))]
    with pytest.raises(AssertionError, match="rounding is"):
        check(replace(removal, dead=others))


def test_broken_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Concat rule with its offsets reversed is right about every size, and wrong about every channel."""

    def reversed_concat(op: Op) -> Sequence[Layers]:
        return [tuple(Layer(np.flip(la.labels), la.axes, la.columns) for la in joining.concat(op)[0])]

    model = build(TEXT)
    node = next(n for n in remove(model).trace.model.graph.nodes if n.op == "Concat")
    rule = find(node)
    assert rule is not None
    monkeypatch.setattr(rule, "trace", reversed_concat)
    with pytest.raises(AssertionError, match="rounding is"):
        assert_exact(model)
