"""What a criterion of importance is given: the model as run on labels, and calibration data where there is any."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from onnxprune.calibration.original_observed import ObservedOriginal
from onnxprune.calibration.samples import CalibrationSet
from onnxprune.errors import OptionError
from onnxprune.importance.group_weights import GroupWeights
from onnxprune.labels.groups import Group, Groups
from onnxprune.labels.label_propagation import Trace
from onnxprune.model.onnx_model import Model
from onnxprune.progress import Progress, silent

Scores = NDArray[np.float64]

#: The scores of every group's units, [width] each.
Scorer = Callable[[Groups], list[Scores]]


@dataclass(frozen=True)
class Subject:
    """The model to score and its calibration data. ``observed``: the original as observed on ``data``.

    ``flops_reg``: how strongly a layer's share of the MACs lowers scores of `taylor`.
    """

    trace: Trace
    data: CalibrationSet | None = None
    seed: int = 0
    flops_reg: float = 0.001
    progress: Progress = field(default=silent, repr=False)
    observed: ObservedOriginal | None = field(default=None, repr=False)

    @property
    def model(self) -> Model:
        """The original model."""
        return self.trace.model

    @property
    def samples(self) -> CalibrationSet:
        """The calibration data, for a criterion that needs it."""
        assert self.data is not None
        return self.data

    def weights_of(self, group: Group) -> GroupWeights:
        """The weights of one group, with a seed of its own."""
        return GroupWeights(self.model, group, self.seed + zlib.crc32(group.name.encode()), self.data)


@dataclass(frozen=True)
class Criterion:
    """A way to score. ``prepare`` looks at the subject once; what it returns scores any grouping of its channels.

    ``within``: its scores compare within a group only (`onnxprune.importance.across_groups`).
    """

    prepare: Callable[[Subject], Scorer]
    needs_data: bool = False
    within: bool = False

    def __call__(self, subject: Subject) -> Scorer:
        """What scores the subject's channels. Raises OptionError where calibration data is needed and missing."""
        self.check(subject.data)
        return self.prepare(subject)

    def check(self, data: object | None) -> None:
        """Raise OptionError where ``data`` is needed and missing."""
        if self.needs_data and data is None:
            raise OptionError("needs calibration data", where="--importance", hint="give --data, or use l2")
