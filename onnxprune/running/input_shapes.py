"""The shapes that a model is run at, and seeded inputs of these shapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from onnxprune.errors import ModelError, OptionError, nearest
from onnxprune.model.dtypes import dtype_of
from onnxprune.model.graph import Shape, TensorInfo
from onnxprune.model.onnx_model import Model
from onnxprune.running.session import Feeds, run, session

#: What dynamic height and width are tried as, in this order: divisible by 32, as most networks ask.
_SIDES = (224, 256, 64, 320, 512, 640, 48, 32)
_LENGTH = 16  # of other dynamic dimensions but the first, which is the batch


def seeded_feeds(inputs: Iterable[TensorInfo], shapes: Mapping[str, Shape], seed: int) -> Feeds:
    """Random inputs: normal for floats, {0, 1} for integers (a valid index anywhere) and for booleans."""
    rng = np.random.default_rng(seed)
    feeds: Feeds = {}
    for info in inputs:
        dtype = dtype_of(info.elem_type)
        shape = shapes[info.name]
        if dtype.kind in "iub":
            feeds[info.name] = rng.integers(0, 2, shape).astype(dtype)
        else:
            feeds[info.name] = rng.standard_normal(shape).astype(dtype)
    return feeds


def choose_shapes(model: Model, given: Mapping[str, Shape], part: Model | None = None) -> dict[str, Shape]:
    """A concrete shape for every input: as declared, as ``given``, or, where both are silent, one that the model takes.

    ``part``: what can be run of it, where that is not all.

    Raises OptionError for names and ranks that do not fit, ModelError where onnxruntime takes none of the shapes tried.
    """
    inputs = {i.name: i for i in model.graph.inputs if i.elem_type}
    for name, shape in given.items():
        if name not in inputs:
            raise OptionError(
                f"the model has no input '{name}'",
                where="--input-shape",
                hint=nearest(name, inputs, f"inputs: {', '.join(inputs)}"),
            )
        dims = inputs[name].dims
        if dims is not None and (
            len(dims) != len(shape) or any(d not in (None, s) for d, s in zip(dims, shape, strict=True))
        ):
            declared = ",".join("?" if d is None else str(d) for d in dims)
            raise OptionError(
                f"{','.join(map(str, shape))} does not fit input '{name}' of shape {declared}", where="--input-shape"
            )
    open_inputs = [i for i in inputs.values() if i.name not in given and (i.dims is None or None in i.dims)]
    if not open_inputs:
        return {n: given.get(n, tuple(d or 1 for d in i.dims or ())) for n, i in inputs.items()}
    where = str(model.path or "model")
    failure: ModelError | None = None
    with session(part or model, where) as active:
        guesses = [{n: _guess(i, side) for n, i in inputs.items()} for side in _SIDES]
        for guess in [*guesses, *_with_zeros(model, guesses[0])]:
            shapes = {**guess, **given}
            try:
                run(active, seeded_feeds(inputs.values(), shapes, 0), where)
            except ModelError as error:
                failure = failure or error
            else:
                return shapes
    assert failure is not None
    raise failure


def guessed(
    inputs: Iterable[TensorInfo], shapes: Mapping[str, Shape], given: Mapping[str, Sequence[int]]
) -> Iterator[str]:
    """A note for each input of which more than the batch is open, and that nobody gave a shape."""
    for info in inputs:
        if info.name in shapes and info.name not in given and (info.dims is None or None in info.dims[1:]):
            declared = (
                "of any shape" if info.dims is None else ",".join("?" if d is None else str(d) for d in info.dims)
            )
            at = ",".join(map(str, shapes[info.name]))
            yield f"input '{info.name}' is {declared}: measured at {at}, as nothing else is given (--input-shape)"


def _guess(info: TensorInfo, side: int) -> Shape:
    dims = info.dims or ()
    image = len(dims) == 4
    guessed = []
    for axis, dim in enumerate(dims):
        channels = image and axis == 1 and dims[2:] == (None, None)
        guess = 1 if axis == 0 else 3 if channels else side if image else _LENGTH
        guessed.append(guess if dim is None else dim)
    return tuple(guessed)


def _with_zeros(model: Model, guess: Mapping[str, Shape]) -> list[dict[str, Shape]]:
    """The guess with size 0 where the file says so: some exporters write 0 for dynamic dimensions, others mean it."""
    sizes = {
        i.name: [d.HasField("dim_value") and d.dim_value == 0 for d in i.type.tensor_type.shape.dim]
        for i in model.proto.graph.input
    }
    if not any(map(any, sizes.values())):
        return []
    return [{n: tuple(0 if z else s for s, z in zip(shape, sizes[n], strict=True)) for n, shape in guess.items()}]


def probe_shapes(model: Model, names: Iterable[str], shapes: Mapping[str, Shape], seed: int) -> dict[str, Shape]:
    """Shapes of ``names``, by running the model once with them as outputs; of none where it cannot be run."""
    present = {o.name for o in model.graph.outputs}
    where = str(model.path or "model")
    more = [n for n in names if n not in present and n in model.graph.producer]
    try:
        with session(model, where, outputs=more) as active:
            results = run(active, seeded_feeds(model.graph.inputs, shapes, seed), where)
    except ModelError:  # the proof, if there is one, says why
        return {}
    return {n: tuple(a.shape) for n, a in results.items() if isinstance(a, np.ndarray)}
