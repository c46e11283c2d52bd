"""Shapes as functions of kept channels are those that the rewrite gives; costs follow them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fixtures.skeleton import load_skeleton
from onnxprune.cost.macs_and_bytes import COSTS, by_node
from onnxprune.cost.sizes import Sizes
from onnxprune.labels.analysis import analyse
from onnxprune.labels.rewrite import Rewrite, rewrite
from onnxprune.model.onnx_model import from_proto

ZOO = Path(__file__).parents[2] / "fixtures" / "zoo"
NAMES = (
    "own_unet_bilinear.ts17",
    "own_yolov4_like.ts17",
    "tv_densenet121.ts17",
    "tv_shufflenet_v2_x1_0.ts17",
    "own_crnn_lstm.ts17",
    "tv_regnet_y_400mf.ts17",
)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_costs_at_any_widths_are_those_of_the_rewritten_model(name: str) -> None:
    model = from_proto(load_skeleton(ZOO / f"{name}.onnx"))
    analysis = analyse(model)
    trace = analysis.trace
    blocks = [b.units for g in analysis.groups for b in g.blocks]
    rng = np.random.default_rng(0)
    kept = [int(rng.integers(1, b.shape[1] + 1)) for b in blocks]
    dead = np.sort(np.concatenate([b[:, k:].reshape(-1) for b, k in zip(blocks, kept, strict=True)]))
    result = rewrite(trace, dead)
    assert isinstance(result, Rewrite), result
    pruned = trace.model.apply(result.edits)
    constants = {n: s for n, (_, s) in pruned.graph.constants.items()}
    shapes = {**trace.shapes.shape, **result.shapes, **constants}

    for cost in COSTS.values():
        sizes = Sizes(trace, blocks, cost)
        foretold = sizes.cost + sum(_stepped(sizes, index, k) for index, k in enumerate(kept))

        assert {n: sizes[n] for n in result.shapes} == dict(result.shapes)
        assert sizes.cost == pytest.approx(sum(by_node(cost, pruned.graph, shapes).values()))
        assert foretold == pytest.approx(sizes.cost)


def _stepped(sizes: Sizes, block: int, kept: int) -> float:
    change = sizes.change({block: kept})
    sizes.keep(block, kept)
    return change
