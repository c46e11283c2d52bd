"""What cannot be done is one line on stderr, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from onnxprune import pipeline
from onnxprune.cli import main as cli
from onnxprune.model import files
from onnxprune.options import Options
from tests.commands import CHAIN, NORM, SKIP, Run, assert_one_line, files_in, put, put_branched
from tests.models import build


@dataclass(frozen=True)
class Refused:
    """Something that cannot be done, and what the one line on stderr says."""

    name: str
    arrange: Callable[[Path], Sequence[object]]
    says: Sequence[str]

    def __str__(self) -> str:
        return self.name


def given(*args: object, text: str = CHAIN) -> Callable[[Path], Sequence[object]]:
    """Options for a good model; strings of the form {dir}/x are below its folder."""

    def arrange(folder: Path) -> Sequence[object]:
        return [put(folder / "m.onnx", text), *(str(a).replace("{dir}", str(folder)) for a in args)]

    return arrange


def content(data: bytes) -> Callable[[Path], Sequence[object]]:
    def arrange(folder: Path) -> Sequence[object]:
        (folder / "m.onnx").write_bytes(data)
        return [folder / "m.onnx"]

    return arrange


def truncated(share: float) -> Callable[[Path], Sequence[object]]:
    data = build(CHAIN).SerializeToString()
    return content(data[: int(share * len(data))])


def edited(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], Sequence[object]]:
    def arrange(folder: Path) -> Sequence[object]:
        proto = build(CHAIN)
        change(proto)
        (folder / "m.onnx").write_bytes(proto.SerializeToString())
        return [folder / "m.onnx"]

    return arrange


def dangling(proto: onnx.ModelProto) -> None:
    proto.graph.node[2].input[0] = "nowhere"


def not_a_number(name: str, *args: object) -> Callable[[Path], Sequence[object]]:
    def change(proto: onnx.ModelProto) -> None:
        for tensor in proto.graph.initializer:
            if tensor.name == name:
                array = numpy_helper.to_array(tensor).copy()
                array.flat[1] = np.nan
                tensor.CopyFrom(numpy_helper.from_array(array, name))

    return lambda folder: [*edited(change)(folder), *args]


def external(location: str, size: int | None, *, link: bool = False) -> Callable[[Path], Sequence[object]]:
    """CHAIN with w1 in a file of ``size`` bytes (None: no file); ``link``: a link to a file elsewhere."""

    def arrange(folder: Path) -> Sequence[object]:
        (folder / "inner").mkdir()
        proto = build(CHAIN)
        tensor = next(t for t in proto.graph.initializer if t.name == "w1")
        data = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        where = location.replace("{dir}", str(folder))
        for key, value in (("location", where), ("offset", "0"), ("length", str(len(data)))):
            tensor.external_data.add(key=key, value=value)
        target = folder / "inner" / where
        if link:
            (folder / "elsewhere.data").write_bytes(data)
            target.symlink_to(folder / "elsewhere.data")
        elif size is not None:
            target.write_bytes((data * 2)[:size])
        (folder / "inner" / "m.onnx").write_bytes(proto.SerializeToString())
        return [folder / "inner" / "m.onnx"]

    return arrange


def with_plan(text: str, change: Callable[[str], str] = str) -> Callable[[Path], Sequence[object]]:
    """CHAIN, and a plan that was made for ``text`` and then edited."""

    def arrange(folder: Path) -> Sequence[object]:
        other = put(folder / "other.onnx", text)
        plan = pipeline.prune(files.load(other), Options(check_n=0)).plan.to_json()
        (folder / "plan.json").write_text(change(plan))
        return [put(folder / "m.onnx", CHAIN), "--plan", folder / "plan.json"]

    return arrange


def folder_in_place(folder: Path) -> Sequence[object]:
    (folder / "out.onnx").mkdir()
    return [put(folder / "m.onnx", CHAIN), "-o", folder / "out.onnx"]


def link_to_itself(folder: Path) -> Sequence[object]:
    path = put(folder / "m.onnx", CHAIN)
    (folder / "link.onnx").symlink_to(path)
    return [path, "-o", folder / "link.onnx"]


WIDER = CHAIN.replace("32", "48")
REFUSED = (
    Refused("no-such-file", lambda folder: [folder / "none.onnx"], ["none.onnx", "cannot read", "No such file"]),
    Refused("no-such-folder", lambda folder: [folder / "no" / "m.onnx"], ["m.onnx: cannot read the model"]),
    Refused("a-folder", lambda folder: [folder], ["cannot read the model"]),
    Refused("text-file", content(b"not a model at all\n" * 9), ["m.onnx", "not an ONNX"]),
    Refused("json-file", content(b'{"a": 1}'), ["m.onnx", "not an ONNX"]),
    Refused("png-file", content(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"), ["m.onnx", "not an ONNX"]),
    Refused("empty-file", content(b""), ["m.onnx", "not an ONNX"]),
    Refused("truncated-early", truncated(0.1), ["m.onnx", "truncated", "export or copy it again"]),
    Refused("truncated-in-half", truncated(0.5), ["m.onnx", "truncated", "export or copy it again"]),
    Refused("truncated-late", truncated(0.98), ["m.onnx", "truncated", "export or copy it again"]),
    Refused("checker-fails", edited(dangling), ["m.onnx", "onnx.checker", "nowhere", "repair"]),
    Refused("no-opset", edited(lambda m: m.ClearField("opset_import")), ["m.onnx", "onnx.checker"]),
    Refused("nan-weight", not_a_number("w1"), ["w1", "NaN", "repair or export"]),
    Refused("nan-weight-random", not_a_number("w1", "--importance", "random"), ["w1", "NaN"]),
    Refused("nan-bias", not_a_number("b0"), ["b0", "NaN"]),
    Refused("nan-in-a-held-weight", not_a_number("w2"), ["w2", "NaN"]),
    Refused("external-missing", external("w.data", None), ["m.onnx", "w1", "w.data", "missing", "copy it beside"]),
    Refused("external-too-short", external("w.data", 100), ["m.onnx", "w1", "w.data", "copy it again"]),
    Refused("external-outside", external("../w.data", 2048), ["m.onnx", "w1", "outside", "move the data"]),
    Refused("external-absolute", external("{dir}/w.data", 2048), ["m.onnx", "w1", "outside", "move the data"]),
    Refused("external-link", external("w.data", None, link=True), ["m.onnx", "w1", "outside", "move the data"]),
    Refused("no-output-folder", given("-o", "{dir}/no/out.onnx"), ["out.onnx", "cannot write", "no folder", "no'"]),
    Refused("output-below-a-file", given("-o", "{dir}/m.onnx/out.onnx"), ["out.onnx", "cannot write"]),
    Refused("output-is-a-folder", folder_in_place, ["out.onnx", "is a folder", "name a file"]),
    Refused("output-is-the-model", given("-o", "{dir}/m.onnx"), ["m.onnx", "the model itself", "name another"]),
    Refused("output-links-to-the-model", link_to_itself, ["link.onnx", "the model itself"]),
    Refused("plan-over-the-model", given("--save-plan", "{dir}/m.onnx"), ["m.onnx", "the model itself"]),
    Refused("report-over-the-model", given("--json", "{dir}/m.onnx"), ["m.onnx", "the model itself"]),
    Refused("no-report-folder", given("--json", "{dir}/no/r.json"), ["r.json", "cannot write"]),
    Refused("page-over-the-model", given("--report", "{dir}/m.onnx", "--dry-run"), ["m.onnx", "the model itself"]),
    Refused("one-path-twice", given("--json", "{dir}/a", "--save-plan", "{dir}/a"), ["a", "twice", "name another"]),
    Refused("ratio-one", given("--ratio", 1), ["--ratio", "less than 1", "30 %"]),
    Refused("ratio-negative", given("--ratio", "-0.1"), ["--ratio", "at least 0"]),
    Refused("ratio-nan", given("--ratio", "nan"), ["--ratio", "less than 1"]),
    Refused("ratio-text", given("--ratio", "much"), ["--ratio", "much"]),
    Refused("ratio-for-out-of-range", given("--ratio-for", "a=1.5"), ["--ratio-for a", "less than 1"]),
    Refused("ratio-for-form", given("--ratio-for", "a"), ["--ratio-for", "GLOB=RATIO"]),
    Refused("max-ratio-out-of-range", given("--max-ratio", 1), ["--max-ratio", "less than 1"]),
    Refused("align-zero", given("--align", 0), ["--align", "at least 1"]),
    Refused("cycles-of-nothing", given("--budget", "cycles=0.5"), ["--budget", "those of a target", "--target"]),
    Refused("dtype-of-nothing", given("--dtype", "int8"), ["--dtype", "--target"]),
    Refused("unknown-target", given("--target", "z80"), ["--target", "z80", "rk3588"]),
    Refused("dtype-that-it-has-not", given("--target", "rk3588", "--dtype", "fp32"), ["--dtype", "fp16, int8"]),
    Refused("no-clock", given("--target", "tensorrt", "--budget", "ms=5"), ["tensorrt", "no clock", "clock_mhz"]),
    Refused("seed-negative", given("--seed", "-1"), ["--seed", "must not be negative, as -1 is"]),
    Refused("check-n-negative", given("--check-n", "-1"), ["--check-n", "negative"]),
    Refused("unknown-scope", given("--scope", "layer"), ["--scope", "layer"]),
    Refused("unknown-option", given("--prune-harder"), ["--prune-harder", "--help"]),
    Refused("unknown-importance", given("--importance", "l3"), ["--importance", "l3", "l1, l2", "module:function"]),
    Refused("unknown-module", given("--importance", "no_such:f"), ["--importance", "no_such", "PYTHONPATH"]),
    Refused("unknown-function", given("--importance", "json:no_such"), ["--importance", "no_such"]),
    Refused("not-a-function", given("--importance", "sys:path"), ["--importance", "not a function"]),
    Refused("wrong-scores", given("--importance", "tests.cli.test_refused:one_score"), ["--importance", "[1]", "[16]"]),
    Refused("exclude-matches-nothing", given("--exclude", "zz*"), ["--exclude", "zz*", "onnxprune inspect"]),
    Refused("ratio-for-matches-nothing", given("--ratio-for", "zz*=0.5"), ["--ratio-for", "zz*", "onnxprune inspect"]),
    Refused("unknown-input", given("--input-shape", "z:1,3,8,8"), ["--input-shape", "'z'", "inputs: x"]),
    Refused("declared-otherwise", given("--input-shape", "x:1,3,9,9"), ["--input-shape", "1,3,9,9", "1,3,8,8"]),
    Refused("another-rank", given("--input-shape", "x:1,3,8"), ["--input-shape", "1,3,8"]),
    Refused("shape-form", given("--input-shape", "x:1,3,a,8"), ["--input-shape", "NAME:1,3,224,224"]),
    Refused("shape-of-nothing", given("--input-shape", "x:1,3,0,8"), ["--input-shape", "NAME:1,3,224,224"]),
    Refused("refused-shape", given("--input-shape", "x:1,3,9,9", text=SKIP), ["m.onnx", "9,9", "--input-shape"]),
    Refused("plan-missing", given("--plan", "{dir}/none.json"), ["none.json", "cannot read the plan"]),
    Refused("plan-and-ratio", given("--plan", "p.json", "--ratio", 0.5), ["--ratio", "so does the plan", "leave one"]),
    Refused("plan-and-zeros", given("--plan", "p.json", "--sparsity", 0.5), ["--sparsity", "so does the plan"]),
    Refused("plan-and-bits", given("--plan", "p.json", "--bits-for", "a=4"), ["--bits-for", "so does the plan"]),
    Refused("plan-and-mask", given("--plan", "p.json", "--mask", "gone.npz"), ["--mask", "so does the plan"]),
    Refused("plan-and-exclude", given("--plan", "p.json", "--exclude", "a"), ["--exclude", "so does the plan"]),
    Refused("plan-and-branches", given("--plan", "p.json", "--no-whole-branches"), ["--whole-branches", "the plan"]),
    Refused("plan-for-wider", with_plan(WIDER), ["plan.json", "initializer 'w1' is [32, 16", "made for other.onnx"]),
    Refused("plan-for-another", with_plan(NORM), ["plan.json", "made for other.onnx"]),
    Refused("plan-of-json", with_plan(CHAIN, lambda _: "[]"), ["plan.json", "is not a plan", "--save-plan"]),
    Refused("plan-of-text", with_plan(CHAIN, lambda _: "hello"), ["plan.json", "is not a plan", "--save-plan"]),
    Refused("plan-from-the-future", with_plan(CHAIN, lambda p: p.replace('"version": 1', '"version": 9')), ["version"]),
)


def one_score(_: object) -> list[float]:
    return [1.0]


@pytest.mark.parametrize("row", REFUSED, ids=str)
def test_errors_are_one_line_and_leave_no_file(run: Run, tmp_path: Path, row: Refused) -> None:
    args = row.arrange(tmp_path)
    before = files_in(tmp_path)
    outcome = run(*args)
    assert outcome.code == 2
    assert outcome.out == ""
    assert_one_line(outcome.err, *row.says)
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(
    "row", [r for r in REFUSED if r.name in ("text-file", "truncated-in-half", "external-missing")], ids=str
)
def test_inspect_fails_as_prune_does(run: Run, tmp_path: Path, row: Refused) -> None:
    path, *_ = row.arrange(tmp_path)
    outcome = run("inspect", path, "--json", tmp_path / "i.json")
    assert outcome.code == 2
    assert_one_line(outcome.err, *row.says)
    assert not (tmp_path / "i.json").exists()


def test_a_bug_keeps_its_traceback(chain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline, "attempt", broken)
    with pytest.raises(ZeroDivisionError):
        cli.main([str(chain)])


def test_module_runs_as_the_command_does(chain: Path) -> None:
    command = [sys.executable, "-m", "onnxprune", str(chain), "--ratio", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert_one_line(done.stderr, "--ratio")


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Eighty samples for `chain`: enough to stand alone."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((80, 3, 8, 8)).astype(np.float32))
    return tmp_path / "x.npy"


def test_data_alone_compares_plans_and_compensates_the_best(run: Run, chain: Path, samples: Path) -> None:
    outcome = run(chain, "--data", samples, "--ratio", "0.4", "--json", samples.with_suffix(".json"))
    report = json.loads(samples.with_suffix(".json").read_text())
    recovered = report["learnt"]
    ways = [f"importance {name}, scope cost" for name in ("output", "reconstruction")]
    assert [t["way"] for t in recovered["tried"]] == ways
    assert 0 < recovered["solved"] <= recovered["layers"]
    assert (recovered["samples"], recovered["held_out"]) == (80, 16)
    (before,), (after,) = recovered["pruned"], recovered["final"]
    assert after["snr_db"] > before["snr_db"]
    assert f"compensated: {recovered['solved']} of {recovered['layers']} layers solved anew" in outcome.out
    assert outcome.out.count("tried: ") == 2
    assert outcome.out.count("% of the signal on held-out samples, taken") == 1
    assert "dB by compensation, on 16" in outcome.out
    assert "on 16 held-out of 80 samples" in outcome.out
    assert report["options"]["importance"] == report["options"]["scope"] == "auto"


def test_recover_trains_what_was_compensated(run: Run, chain: Path, samples: Path) -> None:
    options = ("--data", samples, "--importance", "l2", "--ratio", "0.6", "--json", samples.with_suffix(".json"))
    outcome = run(chain, *options, "--recover", "20")
    recovered = json.loads(samples.with_suffix(".json").read_text())["learnt"]
    assert recovered["steps"] == 20
    assert "trained: 20 steps on the original's outputs" in outcome.out
    run(chain, *options)
    plain = json.loads(samples.with_suffix(".json").read_text())["learnt"]
    assert plain["steps"] == plain["best_step"] == 0
    assert recovered["final"][0]["snr_db"] >= plain["final"][0]["snr_db"]


def test_recover_to_no_avail_is_said(run: Run, chain: Path, samples: Path) -> None:
    outcome = run(chain, "--data", samples, "--importance", "l2", "--ratio", "0", "--recover", "2")
    assert "trained: 2 steps on the original's outputs, to no avail: left as it was" in outcome.out


def test_recover_trains_through_an_if_that_has_a_name(run: Run, tmp_path: Path) -> None:
    model, data = put_branched(tmp_path)
    outcome = run(model, "--data", data, "--recover", "2")
    assert outcome.code == 0, outcome.err


def test_recover_takes_no_negative_number(run: Run, chain: Path, samples: Path) -> None:
    outcome = run(chain, "--data", samples, "--recover", "-1")
    assert outcome.code == 2
    assert_one_line(outcome.err, "--recover", "must not be negative, as -1 is")


def test_recover_needs_data(run: Run, chain: Path) -> None:
    outcome = run(chain, "--recover", "20")
    assert outcome.code == 2
    assert_one_line(outcome.err, "--recover", "--data")


def test_no_compensate_leaves_every_weight_that_stays_as_it_is(run: Run, chain: Path, samples: Path) -> None:
    options = ("--data", samples, "--importance", "l2", "--ratio", "0.5", "--no-fuse-bn")
    run(chain, *options, "--no-compensate", "-o", samples.with_name("a.onnx"))
    run(chain, "--importance", "l2", "--ratio", "0.5", "--no-fuse-bn", "-o", samples.with_name("b.onnx"))
    assert samples.with_name("a.onnx").read_bytes() == samples.with_name("b.onnx").read_bytes()


def test_with_data_the_same_run_writes_the_same_bytes(run: Run, chain: Path, samples: Path) -> None:
    written = [samples.with_name(f"{i}.onnx") for i in range(2)]
    for path in written:
        run(chain, "--data", samples, "--budget", "macs=0.5", "-o", path)
    assert written[0].read_bytes() == written[1].read_bytes()


def test_a_plan_is_compensated_again_on_other_data(run: Run, chain: Path, samples: Path) -> None:
    run(chain, "--ratio", "0.5", "--save-plan", samples.with_name("p.json"))
    outcome = run(chain, "--plan", samples.with_name("p.json"), "--data", samples, "-o", samples.with_name("c.onnx"))
    assert "layers solved anew" in outcome.out
    assert "tried: " not in outcome.out


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("macs", "'macs' is not COST=LIMIT"),
        ("macs=half", "'macs=half' is not COST=LIMIT"),
        ("time=0.5", "no cost is called 'time'"),
        ("0.5", "--budget: names no cost (COST=LIMIT, as macs=0.5)"),
        ("macs=0", "must be positive"),
        ("macs=0.0001", "--budget: cannot be met"),
    ],
)
def test_budgets_that_make_no_sense_are_one_line(run: Run, chain: Path, value: str, message: str) -> None:
    outcome = run(chain, "--budget", value)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_scope_cost_alone_keeps_the_macs_that_the_ratio_would(run: Run, chain: Path, tmp_path: Path) -> None:
    shares = {}
    for scope in ("group", "cost"):
        run(chain, "--ratio", "0.5", "--scope", scope, "--json", tmp_path / "r.json")
        shares[scope] = json.loads((tmp_path / "r.json").read_text())["macs"]["ratio"]
    assert shares["cost"] <= shares["group"] + 1e-9


CODE = """
import sys
def raises(_): raise ValueError("not today")
def leaves(*_): sys.exit(0)
def words(_): return "abc"
"""
MEASURED = ("--data", "x.npy", "--max-drop", 1, "--metric")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--importance", "own:raises"), "--importance own:raises: raises ValueError: not today"),
        (("--importance", "own:leaves"), "--importance own:leaves: raises SystemExit: 0"),
        (("--importance", "own:words"), "--importance own:words: raises ValueError: could not convert"),
        (
            ("--sparsity", 0.5, "--sparsity-criterion", "own:raises"),
            "--sparsity-criterion own:raises: raises ValueError",
        ),
        (
            ("--sparsity", 0.5, "--sparsity-criterion", "own:leaves"),
            "--sparsity-criterion own:leaves: raises SystemExit",
        ),
        (("--data", "own:leaves"), "own:leaves: raises SystemExit: 0"),
        ((*MEASURED, "own:leaves"), "--metric own:leaves: raises SystemExit: 0"),
        ((*MEASURED, "cosine", "--finetune", "own:leaves"), "--finetune own:leaves: raises SystemExit: 0"),
        (("--importance", "misspelt:f"), "--importance: cannot load 'misspelt:f': SyntaxError"),
        (("--data", "ends:f"), "--data: cannot load 'ends:f': SystemExit: 0"),
    ],
)
def test_code_of_the_user_that_fails_is_one_line_and_no_success(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[object, ...], says: str
) -> None:
    """That it ends the program with 0 is no run that is done, as nothing was written."""
    monkeypatch.chdir(tmp_path)
    put(Path("m.onnx"), CHAIN)
    np.save("x.npy", np.random.default_rng(0).standard_normal((40, 3, 8, 8)).astype(np.float32))
    Path("own.py").write_text(CODE, encoding="utf-8")
    Path("misspelt.py").write_text("def f(:\n", encoding="utf-8")
    Path("ends.py").write_text("import sys\nsys.exit(0)\n", encoding="utf-8")
    for name in ("own", "misspelt", "ends"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    outcome = run("m.onnx", *args)
    assert outcome.code == 2
    assert_one_line(outcome.err, says)
    assert not Path("m.pruned.onnx").exists()
