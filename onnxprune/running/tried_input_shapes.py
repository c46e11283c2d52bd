"""Choosing the shapes that a model is run at.

Dimensions that the file leaves open are guessed and tried: images at the size that the exporter noted, or at several
sizes, audio of up to a second, texts. Dimensions of one name have one size in all inputs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from onnxprune.errors import ModelError, OptionError, nearest
from onnxprune.model.dtypes import dtype_of
from onnxprune.model.graph import Shape, TensorInfo
from onnxprune.model.onnx_model import Model
from onnxprune.running.id_ranges import compared_with, depends_on, id_rows
from onnxprune.running.seeded_inputs import PLAIN, Draws, seeded_feeds
from onnxprune.running.session import run, session
from onnxprune.running.tensor_shapes import Shapes, resolve

#: What open dimensions are tried as, by what they seem to be, in this order. Height and width: divisible by 32, as most
#: networks ask; samples of audio: a second at 16 kHz, and windows; steps: of texts, and of features over time.
_TRIED: Mapping[str, tuple[int, ...]] = {
    "side": (224, 256, 64, 320, 512, 640, 48, 32),
    "wave": (16000, 16384, 512, 1024, 256, 480, 64, 16),
    "step": (16, 32, 128, 100, 64, 8, 2, 1),
    "count": (1, 2, 16),
    "batch": (1,),
    "channels": (3,),
}

#: Where Ultralytics notes height and width of the pictures that a network was exported for, as "[320, 320]".
_EXPORTED_SIZE = "imgsz"

#: Dimensions of a batch of pictures, and how high or wide one is at most.
_PICTURE, _MOST_SIDE = 4, 1 << 14

#: How many values of an input that is compared with numbers are tried.
_VALUES = 4


@dataclass(frozen=True)
class Chosen:
    """A shape for every input, and how inputs are drawn."""

    shapes: dict[str, Shape]
    draws: Draws


def choose_shapes(model: Model, given: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shapes of `choose_inputs`."""
    return choose_inputs(model, given).shapes


def choose_inputs(
    model: Model, given: Mapping[str, Shape], values: Mapping[str, float] | None = None, part: Model | None = None
) -> Chosen:
    """Choose a shape for every input: as declared, as ``given``, or else the first guess that the model runs at.

    ``values``: the values of inputs of one number. ``part``: the part of the model that can be run, if not all of it
    can. Raises OptionError for names and ranks that do not fit, ModelError where the model runs at no shape that was
    tried.
    """
    inputs = {i.name: i for i in model.graph.inputs if i.elem_type}
    values = _fitting(inputs, given, values or {})
    guesses = list(_guesses(model, inputs, given))
    draws = list(_draws(model, inputs, values))
    if len(guesses) == len(draws) == 1:
        return Chosen(guesses[0], draws[0])
    where = str(model.path or "model")
    failure: tuple[ModelError, Chosen] | None = None
    try:
        with session(part or model, where) as active:
            for how, shapes in product(draws, guesses):
                chosen = Chosen(shapes, how)
                try:
                    run(active, seeded_feeds(inputs.values(), shapes, 0, how), where)
                except ModelError as error:
                    failure = failure or (error, chosen)
                else:
                    return chosen
    except ModelError:
        if len(guesses) > 1:
            raise
    if failure is None or len(guesses) == 1:
        return Chosen(guesses[0], draws[0])  # no shape is open: what runs the model says what is wrong
    raise _blamed(model, *failure, given)


def _fitting(
    inputs: Mapping[str, TensorInfo], given: Mapping[str, Shape], values: Mapping[str, float]
) -> Mapping[str, float]:
    """``values``. Raises OptionError for names and ranks that do not fit."""
    for option, names in (("--input-shape", given), ("--input-value", values)):
        for name in names:
            if name not in inputs:
                hint = nearest(name, inputs, f"inputs: {', '.join(inputs)}")
                raise OptionError(f"the model has no input '{name}'", where=option, hint=hint)
    for name, shape in given.items():
        dims = inputs[name].dims
        if dims is not None and (
            len(dims) != len(shape) or any(d not in (None, s) for d, s in zip(dims, shape, strict=True))
        ):
            declared = ",".join("?" if d is None else str(d) for d in dims)
            raise OptionError(
                f"{','.join(map(str, shape))} does not fit input '{name}' of shape {declared}", where="--input-shape"
            )
    return values


def _draws(model: Model, inputs: Mapping[str, TensorInfo], values: Mapping[str, float]) -> Iterator[Draws]:
    """How inputs may be drawn: numbers as what they are compared with, ids over their tables; then more plainly."""
    rows = {n: r for n, r in id_rows(model).items() if n in inputs and n not in values}
    found = {n: v for n, v in compared_with(model).items() if n in inputs and n not in values and n not in rows}
    for chosen in list(product(*found.values()))[:_VALUES]:
        yield Draws(rows, {**dict(zip(found, chosen, strict=True)), **values})
    if found:
        yield Draws(rows, values)
    if rows:
        yield Draws({}, values)


