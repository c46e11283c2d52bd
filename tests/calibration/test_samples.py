"""Calibration data: every form that it comes in, how much of it is used, and what is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.calibration import samples as calibration
from onnxprune.calibration.data_options import Data
from onnxprune.calibration.samples import CalibrationSet
from onnxprune.errors import DataError, OptionError
from onnxprune.model.onnx_model import Model, from_proto
from onnxprune.progress import Progress, silent
from onnxprune.running import session as runtime
from tests.models import build
from tests.samples import from_arrays

Array = NDArray[Any]

IMAGES = "pip install 'onnxprune[images]' to run it"
ONE = "(float[N,3,4,5] x) => (float y) { y = Relu(x) }"
TWO = "(float[N,2] a, float[N,3] b) => (float y, float z) { y = Relu(a)\nz = Relu(b) }"
FIXED = "(float[4,2] x) => (float y) { y = Relu(x) }"
SINGLE = "(float[1,3,4,5] x) => (float y) { y = Relu(x) }"
NO_BATCH = "(float[1,2] x, float[3] roi) => (float y, float z) { y = Relu(x)\nz = Relu(roi) }"
SCALAR = "(float[N,2] x, float s) => (float y) { y = Mul(x, s) }"


def model(text: str) -> Model:
    return from_proto(build(text))


def load(
    source: object,
    text: str = ONE,
    shapes: Mapping[str, Any] | None = None,
    progress: Progress = silent,
    **options: Any,
) -> CalibrationSet:
    """As the command line does it; dynamic axes are 1."""
    of = model(text)
    known = {i.name: tuple(d or 1 for d in i.dims or ()) for i in of.graph.inputs}
    return calibration.load(Data(str(source), **options), of, {**known, **(shapes or {})}, progress)


def numbers(*shape: int) -> Array:
    """[n, ...]: no two alike."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def whole(data: CalibrationSet, size: int = 1000) -> dict[str, Array]:
    """All of a set, {input: [count, ...]}."""
    batches = list(data.batches(size))
    return {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}


# --- forms ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """A way to store samples [n, ...] of one or two inputs: ``write`` puts them in a folder and gives the source."""

    name: str
    write: Callable[[Path, dict[str, Array]], object]
    text: str = field(default=ONE, repr=False)

    def __str__(self) -> str:
        return self.name


def one_npy(folder: Path, data: dict[str, Any]) -> Path:
    np.save(folder / "all.npy", data["x"])
    return folder / "all.npy"


def fortran_npy(folder: Path, data: dict[str, Any]) -> Path:
    np.save(folder / "all.npy", np.asfortranarray(data["x"]))
    return folder / "all.npy"


def npy_files(folder: Path, data: dict[str, Any]) -> Path:
    for index, sample in enumerate(data["x"]):
        np.save(folder / f"{index:03}.npy", sample)
    (folder / "README.md").write_text("not a sample")
    (folder / ".hidden.npy").write_text("nor this")
    return folder


