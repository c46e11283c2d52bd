"""Proof that weights of the written model are 0, or on their grids, as was asked for, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxprune.constraints.grids import Grids
from onnxprune.model.onnx_model import Model
from onnxprune.running.snr_and_cosine import OutputError


@dataclass(frozen=True)
class ZerosProof:
    """``masked``: how many weights must be 0; ``missed``: how many are not, and ``where`` the first of these is.

    ``outputs``: the errors that the zeros cost on random inputs, where no samples told it.
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


@dataclass(frozen=True)
class GridsProof:
    """``weights``: how many must be on a grid; ``missed``: how many are not, and ``where`` the first of these is.

    ``layers``: by weight the bits of each, and how many numbers it has; ``bytes``: of all of them at these bits, scales
    and zero points aside; ``activations``: the bits of tensors by name.
    ``outputs``: as in `ZerosProof`.
    """

    weights: int
    missed: int
    layers: Mapping[str, tuple[int, int]]
    bytes: int
    activations: Mapping[str, int]
    where: str = ""
    outputs: tuple[OutputError, ...] = ()


def prove_grids(written: Model, grids: Grids) -> GridsProof:
    """Read every weight of what is ``written`` that has a grid; one that is not there, or elsewhere, is missed."""
    layers: dict[str, tuple[int, int]] = {}
    missed, where = 0, ""
    for name, grid in grids.weights.items():
        array = written.array(name) if name in written.graph.constants else np.ones(())
        along = array.ndim == grid.scale.ndim and not any(
            whole % own for whole, own in zip(array.shape, grid.scale.shape, strict=True)
        )
        found = int(np.count_nonzero(grid.rounded(array) != array)) if along else array.size
        if found and not missed:
            where = name
        missed += found
        layers[name] = (grid.bits, array.size)
    of_tensors = {n: g.bits for n, g in grids.activations.items()}
    held = sum(-(-bits * size // 8) for bits, size in layers.values())
    return GridsProof(sum(size for _, size in layers.values()), missed, layers, held, of_tensors, where)