def guessed(
    model: Model,
    shapes: Mapping[str, Shape],
    given: Mapping[str, Any],
    draws: Draws = PLAIN,
    values: Mapping[str, Any] | None = None,
) -> Iterator[str]:
    """A note for each input that was guessed: of which more than the batch is open, or that is one number."""
    exported = _exported_size(model)
    for info in model.graph.inputs:
        if info.name in draws.values and info.name not in (values or {}):
            value = draws.values[info.name]
            yield f"input '{info.name}' is fed {value:g}, as the model compares it with this (--input-value)"
        if info.name in shapes and info.name not in given and (info.dims is None or None in info.dims[1:]):
            declared = (
                "of any shape" if info.dims is None else ",".join("?" if d is None else str(d) for d in info.dims)
            )
            at = ",".join(map(str, shapes[info.name]))
            known = len(shapes[info.name]) == _PICTURE and shapes[info.name][2:] == exported
            why = f"as '{_EXPORTED_SIZE}' in the file says" if known else "as nothing else is given"
            yield f"input '{info.name}' is {declared}: measured at {at}, {why} (--input-shape)"


# --- what open dimensions are -----------------------------------------------------------------------------------------

Key = tuple[str, int] | str


def _guesses(model: Model, inputs: Mapping[str, TensorInfo], given: Mapping[str, Shape]) -> Iterator[dict[str, Shape]]:
    """Shapes to try. One that differs from the first in what a single kind of dimension is comes after it."""
    names = _names(model)
    keys = {n: _keys(i, names.get(n, ())) for n, i in inputs.items()}
    role = _roles({n: i for n, i in inputs.items() if n not in given}, keys, id_rows(model).keys())
    fixed = {k: s for n, shape in given.items() for k, s in zip(keys[n], shape, strict=False) if k is not None}
    role = {k: r for k, r in role.items() if k not in fixed}

    def shapes(sizes: Mapping[str, int], known: Mapping[Key, int] | None = None) -> dict[str, Shape]:
        own = {**{k: sizes[r] for k, r in role.items()}, **(known or {}), **fixed}
        return {n: given.get(n) or _shape(inputs[n], keys[n], own) for n in inputs}

    first = {r: tried[0] for r, tried in _TRIED.items()}
    if sides := _sides(inputs, keys, role, _exported_size(model)):
        yield shapes(first, sides)
    yield shapes(first)
    for kind in dict.fromkeys(r for r in role.values()):
        for size in _TRIED[kind][1:]:
            yield shapes({**first, kind: size})
    if role:
        yield from ({**with_zeros, **given} for with_zeros in _with_zeros(model, shapes(first)))


def _sides(
    inputs: Mapping[str, TensorInfo],
    keys: Mapping[str, tuple[Key | None, ...]],
    role: Mapping[Key, str],
    exported: Shape,
) -> dict[Key, int]:
    """The sizes of open sides of pictures, where ``exported`` tells them."""
    pictures = [n for n, i in inputs.items() if exported and len(i.dims or ()) == _PICTURE]
    sizes = ((k, size) for n in pictures for k, size in zip(keys[n][2:], exported, strict=True))
    return {k: size for k, size in sizes if k is not None and role.get(k) == "side"}


def _exported_size(model: Model) -> Shape:
    """(height, width) as the exporter noted them; () where it did not."""
    noted = next((p.value for p in model.proto.metadata_props if p.key == _EXPORTED_SIZE), "")
    found = re.fullmatch(r"\[ *([0-9]{1,5}) *, *([0-9]{1,5}) *\]", noted)
    sizes = tuple(map(int, found.groups())) if found else ()
    return sizes if all(0 < s <= _MOST_SIDE for s in sizes) else ()


def _names(model: Model) -> dict[str, tuple[str, ...]]:
    """The names that the file gives dimensions of inputs."""
    return {i.name: tuple(d.dim_param for d in i.type.tensor_type.shape.dim) for i in model.proto.graph.input}


def _keys(info: TensorInfo, names: tuple[str, ...]) -> tuple[Key | None, ...]:
    """For each open dimension what it is known by: its name, or its place."""
    dims = info.dims or ()
    names = names if len(names) == len(dims) else ("",) * len(dims)
    return tuple(
        None if d is not None else name or (info.name, a) for a, (d, name) in enumerate(zip(dims, names, strict=True))
    )


