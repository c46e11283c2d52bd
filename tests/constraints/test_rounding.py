"""Grids of weights: every code is one, masked weights are 0, and the layer's output is what counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.calibration.gram_matrices import Product, products
from onnxprune.constraints.grids import Grid
from onnxprune.constraints.laid import cells_of, laid_along
from onnxprune.constraints.quadratic import Quadratic
from onnxprune.constraints.rounding import WeightGrid, next_power_of_two
from onnxprune.model.onnx_model import from_proto
from tests.models import build

KINDS: list[dict[str, Any]] = [
    {"symmetric": symmetric, "per": per, "ranges": ranges}
    for symmetric in (True, False)
    for per in ("tensor", "channel", 4)
    for ranges in ("mse", "minmax", 99.0)
]
KINDS += [{"symmetric": s, "per": p, "power_of_two": True} for s in (True, False) for p in ("tensor", "channel", 4)]


def layer(groups: int = 2, outputs: int = 6, columns: int = 24, seed: int = 0) -> Quadratic:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((groups, 200, 5)) @ rng.standard_normal((groups, 5, columns))
    x += 0.3 * rng.standard_normal(x.shape)
    h = np.matmul(x.transpose(0, 2, 1), x) / 200
    return Quadratic(h, rng.standard_normal((groups, outputs, columns)), np.ones((groups, outputs)))


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_are_on_their_grid_and_nearer_than_by_rounding(bits: int, kind: dict[str, Any]) -> None:
    quadratic, asked = layer(), WeightGrid(bits, **kind)
    w, cells = asked.solved(quadratic, quadratic.best, None, 2)
    assert (cells.values(w) == w).all()
    plain, of_weights = asked.nearest(quadratic.best, 2)
    assert (of_weights.values(plain) == plain).all()
    assert quadratic.error(w) < 0.6 * quadratic.error(plain)
    again, same = WeightGrid(bits, given=cells).solved(quadratic, quadratic.best, None, 2)
    assert same is cells
    assert (again == w).all()


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_masked_weights_stay_zero(kind: dict[str, Any]) -> None:
    quadratic = layer()
    mask = np.random.default_rng(1).random(quadratic.best.shape) < 0.5
    start = quadratic.on(mask)
    w, cells = WeightGrid(4, **kind).solved(quadratic, start, mask, 2)
    assert (w[~mask] == 0).all()
    assert (cells.values(w) == w).all()
    assert quadratic.error(w) < quadratic.error(cells.values(start))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("ranges", ["mse", "minmax"])
def test_scales_are_powers_of_two_and_the_better_ones(bits: int, ranges: str) -> None:
    quadratic, asked = layer(), WeightGrid(bits, ranges=ranges, power_of_two=True)
    w, cells = asked.solved(quadratic, quadratic.best, None, 2)
    assert (np.frexp(cells.scale)[0] == 0.5).all()
    for factor in (0.5, 2.0) if ranges == "mse" else ():
        given = WeightGrid(bits, given=replace(cells, scale=cells.scale * np.float32(factor)))
        assert quadratic.error(w) <= 1.02 * quadratic.error(given.solved(quadratic, quadratic.best, None, 2)[0])
    free, _ = WeightGrid(bits, ranges=ranges).solved(quadratic, quadratic.best, None, 2)
    assert quadratic.error(free) < quadratic.error(w)


@pytest.mark.parametrize("symmetric", [True, False])
def test_outputs_of_zeros_alone_have_a_scale_like_the_others(*, symmetric: bool) -> None:
    quadratic = layer()
    mask = np.ones(quadratic.best.shape, np.bool_)
    mask[:, 2] = False
    for w, cells in (
        WeightGrid(8, symmetric).solved(quadratic, np.where(mask, quadratic.best, 0.0), mask, 2),
        WeightGrid(8, symmetric).nearest(np.where(mask, quadratic.best, 0.0), 2),
    ):
        assert (w[:, 2] == 0).all()
        assert (cells.scale[:, 2] > 0.1 * cells.scale[:, 1]).all()


def test_the_next_power_of_two_is_itself_where_it_is_one() -> None:
    found = next_power_of_two(np.asarray([0.25, 0.2500001, 0.3, 1.0, 3.0]))
    assert found.tolist() == [0.25, 0.5, 0.5, 1.0, 4.0]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_codes_of_outputs_that_are_read_together_make_up_for_each_other(kind: dict[str, Any]) -> None:
    quadratic, rng = layer(), np.random.default_rng(2)
    read = rng.standard_normal((2, 2, 6))
    together = replace(quadratic, felt=read.transpose(0, 2, 1) @ read + 1e-3 * np.eye(6))
    mask = rng.random(quadratic.best.shape) < 0.7
    start = together.on(mask)
    apart, _ = WeightGrid(2, **kind).solved(replace(together, felt=together.rows), start, mask, 2)
    w, cells = WeightGrid(2, **kind).solved(together, start, mask, 2)
    assert (cells.values(w) == w).all()
    assert (w[~mask] == 0).all()
    assert together.error(w) < 0.6 * together.error(apart)
    again, _ = WeightGrid(2, given=cells).solved(together, start, mask, 2)
    assert (again == w).all()


def test_finer_grids_miss_less() -> None:
    quadratic = layer()
    errors = [quadratic.error(WeightGrid(b).solved(quadratic, quadratic.best, None, 1)[0]) for b in (2, 3, 4, 6, 8)]
    assert errors == sorted(errors, reverse=True)


def test_codes_of_half_precision_weights_are_its_numbers() -> None:
    quadratic = layer()
    for symmetric in (True, False):
        w, _ = WeightGrid(6, symmetric, digits=11).solved(quadratic, quadratic.best, None, 1)
        assert (w.astype(np.float16) == w).all()


MULTIPLIED: dict[str, tuple[str, str, str, int]] = {
    "conv": ("6,5,5", "6,8,3,3", "Conv<pads=[1,1,1,1]>", 4),
    "grouped": ("6,5,5", "6,4,3,3", "Conv<group=2,pads=[1,1,1,1]>", 2),
    "depthwise": ("8,5,5", "8,1,3,3", "Conv<group=8,pads=[1,1,1,1]>", 1),
    "transposed": ("6,6,6", "8,6,2,2", "ConvTranspose", 4),
    "grouped-transposed": ("6,6,6", "8,3,2,2", "ConvTranspose<group=2>", 2),
    "gemm": ("6", "8,6", "Gemm", 4),
    "gemm-flipped": ("6", "6,8", "Gemm<transB=1>", 2),
    "matmul": ("6", "8,6", "MatMul", 4),
}


def multiplied(made: str, weight: str, node: str) -> tuple[Product, NDArray[np.float64]]:
    source = "1,8,5,5" if "," in made else "1,8"
    model = from_proto(build(f"(float[{source}] x) => (float[1,{made}] y) <float[{weight}] w> {{ y = {node}(x, w) }}"))
    infos = (*model.graph.inputs, *model.graph.outputs)
    (product,) = products(
        model, {i.name: tuple(d for d in i.dims or () if isinstance(d, int)) for i in infos}, every=True
    )
    return product, model.array("w").astype(np.float64)


@pytest.mark.parametrize("per", ["tensor", "channel", "group"])
@pytest.mark.parametrize("name", MULTIPLIED)
def test_a_grid_lies_along_the_weight_as_along_its_matrix(name: str, per: str) -> None:
    made, shape, node, size = MULTIPLIED[name]
    product, array = multiplied(made, shape, node)
    matrix = product.form.matrix(array)
    asked = WeightGrid(4, symmetric=False, per=size if per == "group" else per)
    w, cells = asked.nearest(matrix.reshape(*matrix.shape[:2], -1), product.taps)
    grid = laid_along(product, cells)
    weight = product.form.weight(w.reshape(matrix.shape)).astype(np.float32)
    assert np.array_equal(grid.values(grid.codes(weight)), weight)
    expected = {"tensor": 1, "channel": matrix.shape[0] * matrix.shape[1], "group": cells.scale.size}[per]
    assert grid.scale.size == expected
    back = cells_of(product, grid, weight.shape)
    assert back is not None
    assert (back.values(w) == w).all()
    assert laid_along(product, back).scale.shape == grid.scale.shape
    assert (
        cells_of(product, Grid(np.ones((5,) * grid.scale.ndim, np.float32), grid.zero_point, 4, True), weight.shape)
        is None
    )


def test_rounding_a_tensor_is_bit_for_bit_what_codes_stand_for() -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32) * 3
    for bits, zero, signed in ((4, 3, False), (8, 0, True), (2, 1, False), (16, 0, True)):
        scale = np.full((1, 1, 1), 0.37, np.float32)
        grid = Grid(scale, np.full((1, 1, 1), zero, np.int64), bits, signed)
        assert np.array_equal(grid.rounded(x), grid.values(grid.codes(x)))
