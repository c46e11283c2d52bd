"""Options from a file: they are what the command line's would be, which wins; what is wrong is said with a way out."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from onnxprune.cli.commands.prune import prune
from tests.commands import SKIP, Run, assert_one_line, files_in, put, widths


@pytest.fixture(autouse=True)
def here(chain: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of CHAIN, which the command runs in."""
    monkeypatch.chdir(chain.parent)
    return chain.parent


def written(folder: Path, text: str, name: str = "onnxprune.toml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@dataclass(frozen=True)
class Options:
    """A file, and the options that do the same."""

    text: str
    args: Sequence[object]

    def __str__(self) -> str:
        return " ".join(map(str, self.args))


ALIKE = (
    Options("ratio = 0.5", ["--ratio", 0.5]),
    Options("ratio = 0.25\nalign = 16", ["--ratio", 0.25, "--align", 16]),
    Options('exclude = "Conv:a"', ["--exclude", "Conv:a"]),
    Options('exclude = ["Conv:a", "c"]', ["--exclude", "Conv:a", "--exclude", "c"]),
    Options('ratio-for = ["Conv:a=0.75"]', ["--ratio-for", "Conv:a=0.75"]),
    Options('budget = "macs=0.5"', ["--budget", "macs=0.5"]),
    Options('importance = "random"\nseed = 3', ["--importance", "random", "--seed", 3]),
    Options("fuse-bn = false\nlossless = true", ["--no-fuse-bn", "--lossless"]),
    Options('input-shape = ["x:1,3,8,8"]\ncheck-n = 1', ["--input-shape", "x:1,3,8,8", "--check-n", 1]),
    Options(
        'data = "x.npy"\nsamples = 4\nmean = [1, 2, 3]\nstd = 2.5\nimportance = "activation"',
        ["--data", "x.npy", "--samples", 4, "--mean", "1,2,3", "--std", 2.5, "--importance", "activation"],
    ),
)


@pytest.mark.parametrize("row", ALIKE, ids=str)
def test_options_in_a_file_do_what_they_do_on_the_command_line(run: Run, here: Path, row: Options) -> None:
    np.save("x.npy", np.random.default_rng(0).integers(0, 255, (6, 3, 8, 8)).astype(np.uint8))
    assert run("chain.onnx", *row.args, "-o", "by-args.onnx", "--save-plan", "args.json").code == 0
    written(here, row.text)
    outcome = run("chain.onnx", "-o", "by-file.onnx", "--save-plan", "file.json")
    assert outcome.code == 0
    assert outcome.out.startswith("options: onnxprune.toml\n")
    assert Path("by-args.onnx").read_bytes() == Path("by-file.onnx").read_bytes()
    assert Path("args.json").read_bytes() == Path("file.json").read_bytes()


def test_the_command_line_wins(run: Run, here: Path) -> None:
    written(here, "ratio = 0.5\nalign = 4\nquiet = true")
    assert run("chain.onnx", "--ratio", 0.25).out == ""
    assert widths(Path("chain.pruned.onnx")) == [12, 24, 4]


@pytest.mark.parametrize(
    ("text", "args", "wanted"),
    [
        ('budget = "macs=0.5"', ["--ratio", 0.25], ["--ratio", 0.25]),
        ("ratio = 0.25", ["--budget", "macs=0.5"], ["--budget", "macs=0.5"]),
        ('ratio = 0.25\n[[model]]\npath = "chain.onnx"\nbudget = "macs=0.5"', [], ["--budget", "macs=0.5"]),
        ('budget = "macs=0.5"\n[[model]]\npath = "chain.onnx"\nratio = 0.25', [], ["--ratio", 0.25]),
        (
            'metric = "kl"\nmax-drop = 0.1\nevaluations = 3\ntrials = "t.jsonl"\njobs = 2\ndata = "none"',
            ["--ratio", 0.5],
            ["--ratio", 0.5, "--data", "none"],
        ),
        ('ratio = 0.5\njobs = 2\ndata = "none"', [], ["--ratio", 0.5, "--data", "none"]),
    ],
)
def test_of_a_ratio_and_a_budget_the_nearer_one_counts(
    run: Run, here: Path, text: str, args: list[object], wanted: list[object]
) -> None:
    assert run("chain.onnx", *wanted, "-o", "wanted.onnx").code == 0
    written(here, text)
    assert run("chain.onnx", *args, "-o", "got.onnx").code == 0
    assert Path("got.onnx").read_bytes() == Path("wanted.onnx").read_bytes()


def test_a_ratio_and_a_budget_in_one_place_are_an_error(run: Run, here: Path) -> None:
    assert_one_line(run("chain.onnx", "--ratio", 0.5, "--budget", "macs=0.5").err, "--budget", "instead of --ratio")
    written(here, 'ratio = 0.5\nbudget = "macs=0.5"')
    assert_one_line(run("chain.onnx").err, "--budget", "instead of --ratio")


def test_pyproject_has_a_table_and_another_file_can_be_named(run: Run, here: Path) -> None:
    written(here, "[project]\nname = 'x'\n[tool.onnxprune]\nratio = 0.5", "pyproject.toml")
    run("chain.onnx")
    assert widths(Path("chain.pruned.onnx")) == [8, 16, 4]
    named = written(here, "ratio = 0.25", "other.toml")
    assert "options: other.toml" in run("chain.onnx", "--config", named.name).out
    assert widths(Path("chain.pruned.onnx")) == [12, 24, 4]
    written(here, "ratio = 0", "onnxprune.toml")  # goes before pyproject.toml
    run("chain.onnx")
    assert widths(Path("chain.pruned.onnx")) == [16, 32, 4]


def test_a_pyproject_without_our_table_is_none(run: Run, here: Path) -> None:
    named = written(here, "[tool.other]\nx = 1", "pyproject.toml")
    assert "options:" not in run("chain.onnx").out
    assert_one_line(run("chain.onnx", "--config", named).err, "[tool.onnxprune]")


TWO = """ratio = 0.5
check-n = 1
[[model]]
path = "chain.onnx"
output = "a.onnx"
[[model]]
path = "skip.onnx"
ratio = 0.25
input-shape = ["x:1,3,20,12"]
"""


def test_every_model_in_the_file_is_pruned_with_its_own_options(run: Run, here: Path) -> None:
    put(here / "skip.onnx", SKIP)
    written(here, TWO, "ci.toml")
    outcome = run("--config", "ci.toml")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.index("== chain.onnx") < outcome.out.index("== skip.onnx")
    assert "x:1,3,20,12" in outcome.out
    assert widths(Path("a.onnx")) == [8, 16, 4]
    assert Path("skip.pruned.onnx").exists()


def test_one_of_them_is_pruned_with_its_options(run: Run, here: Path) -> None:
    written(here, TWO, "ci.toml")
    assert run("chain.onnx", "--config", "ci.toml", "--ratio", 0.75).code == 0
    assert widths(Path("a.onnx")) == [4, 8, 4]
    assert not Path("skip.pruned.onnx").exists()


def test_a_model_that_fails_does_not_stop_the_others(run: Run, here: Path) -> None:
    put(here / "skip.onnx", SKIP)
    written(here, TWO.replace('"a.onnx"\n', '"a.onnx"\nrequire = ["macs<=0.1"]\n'), "ci.toml")
    outcome = run("--config", "ci.toml")
    assert outcome.code == 1
    assert_one_line(outcome.err, "chain.onnx: --require macs<=0.1")
    assert not Path("a.onnx").exists()
    assert Path("skip.pruned.onnx").exists()


def test_every_option_may_be_in_the_file() -> None:
    from onnxprune.cli.config_file import _flag  # noqa: PLC0415

    flags = {_flag(p) for p in prune.params}
    assert {"ratio", "align", "exclude", "require", "junit", "json", "save-plan", "compensate", "quiet"} <= flags


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("aling = 4", ["unknown key 'aling'", "did you mean align"]),
        ("zzz = 4", ["unknown key 'zzz'", "known: output, ratio"]),
        ('[[model]]\npath = "chain.onnx"\nratoi = 1', ["model 1: unknown key 'ratoi'", "ratio"]),
        ("[[model]]\nratio = 1", ["model 1: has no path"]),
        ('model = "chain.onnx"', ["not a list of tables"]),
        ("fuse-bn = 1", ["'fuse-bn' is true or false, not 1"]),
        ("ratio = true", ["'ratio' is a value, not True"]),
        ('ratio = "much"', ["--ratio", "much"]),
        ("ratio = 2.0", ["--ratio"]),
        ("ratio =", ["onnxprune.toml: cannot read the options"]),
        ('[[model]]\npath = "none.onnx"', ["none.onnx", "No such file"]),
        ('output = "x.onnx"\n[[model]]\npath = "chain.onnx"\n[[model]]\npath = "b.onnx"', ["--output names one file"]),
        ("ratio = 0.5", ["Missing argument 'MODEL'"]),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_one_line(run: Run, here: Path, text: str, says: list[str]) -> None:
    written(here, text)
    before = files_in(here)
    outcome = run("prune", "-q") if "model" in text or text == "ratio = 0.5" else run("chain.onnx", "-q")
    assert outcome.code == 2
    assert_one_line(outcome.err, *says)
    assert files_in(here) == before


def test_a_file_that_is_missing_is_said(run: Run) -> None:
    outcome = run("--config", "none.toml")
    assert outcome.code == 2
    assert_one_line(outcome.err, "none.toml", "No such file")


# --- other commands -------------------------------------------------------------------------------------------------

MORE = """
exclude = ["Conv:a"]
target = "rk3588"
ratio = 0.5
check-n = 0
json = "plan.json"
mean = [1, 2, 3]
[[model]]
path = "skip.onnx"
output = "small.onnx"
input-shape = ["x:1,3,20,12"]
exclude = []
"""


def test_other_commands_take_what_is_as_true_there(run: Run, here: Path) -> None:
    put(here / "skip.onnx", SKIP)
    put(here / "small.onnx", SKIP)
    written(here, MORE)
    outcome = run("inspect", "chain.onnx")
    assert outcome.out.startswith("options: onnxprune.toml\n")
    assert "is excluded by 'Conv:a'" in outcome.out
    assert "is excluded" not in run("inspect", "chain.onnx", "--exclude", "nothing").out  # the command line wins
    assert "rk3588" in run("advise", "chain.onnx").out
    for model in ("skip.onnx", "small.onnx"):  # what is pruned, and what comes of it
        outcome = run("inspect", model)
        assert "x:1,3,20,12" in outcome.out
        assert "is excluded" not in outcome.out
    outcome = run("diff", "skip.onnx", "small.onnx")
    assert (outcome.code, outcome.err) == (0, "")
    assert "3 random inputs of x:1,3,20,12" in outcome.out
    assert not Path("plan.json").exists()
    assert_one_line(run("rknn", "none.onnx").err, "none.onnx")  # it knows its target


def test_diff_reads_calibration_data_as_prune_does(run: Run, here: Path) -> None:
    np.save("x.npy", np.random.default_rng(0).integers(0, 255, (6, 3, 8, 8)).astype(np.uint8))
    written(here, 'data = "x.npy"\nsamples = 4\nmean = [1, 2, 3]\nstd = 2.5')
    assert "on 4 samples of x:1,3,8,8" in run("diff", "chain.onnx", "chain.onnx").out


def test_a_file_can_be_named_for_them_too_and_what_is_wrong_in_it_is_said(run: Run, here: Path) -> None:
    written(here, "nonsense = 1")
    for command in (["inspect", "chain.onnx"], ["advise", "chain.onnx"], ["diff", "chain.onnx", "chain.onnx"]):
        outcome = run(*command)
        assert outcome.code == 2
        assert_one_line(outcome.err, "unknown key 'nonsense'")
    written(here, "ratio = 0.5", "other.toml")
    outcome = run("inspect", "chain.onnx", "--config", "other.toml")
    assert outcome.code == 0
    assert "options:" not in outcome.out  # nothing of it is for this command
    assert_one_line(run("inspect", "chain.onnx", "--config", "none.toml").err, "none.toml")


@pytest.mark.parametrize("key", ["data", "importance"])
@pytest.mark.parametrize("place", ["for all", "for a model"])
def test_code_that_a_file_names_is_not_run(
    run: Run, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, place: str
) -> None:
    """A file of options may come with a pull request: code in it is the command line's to allow."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "foreign_code", raising=False)
    said = f'{key} = "foreign_code:run"\n'
    text = said if place == "for all" else f'[[model]]\npath = "{chain}"\n{said}'
    (tmp_path / "onnxprune.toml").write_text(text, encoding="utf-8")
    (tmp_path / "foreign_code.py").write_text("open('ran', 'w').close()\n", encoding="utf-8")
    commands: list[list[object]] = [["-q"], ["prune", chain, "-q"], ["inspect", chain], ["diff", chain, chain]]
    for command in commands if place == "for all" else commands[1:2]:
        outcome = run(*command)
        assert outcome.code == 2
        assert_one_line(outcome.err, "onnxprune.toml", key, "foreign_code:run", "--trust-config")
    assert not (tmp_path / "ran").exists()
    run("prune", "--trust-config", chain, "-q")
    assert (tmp_path / "ran").exists()
