"""The options that say which channels go."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from fixtures.build import unet
from tests.commands import CHAIN, NORM, SKIP, Run, put, weights, widths
from tests.models import build


@dataclass(frozen=True)
class Choice:
    """Options, and the widths of CHAIN (16, 32, 4) that they lead to."""

    name: str
    args: Sequence[object]
    widths: Sequence[int]

    def __str__(self) -> str:
        return self.name


CHOICES = (
    Choice("ratio-zero", ["--ratio", 0], [16, 32, 4]),
    Choice("exclude-node", ["--exclude", "Conv:a", "--ratio", 0.5], [16, 16, 4]),
    Choice("exclude-tensor", ["--exclude", "d", "--ratio", 0.5], [8, 32, 4]),
    Choice("exclude-weight", ["--exclude", "b0", "--ratio", 0.5], [16, 16, 4]),
    Choice("exclude-glob", ["--exclude", "Conv:[ac]", "--ratio", 0.5], [16, 32, 4]),
    Choice("exclude-twice", ["--exclude", "Conv:a", "--exclude", "c", "--ratio", 0.5], [16, 32, 4]),
    Choice("ratio-for", ["--ratio-for", "Conv:a=0.75", "--ratio", 0.25], [4, 24, 4]),
    Choice("ratio-for-last-wins", ["--ratio-for", "Conv:*=0.75", "--ratio-for", "c=0.5"], [4, 16, 4]),
    Choice("ratio-for-zero", ["--ratio-for", "Conv:a=0", "--ratio", 0.5], [16, 16, 4]),
    Choice("max-ratio", ["--ratio", 0.5, "--max-ratio", 0.25], [12, 24, 4]),
    Choice("at-least-one-stays", ["--ratio", 0.99], [1, 1, 4]),
    Choice("align", ["--ratio", 0.5, "--align", 4], [8, 16, 4]),
    Choice("align-rounds-over-the-network", ["--ratio", 0.25, "--align", 16], [16, 16, 4]),
    Choice("align-too-wide", ["--ratio", 0.5, "--align", 32], [16, 32, 4]),
    Choice("remove", ["--remove", "Conv:a=0,3,8-12"], [9, 32, 4]),
    Choice("remove-before-ratio", ["--remove", "Conv:a=0-9", "--ratio", 0.25], [6, 24, 4]),
    Choice("keep", ["--keep", "c=0-20", "--ratio", 0.5], [8, 21, 4]),
    Choice("outputs", ["--outputs", "c", "--ratio", 0.25], [12, 32]),
    Choice("keep-outputs", ["--keep-outputs", "y=0,2-3"], [16, 32, 3]),
)


@pytest.mark.parametrize("row", CHOICES, ids=str)
def test_options_lead_to_widths(run: Run, chain: Path, tmp_path: Path, row: Choice) -> None:
    outcome = run(chain, *row.args, "-o", tmp_path / "out.onnx", "--check-n", 1)
    assert outcome.code == 0
    assert widths(tmp_path / "out.onnx") == row.widths


def test_lossless_alone_leaves_what_nobody_misses_out(run: Run, tmp_path: Path) -> None:
    proto = build(CHAIN)
    for tensor, gone in ((proto.graph.initializer[0], 2), (proto.graph.initializer[2], 5)):
        array = numpy_helper.to_array(tensor).copy()
        array[:gone] = 0
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(proto, tmp_path / "dead.onnx")

    done = run(tmp_path / "dead.onnx", "--lossless", "--json", tmp_path / "report.json")

    assert done.code == 0
    assert "lossless: 7 of the 7 removed channels were dead or constant" in done.out
    assert widths(tmp_path / "dead.pruned.onnx") == [14, 27, 4]
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["lossless"], report["asked"], report["options"]["ratio"]) == (7, 0, 0)
    assert report["proof"]["pruning"][0]["relative"] <= 1e-5
    assert "48 prunable channels in 2 groups, 7 of them lossless" in run("inspect", tmp_path / "dead.onnx").out


def test_lossless_with_a_ratio_removes_more(run: Run, chain: Path, tmp_path: Path) -> None:
    done = run(chain, "--lossless", "--ratio", 0.5)
    assert done.code == 0
    assert "lossless: 0 of the 24 removed channels were dead or constant" in done.out
    assert widths(tmp_path / "chain.pruned.onnx") == [8, 16, 4]


def test_global_scope_ranks_over_the_network(run: Run, tmp_path: Path) -> None:
    proto = build(CHAIN)
    scaled = {"w0": np.repeat([1.0, 0.01], 8), "w1": np.repeat([1.0, 0.9], 16)}
    for tensor in proto.graph.initializer:
        if tensor.name in scaled:
            rows = scaled[tensor.name].astype(np.float32)
            filled = rows[:, None, None, None] * np.ones(tuple(tensor.dims), np.float32)
            tensor.CopyFrom(numpy_helper.from_array(filled, tensor.name))
    onnx.save(proto, tmp_path / "m.onnx")
    run(tmp_path / "m.onnx", "--scope", "global", "--ratio", 8 / 48, "-o", tmp_path / "out.onnx")
    assert widths(tmp_path / "out.onnx") == [8, 32, 4]
    assert np.array_equal(weights(tmp_path / "out.onnx")["w0"], weights(tmp_path / "m.onnx")["w0"][:8])


@pytest.mark.parametrize("align", [4, 16])
@pytest.mark.parametrize("scope", ["group", "global"])
def test_align_rounds_every_group_and_still_meets_the_ratio(run: Run, tmp_path: Path, align: int, scope: str) -> None:
    onnx.save(unet(fold_bn=True, size=32, base=16), tmp_path / "m.onnx")
    run(tmp_path / "m.onnx", "--align", align, "--scope", scope, "--check-n", 1, "--json", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    for group in report["groups"]:
        assert group["kept"] == group["width"] or group["kept"] % align == 0
        stays = group["width"] <= align
        assert bool(group["note"]) == stays
        assert not stays or group["kept"] == group["width"]
    short = abs(report["achieved"] - 0.3) * report["channels"]["before"]
    assert short <= align / 2
    before, after = weights(tmp_path / "m.onnx"), weights(tmp_path / "m.pruned.onnx")
    changed = {b for n in before for a, b in zip(before[n].shape, after[n].shape, strict=True) if a != b}
    assert changed
    assert not {width for width in changed if width % align}


def test_a_group_too_narrow_for_align_is_left_and_said_so(run: Run, chain: Path, tmp_path: Path) -> None:
    outcome = run(chain, "--align", 16, "--ratio", 0.5, "--json", tmp_path / "r.json")
    notes = {g["name"]: g["note"] for g in json.loads((tmp_path / "r.json").read_text())["groups"]}
    assert notes == {"Conv:a": "cannot be narrower and a multiple of 16: left as it is", "Conv:c": ""}
    assert notes["Conv:a"] in outcome.out


@pytest.mark.parametrize("importance", ["l1", "l2", "fpgm", "bn", "random"])
def test_every_importance_runs(run: Run, tmp_path: Path, importance: str) -> None:
    path = put(tmp_path / "m.onnx", NORM)
    assert run(path, "--importance", importance).code == 0
    assert weights(tmp_path / "m.pruned.onnx")["w0"].shape[0] == 11


def test_own_importance_is_found_in_the_current_folder(
    run: Run, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import numpy as np\n\n\ndef last_go(weights):\n    return -np.arange(weights.width)\n"
    (tmp_path / "own_scores.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert run(chain, "--importance", "own_scores:last_go", "--ratio", 0.5).code == 0
    assert np.array_equal(weights(tmp_path / "chain.pruned.onnx")["w0"], weights(chain)["w0"][:8])


def test_batch_normalization_is_folded_unless_told_otherwise(run: Run, tmp_path: Path) -> None:
    path = put(tmp_path / "m.onnx", NORM)
    run(path, "-o", tmp_path / "folded.onnx")
    run(path, "-o", tmp_path / "kept.onnx", "--no-fuse-bn")
    assert [n.op_type for n in onnx.load(tmp_path / "folded.onnx").graph.node] == ["Conv", "Conv"]
    assert [n.op_type for n in onnx.load(tmp_path / "kept.onnx").graph.node] == ["Conv", "BatchNormalization", "Conv"]


def test_dynamic_inputs_take_a_shape(run: Run, tmp_path: Path) -> None:
    path = put(tmp_path / "m.onnx", SKIP)
    outcome = run(path, "--input-shape", "x:1,3,20,12")
    assert outcome.code == 0
    assert "x:1,3,20,12" in outcome.out
    dims = onnx.load(tmp_path / "m.pruned.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param or d.dim_value for d in dims] == [1, 3, "H", "W"]
