"""What removing a channel costs at its consumers, after the other channels have taken over what they can.

For a consumer Y = W x with covariance C of its inputs, H = C + damping: removing the columns B of a channel and
solving for the rest anew costs

    cost(B) = tr(W_B ([H^-1]_BB)^-1 W_B')          W   -= W_B ([H^-1]_BB)^-1 [H^-1]_B:
                                                    H^-1 -= [H^-1]_:B ([H^-1]_BB)^-1 [H^-1]_B:

and the cheapest goes first, again and again (optimal brain surgery by structure: OBC, arXiv 2208.11580; ZipLM,
2302.04089). The costs at all consumers of a group add up, each divided by the energy of the consumer's output, so
that they compare between layers. A consumer whose own outputs go with the channel, as a depthwise convolution's do,
costs nothing: what is missed there is missed by nobody but its readers, which count.

Where C is of few rows, others seem to take over what they cannot, most of all in the last layers: on rows x that are
held out a channel alone costs |W_B ([H^-1]_BB)^-1 [H^-1 x]_B|^2, and by as much as that is more than it seems, summed
over channels, the costs at the consumer are raised. The damping is the one at which they are least there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import blas

from onnxprune.calibration.gram_matrices import Observations, Product, centred
from onnxprune.calibration.output_curvature import On, Weighed, felt
from onnxprune.importance.criterion import Scorer, Scores, Subject
from onnxprune.importance.magnitude import l2
from onnxprune.labels.groups import Group, Groups
from onnxprune.labels.label_propagation import Trace
from onnxprune.memory_and_threads import in_threads
from onnxprune.model.onnx_model import Model

Float = NDArray[np.float64]
Positions = NDArray[np.int64]

#: The least damping, of the mean variance of the columns, and how many times as much is tried.
DAMPING, STRONGER = 1e-2, (1, 10, 100)

#: The greedy order stops where this share of a group is left: further it is not followed in any sensible plan.
_LEAST_LEFT = 0.04

#: Of the channels left, the share that goes in one step; twice as many of a group that is wide.
_STEP, _WIDE = 1 / 32, 192

#: What is gone is left out of the sums once it is this share of the columns.
_GONE = 0.2


@dataclass
class _Consumer:
    """One group of one product, as far as it reads one group of channels: the state of the elimination.

    ``columns``: for each multiplicity b, the positions of units in the group [k] and their columns [k, b].
    """

    inverse: Float  # [n, n]
    weight: Float  # [m, n]
    scale: float
    columns: dict[int, tuple[Positions, Positions]]

    def __post_init__(self) -> None:
        """Nothing is gone yet."""
        self._left = np.ones(len(self.inverse), np.bool_)

    def costs(self, alive: NDArray[np.bool_]) -> Float:
        """What each unit of the group would cost now [width]; 0 of those that are not read here."""
        found = np.zeros(len(alive))
        for units, columns in self.columns.values():
            left = alive[units]
            own = columns[left]
            block = np.linalg.inv(self.inverse[own[:, :, None], own[:, None, :]])
            part = self.weight.T[own]  # [k, b, m]
            found[units[left]] = np.einsum("kbm,kbm->k", np.matmul(block, part), part) * self.scale
        return found

    def understates(self, held_out: Float) -> float:
        """How many times as much as `costs` the columns cost on rows ``held_out`` [rows, n], less the mean; 1 if less.

        Each unit counts as the only one that goes.
        """
        moved, said, found = held_out @ self.inverse, 0.0, 0.0
        for _, columns in self.columns.values():
            block = np.linalg.inv(self.inverse[columns[:, :, None], columns[:, None, :]])
            part = self.weight.T[columns]  # [k, b, m]
            square = np.matmul(part, part.transpose(0, 2, 1))
            left = np.matmul(moved[:, columns].transpose(1, 0, 2), block)  # [k, rows, b]
            said += float((square * block).sum())
            found += float((square * np.matmul(left.transpose(0, 2, 1), left)).sum()) / len(held_out)
        return max(1.0, found / said) if said > 0 else 1.0

    def remove(self, units: Positions) -> None:
        """Eliminate units, letting the others take over."""
        gone = [c[np.isin(u, units)].reshape(-1) for u, c in self.columns.values()]
        own = np.concatenate(gone) if gone else np.zeros(0, np.int64)
        if not len(own):
            return
        rows = self.inverse[own]
        share = np.linalg.solve(rows[:, own], rows)
        self.weight -= self.weight[:, own] @ share
        blas.dgemm(-1.0, share.T, rows.T, beta=1.0, c=self.inverse.T, trans_b=True, overwrite_c=True)  # it is symmetric
        self._left[own] = False
        if self._left.mean() < 1 - _GONE:
            self._leave_out()

    def _leave_out(self) -> None:
        """Forget the columns that are gone."""
        kept = np.flatnonzero(self._left)
        place = np.cumsum(self._left) - 1
        there = {b: self._left[c[:, 0]] for b, (_, c) in self.columns.items()}
        self.columns = {b: (u[there[b]], place[c[there[b]]]) for b, (u, c) in self.columns.items()}
        self.inverse = np.ascontiguousarray(self.inverse[np.ix_(kept, kept)])
        self.weight = np.ascontiguousarray(self.weight[:, kept])
        self._left = np.ones(len(kept), np.bool_)


def reconstruction(subject: Subject) -> Scorer:
    """Relative error at a channel's consumers when it goes in its turn.

    A channel that no product reads counts as its share of the squares of its group's l2 scores.
    """
    return _scorer(subject, {})


def output(subject: Subject) -> Scorer:
    """How far the model's outputs move when a channel goes in its turn. Raises OptionError without gradients.

    As `reconstruction`, but an error counts by where it leads (`onnxprune.calibration.output_curvature`), not by its
    size.
    """
    assert subject.observed is not None
    fit, _ = subject.samples.split()
    weights = {n: Weighed(p, _weight(subject.observed.reference, p)) for n, p in subject.observed.seen.products.items()}
    on = On(fit, subject.observed.seen.compared.ends)
    return _scorer(subject, felt(subject.trace, weights, on, subject.seed, subject.progress))


def _weight(model: Model, product: Product) -> Float:
    """[groups, outputs, channels, taps]."""
    return np.asarray(product.form.matrix(model.array(product.node.inputs[1]).astype(np.float64)))


def _scorer(subject: Subject, weighs: Mapping[str, Float]) -> Scorer:
    assert subject.observed is not None
    reader = _Reader(subject.trace, subject.observed.reference, subject.observed.seen, weighs)
    known: dict[bytes, Scores] = {}

    def of_group(group: Group) -> Scores:
        consumers = [c for p in reader.seen.products.values() for c in reader.consumers(group, p)]
        return _eliminated(consumers, group.width) if consumers else _share(subject, group)

    def score(groups: Groups) -> list[Scores]:
        new = {key: g for g in groups if (key := g.units.tobytes()) not in known}
        known.update(zip(new, in_threads(of_group, new.values()), strict=True))
        return [known[group.units.tobytes()] for group in groups]

    return score


def _share(subject: Subject, group: Group) -> Scores:
    square = l2(subject.weights_of(group)) ** 2
    return np.asarray(square / max(float(square.sum()), 1e-30))


@dataclass(frozen=True)
class _Reader:
    """Who reads a group's channels, with which weights."""

    trace: Trace
    model: Model
    seen: Observations
    weighs: Mapping[str, Float]  # by product: its weight as outputs feel it; else errors are relative to its energy

    def consumers(self, group: Group, product: Product) -> list[_Consumer]:
        """The groups of ``product`` that read channels of ``group``."""
        tensor = self.trace.tensors.get(product.source)
        layer = tensor.along(product.form.summed) if tensor else None
        if layer is None or len(layer.axes) > 1:
            return []
        unit = self.trace.unit[layer.labels.reshape(-1)].reshape(product.groups, product.channels)
        if not np.isin(unit, group.units).any():
            return []
        weighed = self.weighs.get(product.node.label)
        weight = _weight(self.model, product) if weighed is None else weighed
        moments = self.seen.moments[product.node.label]
        covariance, mean = centred(moments), moments.xx[:, -1, :-1] / moments.rows
        if product.fine:
            weight = weight.reshape(*weight.shape[:2], -1)
            unit = unit.repeat(product.taps, axis=1)
        else:
            weight = weight.transpose(0, 1, 3, 2).reshape(product.groups, -1, product.channels)
        energy = float((np.matmul(weight, covariance) * weight).sum())
        made = self._made(product)
        found: list[_Consumer] = []
        held_out = mean[None]  # read where anything is to be judged by it
        for part in range(product.groups):
            columns = _columns(unit[part], group.units)
            if columns and energy > 0 and not np.isin(made[part], unit[part]).all():  # else its outputs go too
                if not found:
                    held_out = self.seen.held_out_columns(product.node.label) - mean
                consumer = _damped(covariance[part], weight[part], columns, held_out[:, part], group.width)
                consumer.scale *= 1 / energy if weighed is None else 1.0
                found.append(consumer)
        return found

    def _made(self, product: Product) -> Positions:
        """The unit of each output channel [groups, outputs], -1 where it has none."""
        tensor = self.trace.tensors[product.target]
        layer = tensor.along(product.form.made)
        if layer is None or len(layer.axes) > 1:
            return np.full((product.groups, product.outputs), -1)
        return self.trace.unit[layer.labels.reshape(-1)].reshape(product.groups, product.outputs)


