"""What was asked of weights, looked up in the model that is written: zeros are zeros, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.model.onnx_model import Model
from onnxprune.running.snr_and_cosine import OutputError


@dataclass(frozen=True)
class ZerosProof:
    """``masked``: how many weights must be 0; ``missed``: how many are not, and ``where`` the first of these is.

    ``outputs``: what they cost, on random inputs, where there are no samples that tell it better.
    """

    masked: int
    missed: int
    where: str = ""
    outputs: tuple[OutputError, ...] = ()


def prove_zeros(written: Model, masks: Mapping[str, NDArray[np.bool_]]) -> ZerosProof:
    """Read every masked weight of what is ``written``; a weight that is not there, or has another shape, is missed."""
    masked, missed, where = 0, 0, ""
    for name, mask in masks.items():
        gone = ~mask
        masked += int(gone.sum())
        there = name in written.graph.constants
        array = written.array(name) if there else np.ones(())
        found = int(np.count_nonzero(array[gone])) if array.shape == mask.shape else int(gone.sum())
        if found and not missed:
            where = name
        missed += found
    return ZerosProof(masked, missed, where)
