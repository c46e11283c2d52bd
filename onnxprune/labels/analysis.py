"""From a model to its groups of channels: shapes, the run on labels, what cannot be run, and which channels may go."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import OptionError, nearest
from onnxprune.labels import groups as grouping
from onnxprune.labels import label_propagation as tracing
from onnxprune.labels import lossless_removal
from onnxprune.labels.groups import Groups
from onnxprune.labels.label_propagation import Pinned, Trace
from onnxprune.model.graph import Shape
from onnxprune.model.onnx_model import Model
from onnxprune.model.written_out.functions import Inlined, inline
from onnxprune.model.written_out.if_branches import Flat, flatten
from onnxprune.running import tensor_shapes
from onnxprune.running.tensor_shapes import Shapes
from onnxprune.running.tried_input_shapes import Chosen, choose_inputs, probe_shapes
from onnxprune.running.unknown_operators import Severed, sever


@dataclass(frozen=True)
class Analysis:
    """A model that was run on labels, the part of it that can be run on numbers, and its groups.

    ``inlined``: the model as given, and with its functions written out; ``flat``: with branches of If written out too,
    as it was run on labels. ``severed``: what of it can be run; ``still``: what gives the same on each run, which is
    what proofs compare. ``pins``: units that options hold.
    """

    inlined: Inlined
    flat: Flat
    trace: Trace
    severed: Severed
    still: Severed
    groups: Groups
    pins: Mapping[int, Pinned] = field(repr=False)

    @cached_property
    def runnable(self) -> Model:
        """The model that was run on labels, with its branches of If."""
        return self.flat.restore(self.trace.model)


def analyse(
    model: Model,
    *,
    exclude: Sequence[str] = (),
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    input_values: Mapping[str, float] | None = None,
    seed: int = 0,
) -> Analysis:
    """Run the model on labels and group its channels; those that a glob of ``exclude`` names are left out.

    ``input_shapes``: of dynamic inputs; ``input_values``: what to feed inputs of one number; ``seed``: of the inputs
    that shapes are probed with. Raises ModelError and OptionError.
    """
    inlined, flat, shapes = written_out(model, input_shapes, input_values, seed=seed)
    trace = lossless_removal.mark(tracing.trace(flat.written, shapes))
    pins = _excluded(trace, exclude)
    severed, still = (sever(inlined.written, shapes, still=how) for how in (False, True))
    return Analysis(inlined, flat, trace, severed, still, grouping.group(trace, pins), pins)


def written_out(
    model: Model,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    input_values: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
) -> tuple[Inlined, Flat, Shapes]:
    """``model`` without calls of functions, and without branches of If; and the shapes of all tensors of that.

    Arguments and errors are those of `analyse`.
    """
    inlined = inline(model)
    severed = sever(inlined.written)
    flat = flatten(inlined.written, wanted=not severed.gone)  # what cannot be run is pinned as a whole
    given = {n: tuple(s) for n, s in (input_shapes or {}).items()}
    run_at = choose_inputs(flat.written, given, input_values, severed.part)
    taken: dict[tuple[str, ...], bool] = {}
    while True:
        part = flat.restore(flat.written) if taken else severed.part  # what was inside can be looked at then
        shapes = tensor_shapes.resolve(
            flat.written,
            run_at.shapes,
            partial(_probed, part, run_at, seed),
            inlined.written,
        )
        found = tensor_shapes.always(flat.written, shapes)
        if not found:
            return inlined, flat, replace(shapes, draws=run_at.draws)
        taken |= found
        flat = flatten(inlined.written, taken=taken)


def _probed(part: Model, run_at: Chosen, seed: int, names: Iterable[str]) -> dict[str, Shape]:
    return probe_shapes(part, names, run_at.shapes, seed, run_at.draws)


def matches(trace: Trace, glob: str, where: str) -> set[str]:
    """The names of nodes and tensors that ``glob`` matches. Raises OptionError, at ``where``, if there are none."""
    graph = trace.model.graph
    names = [n.label for n in graph.nodes] + [*graph.constants, *trace.tensors]
    found = {n for n in names if n == glob or fnmatch.fnmatchcase(n, glob)}
    if not found:
        hint = nearest(glob.strip("*"), names, "onnxprune inspect lists the names")
        raise OptionError(f"no node or tensor matches '{glob}'", where=where, hint=hint)
    return found


def units_of(trace: Trace, names: set[str]) -> NDArray[np.int64]:
    """The units of the tensors, and of the outputs of the nodes, that have these names."""
    tensors = [t for n, t in trace.tensors.items() if n in names] + [
        t for use, t in trace.uses.items() if use[0] in names
    ]
    tensors += [
        trace.tensors[o] for n in trace.model.graph.nodes if n.label in names for o in n.outputs if o in trace.tensors
    ]
    units = [trace.unit[layer.labels].reshape(-1) for t in tensors for layer in t.layers]
    return np.unique(np.concatenate(units)) if units else np.zeros(0, np.int64)


def _excluded(trace: Trace, exclude: Sequence[str]) -> dict[int, Pinned]:
    pins: dict[int, Pinned] = {}
    for glob in exclude:
        for unit in units_of(trace, matches(trace, glob, "--exclude")):
            pins.setdefault(int(unit), Pinned("", f"is excluded by '{glob}'"))
    return pins
