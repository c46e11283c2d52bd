"""A planner as it begins: the model is analysed, and the original is observed on its calibration data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from onnxprune.calibration import samples
from onnxprune.calibration.cached.folder import CacheFolder
from onnxprune.calibration.original_observed import ObservedOriginal, observe_original
from onnxprune.calibration.synthetic import drawing, few_samples
from onnxprune.errors import OptionError
from onnxprune.file_system.arrays_on_disk import spilling
from onnxprune.labels.analysis import Analysis
from onnxprune.labels.ops import custom
from onnxprune.memory_and_threads import keep_what_is_freed, one_thread
from onnxprune.model.onnx_model import Model
from onnxprune.options import Options
from onnxprune.passes import Distill, RestoreBranches
from onnxprune.passes import run as run_passes
from onnxprune.planning.given_model import analysed, folding
from onnxprune.planning.planner import Planner
from onnxprune.progress import Stopwatch


@contextmanager
def planning(model: Model, options: Options) -> Iterator[Planner]:
    """Open a planner for ``model``, with its observations on disk until the block ends. Raises OnnxPruneError."""
    watch = Stopwatch(options.progress)
    with custom.declared([custom.read(text) for text in options.custom]):
        analysis, given = analysed(model, options, options.to_json(), watch)
        if options.reading is not None and options.reading.drawn:
            drawing.check(options.reading)
        with observing(analysis, options, watch, judged=True) as observed:
            yield Planner(analysis, options, observed, watch.announce, [*given.rows.values()])


@contextmanager
def observing(
    analysis: Analysis, options: Options, watch: Stopwatch, *, judged: bool = False
) -> Iterator[ObservedOriginal | None]:
    """Observe the original on the calibration data; None without data.

    Inside the block the observations lie on disk, and BLAS has one thread. ``judged``: whether models will be compared
    on samples that are held out of the data.
    """
    if options.reading is None:
        yield None
        return
    if analysis.severed.foreign:
        node = analysis.severed.foreign[0].label
        raise OptionError(f"needs a model that can be run, and '{node}' cannot", where="--data", hint="leave it out")
    trace, reading = analysis.trace, options.reading
    keep_what_is_freed()
    with one_thread():
        with watch.stage("data"):
            if reading.drawn:
                data = drawing.load(reading, trace.model, trace.shapes, options.seed)
            else:
                data = samples.load(reading, trace.model, trace.shapes.inputs, watch.announce)
                judged = judged or options.metric is not None
                data = few_samples.with_drawn(data, reading, trace.model, trace.shapes, options.seed, judged=judged)
        with spilling() as spill:
            with watch.stage("observe"):
                fold = folding(options, trace, analysis.flat.inner())
                reference = run_passes(trace.model, [*fold, RestoreBranches(analysis.flat)]).model
                observed = observe_original(
                    trace, reference, data, spill, watch.announce, CacheFolder.at(options.cache)
                )
                if options.recover:
                    Distill(trace, observed.seen, options.recover).ensure_differentiable(reference)
            yield observed
