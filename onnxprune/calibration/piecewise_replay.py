"""A model run piece by piece on calibration data, so that weights can change on the way.

Nodes are run in their order. Between two pieces the tensors that are still to be read lie in a `Spill`: no tensor is
computed twice, and memory is bounded by a batch. Only sequences, which are no arrays, are made again by each piece that
reads one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from onnxprune.calibration.gram_matrices import Observations, Part
from onnxprune.labels.ops.table import Array
from onnxprune.memory_and_threads import another_thread
from onnxprune.model.edits import Edits
from onnxprune.model.graph import Node
from onnxprune.model.onnx_model import Model
from onnxprune.model.written_out.sequences import made_by
from onnxprune.running import session as runtime
from onnxprune.running.extract import excerpt


@dataclass
class Replay:
    """``model`` on the samples of ``seen``, run as far as node ``at``. ``edits``: the weights that changed since.

    ``rounded``: what becomes of tensors before anyone reads them.
    """

    model: Model
    seen: Observations
    types: Mapping[str, int] = field(repr=False)  # element type of every tensor
    rounded: Mapping[str, Callable[[Array], Array]] = field(default_factory=dict, repr=False)
    at: int = 0
    edits: Edits = field(default_factory=Edits)

    def __post_init__(self) -> None:
        """Nothing is computed yet."""
        graph = self.model.graph
        self._free = self.model.at_free_initializers()  # what edits add must not move nodes
        self._last = {name: max(node.index for node, _ in readers) for name, readers in graph.consumers.items()}
        self._makers = made_by(graph)
        for node in reversed(graph.nodes):  # what a sequence is made of is there as long as the sequence is read
            until = max((self._last.get(o, -1) for o in node.outputs if o in self._makers), default=-1)
            for name in (*node.inputs, *node.captured):
                self._last[name] = max(self._last.get(name, -1), until)
        self._inputs = {i.name for i in graph.inputs} - set(self.rounded)
        self._live: set[str] = set()
        for name in {i.name for i in graph.inputs} & set(self.rounded):
            for part in self.seen.parts:
                given = self.seen.spill.get(f"feed {name}", part.number)
                self.seen.spill.put(f"replay {name}", part.number, self.rounded[name](given))
            self._live.add(name)

    def get(self, name: str, part: Part) -> Array:
        """A graph input, or a live tensor."""
        return self.seen.spill.get(f"{'feed' if name in self._inputs else 'replay'} {name}", part.number)

    def free_name(self, stem: str) -> str:
        """A name that no tensor has."""
        graph = self.model.graph
        taken = {*graph.constants, *graph.producer, *self.edits.added}
        return next(n for i in itertools.count() if (n := stem + "_" * i) not in taken)

    def give(
        self, constants: Mapping[str, NDArray[Any]], added: Mapping[str, NDArray[Any]], nodes: Sequence[int]
    ) -> None:
        """From here on, these weights; ``added`` is a bias that ``nodes`` had not, or as one number for all outputs."""
        inputs = {**self.edits.inputs, **{node: {2: name} for node in nodes for name in added}}
        self.edits = replace(
            self.edits,
            constants={**self.edits.constants, **constants},
            added={**self.edits.added, **added},
            inputs=inputs,
        )

    def advance(self, stop: int) -> None:
        """Run up to node ``stop``, without it. Raises ModelError where onnxruntime cannot."""
        graph = self.model.graph
        for node in graph.nodes[self.at : stop]:  # what is rounded, nobody reads before it is
            if any(o in self.rounded for o in node.outputs):
                self._run(node.index + 1)
        self._run(stop)

    def _run(self, stop: int) -> None:
        """One piece, up to node ``stop``: what is read after it is kept, what is read no more is let go."""
        graph, piece = self.model.graph, self.model.graph.nodes[self.at : stop]
        inside = [*self._made_again(piece), *piece]
        made = {o for n in inside for o in n.outputs if o}
        read = dict.fromkeys(i for n in inside for i in (*n.inputs, *n.captured) if i)
        needed = [n for n in read if n not in made and n not in graph.constants]
        wanted = [
            o
            for n in piece
            for o in n.outputs
            if o and self._last.get(o, -1) >= stop and o not in graph.constants and o not in self._makers
        ]
        if wanted:
            types = {n: self.types.get(n) or TensorProto.FLOAT for n in needed}
            part = excerpt(self._free.apply(self.edits), [n.index for n in inside], types, wanted)
            with runtime.session(part, "part of the pruned model", optimize=True) as active, another_thread() as doing:
                for step in self.seen.parts:
                    results = runtime.run(active, {n: self.get(n, step) for n in needed}, "part of the pruned model")
                    for name in wanted:
                        array = np.asarray(results[name])
                        if name in self.rounded:
                            array = self.rounded[name](array)
                        doing(self.seen.spill.put, f"replay {name}", step.number, array)
        self._live.update(wanted)
        for name in [n for n in self._live if self._last.get(n, -1) < stop]:
            self.seen.spill.drop(f"replay {name}")
            self._live.discard(name)
        self.at = stop

    def _made_again(self, inside: Sequence[Node]) -> list[Node]:
        """Nodes before this piece that make the sequences that it reads, in order."""
        found: dict[int, Node] = {}
        look = [*inside]
        while look:
            node = look.pop()
            for maker in (self._makers[n] for n in (*node.inputs, *node.captured) if n in self._makers):
                if maker.index < self.at and maker.index not in found:
                    found[maker.index] = maker
                    look.append(maker)
        return [found[index] for index in sorted(found)]
