"""Imports point downwards, each thing has one door, and modules and functions stay small."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    str(path.relative_to(top.parent)): path
    for top in (ROOT / "onnxprune", ROOT / "passes")
    for path in sorted(top.rglob("*.py"))
    if ROOT / "onnxprune" / "passes" not in path.parents  # the link to passes/
}

#: From top to bottom: a module imports only from its own layer and from those below.
LAYERS = (
    "onnxprune.__main__",
    "onnxprune.cli",
    "onnxprune.api",
    "onnxprune.pipeline",
    "onnxprune",
)

#: Fields of ModelProto, GraphProto and AttributeProto that plain values stand for everywhere else.
PROTO_FIELDS = {"initializer", "value_info", "op_type", "raw_data", "opset_import", "metadata_props", "proto"}
PROTO_DOORS = {
    "files.py",
    "graph_reader.py",
    "input_shapes.py",
    "onnx_model.py",
    "mapped_weights.py",
    "protobuf.py",
    "edits.py",
    "local_functions.py",
    "if_branches.py",
    "session.py",
    "unknown_operators.py",
    "exact.py",
    "tensor_shapes.py",
    "rewrite.py",
    "gradients.py",
    "extract.py",
    "diff.py",
}

#: Where the graph is read, run on labels, evaluated, proven or fused; and what a node is called.
KNOW_OPERATORS = {*PROTO_DOORS, "trace.py", "labels.py", "graph.py", "fuse_batchnorm.py"}

MODULE_LINES, FUNCTION_LINES = 400, 60
LONG_MODULES = {"onnxprune/pipeline.py": 440, "onnxprune/rewrite.py": 500, "onnxprune/labels/ops/movement.py": 620}


def parsed(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def module_of(name: str) -> str:
    """The dotted name that a file is imported by."""
    parts = list(Path(name).with_suffix("").parts)
    parts = ["onnxprune", *parts] if parts[0] == "passes" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(name: str) -> Iterator[str]:
    """Dotted names of all that a file imports, wherever in it: of ``from a import b``, a.b."""
    for node in ast.walk(parsed(name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(module: str) -> int:
    if module == "onnxprune":  # the package itself, which offers what is in api
        return 0
    return next(i for i, top in enumerate(LAYERS) if module == top or module.startswith(f"{top}."))


@pytest.mark.parametrize("name", FILES)
def test_imports_point_downwards(name: str) -> None:
    own = layer(module_of(name))
    above = [found for found in imports(name) if found.startswith("onnxprune") and layer(found) < own]
    assert above == []


@pytest.mark.parametrize("name", FILES)
def test_each_library_has_its_door(name: str) -> None:
    tops = {found.partition(".")[0] for found in imports(name)}
    assert "onnx_graphsurgeon" not in tops or name == "onnxprune/model/graph_reader.py"
    assert not tops & {"click", "rich"} or name.startswith("onnxprune/cli/")
    assert "onnxruntime" not in tops or name == "onnxprune/running/session.py"
    assert "torch" not in tops


@pytest.mark.parametrize("name", [n for n in FILES if Path(n).name not in PROTO_DOORS])
def test_only_the_doors_touch_protobuf(name: str) -> None:
    touched = {n.attr for n in ast.walk(parsed(name)) if isinstance(n, ast.Attribute) and n.attr in PROTO_FIELDS}
    if name == "passes/fuse_batchnorm.py":  # asks whether a weight is a graph input too
        touched.discard("proto")
    assert touched == set()


@pytest.mark.parametrize("name", FILES)
def test_only_rules_and_doors_ask_for_an_operator(name: str) -> None:
    """Groups, scores, choosing, plans and reports do not know what an operator is."""
    asked = [n for n in ast.walk(parsed(name)) if isinstance(n, ast.Attribute) and n.attr in ("op", "op_type")]
    assert (
        not asked or name.startswith(("onnxprune/labels/ops/", "onnxprune/cli/")) or Path(name).name in KNOW_OPERATORS
    )


@pytest.mark.parametrize("name", FILES)
def test_modules_and_functions_stay_small(name: str) -> None:
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= LONG_MODULES.get(name, MODULE_LINES)
    for node in ast.walk(parsed(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES, f"{node.name} has {length} lines"


def test_every_module_says_what_it_is() -> None:
    for name in FILES:
        assert ast.get_docstring(parsed(name)), name


def test_no_module_is_called_after_nothing() -> None:
    assert not {Path(n).stem for n in FILES} & {"utils", "helpers", "common", "manager", "types", "misc"}
