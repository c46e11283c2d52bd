"""``--format`` on the command line, from a float model to what is written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from onnxprune import OptionError
from onnxprune.formats import arrays
from onnxprune.formats.integers import on_numpy
from tests.commands import Run


@pytest.fixture
def samples(chain: Path) -> Path:
    path = chain.with_name("d.npy")
    np.save(path, np.random.default_rng(0).standard_normal((24, 3, 8, 8)).astype(np.float32))
    return path


@pytest.mark.parametrize("name", ["sparse", "qdq", "qonnx", "integer"])
def test_a_model_of_integers(run: Run, chain: Path, samples: Path, name: str) -> None:
    out = chain.with_name("out.onnx")
    outcome = run("quantize", chain, "--data", samples, "--format", name, "-o", out)
    assert (outcome.code, outcome.err) == (0, "")
    model = onnx.load(out)
    onnx.checker.check_model(model)
    ops = {n.op_type for n in model.graph.node}
    assert {"qdq": "DequantizeLinear", "qonnx": "Quant", "integer": "ConvInteger", "sparse": "Conv"}[name] in ops


def test_a_folder_runs_on_numpy(run: Run, chain: Path, samples: Path) -> None:
    out = chain.with_name("arrays")
    options = ("quantize", chain, "--data", samples, "--format", "npy", "--rounding", "gemmlowp", "-o", out)
    for _ in range(2):  # the second time it is written over
        assert run(*options).code == 0
    files = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert json.loads(files["manifest.json"])["rounding"] == "gemmlowp"
    program = arrays.program_in(files)
    assert program is not None
    (name,) = program.inputs
    shape = tuple(d or 1 for d in program.inputs[name])
    assert set(on_numpy.run(program, {name: np.full(shape, 128)})) >= set(program.outputs)


def test_by_default_a_folder_has_no_ending(run: Run, chain: Path, samples: Path) -> None:
    assert run("quantize", chain, "--data", samples, "--format", "npy").code == 0
    assert (chain.with_name("chain.pruned") / "manifest.json").is_file()


def test_a_plan_that_leaves_all_layers_alone_is_written_as_it_was(run: Run, chain: Path) -> None:
    plan, first, again = (chain.with_name(n) for n in ("p.json", "a.onnx", "b.onnx"))
    options = ["--data", "none", "--format", "qonnx"]
    asked = ["--weights", 8, "--bits-for", "*=0"]
    assert run(chain, *asked, *options, "-o", first, "--save-plan", plan).code == 0
    outcome = run(chain, "--plan", plan, *options, "-o", again)
    assert outcome.code == 0, outcome.err
    assert again.read_bytes() == first.read_bytes()


def test_a_plan_is_written_in_any_format(run: Run, chain: Path, samples: Path) -> None:
    plan, first, again = (chain.with_name(n) for n in ("p.json", "a.onnx", "b.onnx"))
    options = ("--data", samples, "--format", "integer")
    assert (
        run(chain, "--ratio", 0.25, "--weights", 6, "--activations", 8, *options, "-o", first, "--save-plan", plan).code
        == 0
    )
    assert run(chain, "--plan", plan, *options, "-o", again).code == 0
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--format", "qdq"), "--format: qdq is made of numbers on grids (give --weights 8 --activations 8 too)"),
        (("--format", "integer", "--weights", 8), "--format: integer needs activations on grids too"),
        (("--format", "xml"), "'xml' is not one of"),
    ],
)
def test_what_cannot_be_written_is_said_in_one_line(
    run: Run, chain: Path, given: tuple[object, ...], says: str
) -> None:
    outcome = run(chain, "--dry-run", *given)
    assert outcome.code == 2
    assert says in outcome.err


def test_a_folder_of_others_is_left_alone(run: Run, chain: Path, samples: Path) -> None:
    place = chain.with_name("mine")
    place.mkdir()
    (place / "precious").write_text("x", encoding="utf-8")
    outcome = run("quantize", chain, "--data", samples, "--format", "npy", "-o", place)
    assert (outcome.code, [p.name for p in place.iterdir()]) == (2, ["precious"])
    assert "is there already, and has no manifest.json in it" in outcome.err


def test_the_library_writes_a_plan_in_any_format_too(chain: Path, samples: Path) -> None:
    made = onnxprune.prune(chain, ratio=0.0, weights=8, activations=8, data=samples, format="integer")
    again = onnxprune.apply(chain, made.plan, data=samples, format="integer")
    assert {n.op_type for n in again.model.graph.node} >= {"ConvInteger", "BitShift"}
    assert again.model == made.model
    alone = onnxprune.prune(chain, ratio=0.5, data="none").plan
    with pytest.raises(OptionError, match="qdq is made of numbers on grids"):
        onnxprune.apply(chain, alone, data="none", format="qdq")


def test_the_library_gives_it_too(chain: Path, samples: Path, tmp_path: Path) -> None:
    result = onnxprune.prune(chain, ratio=0.0, weights=8, activations=8, data=samples, format="qdq")
    assert {n.op_type for n in result.model.graph.node} >= {"QuantizeLinear", "DequantizeLinear"}
    result.save(tmp_path / "q.onnx")
    assert onnx.load(tmp_path / "q.onnx") == result.model
    folder = onnxprune.prune(chain, ratio=0.0, weights=8, activations=8, data=samples, format="npy")
    folder.save(tmp_path / "arrays")
    assert (tmp_path / "arrays" / "manifest.json").is_file()
