"""What runs onnxprune in other people's pipelines is executed here, as far as it can be without their services."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml

from tests.commands import CHAIN, put, widths
from tests.test_wheel import PARTS, copied

ROOT = Path(__file__).parents[1]
PIPELINE = ROOT / "examples" / "pipeline"

#: pip without an index: what the actions install is built from the tree, with what is installed.
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs PyTorch to export a model")


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def bash(script: str, folder: Path, environment: Mapping[str, str], *, check: bool = True) -> int:
    """As GitHub and GitLab run a step, with this interpreter as ``python``."""
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.returncode


class Runner:
    """GitHub's side of a composite action: expressions, the files that steps write to, and outputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary, self.written = folder / "summary.md", folder / "outputs.txt"
        self.written.touch()
        self.site = folder / "site"  # stands for the runner's environment, which must not be this one

    def steps_outputs(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.written.read_text(encoding="utf-8").splitlines())

    def filled(self, text: str, inputs: Mapping[str, str]) -> str:
        """``text`` with its expressions evaluated: inputs and step outputs are all that is used."""

        def value(found: re.Match[str]) -> str:
            kind, _, name = found[1].strip().partition(".")
            return inputs[name] if kind == "inputs" else self.steps_outputs().get(name.rpartition(".")[2], "")

        return re.sub(r"\$\{\{(.*?)\}\}", value, text)

    def run(self, action: Path, given: Mapping[str, str], *, check: bool = True) -> dict[str, str]:
        """Run the action in ``folder``; its outputs."""
        described = read(action / "action.yml")
        unknown = set(given) - set(described["inputs"])
        assert not unknown
        inputs = {name: str(given.get(name, about["default"])) for name, about in described["inputs"].items()}
        environment = {
            "GITHUB_ACTION_PATH": str(action),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "GITHUB_OUTPUT": str(self.written),
            "PIP_TARGET": str(self.site),
            "PYTHONPATH": str(self.site),
            **OFFLINE,
        }
        for step in described["runs"]["steps"]:
            assert step["shell"] == "bash"
            own = {n: self.filled(v, inputs) for n, v in step.get("env", {}).items()}
            folder = self.folder / self.filled(step.get("working-directory", "."), inputs)
            self.code = bash(step["run"], folder, {**environment, **own}, check=check)
        return {n: self.filled(o["value"], inputs) for n, o in described["outputs"].items()}


