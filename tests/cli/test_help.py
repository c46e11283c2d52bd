"""Finding one's way: help in sections, names that are nearly right, completion, and what is installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from onnxprune.calibration.data_options import DEFAULT_SAMPLES
from onnxprune.cli import help_sections as sections
from onnxprune.cli import main as cli
from onnxprune.cli.commands.prune import prune
from tests.commands import Run, assert_one_line

ROOT = Path(__file__).parents[2]


def test_the_ten_most_used_options_come_first_and_every_option_comes_once(run: Run) -> None:
    text = run("prune", "--help").out
    assert re.findall(r"^(\S.*):$", text, re.MULTILINE) == [*sections.PRUNE, "Others"]
    rows = re.findall(r"^  (?:-\w, )?--([\w-]+)", text, re.MULTILINE)
    assert len(sections.PRUNE["Most used"]) == 10
    assert rows[:4] == ["output", "ratio", "budget", "target"]
    options = [p for p in prune.params if isinstance(p, click.Option)]
    assert sorted(rows) == sorted([*(next(o[2:] for o in p.opts if o[:2] == "--") for p in options), "help"])


def test_the_list_of_commands_says_what_each_says_of_itself() -> None:
    modules = {p.stem for p in (ROOT / "onnxprune/cli/commands").glob("*.py")} - {"__init__"}
    assert list(cli.COMMANDS) == sorted(modules)
    for name, line in cli.COMMANDS.items():
        command = cli.cli.get_command(click.Context(cli.cli), name)
        assert command is not None
        assert str(command.help).split("\n\n")[0].replace("\n", " ") == line


def test_help_imports_no_command() -> None:
    code = "import sys; from onnxprune.cli import main; main.cli.main(['--help'], standalone_mode=False)"
    code += "; print([m for m in sys.modules if 'cli.commands.' in m or m in ('numpy', 'onnx')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_command_line_takes_as_many_samples_as_the_library() -> None:
    (option,) = (p for p in prune.params if p.name == "samples")
    assert option.default is None
    assert f"[default: {DEFAULT_SAMPLES}," in str(option.help)


@dataclass(frozen=True)
class Misspelt:
    """What is nearly a name, and what is said."""

    args: Sequence[str]
    says: str

    def __str__(self) -> str:
        return " ".join(self.args)


MISSPELT = (
    Misspelt(["inspct", "chain.onnx"], "there is no command and no file 'inspct' (did you mean inspect?)"),
    Misspelt(["quack", "chain.onnx"], "there is no command and no file 'quack' (commands: advise, "),
    Misspelt(["chain.onnx", "--ratoi", "0.3"], "--ratio"),
    Misspelt(["chain.onnx", "--exclude", "Conb:a*"], "no node or tensor matches 'Conb:a*' (did you mean Conv:a"),
    Misspelt(["chain.onnx", "--ratio-for", "Reul:b=0.5"], "did you mean Relu:b"),
    Misspelt(["chain.onnx", "--exclude", "zzz"], "onnxprune inspect lists the names"),
    Misspelt(["chain.onnx", "--importance", "fgpm"], "did you mean fpgm?"),
    Misspelt(["chain.onnx", "--importance", "zzz"], "l1, l2, fpgm"),
    Misspelt(["chain.onnx", "--budget", "mac=0.5"], "did you mean macs?"),
    Misspelt(["chain.onnx", "--require", "parms<=0.5"], "did you mean params"),
    Misspelt(["chain.onnx", "--input-shape", "image:1,3,8,8"], "inputs: x"),
    Misspelt(["advise", "chain.onnx", "--target", "rk3855"], "did you mean rk3588"),
)


@pytest.mark.parametrize("row", MISSPELT, ids=str)
def test_a_name_that_is_nearly_right_is_answered_with_the_right_one(
    run: Run, chain: Path, monkeypatch: pytest.MonkeyPatch, row: Misspelt
) -> None:
    monkeypatch.chdir(chain.parent)
    outcome = run(*row.args)
    assert outcome.code == 2
    assert_one_line(outcome.err, row.says)


@pytest.mark.parametrize("command", ["advise", "rknn"])
def test_a_target_that_is_missing_is_asked_for(run: Run, chain: Path, command: str) -> None:
    outcome = run(command, chain)
    assert outcome.code == 2
    assert_one_line(outcome.err, "Missing option '--target'", f"{command} --help")


@pytest.mark.parametrize("command", ["prune", "inspect", "sparsity", "sensitivity"])
def test_a_model_without_a_name_is_no_file(run: Run, command: str) -> None:
    outcome = run(command, "")
    assert outcome.code == 2
    assert_one_line(outcome.err, "cannot read the model")


def test_help_loads_nothing_heavy() -> None:
    start = "import sys; from onnxprune.cli.main import main"
    code = start + "\ntry: main(['{}--help'])\nexcept SystemExit: print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code.format("")], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "onnxprune.cli.main" in modules
    assert not {"numpy", "onnx", "onnxruntime", "scipy", "networkx", "rich", "tomllib", "importlib.metadata"} & modules


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "offers"),
    [
        (["chain.onnx", "--rati"], ["--ratio", "--ratio-for"]),
        (["chain.onnx", "--scope", ""], ["group", "global", "cost"]),
        (["ins"], ["inspect"]),
        (["diff", "a.onnx", "b.onnx", "--min-"], ["--min-cosine", "--min-snr"]),
    ],
    ids=str,
)
def test_bash_completes(words: list[str], offers: list[str]) -> None:
    shown = (ROOT / "docs" / "pipelines.md").read_text("utf-8")
    (line,) = re.findall(r"^eval .*_COMPLETE=bash_source.*$", shown, re.MULTILINE)
    given = " ".join(f"'{w}'" for w in ["onnxprune", *words])
    script = f"""compopt() {{ :; }}  # bash's own, which is refused outside of a completion
{line}
COMP_WORDS=({given}) COMP_CWORD={len(words)}
_onnxprune_completion onnxprune; printf '%s\\n' "${{COMPREPLY[@]}}" """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == offers


def test_a_file_may_stand_where_a_command_does() -> None:
    context = cli.cli.make_context("onnxprune", [], resilient_parsing=True)
    assert {"inspect", "doctor"} <= {item.value for item in cli.cli.shell_complete(context, "")}
    assert [item.type for item in cli.cli.shell_complete(context, "mod")] == ["file"]


def test_doctor_says_what_is_installed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "onnxprune.toml").write_text("ratio = 0.5\n", encoding="utf-8")
    outcome = run("doctor", "--python", sys.executable, "--json", "d.json")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads((tmp_path / "d.json").read_text(encoding="utf-8"))
    assert {"python", "onnxprune", "onnx", "onnxruntime", "numpy"} <= found["versions"].keys()
    assert "CPUExecutionProvider" in found["providers"]
    assert found["toolkit"]["version"] or "rknn-toolkit2" in found["toolkit"]["problem"]
    assert "rk3588" in {t["name"] for t in found["targets"]}
    assert found["config"] == "onnxprune.toml"
    for part in ("onnxruntime", "CPUExecutionProvider", "rknn-toolkit2", "onnxprune.toml", "targets: "):
        assert part in outcome.out


def test_doctor_says_once_that_there_is_no_toolkit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    out = run("doctor").out
    assert "rknn-toolkit2      is not installed in this environment" in out


def test_doctor_says_that_an_interpreter_cannot_be_run(run: Run, tmp_path: Path) -> None:
    outcome = run("doctor", "--python", tmp_path / "none")
    assert outcome.code == 0
    assert "cannot be run" in outcome.out
