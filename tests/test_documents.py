"""Every command that README.md and docs/ show is run, what README.md shows comes out, and links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
from PIL import Image

import onnxprune
from fixtures import build
from onnxprune.cli.commands.prune import prune
from tests.models import TAKES_ALL

ROOT = Path(__file__).parent.parent
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)
BLOCKS = {page: BLOCK.findall(page.read_text(encoding="utf-8")) for page in PAGES}
#: In the order of the pages, README.md first; a command that two pages show is run once.
COMMANDS = list(
    dict.fromkeys(
        line for page in PAGES for kind, text in BLOCKS[page] if kind == "sh" for line in text.splitlines() if line
    )
)
PYTHON = [text for kind, text in BLOCKS[README] if kind == "python"]
(TOML,) = (text for page in PAGES for kind, text in BLOCKS[page] if kind == "toml")
#: A page with a network of its own.
LENET = [line for kind, text in BLOCKS[ROOT / "docs" / "lenet5.md"] if kind == "sh" for line in text.splitlines()]
LOCAL = [c for c in COMMANDS if c.startswith("onnxprune") and "320n" not in c and c not in LENET]
DOWNLOADED = [c for c in COMMANDS if c.startswith(("pip download", "unzip")) or "320n" in c]
#: What a command prints, by what is in it; all others prune.
SAYS = {
    " diff ": "output error",
    " > ": "",
    " targets": "rk3588",
    " doctor": "rknn-toolkit2",
    " sensitivity ": "points in",
    " trials ": "trials, of which",
    " sparsity sparse": "weights are zero",
}
OTHERS = {'pip install ".[test]"', "pytest"}  # .ci/run runs these two


def shell(command: str, folder: Path) -> str:
    """Run ``command`` as a shell would, with this interpreter's tools first on the path."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, shell=True, cwd=folder, env={**os.environ, "PATH": path}, check=True, capture_output=True
    )
    return done.stdout.decode()


def test_every_command_is_run_by_something() -> None:
    assert set(COMMANDS) == {*LOCAL, *DOWNLOADED, *LENET, *OTHERS}


#: Those of a page that no page before it shows.
BY_PAGE: dict[Path, list[str]] = {page: [] for page in PAGES}
for _command in LOCAL:
    BY_PAGE[next(p for p in PAGES if any(_command in text.splitlines() for _, text in BLOCKS[p]))].append(_command)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if BY_PAGE[p]], ids=lambda p: p.name)
def test_commands_on_a_model(page: Path, tmp_path: Path) -> None:
    onnx.save(build.unet(fold_bn=False, size=32, base=16), tmp_path / "model.onnx")
    (tmp_path / "calib").mkdir()
    for index, sample in enumerate(np.random.default_rng(0).standard_normal((10, 1, 1, 32, 32))):
        np.save(tmp_path / "calib" / f"{index}.npy", sample.astype(np.float32))
    (tmp_path / "ci.toml").write_text(TOML, encoding="utf-8")
    onnxprune.prune(tmp_path / "model.onnx", data="none").save(tmp_path / "model.pruned.onnx")  # README's first command
    for command in BY_PAGE[page]:
        says = next((text for part, text in SAYS.items() if part in command), "rewrite error")
        assert says in shell(command, tmp_path)
        if "--plan" in command:  # of the one before it
            assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "model.pruned.onnx").read_bytes()


@pytest.mark.slow
def test_the_example_in_python(tmp_path: Path) -> None:
    onnx.save(build.unet(fold_bn=False, size=32, base=16), tmp_path / "model.onnx")
    for text in PYTHON:
        subprocess.run([sys.executable, "-c", text], cwd=tmp_path, check=True)
    assert (tmp_path / "small.plan.json").exists()


def test_the_first_command_as_it_is_given(tmp_path: Path) -> None:
    onnx.save(build.unet(fold_bn=False, size=32, base=8), tmp_path / "model.onnx")
    command = next(c for c in COMMANDS if c in LOCAL)
    assert "rewrite error" in shell(command, tmp_path)
    assert (tmp_path / "model.pruned.onnx").exists()


#: What the page says of each model: percent right, which differs a little from machine to machine.
RIGHT = {
    "lenet5.onnx": 98.2, "smallest.onnx": 40.3, "sparse.onnx": 96.8, "bits.onnx": 97.2, "few.onnx": 97.1,
    "integers.onnx": 97.1,
}  # fmt: skip


