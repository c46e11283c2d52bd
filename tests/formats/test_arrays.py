"""Folders of arrays: read back they are the same network, and what they say of weights can be used without us."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse

from onnxprune.constraints.grids import Grids
from onnxprune.errors import CheckError
from onnxprune.formats import arrays, integer
from onnxprune.formats.integers import on_numpy
from onnxprune.formats.integers.steps import Program, Requantize
from onnxprune.model.edits import Edits
from onnxprune.model.onnx_model import Model
from onnxprune.running.seeded_inputs import seeded_feeds
from tests.formats.grids import quantized
from tests.formats.test_integer import MIDDLES, net, shape_of
from tests.formats.test_qdq import NET
from tests.models import build


def made(text: str = NET) -> tuple[Model, Grids, Program]:
    model = Model(build(text))
    array = model.array("w1")
    thinned = np.where(np.abs(array) > np.quantile(np.abs(array), 0.8), array, np.float32(0))
    model = model.apply(Edits(constants={"w1": thinned}))
    feeds = seeded_feeds(model.graph.inputs, {"x": shape_of(model, 4)}, 1)
    model, grids = quantized(model, feeds)
    return model, grids, integer.program(model, grids, {})


@pytest.mark.parametrize("name", MIDDLES)
def test_any_network_is_read_back(name: str) -> None:
    model = net(*MIDDLES[name][:2])
    model, grids = quantized(model, seeded_feeds(model.graph.inputs, {"x": (2, 3, 10, 10)}, 1))
    program = integer.program(model, grids, {})
    files = arrays.write(model, grids, program)
    arrays.verify(model, grids, program, files, [integer.drawn(program, 0)])


def test_a_sparse_weight_is_three_matrices_too() -> None:
    model, grids, program = made()
    files = arrays.write(model, grids, program)
    told = {w["name"]: w for w in json.loads(files["manifest.json"])["weights"]}
    assert told["w1"]["zeros"] >= 0.79
    assert "coo" not in told["w3"]
    dense = np.load(io.BytesIO(files[told["w1"]["file"]]))
    assert dense.dtype == np.int8
    for form in ("coo", "csr", "csc"):
        matrix = scipy.sparse.load_npz(io.BytesIO(files[told["w1"][form]]))
        assert matrix.format == form
        assert np.array_equal(matrix.toarray().reshape(dense.shape), dense)
        assert matrix.nnz == np.count_nonzero(dense)


def test_a_reader_of_its_own_gets_the_weights() -> None:
    model, grids, program = made()
    files = arrays.write(model, grids, program)
    listed = json.loads(files["manifest.json"])["weights"]
    assert {one["name"] for one in listed} == set(grids.weights)
    for one in listed:
        codes = np.load(io.BytesIO(files[one["file"]])).astype(np.float32)
        told = one["scale"]
        scale = np.load(io.BytesIO(files[told["file"]])) if "file" in told else np.float32(told["array"])
        assert np.array_equal(codes * scale, model.array(one["name"]))


def test_multipliers_and_shifts_are_there() -> None:
    model, grids, program = made()
    again = arrays.program_in(arrays.write(model, grids, program))
    assert again is not None
    pairs = zip(again.steps, program.steps, strict=True)
    both = [(a, b) for a, b in pairs if isinstance(a, Requantize) and isinstance(b, Requantize)]
    assert both
    assert all(np.array_equal(a.multiplier, b.multiplier) and np.array_equal(a.shift, b.shift) for a, b in both)


def test_a_network_that_is_no_integers_has_its_weights() -> None:
    model, grids, _ = made()
    files = arrays.write(model, grids, None, "there are no integers for Softmax")
    arrays.verify(model, grids, None, files, [])
    assert json.loads(files["manifest.json"])["because"] == "there are no integers for Softmax"
    assert arrays.program_in(files) is None


def test_other_files_are_found_out() -> None:
    model, grids, program = made()
    files = arrays.write(model, grids, program)
    feeds = integer.drawn(program, 0)
    swapped = {**files, "weights/0.npy": files["weights/0.npy"][:-1] + b"\x55"}
    with pytest.raises(CheckError, match="tensor 'w1'"):
        arrays.verify(model, grids, program, swapped, [feeds])
    first = next(s for s in program.steps if isinstance(s, Requantize))
    other = replace(program, steps=tuple(replace(s, zero=9) if s is first else s for s in program.steps))
    assert not np.array_equal(on_numpy.run(other, feeds)["y"], on_numpy.run(program, feeds)["y"])
    with pytest.raises(CheckError, match="tensor 'y'"):
        arrays.verify(model, grids, other, files, [feeds])
