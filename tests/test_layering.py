"""Imports point one way, each thing has one door, and modules and functions stay small."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = {
    str(path.relative_to(top.parent)): path
    for top in (ROOT / "onnxprune", ROOT / "passes")
    for path in sorted(top.rglob("*.py"))
    if ROOT / "onnxprune" / "passes" not in path.parents  # the link to passes/
}


def places() -> Iterator[list[str]]:
    """The rows of the table of packages in CONTRIBUTING.md, from the bottom to the top: files and folders of each."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("| package | what it holds |\n")[2].partition("\n\n")[0]
    for row in table.splitlines()[1:]:
        names = re.findall(r"`([^`]+)`", row.split("|")[1])
        yield [n if n.startswith(("onnxprune/", "passes/")) else f"onnxprune/{n}" for n in names]


#: A file imports only from its own row of the table and from those above.
ROWS = [*places()]

#: Fields of ModelProto, GraphProto and AttributeProto that plain values stand for everywhere else.
PROTO_FIELDS = {"initializer", "value_info", "op_type", "raw_data", "opset_import", "metadata_props", "proto"}
PROTO_DOORS = {
    "new_outputs.py",
    "claims.py",
    "nested.py",
    "files.py",
    "graph_reader.py",
    "tried_input_shapes.py",
    "onnx_model.py",
    "mapped_weights.py",
    "protobuf.py",
    "reverse_graph.py",
    "edits.py",
    "functions.py",
    "if_branches.py",
    "session.py",
    "unknown_operators.py",
    "unrounded_quantized.py",
    "sequences.py",
    "stand_in_nodes.py",
    "exact.py",
    "revalued.py",
    "tensor_shapes.py",
    "shape_arithmetic.py",
    "rewrite.py",
    "gradients.py",
    "weight_gradients.py",
    "convolution_weights.py",
    "moves_as_gather.py",
    "extract.py",
    "simulated.py",
    "diff.py",
    "inserted_nodes.py",
    "sparse_initializers.py",
    "integer.py",
    "on_onnx.py",
    "one_node.py",
}

#: Where the graph is read, run on labels, evaluated, proven or fused; and what a node is called.
KNOW_OPERATORS = {
    *PROTO_DOORS,
    "label_propagation.py",
    "labels.py",
    "graph.py",
    "batchnorm.py",
    "computed_parameters.py",
    "id_ranges.py",
    "weights_accounted.py",
}

MODULE_LINES, FUNCTION_LINES = 400, 60