@pytest.mark.slow
def test_lenet5_from_floats_to_integers(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "lenet5.md").read_text(encoding="utf-8")
    shutil.copy(ROOT / "examples" / "lenet5.py", tmp_path)
    printed = {command: shell(command, tmp_path) for command in LENET}
    found = {n: float(share) for n, share in re.findall(r"(\S+): ([\d.]+) % right", "".join(printed.values()))}
    assert found.keys() == RIGHT.keys()
    for name, percent in RIGHT.items():
        assert f"{percent} %" in page
        assert found[name] == pytest.approx(percent, abs=10 if name == "smallest.onnx" else 2), name
    sizes = {n: (tmp_path / n).stat().st_size for n in ("lenet5.onnx", "bits.onnx", "few.onnx")}
    assert sizes["lenet5.onnx"] // 1000 == 178
    assert sizes["bits.onnx"] < 52_000
    assert sizes["few.onnx"] < 32_000 or not TAKES_ALL  # types of few bits came later
    (layers,) = (text for command, text in printed.items() if command.startswith("onnxprune sparsity"))
    share = {name: float(of) for name, of in re.findall(r"^(\w+) .* ([\d.]+) %", layers, re.MULTILINE)}
    assert share["fc3"] == pytest.approx(94, abs=2)
    assert share["conv1"] == min(share[n] for n in ("conv1", "conv2", "fc3", "fc4", "fc5"))
    (gone,) = re.findall(r"^fc3 .* (\d+) of 120", layers, re.MULTILINE)
    assert 20 < int(gone) < 45
    (left,) = (text for command, text in printed.items() if "coo.npz" in command)
    assert 1500 < int(left.split(" of ")[0]) < 2200
    assert not {"FLOAT", "DOUBLE"} & kinds_of(onnx.load(tmp_path / "integers.onnx"))


def kinds_of(model: onnx.ModelProto) -> set[str]:
    """Names of the element types in a graph, as inference has them."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    typed = [v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)]
    return {onnx.TensorProto.DataType.Name(k) for k in (*typed, *(t.data_type for t in graph.initializer))}


def _words(line: str) -> str:
    return re.sub(r"[-\d.]+(e-\d+)?( \d+)*|\s+", " ", line).strip()


@pytest.mark.models
def test_first_real_run_prints_what_the_readme_shows(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (16, 12, 16, 3), np.uint8)):
        Image.fromarray(pixels).resize((400, 300)).save(tmp_path / "photos" / f"{index}.jpg")
    printed = "".join(shell(command, tmp_path) for command in DOWNLOADED)
    shown = [
        line for kind, text in BLOCKS[README] if kind == "text" for line in text.splitlines() if line not in ("", "...")
    ]
    # What rounding decides, errors, which of two equal plans is taken and how many solutions are kept, differs from
    # machine to machine.
    assert [line for line in shown if _words(line) not in map(_words, printed.splitlines())] == []
    counted = [line for line in shown if re.search("0 of them lossless|64 of 64|18 of 18", line)]
    assert len(counted) == 3
    assert [line for line in counted if line not in printed] == []
    assert "output error" in printed


def test_the_chinese_readme_shows_the_same_blocks_and_pages() -> None:
    chinese, english = (page.read_text(encoding="utf-8") for page in (CHINESE, README))
    assert BLOCK.findall(chinese) == BLOCK.findall(english)
    pages = [set(re.findall(r"\]\((docs/[^)]*)\)", text)) for text in (chinese, english)]
    assert pages[0] == pages[1]
    assert len(re.findall("^## ", chinese, re.MULTILINE)) == len(re.findall("^## ", english, re.MULTILINE))


@pytest.mark.parametrize("page", [*PAGES, CHINESE, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_links_lead_to_something(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)[#)]", page.read_text(encoding="utf-8"))
    assert [t for t in targets if not (page.parent / t).exists()] == []


def test_every_option_of_prune_is_explained() -> None:
    explained = set(re.findall(r"(?<![\w-])--[\w-]+", (ROOT / "docs" / "options.md").read_text(encoding="utf-8")))
    options = [p for p in prune.params if isinstance(p, click.Option)]
    names = {name for o in options for name in (*o.opts, *o.secondary_opts) if name.startswith("--")}
    assert names - explained == set()


def anchors(page: Path) -> set[str]:
    """What a link into ``page`` may name: its headings, as GitHub and as the site write them."""
    headings = re.findall(r"^#+ (.+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return {re.sub(pattern, "-", text) for text in plain for pattern in (r"\s", r"[-\s]+")}


@pytest.mark.parametrize("page", [*PAGES, CHINESE, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_links_into_a_page_name_one_of_its_headings(page: Path) -> None:
    links = re.findall(r"\]\(([^):#]*)#([^)]*)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if link[1] not in anchors((page.parent / link[0]) if link[0] else page)] == []


def test_every_page_is_in_the_menu() -> None:
    menu = set(re.findall(r"([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert menu == {page.name for page in PAGES} - {"README.md"}