def npy_files_with_batch(folder: Path, data: dict[str, Any]) -> str:
    for index, sample in enumerate(data["x"]):
        (folder / str(index // 5)).mkdir(exist_ok=True)
        np.save(folder / str(index // 5) / f"{index:03}.npy", sample[None])
    return f"{folder}/**/*.npy"


def uneven_npy_files(folder: Path, data: dict[str, Any]) -> str:
    for index, part in enumerate(np.split(data["x"], [1, 4, 9])):
        np.save(folder / f"{index}.npy", part)
    return f"{folder}/*"


def npz(folder: Path, data: dict[str, Any]) -> Path:
    np.savez(folder / "all.npz", **data)
    return folder / "all.npz"


def compressed_npz(folder: Path, data: dict[str, Any]) -> Path:
    np.savez_compressed(folder / "all.npz", **data)
    return folder / "all.npz"


def fortran_npz(folder: Path, data: dict[str, Any]) -> Path:
    fortran: dict[str, Any] = {n: np.asfortranarray(a) for n, a in data.items()}
    np.savez(folder / "all.npz", **fortran)
    return folder / "all.npz"


def unnamed_npz(folder: Path, data: dict[str, Any]) -> Path:
    np.savez(folder / "all.npz", data["x"])
    return folder / "all.npz"


def npz_files(folder: Path, data: dict[str, Any]) -> Path:
    for index in range(len(next(iter(data.values())))):
        part: dict[str, Any] = {n: a[index : index + 1] for n, a in data.items()}
        np.savez(folder / f"{index:03}.npz", **part)
    return folder


def rknn_list(folder: Path, data: dict[str, Any]) -> Path:
    lines = []
    for index in range(len(next(iter(data.values())))):
        for name, array in data.items():
            np.save(folder / f"{name}{index}.npy", array[index])
        lines.append(" ".join(f"./{name}{index}.npy" for name in data))
    (folder / "dataset.txt").write_text("\n".join([*lines[:3], "", *lines[3:]]) + "\n")
    return folder / "dataset.txt"


FORMS = (
    Form("npy", one_npy),
    Form("npy-fortran", fortran_npy),
    Form("folder", npy_files),
    Form("glob", npy_files_with_batch),
    Form("uneven-files", uneven_npy_files),
    Form("npz", npz),
    Form("npz-one-unnamed", unnamed_npz),
    Form("npz-two-inputs", npz, TWO),
    Form("npz-compressed", compressed_npz, TWO),
    Form("npz-fortran", fortran_npz, TWO),
    Form("npz-files", npz_files, TWO),
    Form("rknn-list", rknn_list),
    Form("rknn-list-two-inputs", rknn_list, TWO),
)


def samples_for(text: str, count: int = 12) -> dict[str, Array]:
    if text == ONE:
        return {"x": numbers(count, 3, 4, 5)}
    return {"a": numbers(count, 2), "b": -numbers(count, 3)}


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_each_form_gives_its_samples_in_order(form: Form, tmp_path: Path) -> None:
    data = samples_for(form.text)
    source = form.write(tmp_path, data)
    found = load(source, form.text)
    assert found.count == 12
    assert found.source == str(source)
    assert found.notes == ()
    for _ in range(2):  # a second pass gives the same
        assert [len(next(iter(b.values()))) for b in found.batches(5)] == [5, 5, 2]
        for name, array in whole(found, 5).items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, data[name])


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_samples_in_use_are_spread_evenly(form: Form, tmp_path: Path) -> None:
    data = samples_for(form.text)
    found = load(form.write(tmp_path, data), form.text, samples=4)
    assert found.count == 4
    for name, array in whole(found).items():
        np.testing.assert_array_equal(array, data[name][[1, 4, 7, 10]])


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Write a module that can be imported, and name it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(body: str) -> str:
        (tmp_path / "own_feeds.py").write_text(f"import numpy as np\n\n\ndef feeds():\n{body}")
        return "own_feeds:feeds"

    yield write
    sys.modules.pop("own_feeds", None)


@pytest.mark.parametrize("item", ["{'x': x}", "x", "x[0]", "{'x': x, 'path': 'unused'}"])
def test_a_function_yields_feeds(module: Callable[[str], str], item: str) -> None:
    body = f"    for i in range(9):\n        x = np.full((1, 3, 4, 5), i, np.float32)\n        yield {item}\n"
    found = load(module(body))
    assert found.count == 9
    for _ in range(2):
        np.testing.assert_array_equal(whole(found, 2)["x"][:, 0, 0, 0], np.arange(9))


def test_a_function_without_end_is_read_only_as_far_as_needed(module: Callable[[str], str]) -> None:
    body = "    while True:\n        yield np.zeros((2, 3, 4, 5), np.float32)\n"
    assert load(module(body), samples=5).count == 5


@pytest.mark.parametrize("form", [npz, compressed_npz, npz_files])
def test_labels_go_beside_the_feeds(form: Callable[[Path, dict[str, Array]], object], tmp_path: Path) -> None:
    data = {"x": numbers(6, 3, 4, 5), "labels": np.arange(6) % 4}
    found = load(form(tmp_path, data), samples=3)
    assert found.labelled
    feeds, labels = zip(*found.labelled_batches(2), strict=True)
    assert [set(f) for f in feeds] == [{"x"}] * 2
    assert np.concatenate(labels).tolist() == [1, 3, 1]
    assert np.concatenate([f["x"] for f in feeds])[:, 0, 0, 0].tolist() == [60, 180, 300]


def test_without_labels_there_are_none(tmp_path: Path) -> None:
    found = load(one_npy(tmp_path, samples_for(ONE)))
    assert not found.labelled
    assert [labels for _, labels in found.labelled_batches(6)] == [None, None]


def test_arrays_in_memory_are_a_set_too() -> None:
    of = model(TWO)
    found = from_arrays(samples_for(TWO), of, {"a": (1, 2), "b": (1, 3)}, labels=np.arange(12))
    np.testing.assert_array_equal(whole(found)["b"], samples_for(TWO)["b"])
    assert found.labelled


def test_reading_is_told_to_whoever_watches(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    load(
        one_npy(tmp_path, samples_for(ONE)),
        samples=3,
        progress=lambda _stage, done=0, total=0: told.append((done, total)),
    )
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


# --- batches --------------------------------------------------------------------------------------------------------


def test_a_fixed_batch_is_filled_and_what_does_not_fill_one_is_said(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", numbers(11, 2))
    found = load(tmp_path / "x.npy", FIXED)
    assert found.count == 8
    assert [b["x"].shape for b in found.batches(100)] == [(4, 2)] * 2
    np.testing.assert_array_equal(whole(found)["x"], numbers(8, 2))
    assert found.notes == ("3 of 11 calibration samples do not fill a batch of 4, and are left out",)


@pytest.mark.parametrize("shape", [(12, 2), (3, 4, 2)], ids=["samples", "batches"])
def test_a_fixed_batch_is_chosen_as_a_whole(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Where axis 0 is no batch (a series in time, say), what is read together stays together."""
    np.save(tmp_path / "x.npy", numbers(*shape))
    found = load(tmp_path / "x.npy", FIXED, samples=4)
    np.testing.assert_array_equal(whole(found)["x"], numbers(12, 2)[4:8])


def test_files_of_one_sample_fill_a_fixed_batch(tmp_path: Path) -> None:
    for index in range(8):
        np.save(tmp_path / f"{index}.npy", numbers(8, 2)[index : index + 1])
    np.testing.assert_array_equal(whole(load(tmp_path, FIXED))["x"], numbers(8, 2))


def test_a_batch_of_one_is_run_one_by_one(tmp_path: Path) -> None:
    found = load(one_npy(tmp_path, samples_for(ONE)), SINGLE)
    assert [b["x"].shape for b in found.batches(8)] == [(1, 3, 4, 5)] * 12


@pytest.mark.parametrize(("batch", "how"), [(1, "Concat<axis=1>(x, c)"), (2, "Concat<axis=1>(x, c)"), (1, "Add(x, c)")])
def test_an_open_batch_that_a_constant_closes_is_fixed(tmp_path: Path, batch: int, how: str) -> None:
    """An Add takes one sample, or as many as the constant has."""
    np.save(tmp_path / "x.npy", numbers(8, 2))
    held = 2 if "Add" in how else batch
    text = f"(float[N,2] x) => (float y) <float[{held},2] c> {{ y = {how} }}"
    found = load(tmp_path / "x.npy", text, {"x": (batch, 2)})
    assert [b["x"].shape for b in found.batches(100)] == [(batch, 2)] * (8 // batch)


@pytest.mark.parametrize(
    ("text", "data", "shapes"),
    [
        (NO_BATCH, {"x": numbers(3, 1, 2), "roi": numbers(3, 3)}, {"x": (1, 2), "roi": (3,)}),
        (SCALAR, {"x": numbers(3, 1, 2), "s": numbers(3)}, {"x": (1, 2), "s": ()}),
    ],
    ids=["no-batch", "scalar"],
)
def test_where_axis_0_is_no_batch_a_sample_is_a_whole_run(
    tmp_path: Path, text: str, data: dict[str, Array], shapes: Mapping[str, Any]
) -> None:
    found = load(npz(tmp_path, data), text)
    batches = list(found.batches(8))
    assert [{n: a.shape for n, a in b.items()} for b in batches] == [shapes] * 3
    for name, array in data.items():
        np.testing.assert_array_equal(np.stack([b[name] for b in batches]), array)


@pytest.mark.parametrize("text", [ONE, SINGLE, FIXED, NO_BATCH])
def test_onnxruntime_takes_the_batches(text: str) -> None:
    of = model(text)
    shapes = {i.name: tuple(d or 1 for d in i.dims or ()) for i in of.graph.inputs}
    data = {name: np.ones((8, *shape), np.float32) for name, shape in shapes.items()}
    with runtime.session(of, "test") as active:
        given = [runtime.run(active, batch, "test")["y"] for batch in from_arrays(data, of, shapes).batches(3)]
    assert sum(y.size for y in given) == data["x"].size


@pytest.mark.parametrize(("text", "unit"), [(ONE, 1), (FIXED, 4)], ids=["any-batch", "fixed-batch"])
@pytest.mark.parametrize("runs", [2, 3, 7, 20])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9])
def test_split_is_disjoint_and_whole(text: str, unit: int, runs: int, share: float) -> None:
    shape = (3, 4, 5) if text == ONE else (2,)
    data = numbers(runs * unit, *shape)
    found = from_arrays({"x": data}, model(text), {"x": (unit, *shape)})
    fit, held = (whole(part)["x"] for part in found.split(share))
    assert len(fit) % unit == len(held) % unit == 0
    assert abs(len(held) / unit - share * runs) <= 1
    assert len(fit)
    assert len(held)
    both = np.concatenate([fit, held])
    np.testing.assert_array_equal(both[np.argsort(both.reshape(len(both), -1)[:, 0])], data)


def test_one_run_cannot_be_split() -> None:
    found = from_arrays({"x": numbers(4, 2)}, model(FIXED), {"x": (4, 2)})
    assert found.split() == (found, found)


def test_head_is_spread_and_fills_a_run() -> None:
    found = from_arrays({"x": numbers(20, 2)}, model(FIXED), {"x": (4, 2)})
    assert found.head(1).count == 4
    assert found.head(100).count == 20
    np.testing.assert_array_equal(whole(found.head(8))["x"], numbers(20, 2)[[4, 5, 6, 7, 12, 13, 14, 15]])


# --- pixels ---------------------------------------------------------------------------------------------------------

PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)  # height, width, RGB


def saved(path: Path, pixels: Array = PIXELS, size: tuple[int, int] | None = None) -> Path:
    image = pytest.importorskip("PIL.Image", reason=IMAGES)
    made = image.fromarray(pixels)
    (made if size is None else made.resize(size)).save(path)
    return path


@dataclass(frozen=True)
class Reading:
    """Options, and what they make of `PIXELS`, [height, width, RGB], for an input of ``shape``."""

    name: str
    shape: tuple[int, ...]
    options: Mapping[str, Any]
    expected: Callable[[Array], Array]
    elem_type: str = "float"

    def __str__(self) -> str:
        return self.name


MEAN, STD = (10.0, 20.0, 30.0), (2.0, 4.0, 8.0)
READINGS = (
    Reading("as-it-is", (1, 3, 4, 5), {}, lambda p: p.transpose(2, 0, 1)),
    Reading("one-number", (1, 3, 4, 5), {"std": (255.0,)}, lambda p: p.transpose(2, 0, 1) / 255),
    Reading("mean-std", (1, 3, 4, 5), {"mean": MEAN, "std": STD}, lambda p: ((p - MEAN) / STD).transpose(2, 0, 1)),
    Reading(
        "bgr",
        (1, 3, 4, 5),
        {"mean": MEAN, "std": STD, "color": "BGR"},
        lambda p: ((p[:, :, ::-1] - MEAN) / STD).transpose(2, 0, 1),
    ),
    Reading("nhwc", (1, 4, 5, 3), {"mean": MEAN}, lambda p: p - MEAN),
    Reading("nhwc-said", (1, 4, 5, 3), {"mean": MEAN, "layout": "NHWC"}, lambda p: p - MEAN),
    Reading("uint8", (1, 3, 4, 5), {}, lambda p: p.transpose(2, 0, 1), "uint8"),
    Reading("float16", (1, 3, 4, 5), {"mean": MEAN}, lambda p: (p - MEAN).transpose(2, 0, 1), "float16"),
)


@pytest.mark.parametrize("reading", READINGS, ids=str)
def test_images_are_read_as_an_rknn_config_says(reading: Reading, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png")
    sizes = ",".join(map(str, reading.shape))
    text = f"({reading.elem_type}[{sizes}] x) => ({reading.elem_type} y) {{ y = Identity(x) }}"
    (batch,) = load(path, text, **reading.options).batches(1)
    assert str(batch["x"].dtype) == {"float": "float32"}.get(reading.elem_type, reading.elem_type)
    np.testing.assert_allclose(batch["x"][0], reading.expected(PIXELS.astype(np.float64)), rtol=1e-6)


@pytest.mark.parametrize("text", ["(float[1,1,4,5] x)", "(float[1,4,5] x)", "(float[1,4,5,1] x)"])
@pytest.mark.parametrize("grey", [True, False], ids=["grey", "colour"])
def test_one_channel_is_grey(text: str, grey: bool, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png", PIXELS[:, :, 0] if grey else np.repeat(PIXELS[:, :, :1], 3, axis=2))
    (batch,) = load(path, f"{text} => (float y) {{ y = Identity(x) }}", mean=(1.0,)).batches(1)
    np.testing.assert_array_equal(batch["x"].reshape(4, 5), PIXELS[:, :, 0] - 1.0)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "PPM"])
def test_images_of_any_size_and_kind_are_resized(suffix: str, tmp_path: Path) -> None:
    saved(tmp_path / f"a.{suffix}", np.full((9, 7, 3), 100, np.uint8))
    (batch,) = load(tmp_path, SINGLE).batches(1)
    np.testing.assert_allclose(batch["x"], np.full((1, 3, 4, 5), 100), atol=2)


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "1", "CMYK"])
def test_images_of_any_mode_are_read(mode: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason=IMAGES)
    suffix = "tif" if mode == "CMYK" else "png"
    image.fromarray(np.zeros((4, 5, 3), np.uint8)).convert(mode).save(tmp_path / f"a.{suffix}")
    (batch,) = load(tmp_path, SINGLE).batches(1)
    np.testing.assert_array_equal(batch["x"], np.zeros((1, 3, 4, 5)))


def test_a_list_of_images_is_read_as_rknn_toolkit_reads_it(tmp_path: Path) -> None:
    (tmp_path / "some images").mkdir()
    for index in range(3):
        saved(tmp_path / "some images" / f"{index}.png", np.full((4, 5, 3), index, np.uint8))
    (tmp_path / "dataset.txt").write_text("".join(f"some images/{i}.png\n" for i in (2, 0, 1)))
    assert whole(load(tmp_path / "dataset.txt"))["x"][:, 0, 0, 0].tolist() == [2, 0, 1]


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (1, 4, 5, 3)], ids=["nchw", "nhwc"])
def test_bytes_for_a_float_input_are_pixels_as_the_input_lays_them_out(shape: tuple[int, ...], tmp_path: Path) -> None:
    pixels = np.arange(60, dtype=np.uint8).reshape(shape)
    np.save(tmp_path / "a.npy", pixels)
    text = f"(float[{','.join(map(str, shape))}] x) => (float y) {{ y = Relu(x) }}"
    (batch,) = load(tmp_path / "a.npy", text, mean=MEAN, std=STD, color="BGR").batches(1)
    along = [-1 if s == 3 else 1 for s in shape]
    expected = (pixels - np.reshape(MEAN, along)) / np.reshape(STD, along)
    np.testing.assert_allclose(batch["x"], expected, rtol=1e-6)


def test_pixels_without_mean_and_std_and_these_without_pixels_are_said(tmp_path: Path) -> None:
    np.save(tmp_path / "pixels.npy", np.zeros((1, 3, 4, 5), np.uint8))
    np.save(tmp_path / "floats.npy", np.zeros((1, 3, 4, 5), np.float32))
    assert "fed as 0..255" in load(tmp_path / "pixels.npy").notes[0]
    assert load(tmp_path / "pixels.npy", std=(255.0,)).notes == ()
    assert "have no effect" in load(tmp_path / "floats.npy", std=(255.0,)).notes[0]


def test_images_without_pillow_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"a\.png: images need Pillow.*pip install 'onnxprune\[images\]'"):
        load(tmp_path)


# --- errors ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """Data that cannot be used: ``write`` makes it in a folder and gives what to ask for; ``says``: the message."""

    name: str
    write: Callable[[Path], object]
    says: str
    text: str = field(default=ONE, repr=False)

    def __str__(self) -> str:
        return self.name


def put(folder: Path, name: str, content: Any) -> Path:
    """A file of text, of bytes, of an array, or of several arrays."""
    path = folder / name
    if isinstance(content, (str, bytes)):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    elif isinstance(content, dict):
        np.savez(path, **content)
    else:
        np.save(path, content)
    return path


def cut_off(folder: Path) -> Path:
    path = put(folder, "a.npy", numbers(9, 3, 4, 5))
    path.write_bytes(path.read_bytes()[:-1000])
    return path


def one_is_nan(folder: Path) -> Path:
    array = numbers(3, 3, 4, 5)
    array[1, 0, 0, 0] = np.nan
    return put(folder, "a.npy", array)


def not_an_image(folder: Path) -> Path:
    pytest.importorskip("PIL", reason=IMAGES)
    return put(folder, "a.png", b"\x89PNG and nothing else")


def deep_image(folder: Path) -> Path:
    return saved(folder / "a.png", np.zeros((4, 5), np.uint16))


def half_an_image(folder: Path) -> Path:
    path = saved(folder / "a.png", np.random.default_rng(0).integers(0, 255, (50, 50, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:4000])
    return path


OBJECTS = np.array([{}], object)
FAULTS = (
    Fault("missing", lambda f: f / "nowhere", r"nowhere: no such file, and no file matches \(--data takes"),
    Fault("empty-folder", lambda f: f, r"holds no \.npy, \.npz or image"),
    Fault("glob-of-nothing", lambda f: f"{f}/*.npy", r"\*\.npy: no such file"),
    Fault("other-file", lambda f: put(f, "a.csv", "1,2"), r"a\.csv: is neither \.npy nor an image"),
    Fault("no-array", lambda f: put(f, "a.npy", "text"), r"a\.npy: cannot be read"),
    Fault("no-bytes", lambda f: put(f, "a.npy", ""), r"a\.npy: cannot be read"),
    Fault("cut-off", cut_off, r"a\.npy: cannot be read"),
    Fault("objects", lambda f: put(f, "a.npy", OBJECTS), r"a\.npy: cannot be read"),
    Fault("no-archive", lambda f: put(f, "a.npz", "text"), r"a\.npz: cannot be read: File is not a zip file"),
    Fault("archive-of-objects", lambda f: put(f, "a.npz", {"x": OBJECTS}), r"a\.npz: .*'x' holds Python objects"),
    Fault("empty-array", lambda f: put(f, "a.npy", numbers(0, 3, 4, 5)), r"a\.npy: holds no samples"),
    Fault("shape", lambda f: put(f, "a.npy", numbers(2, 3, 9, 9)), r"a\.npy: has shape 2,3,9,9, and .*'x' has 3,4,5"),
    Fault("type", lambda f: put(f, "a.npy", np.zeros((2, 3, 4, 5))), r"a\.npy: is float64, .*astype\('float32'\)"),
    Fault("nan", one_is_nan, r"a\.npy, sample 1: has NaN or infinite values for input 'x'"),
    Fault("one-array-for-two", lambda f: put(f, "a.npy", numbers(2, 2)), r"a\.npy: holds one array.*2 inputs", TWO),
    Fault("array-missing", lambda f: put(f, "a.npz", {"a": numbers(2, 2)}), r"no array 'b' \(it holds a\)", TWO),
    Fault(
        "counts-differ",
        lambda f: put(f, "a.npz", {"a": numbers(2, 2), "b": numbers(3, 3)}),
        r"a\.npz: holds different numbers of samples: 2 of 'a', 3 of 'b'",
        TWO,
    ),
    Fault(
        "labels-differ",
        lambda f: put(f, "a.npz", {"x": numbers(2, 3, 4, 5), "labels": np.arange(3)}),
        r"different numbers of samples: 2 of 'x', 3 of 'labels'",
    ),
    Fault(
        "labels-no-integers",
        lambda f: put(f, "a.npz", {"x": numbers(2, 3, 4, 5), "labels": np.zeros(2)}),
        r"'labels' is float64, not integers",
    ),
    Fault(
        "some-labelled",
        lambda f: [
            put(f, "a.npz", {"x": numbers(1, 3, 4, 5), "labels": np.arange(1)}),
            put(f, "b.npz", {"x": numbers(1, 3, 4, 5)}),
            f,
        ][-1],
        r"only some of the files have 'labels'",
    ),
    Fault("less-than-a-batch", lambda f: put(f, "a.npy", numbers(3, 2)), r"3 samples \(the model takes 4", FIXED),
    Fault("list-of-nothing", lambda f: put(f, "d.txt", "\n"), r"d\.txt: holds no samples"),
    Fault("list-names-no-file", lambda f: put(f, "d.txt", "\na.npy"), r"d\.txt, line 2: no such file: a\.npy"),
    Fault("list-too-short", lambda f: put(f, "d.txt", "a.npy"), r"line 1: names 1 files for 2 inputs", TWO),
    Fault("list-missing", lambda f: f / "d.txt", r"d\.txt: cannot be read: No such file"),
    Fault("list-of-bytes", lambda f: put(f, "d.txt", b"\xff\xfe\x00"), r"d\.txt: cannot be read"),
    Fault(
        "list-counts-differ",
        lambda f: [put(f, "a.npy", numbers(2, 2)), put(f, "b.npy", numbers(3, 3)), put(f, "d.txt", "a.npy b.npy")][-1],
        r"line 1: its files hold different numbers of samples",
        TWO,
    ),
    Fault("no-image", not_an_image, r"a\.png: cannot read the image: cannot identify image file"),
    Fault("half-an-image", half_an_image, r"a\.png: cannot read the image"),
    Fault("deep-image", deep_image, r"a\.png: has more than 8 bits a pixel"),
    Fault(
        "image-for-integers",
        lambda f: put(f, "a.png", ""),
        r"a\.png: is an image, and the model reads int64",
        "(int64[1,3] x) => (int64 y) { y = Identity(x) }",
    ),
    Fault(
        "image-for-a-vector",
        lambda f: put(f, "a.png", ""),
        r"a\.png: is an image, and a sample of the model's input has shape 7",
        "(float[1,7] x) => (float y) { y = Identity(x) }",
    ),
)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_what_is_wrong_names_the_file_and_the_way_out(fault: Fault, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=fault.says) as caught:
        load(fault.write(tmp_path), fault.text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("    raise KeyError('gone')\n    yield\n", r"own_feeds:feeds: raises KeyError: 'gone'"),
        ("    return None\n", r"own_feeds:feeds: raises TypeError"),
        ("    yield {'y': 1}\n", r"own_feeds:feeds, item 0: has no array 'x'"),
        ("    yield from ()\n", r"own_feeds:feeds: holds no samples"),
    ],
    ids=["raises", "returns-nothing", "other-name", "yields-nothing"],
)
def test_what_is_wrong_with_a_function_is_said(module: Callable[[str], str], body: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load(module(body))


def test_a_function_that_is_not_there_is_said() -> None:
    with pytest.raises(OptionError, match="--data: cannot load 'own_nothing:feeds'"):
        load("own_nothing:feeds")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"samples": 0}, "--samples: must be at least 1, not 0"),
        ({"std": (1.0, 0.0, 1.0)}, "--std: must not be 0"),
        ({"mean": (1.0, 2.0)}, "--mean: 2 numbers for 3 channels of .*a.npy"),
        ({"layout": "HWC"}, "--layout: must be NCHW or NHWC"),
        ({"color": "HSV"}, "--color: must be RGB or BGR"),
    ],
)
def test_options_out_of_range_are_said(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 3, 4, 5), np.uint8))
    with pytest.raises(OptionError, match=says):
        load(tmp_path / "a.npy", **options)


def test_mean_for_a_model_that_reads_bytes_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.png")
    with pytest.raises(OptionError, match="the model reads uint8 pixels as they are"):
        load(path, "(uint8[1,3,4,5] x) => (uint8 y) { y = Identity(x) }", mean=(1.0,))
