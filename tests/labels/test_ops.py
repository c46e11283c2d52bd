"""Every row of the table, under the one property."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from onnx import ModelProto

from onnxprune.labels.ops import known_operators, table
from tests.models import build, sandwich, too_new
from tests.property import Removal, assert_exact, remove, some
from tests.rows import ROWS, Row


def operators(model: ModelProto) -> set[tuple[str, str]]:
    return {(node.domain, node.op_type) for node in model.graph.node}


def taken(row: Row) -> ModelProto:
    """The row's model; skips what the oldest onnx and onnxruntime do not take even as it is."""
    model = row.model()
    if reason := too_new(model, row.shapes):
        pytest.skip(reason)
    return model


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_row_prunes_exactly_what_it_says(row: Row) -> None:
    removal = assert_exact(taken(row), input_shapes=row.shapes or None)

    assert removal.groups.width == row.prunable, removal.reasons
    assert (removal.removed > 0) == (row.prunable > 0)
    assert removal.removed == 0 or removal.effect > 0, "what goes does not show: the row proves nothing"
    others = [line for line in removal.reasons.splitlines() if "is the graph output" not in line]
    assert bool(others) == (row.held_because is not None), others
    assert (row.held_because or "") in removal.reasons


@pytest.mark.parametrize("row", [r for r in ROWS if r.prunable > 1], ids=str)
def test_row_narrows_to_one_channel_a_block(row: Row) -> None:
    assert_exact(taken(row), some(seed=1, most=9), row.shapes or None)


def test_every_operator_with_a_rule_has_a_row() -> None:
    covered = {operator for row in ROWS for operator in operators(row.model())}
    own = ("onnxprune", "Branches")  # stands for If
    assert not [o for o in known_operators() if o not in covered and o != own]


@pytest.mark.parametrize("register", [table.rule("Conv"), table.macs("Conv"), table.kernel("Conv")])
def test_what_is_known_of_an_operator_is_registered_once(register: Callable[[Any], Any]) -> None:
    with pytest.raises(ValueError, match=r"two .*:Conv"):
        register(lambda *_: None)


def test_row_names_are_unique() -> None:
    assert not [name for name, count in Counter(row.name for row in ROWS).items() if count > 1]


def narrowed(row: Row) -> Removal:
    return assert_exact(row.model(), input_shapes=row.shapes or None)


def row_named(name: str) -> Row:
    return next(r for r in ROWS if r.name == name)


def test_shared_bias_is_copied_where_its_readers_keep_other_channels() -> None:
    removal = narrowed(row_named("bias that two layers share, cut differently"))
    assert {t.name for t in removal.pruned.graph.initializer} > {"b_1", "b_2"}


def test_depthwise_group_follows_the_channels() -> None:
    removal = narrowed(row_named("Conv depthwise"))
    (group,) = [a.i for n in removal.pruned.graph.node for a in n.attribute if a.name == "group"]
    assert group == 8 - removal.removed


def test_map_of_which_only_the_size_was_read_goes_with_it() -> None:
    nodes = "h = MatMul(x, w)\nn = Shape<start=1>(h)\nf = Cast<to=1>(n)\ny = Div(x, f)"
    removal = assert_exact(build(f"(float[2,6] x) => (float y) <float[6,8] w> {{ {nodes} }}"))
    assert removal.removed > 0
    assert [n.op_type for n in removal.pruned.graph.node] == ["Div"]


def test_captured_tensor_pins_and_its_model_stays_byte_for_byte() -> None:
    removal = narrowed(row_named("Loop that captures a map"))
    assert removal.written.SerializeToString() == removal.given.SerializeToString()


def test_channels_stay_where_a_rule_says_nothing_of_an_output() -> None:
    """Whose declared size would be the old one."""
    silent = table.Rule(lambda op: [op.inputs[0].layers if op.inputs[0] else ()])
    text = sandwich("n, m = LayerNormalization<axis=2>(h, s)\ng = Add(n, m)", "float[6,6] s")
    with table.replaced({("", "LayerNormalization"): silent}):
        removal = remove(build(text))
    assert removal.removed == 0
    assert "has another output, of which its rule says nothing" in removal.reasons
