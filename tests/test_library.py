"""``import onnxprune``: the command line's doings as functions, typed, and without a wait."""

from __future__ import annotations

import ast
import doctest
import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from fixtures.build import conv_chain, unet
from onnxprune import api
from onnxprune.options import Options


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ``model.onnx`` of the examples, in the current folder."""
    onnx.save(unet(fold_bn=False, size=32, base=8), tmp_path / "model.onnx")
    monkeypatch.chdir(tmp_path)
    return Path("model.onnx")


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("module", [onnxprune, api], ids=lambda m: m.__name__)
def test_the_examples_in_the_docstrings_run(module: object) -> None:
    done = doctest.testmod(module, extraglobs={"onnxprune": onnxprune, "onnx": onnx})  # type: ignore[arg-type]
    assert done.attempted > 2
    assert done.failed == 0


def test_the_examples_are_code_where_the_site_shows_docstrings() -> None:
    """Markdown makes quotations of lines that start with >>>, unless they are indented."""
    told = [inspect.getdoc(f) or "" for f in (onnxprune.prune, onnxprune.apply, onnxprune.inspect, onnxprune.diff)]
    for text in told:
        assert "\n\n    >>> " in text
        assert "\n>>>" not in text


def test_all_that_is_offered_is_there() -> None:
    offered = {name: getattr(onnxprune, name) for name in onnxprune.__all__}
    assert all(offered.values())
    assert set(offered) <= set(dir(onnxprune))
    typed = ast.walk(ast.parse(Path(onnxprune.__file__).read_text(encoding="utf-8")))
    named = {alias.asname for n in typed if isinstance(n, ast.ImportFrom) for alias in n.names if alias.asname}
    assert named | {"__version__"} == set(offered)
    with pytest.raises(AttributeError, match="no attribute 'prone'"):
        _ = onnxprune.prone


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import onnxprune, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "onnx", "onnxruntime", "click", "scipy", "networkx"} & set(done.stdout.split())


def test_arguments_are_the_options() -> None:
    """One that is added to the options is offered here too."""
    asked = set(inspect.signature(onnxprune.prune).parameters) - {"model"}
    assert asked == {f.name for f in fields(Options) if f.init}
    assert set(inspect.signature(onnxprune.apply).parameters) - {"model", "plan"} < asked


def test_a_path_bytes_and_a_proto_are_pruned_alike(model: Path) -> None:
    sources = (model, str(model), model.read_bytes(), onnx.load(model))
    results = [onnxprune.prune(source, ratio=0.5, check_n=1) for source in sources]
    assert len({r.model.SerializeToString(deterministic=True) for r in results}) == 1
    assert results[0].report.parameters.ratio < 0.4


def test_the_callers_proto_stays_as_it_is(model: Path) -> None:
    proto = onnx.load(model)
    onnxprune.prune(proto, check_n=1)
    assert proto == onnx.load(model)


@pytest.mark.drawn
def test_what_is_saved_is_what_the_command_line_writes(model: Path) -> None:
    onnx.save(unet(fold_bn=False, size=16, base=4), model)  # small: inputs are drawn, twice
    result = onnxprune.prune(model, ratio_for={"down*": 0.5}, check_n=1)
    result.save("lib.onnx", plan="lib.json", report="report.json")
    command = [sys.executable, "-m", "onnxprune", str(model), "--ratio-for", "down*=0.5", "--check-n", "1", "-q"]
    subprocess.run([*command, "-o", "cli.onnx", "--save-plan", "cli.json"], check=True)
    assert Path("lib.onnx").read_bytes() == Path("cli.onnx").read_bytes()
    assert Path("lib.json").read_bytes() == Path("cli.json").read_bytes()
    assert '"output": "lib.onnx"' in Path("report.json").read_text(encoding="utf-8")


def test_the_original_is_not_overwritten(model: Path) -> None:
    before = model.read_bytes()
    result = onnxprune.prune(model, check_n=1)
    with pytest.raises(onnxprune.OutputError, match="the model itself"):
        result.save(model)
    assert model.read_bytes() == before


def test_calibration_data_may_be_in_memory() -> None:
    model = conv_chain(2)
    data = {model.graph.input[0].name: np.random.default_rng(0).standard_normal((8, 16, 8, 8)).astype(np.float32)}
    result = onnxprune.prune(model, ratio=0.2, importance="activation", data=data, check_n=1)
    assert result.report.recovered is not None
    assert result.report.recovered.samples == 8
    assert result.report.options["data"]["source"] == "arrays in memory"
    few = onnxprune.prune(model, importance="activation", data=onnxprune.Data(data, samples=4), check_n=1)
    assert few.report.options["data"]["samples"] == 4


def test_progress_is_told() -> None:
    told: list[str] = []
    onnxprune.prune(conv_chain(2), check_n=1, progress=lambda stage, *_: told.append(stage))
    assert {"analyse", "choose", "rewrite", "prove"} <= set(told)


@pytest.mark.parametrize(
    ("source", "options", "error", "says"),
    [
        ("nowhere.onnx", {}, onnxprune.ModelError, "No such file"),
        (b"\x00\x01 no model", {}, onnxprune.ModelError, "not an ONNX model"),
        (onnx.ModelProto(), {}, onnxprune.ModelError, "refuses the model"),
        ("model.onnx", {"ratio": 2.0}, onnxprune.OptionError, "--ratio"),
        ("model.onnx", {"budget": "macs"}, onnxprune.OptionError, "not COST=LIMIT"),
        ("model.onnx", {"data": "nowhere"}, onnxprune.DataError, "no such file"),
        ("model.onnx", {"data": {"input": np.zeros((1, 7))}}, onnxprune.DataError, "input"),
    ],
    ids=["missing", "no-model", "not-valid", "ratio", "budget", "data", "shape"],
)
@pytest.mark.usefixtures("model")
def test_errors_are_one_line_and_one_family(
    source: str | bytes | onnx.ModelProto,
    options: dict[str, object],
    error: type[onnxprune.OnnxPruneError],
    says: str,
) -> None:
    with pytest.raises(error, match=says) as raised:
        onnxprune.prune(source, **options)  # type: ignore[arg-type]
    assert isinstance(raised.value, onnxprune.OnnxPruneError)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("option", "value", "takes"),
    [
        ("ratio", "0.5", "numbers"),
        ("align", 8.0, "whole numbers"),
        ("align", True, "whole numbers"),
        ("seed", None, "whole numbers"),
        ("lossless", "yes", "True or False"),
        ("budget", 0.5, "text"),
        ("metric", 3, "what its help says"),
        ("weights", [8], "whole numbers or text"),
        ("exclude", "conv*", "a list: text"),
        ("outputs", None, "a list: text"),
        ("input_shapes", {"x": "1,3"}, "{name: whole numbers}"),
        ("input_values", {"x": "a"}, "{name: numbers}"),
        ("data", 5, "a path, 'none', or arrays as {input: [N, ...]}"),
        ("data", {"x": None}, "a path, 'none', or arrays as {input: [N, ...]}"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_with_what_is_taken(option: str, value: object, takes: str) -> None:
    with pytest.raises(onnxprune.OptionError, match="is of the wrong type") as refused:
        onnxprune.prune(conv_chain(2), **{option: value})  # type: ignore[arg-type]
    assert refused.value.hint == f"it takes {takes}"


@pytest.mark.parametrize(
    ("option", "value"), [("ratio", np.float32(0.5)), ("align", np.int64(8)), ("input_shapes", {"x": np.array([1, 3])})]
)
def test_numbers_of_numpy_are_numbers(option: str, value: object) -> None:
    Options(**{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value", "where"),
    [
        ("ratio_for", ["down*=0.5"], "--ratio-for"),
        ("sparsity_for", ["down*=0.5"], "--sparsity-for"),
        ("bits_for", [("down*", "4", 2)], "--bits-for"),
        ("remove", ["w1=3"], "--remove"),
        ("ratio_for", 0.5, "--ratio-for"),
        ("ratio_for", {1: 0.5}, "--ratio-for"),
    ],
)
def test_options_by_names_are_pairs(option: str, value: object, where: str) -> None:
    with pytest.raises(onnxprune.OptionError, match="no pair of a name and a value") as refused:
        onnxprune.prune(conv_chain(2), **{option: value})  # type: ignore[arg-type]
    assert refused.value.where == where
