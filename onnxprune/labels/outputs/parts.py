"""What a model's outputs are made of, where they do not tell by themselves how near two networks are.

A detector writes boxes in pixels and scores between 0 and 1 into one tensor. As an error of that tensor, scores
would not count beside boxes; so what is joined last counts each for itself. A classifier that is sure of its answer
writes 0 and 1, whatever its weights do within limits; so of a Softmax counts what goes into it. Of a Sigmoid its
results count, as hundreds of places that are far from being anything say less than one that is; but where it says
nothing of any sample (a text detector that is shown no text), what goes into it counts. A decision, as an argument of
the maximum, is the same or another; what it decides on is near or far. Of an output that is text, or a sequence,
counts what it is made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.labels import ops
from onnxprune.labels.outputs.picked import picked_from, weighed_behind
from onnxprune.model.graph import Graph

Array = NDArray[np.generic]

_PROBABILITIES = ("Softmax", "LogSoftmax")
_DECISIONS = ("ArgMax", "ArgMin", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_MOVES = ("Identity", "Cast")

#: A probability that stays within so much on all samples says nothing.
TELLS = 0.1

#: Nearer to the mean of all samples than so many dB, an output that is the same always would do.
ALIKE = 25.0

#: Of fewer samples nobody can say whether they are alike.
ENOUGH = 8


@dataclass(frozen=True)
class Compared:
    """Of two networks, ``ends`` say how near they are, and errors are told of ``shown``.

    ``notes``: of outputs that are told of by something else.
    """

    ends: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def ends(graph: Graph) -> tuple[str, ...]:
    """What may be compared: tensors that outputs join, that Softmax and Sigmoid take, that decisions are made on."""
    found = [end for own in _by_output(graph).values() for end in own]
    return tuple(dict.fromkeys([*found, *(logits for end in found if (logits := _logits(graph, end)))]))


def compared(graph: Graph, values: Callable[[str], Iterable[Array]]) -> Compared:
    """Which of `ends` tell something of samples on which tensors have these values, in batches."""
    names: dict[str, str] = {}
    notes: list[str] = []
    shown: list[str] = []
    picked, numbers = _picked(graph), {o.name for o in graph.number_outputs}
    for output, own in _by_output(graph).items():
        for end in own:
            logits = _logits(graph, end)
            names[end] = logits if logits and _spread(values(end)) < TELLS else end
        instead = {names[end]: end for end in own if names[end] != end}
        hidden = len(instead) == len(own)
        shown += own if output in picked or output not in numbers else instead if hidden else [output]
        if hidden and own:
            said = ", ".join(f"'{n}'" for n in instead)
            said = f"compared is what its Sigmoid takes, {said}"
            notes.append(f"output '{output}' tells nothing on held-out inputs: {said}")
        elif output in shown and (alike := _likeness(values(output))) > ALIKE:
            said = f"the mean of all is {alike:.1f} dB from each, so that errors tell little"
            notes.append(f"output '{output}' is much the same on all held-out inputs: {said}")
    chosen = list(dict.fromkeys(names.values()))
    telling = [n for n in chosen if _spread(values(n), floats=True) > 0]
    return Compared(tuple(telling or chosen), tuple(dict.fromkeys(shown)), tuple(notes))


@np.errstate(all="ignore")  # of what is not finite nothing is said
def _likeness(batches: Iterable[Array]) -> float:
    """How near the mean of all samples is to them, in dB; none of what is no float, or not of one shape."""
    count, signal, total = 0, 0.0, None
    for array in batches:
        if array.dtype.kind != "f" or not array.ndim or (total is not None and total.shape != array.shape[1:]):
            return 0.0
        numbers = array.astype(np.float64)
        count, signal = count + len(numbers), signal + float(np.sum(numbers**2))
        total = numbers.sum(axis=0) + (0.0 if total is None else total)
    if total is None or count < ENOUGH:
        return 0.0
    noise = signal - float(np.sum(total**2)) / count
    return 10 * math.log10(signal / noise) if 0 < noise < np.inf else 0.0


def _spread(batches: Iterable[Array], *, floats: bool = False) -> float:
    """The range of all finite values; of what is no float none, if ``floats`` alone count."""
    low, high = np.inf, -np.inf
    for array in batches:
        if floats and array.dtype.kind != "f":
            return 0.0
        numbers = array[np.isfinite(array)] if array.dtype.kind == "f" else array
        if numbers.size:
            low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
    return max(0.0, high - low)


def _by_output(graph: Graph) -> dict[str, tuple[str, ...]]:
    picked = _picked(graph)
    numbers = {o.name for o in graph.number_outputs}
    made = {
        o.name: _ends(graph, o.name) if o.name in numbers else _numbers_behind(graph, o.name) for o in graph.outputs
    }
    return {name: picked.get(name) or tuple(dict.fromkeys(own)) for name, own in made.items()}


def _numbers_behind(graph: Graph, name: str) -> list[str]:
    """Of an output that is no tensor of numbers: the ends of what was computed by operators on numbers alone."""
    found: list[str] = []
    waiting, met = [name], {name}
    while waiting:
        read = waiting.pop()
        node = graph.producer.get(read)
        if node is None:
            continue
        if read != name and ops.find(node) is not None and not ops.may_give_text(node):
            found += _ends(graph, read)
            continue
        new = [n for n in dict.fromkeys(node.inputs) if n not in met]
        met.update(new)
        waiting += reversed(new)
    return found


def _picked(graph: Graph) -> dict[str, tuple[str, ...]]:
    """What outputs are picked from; not of those that weights are behind the picking of."""
    found = picked_from(graph)
    weighed = weighed_behind(graph, found)
    return {o: own for o, own in found.items() if o not in weighed}


def _ends(graph: Graph, name: str) -> list[str]:
    node = graph.producer.get(name)
    if node is None:
        return [name]
    computed = [n for n in node.inputs if n and n not in graph.constants]
    if ops.gathers_of(node) == "joins" or (ops.is_one_of(node, _DECISIONS) and computed):
        return [end for part in computed for end in _ends(graph, part)]
    if ops.is_one_of(node, _PROBABILITIES) and node.inputs[0] in graph.producer:
        return [node.inputs[0]]
    if ops.gathers_of(node) == "moves" or ops.is_one_of(node, _MOVES):
        made = _ends(graph, node.inputs[0])
        return made if made != [node.inputs[0]] else [name]
    return [name]


def _logits(graph: Graph, end: str) -> str:
    """What the Sigmoid takes that ``end`` is the result of, or rearranges; "" where there is none."""
    node = graph.producer.get(end)
    while node is not None and (ops.gathers_of(node) == "moves" or ops.is_one_of(node, _MOVES)):
        node = graph.producer.get(node.inputs[0])
    if node is None or not ops.is_one_of(node, ("Sigmoid",)) or node.inputs[0] not in graph.producer:
        return ""
    return node.inputs[0]