def _roles(
    inputs: Mapping[str, TensorInfo], keys: Mapping[str, tuple[Key | None, ...]], ids: Collection[str]
) -> dict[Key, str]:
    """What each open dimension seems to be; a batch, where one of the inputs says so. ``ids``: inputs of positions."""
    firsts = {k[0] for n, k in keys.items() if k and k[0] is not None}
    named = {k for k in firsts if isinstance(k, str)}
    first = "count" if len(named) > 1 else "batch"
    found: dict[Key, str] = {}
    for name, info in inputs.items():
        for axis, key in enumerate(keys[name]):
            if key is not None:
                role = first if axis == 0 or key in firsts else _role(info, axis, name in ids, batched=bool(firsts))
                if found.get(key) not in ("batch", "count"):
                    found[key] = role
    return found


def _role(info: TensorInfo, axis: int, ids: bool, *, batched: bool) -> str:
    dims = info.dims or ()
    if len(dims) == 4:
        return "channels" if axis == 1 and dims[2:] == (None, None) else "side"
    if len(dims) == 3 and axis == 1 and dims[0] is not None and dims[2] is not None and batched:
        return "batch"  # the state of a recurrent network: [layers, batch, width]
    alone = all(d in (None, 1) for d in dims[:-1]) and axis == len(dims) - 1
    if dtype_of(info.elem_type).kind == "f" and alone and not ids:  # TensorFlow has ids as floats, and casts them
        return "wave"
    return "step"


def _shape(info: TensorInfo, keys: tuple[Key | None, ...], sizes: Mapping[Key, int]) -> Shape:
    return tuple(d if d is not None else _sum(key, sizes) for d, key in zip(info.dims or (), keys, strict=True))


def _sum(key: Key | None, sizes: Mapping[Key, int]) -> int:
    """The size of a dimension: of one whose name is a sum of others ("past + sequence"), the sum."""
    assert key is not None
    parts = [p.strip() for p in key.split("+")] if isinstance(key, str) else []
    if len(parts) > 1 and all(p in sizes for p in parts):
        return sum(sizes[p] for p in parts)
    return sizes[key]


def _with_zeros(model: Model, guess: Mapping[str, Shape]) -> list[dict[str, Shape]]:
    """The guess with size 0 where the file says so: some exporters write 0 for dynamic dimensions, others mean it."""
    sizes = {
        i.name: [d.HasField("dim_value") and d.dim_value == 0 for d in i.type.tensor_type.shape.dim]
        for i in model.proto.graph.input
    }
    if not any(map(any, sizes.values())):
        return []
    return [{n: tuple(0 if z else s for s, z in zip(shape, sizes[n], strict=True)) for n, shape in guess.items()}]


def _blamed(model: Model, error: ModelError, chosen: Chosen, given: Mapping[str, Shape]) -> ModelError:
    """The error, with the inputs that the failing node depends on, of those that were guessed."""
    failing = re.search(r"Name:'([^']+)'", error.what)
    node = next((n for n in model.graph.nodes if failing and n.name == failing[1]), None)
    guesses = []
    for name in depends_on(model.graph, node) if node else (i.name for i in model.graph.inputs):
        info = next(i for i in model.graph.inputs if i.name == name)
        if name in chosen.draws.values or (info.dims is not None and not [d for d in info.dims if d != 1]):
            value = chosen.draws.values.get(name, "any number")
            guesses.append(f"'{name}' ({value}: --input-value)")
        elif name not in given and (info.dims is None or None in info.dims):
            guesses.append(f"'{name}' ({','.join(map(str, chosen.shapes[name]))}: --input-shape)")
    if not guesses:
        return error
    hint = f"it depends on what was guessed of {', '.join(guesses[:4])}: say what the model takes"
    return ModelError(error.what, where=error.where, hint=hint)


def shapes_at(model: Model, inputs: Mapping[str, Shape], draws: Draws = PLAIN) -> Shapes:
    """Shapes of all tensors of ``model`` at these ``inputs``; it is run once where inference does not tell them.

    Raises ModelError where the shapes contradict the graph.
    """
    return resolve(model, inputs, lambda names: probe_shapes(model, names, inputs, 0, draws), model)


def probe_shapes(
    model: Model, names: Iterable[str], shapes: Mapping[str, Shape], seed: int, draws: Draws = PLAIN
) -> dict[str, Shape]:
    """The shapes of ``names``, from one run of the model; empty where it cannot be run."""
    present = {o.name for o in model.graph.outputs}
    where = str(model.path or "model")
    more = [n for n in names if n not in present and n in model.graph.producer]
    try:
        with session(model, where, outputs=more) as active:
            results = run(active, seeded_feeds(model.graph.inputs, shapes, seed, draws), where)
    except ModelError:  # the proof, if there is one, says why
        return {}
    return {n: tuple(a.shape) for n, a in results.items() if isinstance(a, np.ndarray)}
