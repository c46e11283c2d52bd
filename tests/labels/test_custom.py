"""Operators that a user declares have a rule for as long as the run takes."""

from __future__ import annotations

import pytest

import onnxprune
from onnxprune.errors import OptionError
from onnxprune.labels import ops
from onnxprune.labels.ops import custom
from tests.models import build, sandwich
from tests.property import assert_exact, remove

RANKED = "float[n,c,h,w] y"  # onnx 1.16 infers nothing behind an operator that it does not know
FOREIGN = sandwich("g = custom.Act(h, w1)", "float[8,1,1] w1", "float[2,8,6,6] g").replace("float y", RANKED)
POOL = sandwich("g = custom.Pool(h)", "float[2,8,3,3] g").replace("float y", RANKED)


@pytest.mark.parametrize(
    ("text", "kind", "prunable"),
    [
        (FOREIGN, "custom::Act=elementwise", 8),
        (FOREIGN, "custom::Act=opaque", 0),
        (POOL, "custom::Pool=channelwise", 8),
        (POOL, "custom::Other=elementwise", 0),
        (sandwich("g = Relu(h)"), "::Relu=opaque", 0),
    ],
)
def test_declared_operator_is_followed(text: str, kind: str, prunable: int) -> None:
    operators = set(ops.known_operators())
    with custom.declared([custom.read(kind)]):
        removal = assert_exact(build(text))
    assert removal.groups.width == prunable
    assert (removal.removed > 0) == (prunable > 0)
    assert set(ops.known_operators()) == operators
    assert remove(build(POOL)).groups.width == 0


@pytest.mark.parametrize("text", ["Act=elementwise", "custom::Act", "custom::=opaque", "custom::Act=other"])
def test_declaration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="is not DOMAIN::OP="):
        custom.read(text)


def test_option_declares_for_one_run() -> None:
    model = build(FOREIGN)
    assert onnxprune.inspect(model).channels == 0
    assert onnxprune.inspect(model, custom=["custom::Act=elementwise"]).channels == 8
    assert onnxprune.prune(model, ratio=0.5, custom=["custom::Act=elementwise"]).report.channels.after == 4
    assert onnxprune.inspect(model).channels == 0
