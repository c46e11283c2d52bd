"""Running two models on the same inputs, from a seed or from calibration data, and comparing their outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from onnxprune.calibration import samples as calibration
from onnxprune.calibration.data_options import Data
from onnxprune.errors import ModelError, OptionError
from onnxprune.model.graph import Shape, sizes_in_words
from onnxprune.model.onnx_model import Model
from onnxprune.progress import Progress, counted
from onnxprune.proof.distance_over_outputs import mean_over_outputs
from onnxprune.running import session as runtime
from onnxprune.running.batch_size import batch_size
from onnxprune.running.seeded_inputs import PLAIN, Draws, seeded_feeds
from onnxprune.running.session import Feeds
from onnxprune.running.snr_and_cosine import Differences, OutputError, by_row


@dataclass(frozen=True)
class On:
    """The inputs to run on: those of ``data``, or ``count`` inputs from ``seed``, drawn as ``draws`` says.

    ``input_shapes``: shapes of dynamic inputs.
    """

    input_shapes: Mapping[str, Shape] = field(default_factory=dict)
    data: Data | None = None
    count: int = 3
    seed: int = 0
    draws: Draws = PLAIN

    def __post_init__(self) -> None:
        """Raise OptionError for a number of inputs, or a seed, that is none."""
        for value, where in ((self.count, "--check-n"), (self.seed, "--seed")):
            if value < 0:
                raise OptionError(f"must not be negative, as {value} is", where=where)


@dataclass(frozen=True)
class Sample:
    """The distance of the outputs on one input, by its position in the data: mean noise over signal."""

    sample: int
    error: float


@dataclass(frozen=True)
class Apart:
    """The errors of the outputs that both models have, on ``inputs``; empty where they were not run (see ``notes``)."""

    outputs: tuple[OutputError, ...] = ()
    samples: tuple[Sample, ...] = field(default=(), repr=False)
    inputs: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Inputs:
    """Each run's inputs, with the positions of the samples in it."""

    runs: Iterator[tuple[Sequence[int], Feeds]]
    total: int
    said: str
    notes: tuple[str, ...] = ()


def apart(
    before: Model, after: Model, inputs: Mapping[str, Shape], shapes: Mapping[str, Shape], on: On, progress: Progress
) -> Apart:
    """Run both models and compare. ``inputs``, ``shapes``: shapes of the first one's inputs and of all its tensors.

    Raises DataError.
    """
    if [(i.name, i.elem_type) for i in before.graph.inputs] != [(i.name, i.elem_type) for i in after.graph.inputs]:
        return Apart(notes=("the inputs differ: the models were not run",))
    if on.data is None and not on.count:
        return Apart(notes=("the models were not run (--check-n 0)",))
    missing = sorted({o.name for o in before.graph.outputs} ^ {o.name for o in after.graph.outputs})
    fed = _inputs(before, inputs, shapes, on, progress)
    notes = (*(f"output '{name}' is in one of the models only" for name in missing), *fed.notes)
    try:
        outputs, samples = _run(before, after, fed, progress)
    except ModelError as error:
        return Apart(notes=(*notes, f"the outputs were not compared: {error}"))
    return Apart(outputs, samples, fed.said, notes)


def _inputs(
    model: Model, inputs: Mapping[str, Shape], shapes: Mapping[str, Shape], on: On, progress: Progress
) -> _Inputs:
    where = sizes_in_words(inputs)
    if on.data is None:
        drawn = (seeded_feeds(model.graph.inputs, inputs, on.seed + i, on.draws) for i in range(on.count))
        seeded = (((i,), feeds) for i, feeds in enumerate(drawn))
        return _Inputs(seeded, on.count, f"{on.count} random inputs of {where}")
    found = calibration.load(on.data, model, inputs, progress)
    size = found.run_size(batch_size(model.graph, shapes))
    places = found.chosen.tolist()
    labelled = ((places[i * size : (i + 1) * size], feeds) for i, feeds in enumerate(found.batches(size)))
    return _Inputs(labelled, found.runs(size), f"{found.count} samples of {where}", tuple(found.notes))


def _run(
    before: Model, after: Model, fed: _Inputs, progress: Progress
) -> tuple[tuple[OutputError, ...], tuple[Sample, ...]]:
    whole, samples = Differences(), []
    with ExitStack() as opened:
        first = opened.enter_context(runtime.session(before, str(before.path or "first model"), optimize=True))
        second = opened.enter_context(runtime.session(after, str(after.path or "second model"), optimize=True))
        for places, feeds in counted(fed.runs, "compare outputs, inputs", fed.total, progress):
            wanted, got = (_results(s, feeds, m) for s, m in ((first, before), (second, after)))
            common = {n: a for n, a in wanted.items() if n in got}
            whole.add(common, got)
            rows = by_row(common, got, len(places)) if common else ()
            samples += [Sample(p, _distance(*row)) for p, row in zip(places, rows, strict=False)]
    return whole.errors(), tuple(samples)


def _results(session: Any, feeds: Feeds, model: Model) -> Feeds:
    return runtime.arrays(runtime.run(session, feeds, str(model.path or "model")))


def _distance(reference: Feeds, result: Feeds) -> float:
    own = Differences()
    own.add(reference, result)
    return mean_over_outputs(own)
