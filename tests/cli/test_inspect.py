"""``onnxprune inspect``."""

from __future__ import annotations

import json
from pathlib import Path

from tests.commands import SKIP, Run, files_in, put


def test_inspect_lists_groups_and_what_is_held(run: Run, chain: Path, tmp_path: Path) -> None:
    outcome = run("inspect", chain, "--json", tmp_path / "i.json")
    assert outcome.code == 0
    assert "48 prunable channels in 2 groups" in outcome.out
    assert "is the graph output 'y'" in outcome.out
    found = json.loads((tmp_path / "i.json").read_text())
    assert found["format"] == "onnxprune-inspection"
    first = found["groups"][0]
    assert (first["name"], first["width"], first["nodes"]) == ("Conv:a", 16, ["Conv:a", "Relu:b", "Conv:c"])
    assert [(i["name"], i["axis"], i["size"], i["role"]) for i in first["initializers"]] == [
        ("w0", 0, 16, "out"),
        ("b0", 0, 16, "elementwise"),
        ("w1", 1, 16, "in"),
    ]
    assert first["parameters"] == 16 * 3 + 16 + 32 * 16
    assert first["macs"] == 64 * (16 * 3 + 32 * 16)
    assert [(h["node"], h["width"], h["held"]) for h in found["held"]] == [("Conv:y", 4, 4)]
    assert sorted(files_in(tmp_path)) == ["chain.onnx", "i.json"]


def test_inspect_takes_exclude_and_input_shape(run: Run, tmp_path: Path) -> None:
    path = put(tmp_path / "m.onnx", SKIP)
    out = run("inspect", path, "--exclude", "w0", "--input-shape", "x:1,3,8,8", "-v").out
    assert "0 prunable channels in 0 groups" in out
    assert "is excluded by 'w0'" in out