def _damped(
    covariance: Float, weight: Float, columns: dict[int, tuple[Positions, Positions]], held_out: Float, width: int
) -> _Consumer:
    """A consumer at the damping at which units cost least on ``held_out`` rows, and scaled to what they cost there."""
    best, least = None, np.inf
    for more in STRONGER:
        damping = more * DAMPING * float(np.diag(covariance).mean()) + 1e-12
        inverse = np.asarray(np.linalg.inv(covariance + damping * np.eye(len(covariance))), np.float64)
        consumer = _Consumer(inverse, weight.copy(), 1.0, columns)
        consumer.scale = consumer.understates(held_out)
        cost = float(consumer.costs(np.ones(width, np.bool_)).sum())
        if best is not None and cost >= least:
            break
        best, least = consumer, cost
    assert best is not None
    return best


def _columns(unit: Positions, wanted: Positions) -> dict[int, tuple[Positions, Positions]]:
    """{b: (positions of units in ``wanted`` [k], their columns [k, b])}."""
    place = np.minimum(np.searchsorted(wanted, unit), len(wanted) - 1)
    own = np.flatnonzero(wanted[place] == unit)
    order = own[np.argsort(place[own], kind="stable")]
    units, first, counts = np.unique(place[order], return_index=True, return_counts=True)
    found = {}
    for b in np.unique(counts):
        these = np.flatnonzero(counts == b)
        found[int(b)] = (units[these], order[first[these][:, None] + np.arange(b)])
    return found


def _eliminated(consumers: list[_Consumer], width: int) -> Float:
    """The cost of each unit at the step at which it goes; never falling from step to step."""
    alive = np.ones(width, np.bool_)
    score = np.zeros(width)
    least = max(1, round(_LEAST_LEFT * width))
    last = 0.0
    share = _STEP if width < _WIDE else 2 * _STEP
    while (left := int(alive.sum())) > least:
        cost = np.sum([c.costs(alive) for c in consumers], axis=0)
        candidates = np.flatnonzero(alive)
        going = candidates[np.argsort(cost[candidates], kind="stable")][: min(max(1, int(left * share)), left - least)]
        score[going] = np.maximum.accumulate(np.maximum(cost[going], last))
        last = float(score[going[-1]]) * (1 + 1e-9)
        alive[going] = False
        for consumer in consumers:
            consumer.remove(going)
    cost = np.sum([c.costs(alive) for c in consumers], axis=0)
    score[alive] = np.maximum(cost[alive], last)
    return score