@pytest.fixture(scope="module")
def action(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What GitHub checks out for the action."""
    return copied((*PARTS, "action.yml"), tmp_path_factory.mktemp("action") / "tree")


def yaml_of(document: Path) -> list[str]:
    """The YAML blocks of a Markdown document."""
    return re.findall(r"```yaml\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)


def test_the_action_installs_prunes_and_gives_outputs(action: Path, tmp_path: Path) -> None:
    put(tmp_path / "a model.onnx", CHAIN)
    runner = Runner(tmp_path)
    outputs = runner.run(action, {"model": "a model.onnx", "args": "--ratio 0.5 --exclude Conv:a* --require macs<=0.9"})
    assert (runner.site / "onnxprune" / "__init__.py").exists()
    assert outputs["model"] == "a model.pruned.onnx"
    assert widths(tmp_path / outputs["model"]) == [16, 16, 4]
    report = json.loads((tmp_path / outputs["report"]).read_text(encoding="utf-8"))
    assert outputs["macs"] == str(report["macs"]["ratio"])
    assert outputs["parameters"] == str(report["parameters"]["ratio"])
    assert "testsuite" in (tmp_path / outputs["junit"]).read_text(encoding="utf-8")
    assert "### onnxprune: a model.onnx" in runner.summary.read_text(encoding="utf-8")


def test_the_step_that_the_readme_shows_runs(action: Path, tmp_path: Path) -> None:
    block, _ = yaml_of(ROOT / "docs" / "pipelines.md")
    ((step,),) = [yaml.safe_load(block)]
    put(tmp_path / "model.onnx", CHAIN)
    Runner(tmp_path).run(action, step["with"])
    assert widths(tmp_path / "model.pruned.onnx") == [8, 16, 4]


@pytest.mark.slow
def test_the_action_fails_where_a_gate_does_and_still_tells(action: Path, tmp_path: Path) -> None:
    put(tmp_path / "chain.onnx", CHAIN)
    runner = Runner(tmp_path)
    outputs = runner.run(action, {"model": "chain.onnx", "args": "--require macs<=0.1"}, check=False)
    assert runner.code == 1
    assert not (tmp_path / outputs["model"]).exists()
    assert "failure" in (tmp_path / outputs["junit"]).read_text(encoding="utf-8")
    assert "❌" in runner.summary.read_text(encoding="utf-8")
    assert outputs["macs"] == ""


@pytest.mark.slow
def test_the_action_takes_a_file_of_options_elsewhere(action: Path, tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    put(tmp_path / "inner" / "chain.onnx", CHAIN)
    (tmp_path / "inner" / "ci.toml").write_text('ratio = 0.5\n[[model]]\npath = "chain.onnx"\n', encoding="utf-8")
    Runner(tmp_path).run(action, {"config": "ci.toml", "working-directory": "inner"})
    assert widths(tmp_path / "inner" / "chain.pruned.onnx") == [8, 16, 4]


def test_the_gitlab_template_prunes_and_reports(tmp_path: Path) -> None:
    put(tmp_path / "chain.onnx", CHAIN)
    job = read(PIPELINE / "gitlab.yml")[".onnxprune"]
    install, *script = job["script"]
    assert install.startswith("python -m pip install")  # an index is needed: not run
    given = {"ONNXPRUNE_MODEL": "chain.onnx", "ONNXPRUNE_ARGS": "--ratio 0.5 --align 4"}
    assert set(given) < set(job["variables"])
    bash("\n".join(script), tmp_path, given)
    for made in (*job["artifacts"]["paths"], job["artifacts"]["reports"]["junit"]):
        assert (tmp_path / made).exists()
    assert widths(tmp_path / "pruned.onnx") == [8, 16, 4]


def test_who_hosts_it_is_one_placeholder_that_is_explained() -> None:
    named = [*yaml_of(ROOT / "docs" / "pipelines.md"), *(p.read_text(encoding="utf-8") for p in PIPELINE.glob("*.yml"))]
    assert len(named) == 4
    for text in named:
        assert len(re.findall(r"OWNER/onnxprune(?:@v0|\n +rev: v0)\b", text)) == 1
    told = " ".join((ROOT / "docs" / "pipelines.md").read_text(encoding="utf-8").split())
    assert told.count("replace `OWNER` by the account that hosts the repository, and `v0` by a tag or commit") == 1


def test_the_pre_commit_configuration_that_is_shown_names_the_hook() -> None:
    _, block = yaml_of(ROOT / "docs" / "pipelines.md")
    ((shown,),) = [repo["hooks"] for repo in yaml.safe_load(block)["repos"]]
    (hook,) = read(ROOT / ".pre-commit-hooks.yaml")
    assert shown["id"] == hook["id"]


@pytest.mark.slow
def test_the_pre_commit_hook_fails_where_a_gate_does(tmp_path: Path) -> None:
    (hook,) = read(ROOT / ".pre-commit-hooks.yaml")
    put(tmp_path / "chain.onnx", CHAIN)
    assert re.search(hook["files"], "models/chain.onnx")
    for limit, code in ((0.9, 0), (0.1, 1)):
        text = f'require = ["macs<={limit}"]\n[[model]]\npath = "chain.onnx"\n'
        (tmp_path / "onnxprune.toml").write_text(text, encoding="utf-8")
        assert bash(hook["entry"], tmp_path, {}, check=False) == code
    assert sorted(p.name for p in tmp_path.iterdir()) == ["chain.onnx", "onnxprune.toml"]


@pytest.mark.torch
@needs_torch
def test_the_github_workflow_runs_from_export_to_outputs(action: Path, tmp_path: Path) -> None:
    shutil.copy(PIPELINE / "export.py", tmp_path)
    runner = Runner(tmp_path)
    for step in read(PIPELINE / "github.yml")["jobs"]["prune"]["steps"]:
        if step.get("uses", "").startswith("OWNER/onnxprune@"):
            runner.run(action, step["with"])
        elif "run" in step and "pip install" not in step["run"]:
            bash(runner.filled(step["run"], {}), tmp_path, {})
    assert (tmp_path / "small.onnx").exists()


@pytest.mark.rknn
@needs_torch
def test_the_pipeline_goes_from_pytorch_to_rknn(tmp_path: Path) -> None:
    for name in ("export.py", "onnxprune.toml", "pipeline.sh"):
        shutil.copy(PIPELINE / name, tmp_path)
    elsewhere = os.environ.get("ONNXPRUNE_RKNN_PYTHON", "")
    bash("./pipeline.sh", tmp_path, {"RKNN_PYTHON": elsewhere})
    assert {"net.rknn", "net.pruned.onnx", "net.json", "net.xml"} <= {p.name for p in tmp_path.iterdir()}
    first = onnx.load(tmp_path / "net.pruned.onnx").graph.initializer[0]
    assert first.dims[0] % 16 == 0
