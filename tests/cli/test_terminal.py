"""On a terminal tables have rules and colours, and stages times; in a pipe there are plain lines, always the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxprune.cli.printing import table_style
from tests.commands import FIXED, Run, put

pty = pytest.importorskip("pty", reason="pseudo-terminals are Unix's")

COLOUR = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-7]|38;[0-9;]+)m")


def on_terminal(*args: object, **environment: str) -> str:
    """What the command line writes to a terminal of 100 columns that is its output and its error."""
    own, other = pty.openpty()
    command = [sys.executable, "-m", "onnxprune", *map(str, args)]
    given = {n: v for n, v in os.environ.items() if n not in ("NO_COLOR", "FORCE_COLOR", "CI")}
    settings = {**given, "TERM": "xterm-256color", "COLUMNS": "100", **environment}
    process = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, env=settings)
    os.close(other)
    written = b""
    while True:
        try:
            piece = os.read(own, 1 << 16)
        except OSError:  # Linux's end of file
            break
        if not piece:
            break
        written += piece
    os.close(own)
    assert process.wait() == 0, written.decode()
    return written.decode()


def test_a_terminal_gets_rules_colours_and_the_time_of_each_stage(chain: Path) -> None:
    text = on_terminal(chain, "--ratio", 0.5)
    assert "────" in text
    assert COLOUR.search(text)
    for stage in ("analyse", "choose", "rewrite", "prove"):
        assert re.search(rf"{stage}\s+\d+\.\d s", text)
    for part in ("Conv:a", "50.0 %", "rewrite error", "written", "next"):
        assert part in text


def test_no_color_is_respected(chain: Path) -> None:
    text = on_terminal(chain, NO_COLOR="1")
    assert "────" in text
    assert not COLOUR.search(text)


def test_a_dumb_terminal_gets_no_escapes(chain: Path) -> None:
    assert "\x1b" not in on_terminal(chain, "--dry-run", TERM="dumb")


def test_quiet_is_silent_on_a_terminal_too(chain: Path) -> None:
    assert on_terminal(chain, "-q") == ""


@pytest.mark.parametrize("command", ["inspect", "diff", "targets"])
def test_other_commands_draw_tables_too(chain: Path, command: str) -> None:
    args = {"inspect": [chain], "diff": [chain, chain], "targets": []}[command]
    assert "────" in on_terminal(command, *args)


def test_a_pipe_gets_the_same_plain_lines_each_time(run: Run, chain: Path) -> None:
    first, second = (run(chain, "--ratio", 0.5) for _ in range(2))
    assert first == second
    assert first.err == ""
    lines = first.out.splitlines()
    assert lines[:3] == [
        "group   width  kept   asked  removed",
        "Conv:a     16     8  50.0 %   50.0 %",
        "Conv:c     32    16  50.0 %   50.0 %",
    ]
    assert lines[3:9] == [
        "",
        "                   before   after",
        "prunable channels      48      24  -50.0 %",
        "parameters            704     224  -68.2 %",
        "MACs               44 032  13 824  -68.6 %",
        lines[8],
    ]
    assert "\x1b" not in first.out


def test_a_pipe_is_told_of_each_stage_that_took_long(run: Run, chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_style, "LONG", 0.0)
    told = run(chain, "--dry-run")
    stages = [line.partition(": ") for line in told.err.splitlines()]
    assert [stage for stage, _, _ in stages][:4] == ["analyse", "choose", "rewrite", "prove"]
    assert all(re.fullmatch(r"\d+\.\d s", spent) for _, _, spent in stages)
    assert run(chain, "--dry-run", "-q").err == ""


def test_what_was_typed_is_told_beside_what_it_came_to(run: Run, chain: Path) -> None:
    told = run(chain, "--ratio", 0.3, "--importance", "l2", "--scope", "cost", "--dry-run").out
    assert re.search(
        r"removed: \d+\.\d\d % \(asked for: as many MACs as 30\.00 % of every group would save, from where", told
    )
    assert told.startswith("group   width  kept  removed")
    aligned = run(chain, "--ratio", 0.3, "--align", 8, "--dry-run").out
    assert re.search(r"removed: \d+\.\d\d % \(asked for 30\.00 %\)", aligned)


def test_the_last_line_says_what_is_to_be_done_next(run: Run, chain: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((6, 3, 8, 8)).astype(np.float32))
    data = ["--data", tmp_path / "x.npy", "--importance", "activation"]
    for args, says in (
        ([chain], "fine-tune it by its plan"),
        ([chain, "--dry-run"], "without --dry-run"),
        ([chain, *data], "measure its accuracy"),
        ([chain, *data, "--ratio", 0.9, "--no-compensate"], "output 'y' is as good as lost"),
        ([put(tmp_path / "m.onnx", FIXED)], "onnxprune inspect"),
    ):
        last = run(*args, "--check-n", 1).out.splitlines()[-1]
        assert last.startswith("next: ")
        assert says in last


@pytest.mark.parametrize("command", ["prune", "inspect", "diff", "sparsity", "advise"])
def test_names_out_of_a_file_forge_no_lines_and_no_colours(run: Run, chain: Path, command: str) -> None:
    forged = "x\nno error: 0.0e+00\x1b[2K\r"
    proto = onnx.load(chain)
    renamed = {"x": f"{forged}x", "y": forged, "w1": f"{forged}w1"}
    for index, node in enumerate(proto.graph.node):
        node.name = f"{forged}{index}"
        for names in (node.input, node.output):
            names[:] = [renamed.get(n, n) for n in names]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        value.name = renamed.get(value.name, value.name)
    onnx.save(proto, chain)
    args = {"prune": ("-v",), "inspect": ("-v",), "diff": (chain, "-v"), "advise": ("--target", "rk3588", "-v")}
    outcome = run(command, chain, *args.get(command, ()))
    assert outcome.code == 0
    assert "x\\nno error: 0.0e+00\\x1b[2K\\r" in outcome.out
    assert not [line for line in outcome.out.splitlines() if line.startswith("no error")]
    assert "\x1b" not in outcome.out
