"""First-order Taylor scores: what the loss would change by if a channel were zero (Molchanov et al. 2017, 1611.06440).

    t = |mean over positions of activation * gradient|      for each sample, at the node that makes the channels
      = |d loss / d gate| / positions                       of a gate of 1 that multiplies the channel

averaged over a minibatch, then over minibatches (moving average: 0.9 of what was, 0.1 of what is new), divided by its
L2 norm over the layer, less ``flops_reg`` times the layer's share of the MACs. Less: large scores stay, and of two
channels that matter alike the one that costs more is to go (equation 9 of the paper). A unit that several nodes make
has the mean over them.

The loss is the cross entropy of the first output where the data has labels. Where it has none, outputs are projected
on random directions (as in arXiv 2310.20203), each output scaled by its size: the expected square of the score is
then how far the outputs move. The distance to the model's own outputs would be no loss: its gradient is 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.reverse_mode.gradients import (
    Differentiable,
    Directions,
    differentiable,
    gate_gradients,
    random_directions,
)
from onnxprune.cost import macs_and_bytes as cost
from onnxprune.errors import OptionError
from onnxprune.importance.criterion import Scorer, Scores, Subject
from onnxprune.importance.tensor_scores import View, by_group
from onnxprune.labels.label_propagation import ROLES, Trace
from onnxprune.labels.labels import Layer
from onnxprune.model.graph import Node, Shape
from onnxprune.progress import counted
from onnxprune.running.batch_size import batch_size
from onnxprune.running.session import Feeds

Array = NDArray[Any]

#: Samples that are averaged before the moving average takes them in, and what stays of it then.
MINIBATCH, DECAY = 8, 0.9

#: Probabilities below this count as this: their logarithm has no end.
_LEAST_LIKELY = 1e-6


def taylor(subject: Subject) -> Scorer:
    """|activation x gradient|, normalised by layer, less the share of MACs. Raises OptionError, ModelError."""
    trace = subject.trace
    made = makers(trace)
    macs = cost.macs_by_node(trace.model.graph, trace.shapes.shape)
    total = sum(macs.values()) or 1
    scores = _moving_averages(subject, {name: layer for name, (_, layer) in made.items()}) if made else {}
    views, shares = [], []
    for name, (node, layer) in made.items():
        unit = trace.unit[layer.labels].reshape(-1)
        views.append(View(scores[name] / (np.linalg.norm(scores[name]) or 1.0), unit))
        shares.append(View(np.full(len(unit), macs.get(node.label, 0) / total), unit))

    def scorer(groups: Any) -> list[Scores]:
        gain = by_group(subject, groups, views, lambda _: 1.0)
        price = by_group(subject, groups, shares, lambda _: 1.0)
        return [g - subject.flops_reg * p for g, p in zip(gain, price, strict=True)]

    return scorer


def makers(trace: Trace) -> dict[str, tuple[Node, Layer]]:
    """Tensors whose channels a weight makes: the node, and the layer that has them."""
    found: dict[str, tuple[Node, Layer]] = {}
    for node in trace.model.graph.nodes:
        inputs = [trace.input(node, i) for i in range(len(node.inputs))]
        labels = [la.labels.reshape(-1) for t in inputs if t is not None and t.constant for la in t.layers]
        made = {int(u) for la in labels for u in trace.unit[la[trace.role[la] == ROLES.index("out")]]}
        output = trace.tensors.get(node.outputs[0]) if made else None
        for layer in output.layers if output else ():
            units = np.unique(trace.unit[layer.labels])
            if 0 not in layer.axes and not made.isdisjoint(units.tolist()) and not _all_pinned(trace, units):
                found[node.outputs[0]] = (node, layer)
    return found


def _all_pinned(trace: Trace, units: NDArray[np.int64]) -> bool:
    return all(int(u) == 0 or int(u) in trace.pinned for u in units)


def _moving_averages(subject: Subject, layers: Mapping[str, Layer]) -> dict[str, Scores]:
    """{tensor: [n]} over all samples, in minibatches of `MINIBATCH` whatever number is run at once."""
    trace, data = subject.trace, subject.samples
    where = str(trace.model.path or "model")
    size = data.run_size(batch_size(trace.model.graph, trace.shapes.shape, copies=4))  # as in a reverse-mode graph
    first = next(data.batches(size))
    size = data.inputs.count(first)
    part = differentiable(trace, {n: (size, *la.labels.shape[1:]) for n, la in layers.items()}, first)
    batches = counted(_batches(subject, part, size), "gradients on calibration data", data.runs(size), subject.progress)
    found: dict[str, list[Array]] = {n: [] for n in layers}
    for gradients in gate_gradients(part, batches, where):
        for name, gradient in gradients.items():
            found[name].append(np.abs(gradient.astype(np.float64)).reshape(len(gradient), -1))
    averages = {}
    for name, parts in found.items():
        positions = int(np.prod(trace.shapes.shape[name][1:])) // layers[name].labels.size
        averages[name] = moving_average(np.concatenate(parts) / positions)
    if not any(a.any() for a in averages.values()):
        hint = "a model that rounds to integers on the way has none"
        raise OptionError("all gradients are 0", where="--importance", hint=hint)
    return averages


def moving_average(values: Array) -> Scores:
    """Of ``values`` [samples, n]: the mean of each minibatch, and of these the moving average."""
    means = [values[i : i + MINIBATCH].mean(axis=0) for i in range(0, len(values), MINIBATCH)]
    average = means[0]
    for mean in means[1:]:
        average = DECAY * average + (1 - DECAY) * mean
    return np.asarray(average)


def _batches(subject: Subject, part: Differentiable, size: int) -> Iterator[tuple[Feeds, Directions]]:
    rng = np.random.default_rng(subject.seed)
    for feeds, labels in subject.samples.labelled_batches(size):
        if labels is None:
            yield feeds, partial(random_directions, rng)
        else:
            yield feeds, partial(_to_labels, part.outputs[0], labels)


def _to_labels(first: str, labels: Array, outputs: Mapping[str, Array]) -> dict[str, Array]:
    """The gradient of the cross entropy of the first output; others do not matter."""
    found = {n: np.zeros(y.shape) for n, y in outputs.items()}
    found[first] = cross_entropy_gradient(outputs[first], labels)
    return found


def cross_entropy_gradient(scores: Array, labels: Array) -> Array:
    """softmax(scores) - one-hot(labels), or its like for probabilities, [N, classes, ...].

    ``labels``: [N, ...]. Raises OptionError where they do not fit.
    """
    expected: Shape = (scores.shape[0], *scores.shape[2:])
    if scores.ndim < 2 or labels.shape != expected:
        raise OptionError(
            f"labels have shape {list(labels.shape)}, and the first output {list(scores.shape)}",
            where="--data",
            hint="a class for each sample, or for each of its positions; without labels none are needed",
        )
    classes = scores.shape[1]
    if labels.min() < 0 or labels.max() >= classes:
        raise OptionError(f"labels are not all in 0..{classes - 1}", where="--data", hint="they are class indices")
    chosen = np.expand_dims(labels, 1).astype(np.int64)
    values = scores.astype(np.float64)
    if (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-3):  # a Softmax is the last operator
        gradient = np.zeros(values.shape)
        likely = np.take_along_axis(values, chosen, axis=1)
        np.put_along_axis(gradient, chosen, -1 / np.maximum(likely, _LEAST_LIKELY), axis=1)
        return gradient
    gradient = np.exp(values - values.max(axis=1, keepdims=True))
    gradient /= gradient.sum(axis=1, keepdims=True)
    np.put_along_axis(gradient, chosen, np.take_along_axis(gradient, chosen, axis=1) - 1, axis=1)
    return np.asarray(gradient)
