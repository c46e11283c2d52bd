"""What is written, whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from fixtures.build import unet
from tests.commands import CHAIN, Run, assert_one_line, files_in, put, weights


def test_external_data_is_written_and_read_again(run: Run, tmp_path: Path) -> None:
    onnx.save(unet(fold_bn=True, size=32, base=8), tmp_path / "m.onnx")
    run(tmp_path / "m.onnx", "-o", tmp_path / "whole.onnx", "--check-n", 1)
    run(tmp_path / "m.onnx", "-o", tmp_path / "parts.onnx", "--check-n", 1, "--save-as-external-data")
    assert sorted(files_in(tmp_path)) == ["m.onnx", "parts.onnx", "parts.onnx.data", "whole.onnx"]
    assert (tmp_path / "parts.onnx").stat().st_size < (tmp_path / "whole.onnx").stat().st_size / 4
    whole, parts = weights(tmp_path / "whole.onnx"), weights(tmp_path / "parts.onnx")
    assert whole.keys() == parts.keys() != set()
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    for name in ("whole", "parts"):
        assert run(tmp_path / f"{name}.onnx", "-q", "--check-n", 1, "-o", tmp_path / f"{name}.2.onnx").code == 0
    assert (tmp_path / "whole.2.onnx").read_bytes() == (tmp_path / "parts.2.onnx").read_bytes()


def test_an_existing_output_is_replaced(run: Run, chain: Path, tmp_path: Path) -> None:
    (tmp_path / "out.onnx").write_bytes(b"older")
    assert run(chain, "-o", tmp_path / "out.onnx").code == 0
    onnx.checker.check_model(str(tmp_path / "out.onnx"))


@pytest.mark.parametrize(
    ("place", "more"),
    [("m.bin.data", []), ("m.bin", ["--save-as-external-data"]), ("out.onnx", ["--json", "m.bin.data"])],
)
def test_weights_of_the_model_are_not_replaced(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, more: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = unet(fold_bn=True, size=32, base=8)
    onnx.save_model(model, "m.onnx", save_as_external_data=True, location="m.bin.data", size_threshold=0)
    before = files_in(tmp_path)
    refused = run("m.onnx", "-o", place, "--check-n", 0, *more)
    assert refused.code == 2
    assert_one_line(refused.err, "m.bin", "would replace weights of the model (name another file)")
    assert files_in(tmp_path) == before


def test_weights_of_the_model_are_not_replaced_through_a_link(run: Run, tmp_path: Path) -> None:
    """The weights go beside the file that the link names."""
    (tmp_path / "there").mkdir()
    model = unet(fold_bn=True, size=32, base=8)
    path = tmp_path / "there" / "m.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="n.onnx.data", size_threshold=0)
    (tmp_path / "out.onnx").symlink_to("there/n.onnx")
    before = files_in(tmp_path / "there")
    refused = run(path, "-o", tmp_path / "out.onnx", "--check-n", 0, "--save-as-external-data")
    assert refused.code == 2
    assert_one_line(refused.err, "out.onnx", "would replace weights of the model (name another file)")
    assert files_in(tmp_path / "there") == before


def test_links_in_a_circle_are_refused(run: Run, chain: Path, tmp_path: Path) -> None:
    (tmp_path / "a.onnx").symlink_to("b.onnx")
    (tmp_path / "b.onnx").symlink_to("a.onnx")
    refused = run(chain, "-o", tmp_path / "a.onnx", "--check-n", 0)
    assert refused.code == 2
    assert_one_line(refused.err, "a.onnx", "is a link that leads in a circle (name another file)")


def test_a_link_stays_a_link(run: Run, chain: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "out.onnx").symlink_to("there/new.onnx")
    assert run(chain, "-o", tmp_path / "out.onnx", "--check-n", 0).code == 0
    assert (tmp_path / "out.onnx").is_symlink()
    onnx.checker.check_model(str(tmp_path / "there" / "new.onnx"))


@pytest.mark.skipif(not Path("/dev/stdout").is_symlink(), reason="needs /dev/stdout")
def test_a_link_to_an_open_file_is_refused(run: Run, chain: Path) -> None:
    """The file would be replaced, and root would replace the link."""
    refused = run(chain, "-o", "/dev/stdout", "--check-n", 0)
    assert (refused.code, Path("/dev/stdout").is_symlink()) == (2, True)
    assert_one_line(refused.err, "/dev/stdout", "is a pipe or a device")


@pytest.mark.parametrize("full_at", ["onnx", "text"])
@pytest.mark.parametrize("external", [[], ["--save-as-external-data"]], ids=["whole", "external"])
def test_a_full_disk_leaves_nothing_half_written(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: str, external: list[str]
) -> None:
    onnx.save(unet(fold_bn=True, size=32, base=8), tmp_path / "m.onnx")
    (tmp_path / "out.onnx").write_bytes(b"older")
    before = files_in(tmp_path)
    places = {
        "onnx": ["onnxprune.model.onnx_model.raw", "onnxprune.model.mapped_weights.raw"],
        "text": ["pathlib.Path.write_text"],
    }

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # part of it arrived

    for place in places[full_at]:
        monkeypatch.setattr(place, full)
    outputs = ["-o", tmp_path / "out.onnx", "--json", tmp_path / "r.json", "--save-plan", tmp_path / "p.json"]
    outputs += ["--report", tmp_path / "r.html"]
    outcome = run(tmp_path / "m.onnx", "--check-n", 0, *outputs, *external)
    assert outcome.code == 2
    assert_one_line(outcome.err, "out.onnx" if full_at == "onnx" else "p.json", "No space left on device")
    assert files_in(tmp_path) == before


def test_a_name_that_cannot_be_taken_is_said(
    run: Run, chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("pathlib.Path.replace", refuse)
    before = files_in(tmp_path)
    outcome = run(chain, "-o", tmp_path / "out.onnx")
    assert outcome.code == 2
    assert_one_line(outcome.err, "out.onnx", "Read-only file system")
    assert files_in(tmp_path) == before


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("m.onnx", "--data", "x.npy", "-o", "x.npy"), "x.npy: is read by this run"),
        (("m.onnx", "--data", "x.npy", "--json", "x.npy"), "x.npy: is read by this run"),
        (("m.onnx", "--plan", "p.json", "--report", "p.json"), "p.json: is read by this run"),
        (("sparsify", "m.onnx", "--mask", "k.npz", "-o", "k.npz"), "k.npz: is read by this run"),
        (("sensitivity", "m.onnx", "--data", "x.npy", "--csv", "x.npy"), "x.npy: is read by this run"),
        (("diff", "m.onnx", "other.onnx", "--data", "x.npy", "--json", "x.npy"), "x.npy: is read by this run"),
        (
            ("rknn", "m.onnx", "--target", "rk3588", "--against", "other.onnx", "-o", "other.onnx"),
            "other.onnx: is read",
        ),
        (("m.onnx", "--summary", "m.onnx"), "m.onnx: is the model itself"),
        (("diff", "m.onnx", "other.onnx", "--summary", "other.onnx"), "other.onnx: is the model itself"),
        (("m.onnx", "--summary", "out.onnx", "-o", "out.onnx"), "out.onnx: is named twice"),
        (
            ("m.onnx", "--data", "x.npy", "--metric", "cosine", "--max-drop", 1, "--trials", "m.onnx"),
            "is the model itself",
        ),
        (
            ("m.onnx", "--data", "x.npy", "--metric", "cosine", "--max-drop", 1, "--trials", "k.npz"),
            "k.npz, line 1: is no",
        ),
        (("sensitivity", "m.onnx", "--data", "x.npy", "--trials", "m.onnx"), "m.onnx: is the model itself"),
        (("sensitivity", "m.onnx", "--data", "x.npy", "--trials", "no/t.jsonl"), "no/t.jsonl: cannot write"),
    ],
)
def test_what_a_run_reads_is_not_written_over(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[object, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    put(Path("m.onnx"), CHAIN)
    put(Path("other.onnx"), CHAIN)
    np.save("x.npy", np.zeros((8, 3, 8, 8), np.float32))
    np.savez("k.npz", w0=np.ones((16, 3, 1, 1)))
    assert run("m.onnx", "--save-plan", "p.json", "-o", "p.onnx", "-q").code == 0
    before = files_in(tmp_path)
    refused = run(*args)
    assert refused.code == 2
    assert_one_line(refused.err, says)
    assert files_in(tmp_path) == before
