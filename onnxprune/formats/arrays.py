"""A folder of .npy files and a manifest: integers, scales, zero points, and all that an engine of one's own needs.

    manifest.json          what each file is, and the steps of the network, if it can be written in integers
    weights/N.npy          codes of a weight, as the model has its axes
    weights/N.coo.npz      of a weight that is half zeros or more: codes without zero point, as a matrix [first axis,
    weights/N.csr.npz      the others], as scipy.sparse.load_npz reads it
    weights/N.csc.npz
    steps/N.FIELD.npy      what a step has more than a few numbers of

Steps and how they round are those of `onnxprune.formats.integers.steps`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from onnxprune.constraints.grids import Grid, Grids
from onnxprune.errors import CheckError
from onnxprune.formats.integers import on_numpy, steps
from onnxprune.formats.integers.steps import Code, Program, Step
from onnxprune.formats.read_back import check_same
from onnxprune.model.onnx_model import Model

MANIFEST = "manifest.json"

#: The version of the manifest.
VERSION = 1

#: From which share of zeros on a weight is written as a sparse matrix too.
_SPARSE = 0.5

#: Arrays of more numbers have a file.
_FEW = 4

_FORMS = ("coo", "csr", "csc")

_STEPS: Mapping[str, type[Any]] = {
    s.__name__: s
    for s in (
        *(steps.Convolve, steps.Multiply, steps.Spread, steps.Add, steps.Times, steps.Requantize, steps.Clamp),
        *(steps.Look, steps.Largest, steps.Extreme, steps.Sum, steps.Mix, steps.Move),
    )
}

Files = Mapping[str, bytes]


def write(model: Model, grids: Grids, program: Program | None, because: str = "") -> dict[str, bytes]:
    """The files of the folder by name. ``because``: why there is no ``program``, if there is none."""
    out = _Folder()
    weights = [_weight(out, i, n, model.array(n), g) for i, (n, g) in enumerate(grids.weights.items())]
    manifest: dict[str, Any] = {
        "format": "onnxprune integers",
        "version": VERSION,
        "weights": weights,
        "activations": {n: _grid(out, f"activations/{i}", g) for i, (n, g) in enumerate(grids.activations.items())},
    }
    if program is None:
        manifest["steps"] = None
        manifest["because"] = because
    else:
        manifest |= {n: _plain(out, "program", n, getattr(program, n)) for n in _OF_PROGRAM}
        manifest["codes"] = {n: _plain(out, "program", n, c) for n, c in program.codes.items()}
        manifest["steps"] = [
            {"step": type(s).__name__}
            | {f.name: _plain(out, f"steps/{i}", f.name, getattr(s, f.name)) for f in fields(s)}
            for i, s in enumerate(program.steps)
        ]
    return {MANIFEST: json.dumps(manifest, indent=1).encode(), **out.files}


_OF_PROGRAM = ("inputs", "outputs", "kinds", "rounding", "opset")


def program_in(files: Files) -> Program | None:
    """The steps that a folder describes; None where it has none."""
    told = json.loads(files[MANIFEST])
    if told["steps"] is None:
        return None
    made: list[Step] = []
    for one in told["steps"]:
        kind = _STEPS[one["step"]]
        made.append(kind(**{f.name: _value(files, one[f.name]) for f in fields(kind)}))
    rest = {n: _value(files, told[n]) for n in _OF_PROGRAM}
    return Program(tuple(made), {n: _value(files, c) for n, c in told["codes"].items()}, **rest)


def verify(
    model: Model, grids: Grids, program: Program | None, files: Files, feeds: list[dict[str, NDArray[Any]]]
) -> None:
    """Read ``files`` back and check that they hold the weights of ``model``, and give what ``program`` gives.

    ``feeds``: the inputs that are tried. Raises CheckError.
    """
    told = json.loads(files[MANIFEST])
    for one in told["weights"]:
        grid, wanted = grids.weights[one["name"]], model.array(one["name"])
        scale, zero = _value(files, one["scale"]), _value(files, one["zero_point"])
        read = Grid(np.asarray(scale, np.float32), zero, one["bits"], one["signed"])
        codes = np.load(io.BytesIO(files[one["file"]])).astype(np.int64)
        check_same(one["name"], read.values(codes), wanted)
        for form in (f for f in _FORMS if f in one):
            matrix = scipy.sparse.load_npz(io.BytesIO(files[one[form]])).toarray().astype(np.int64)
            check_same(one["name"], matrix.reshape(codes.shape), codes - grid.along(codes.shape)[1])
    again = program_in(files)
    if (again is None) != (program is None):
        raise CheckError("has other steps than were written", where=MANIFEST, hint="please report this as a bug")
    if program is not None and again is not None:
        for one_feed in feeds:
            found, wanted_all = on_numpy.run(again, one_feed), on_numpy.run(program, one_feed)
            for name in program.outputs:
                check_same(name, found[name], wanted_all[name])


@dataclass
class _Folder:
    """Files so far."""

    files: dict[str, bytes] = field(default_factory=dict)

    def put(self, name: str, array: NDArray[Any]) -> str:
        """One more array."""
        data = io.BytesIO()
        np.save(data, np.ascontiguousarray(array).reshape(array.shape), allow_pickle=False)
        self.files[name] = data.getvalue()
        return name

    def sparse(self, name: str, matrix: Any) -> str:
        """One more matrix."""
        data = io.BytesIO()
        scipy.sparse.save_npz(data, matrix)
        self.files[name] = data.getvalue()
        return name


def _weight(out: _Folder, index: int, name: str, values: NDArray[np.float32], grid: Grid) -> dict[str, Any]:
    codes, at = grid.codes(values), f"weights/{index}"
    told: dict[str, Any] = {"name": name, "file": out.put(f"{at}.npy", _narrow(codes)), "shape": list(values.shape)}
    told |= _grid(out, at, grid)
    centred = codes - grid.along(codes.shape)[1]
    share = float((centred == 0).mean()) if centred.size else 0.0
    told["zeros"] = share
    if share >= _SPARSE and centred.ndim > 1:
        matrix = scipy.sparse.coo_array(_narrow(centred.reshape(len(centred), -1)))
        for form, same in (("coo", matrix), ("csr", matrix.tocsr()), ("csc", matrix.tocsc())):
            told[form] = out.sparse(f"{at}.{form}.npz", same)
    return told


def _grid(out: _Folder, at: str, grid: Grid) -> dict[str, Any]:
    return {
        "bits": grid.bits,
        "signed": grid.signed,
        "scale": _plain(out, at, "scale", grid.scale),
        "zero_point": _plain(out, at, "zero_point", grid.zero_point),
    }


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    """Integers in the smallest type that holds them."""
    if array.dtype != np.int64 or not array.size:
        return array
    kinds = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64)
    low, high = int(array.min()), int(array.max())
    return array.astype(next(k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max))


def _plain(out: _Folder, at: str, name: str, value: Any) -> Any:
    """What JSON has for a value; arrays of more than a few numbers are files."""
    if isinstance(value, Code):
        told = {f.name: _plain(out, at, f"{name}.{f.name}", getattr(value, f.name)) for f in fields(value)}
        return {"code": told}
    if isinstance(value, np.ndarray):
        if value.size <= _FEW:
            return {"array": value.tolist(), "dtype": value.dtype.name}
        return {"file": out.put(f"{at}.{name}.npy", _narrow(value)), "dtype": value.dtype.name}
    if isinstance(value, (list, tuple)):
        return [_plain(out, at, f"{name}.{i}", v) for i, v in enumerate(value)]
    if isinstance(value, Mapping):
        return {"map": {k: _plain(out, at, f"{name}.{k}", v) for k, v in value.items()}}
    return value.item() if isinstance(value, np.generic) else value


def _value(files: Files, told: Any) -> Any:
    """The value that `_plain` wrote."""
    if isinstance(told, list):
        return tuple(_value(files, v) for v in told)
    if not isinstance(told, dict):
        return told
    if "code" in told:
        return Code(**{n: _value(files, v) for n, v in told["code"].items()})
    if "map" in told:
        return {k: _value(files, v) for k, v in told["map"].items()}
    found = np.load(io.BytesIO(files[told["file"]])) if "file" in told else np.asarray(told["array"])
    return found.astype(told["dtype"])
