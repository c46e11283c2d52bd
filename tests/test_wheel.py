"""The wheel holds the package, once, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "onnxprune", "passes")


def copied(parts: Sequence[str], tree: Path) -> Path:
    """A copy of parts of the tree: building leaves files behind."""
    tree.mkdir()
    for part in parts:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, tree / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / part)
    return tree


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """Built from a copy of the tree with the setuptools that is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = copied(PARTS, folder / "tree")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*pip, "-w", str(folder), str(tree)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return zipfile.Path(built)


def names(wheel: zipfile.Path) -> list[str]:
    return wheel.root.namelist()


def test_every_module_is_in_it_once(wheel: zipfile.Path) -> None:
    own = {p for p in (ROOT / "onnxprune").rglob("*.py") if (ROOT / "onnxprune" / "passes") not in p.parents}
    expected = {str(p.relative_to(ROOT)) for p in own}
    expected |= {f"onnxprune/{p.relative_to(ROOT)}" for p in (ROOT / "passes").rglob("*.py")}
    assert len(expected) > 20
    found = Counter(n for n in names(wheel) if n.endswith(".py"))
    assert found == Counter(expected)


def test_it_is_typed_and_licensed_and_holds_nothing_else(wheel: zipfile.Path) -> None:
    others = [n for n in names(wheel) if not n.endswith((".py", "/"))]
    metadata = {n.partition(".dist-info/")[2] for n in others if ".dist-info/" in n}
    data = {f"onnxprune/cost/chips/{p.name}" for p in (ROOT / "onnxprune" / "cost" / "chips").glob("*.toml")}
    assert len(data) > 10
    html = (
        "base.html",
        "macros.html",
        "report.html",
        "comparison.html",
        "sensitivity.html",
        "trials.html",
        "report.css",
        "report.js",
        "strings.toml",
    )
    data |= {f"onnxprune/report/html/{name}" for name in html}
    assert {n for n in others if ".dist-info/" not in n} == {"onnxprune/py.typed", *data}
    assert metadata == {"METADATA", "RECORD", "WHEEL", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}


def test_its_metadata_names_the_command_and_the_licence(wheel: zipfile.Path) -> None:
    (info,) = (p for p in wheel.iterdir() if p.name.endswith(".dist-info"))
    assert "onnxprune = onnxprune.cli.wall:main" in (info / "entry_points.txt").read_text()
    assert (info / "top_level.txt").read_text().split() == ["onnxprune"]
    assert "License-Expression: Apache-2.0" in (info / "METADATA").read_text()


def test_it_runs_on_its_own(wheel: zipfile.Path, tmp_path: Path) -> None:
    """Unpacked away from the tree: passes are found inside the package."""
    wheel.root.extractall(tmp_path)
    code = "import onnxprune.passes as p, onnxprune.cli.main; print(p.__file__)"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == str(tmp_path / "onnxprune" / "passes" / "__init__.py")