@cache
def parsed(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


@cache
def nodes(name: str) -> tuple[ast.AST, ...]:
    """All that a file is made of; every rule looks at it."""
    return tuple(ast.walk(parsed(name)))


def imports(name: str) -> Iterator[str]:
    """Dotted names of all that a file imports, wherever in it: of ``from a import b``, a.b."""
    for node in nodes(name):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def row_of(name: str) -> int:
    """Where a file stands in the table; what offers the package as a whole stands at its top."""
    found = [n for n, row in enumerate(ROWS) if any(name == p or (p.endswith("/") and name.startswith(p)) for p in row)]
    if name in ("onnxprune/__init__.py", "onnxprune/__main__.py"):
        return len(ROWS)
    assert len(found) == 1, f"{name} is not in one row of the table of packages"
    return found[0]


def file_of(module: str) -> str | None:
    """The file of ours that a dotted name is in, if any; of a.b, b may be a name in a."""
    for dotted in (module, module.rpartition(".")[0]):
        path = dotted.replace("onnxprune.passes", "passes").replace(".", "/")
        for name in (f"{path}.py", f"{path}/__init__.py"):
            if name in FILES and name != "onnxprune/__init__.py":
                return name
    return None


@pytest.mark.parametrize("name", FILES)
def test_imports_point_upwards_in_the_table(name: str) -> None:
    own = row_of(name)
    others = [found for module in imports(name) if (found := file_of(module)) is not None]
    assert [found for found in others if row_of(found) > own] == []


@pytest.mark.parametrize("package", sorted({str(Path(n).parent) for n in FILES}))
def test_packages_stay_small_and_say_what_they_hold(package: str) -> None:
    own = [n for n in FILES if str(Path(n).parent) == package]
    assert len(own) <= 13, "twelve modules and __init__"
    assert ast.get_docstring(parsed(f"{package}/__init__.py"))


@pytest.mark.parametrize("name", FILES)
def test_each_library_has_its_door(name: str) -> None:
    tops = {found.partition(".")[0] for found in imports(name)}
    assert "onnx_graphsurgeon" not in tops or name == "onnxprune/model/graph_reader.py"
    assert not tops & {"click", "rich"} or name.startswith("onnxprune/cli/")
    assert "onnxruntime" not in tops or name == "onnxprune/running/session.py"
    assert "torch" not in tops


@pytest.mark.parametrize("name", [n for n in FILES if Path(n).name not in PROTO_DOORS])
def test_only_the_doors_touch_protobuf(name: str) -> None:
    touched = {n.attr for n in nodes(name) if isinstance(n, ast.Attribute) and n.attr in PROTO_FIELDS}
    if name == "passes/folding/batchnorm.py":  # asks whether a weight is a graph input too
        touched.discard("proto")
    assert touched == set()


@pytest.mark.parametrize("name", FILES)
def test_only_rules_and_doors_ask_for_an_operator(name: str) -> None:
    """Groups, scores, choosing, plans and reports do not know what an operator is; formats are made of operators."""
    asked = [n for n in nodes(name) if isinstance(n, ast.Attribute) and n.attr in ("op", "op_type")]
    know = ("onnxprune/labels/ops/", "onnxprune/formats/", "onnxprune/cli/")
    assert not asked or name.startswith(know) or Path(name).name in KNOW_OPERATORS


@pytest.mark.parametrize("name", FILES)
def test_modules_and_functions_stay_small(name: str) -> None:
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= MODULE_LINES
    for node in nodes(name):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= FUNCTION_LINES, f"{node.name} has {length} lines"


def test_every_module_says_what_it_is() -> None:
    for name in FILES:
        assert ast.get_docstring(parsed(name)), name


def named_in_prose() -> Iterator[tuple[str, str]]:
    """(file, path) of each module, folder or dotted name of ours in docstrings, comments and CONTRIBUTING."""
    for name, path in {**FILES, "CONTRIBUTING.md": ROOT / "CONTRIBUTING.md"}.items():
        text = path.read_text(encoding="utf-8")
        dotted = (found.replace(".", "/") for found in re.findall(r"(?<!`)`(onnxprune(?:\.\w+)+)`(?!`)", text))
        slashed = re.findall(r"\b(?:onnxprune|tests)/[\w/]*\w(?:\.py)?\b", text)
        yield from ((name, found.removesuffix(".py")) for found in (*dotted, *slashed))


def test_prose_names_modules_that_are_there() -> None:
    """Whoever renames a module renames it in what is said of it."""

    def there(path: Path) -> bool:
        modules = [ROOT / p.with_suffix(".py") for p in (path, *path.parents[:-1])]  # the name may be one in a module
        package = ROOT / path.parent / "__init__.py"
        offered = package.is_file() and re.search(rf"\b{path.name}\b", package.read_text(encoding="utf-8"))
        return (ROOT / path).exists() or any(m.is_file() for m in modules) or bool(offered)

    assert [(name, found) for name, found in named_in_prose() if not there(Path(found))] == []
    files = {path.name for top in ("onnxprune", "passes", "tests") for path in (ROOT / top).rglob("*.py")}
    for name, path in FILES.items():
        bare = set(re.findall(r"(?<![\w/.])\w+\.py\b", path.read_text(encoding="utf-8")))
        assert bare <= files, name


def test_no_module_is_called_after_nothing() -> None:
    assert not {Path(n).stem for n in FILES} & {"utils", "helpers", "common", "manager", "types", "misc"}
