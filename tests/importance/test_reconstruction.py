"""Reconstruction scores are what least squares says of the original's own activations."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.calibration.original_observed import observe_original
from onnxprune.file_system.arrays_on_disk import spilling
from onnxprune.importance import criteria as scores
from onnxprune.importance import reconstruction
from onnxprune.importance.criterion import Subject
from onnxprune.labels.analysis import analyse
from onnxprune.model.onnx_model import Model, from_proto
from onnxprune.running import session as runtime
from tests.models import build
from tests.samples import from_arrays

HEAD = "(float[N,3,8,8] x) => (float y) <float[8,3,3,3] w0, float[8] b0, "
SAMPLES = np.random.default_rng(0).standard_normal((60, 3, 8, 8)).astype(np.float32)
NODES = "{ c = Conv<pads=[1,1,1,1]>(x, w0, b0)\nh = Relu(c)\n"


def scored(model: Model, x: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch) -> NDArray[np.float64]:
    """Of the channels of h, without damping, and as the rows that are fitted to have it."""
    monkeypatch.setattr(reconstruction, "DAMPING", 1e-9)
    monkeypatch.setattr(reconstruction._Consumer, "understates", lambda *_: 1.0)
    return scores_of(model, x)


def scores_of(model: Model, x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of the channels of h."""
    analysis = analyse(model, input_shapes={"x": (1, 3, 8, 8)})
    data = from_arrays({"x": x}, model, analysis.trace.shapes.inputs)
    with spilling() as spill:
        observed = observe_original(analysis.trace, model, data, spill, lambda *_: None)
        subject = Subject(analysis.trace, data, 0, 0.0, lambda *_: None, observed)
        (found,) = scores.score(subject, analysis.groups, scores.resolve("reconstruction")(subject))
    return found


def activations(model: Model, x: NDArray[np.float32], name: str) -> NDArray[np.float64]:
    """[positions, channels] of the samples that are fitted to."""
    data = from_arrays({"x": x}, model, {"x": (1, 3, 8, 8)})
    feeds = next(data.split()[0].batches(len(x)))
    with runtime.session(model, "test", outputs=[name]) as active:
        found = runtime.run(active, feeds, "test")[name]
    rows = np.moveaxis(found, 1, -1).reshape(-1, found.shape[1]).astype(np.float64)
    return np.asarray(rows - rows.mean(axis=0))


def missed(read: NDArray[np.float64], y: NDArray[np.float64], gone: list[int]) -> float:
    """What a refit without some channels misses, as a share of the energy."""
    kept = np.delete(read, gone, axis=1)
    return float(np.square(y - kept @ np.linalg.lstsq(kept, y, rcond=None)[0]).sum() / np.square(y).sum())


def test_each_step_costs_what_refitting_without_the_channels_misses_more(monkeypatch: pytest.MonkeyPatch) -> None:
    model = from_proto(build(f"{HEAD} float[5,8,1,1] w1> {NODES} y = Conv(h, w1) }}"))
    found = scored(model, SAMPLES, monkeypatch)
    h = activations(model, SAMPLES, "h")
    y = h @ model.array("w1").reshape(5, 8).astype(np.float64).T
    order = np.argsort(found, kind="stable").tolist()
    for count in range(1, 6):
        least = min(missed(h, y, [*order[: count - 1], other]) for other in order[count - 1 :])
        assert missed(h, y, order[:count]) == pytest.approx(least, rel=1e-3)
        step = missed(h, y, order[:count]) - missed(h, y, order[: count - 1])
        assert found[order[count - 1]] == pytest.approx(step, rel=1e-3, abs=1e-6)


def test_a_depthwise_convolution_costs_nothing_as_its_outputs_go_too(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = f"{NODES} d = Conv<group=8>(h, w1)\nr = Sigmoid(d)\ny = Conv(r, w2) }}"
    model = from_proto(build(f"{HEAD} float[8,1,1,1] w1, float[5,8,1,1] w2> {nodes}"))
    found = scored(model, SAMPLES, monkeypatch)
    r = activations(model, SAMPLES, "r")
    y = r @ model.array("w2").reshape(5, 8).astype(np.float64).T
    first = int(np.argmin(found))
    expected = [missed(r, y, [i]) for i in range(8)]
    assert first == int(np.argmin(expected))
    assert found[first] == pytest.approx(expected[first], rel=1e-3)


def test_scores_are_raised_at_a_consumer_with_as_many_rows_as_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = f"{NODES} p = GlobalAveragePool(h)\ny = Conv(p, w1) }}"
    model = from_proto(build(f"{HEAD} float[5,8,1,1] w1> {nodes}"))
    nine, all_of_them = scores_of(model, SAMPLES[:9]), scores_of(model, SAMPLES)
    monkeypatch.setattr(reconstruction._Consumer, "understates", lambda *_: 1.0)
    assert (nine > 2 * scores_of(model, SAMPLES[:9])).all()
    assert (all_of_them < 2 * scores_of(model, SAMPLES)).all()


def consumer(x: NDArray[np.float64]) -> reconstruction._Consumer:
    """Of y = w x with w of ones, x [rows, columns], a unit for every column."""
    count = x.shape[1]
    inverse = np.asarray(np.linalg.inv(np.cov(x.T, bias=True) + reconstruction.DAMPING * np.eye(count)), np.float64)
    return reconstruction._Consumer(
        inverse, np.ones((1, count)), 1.0, {1: (np.arange(count), np.arange(count)[:, None])}
    )


def test_costs_are_raised_by_what_held_out_rows_say_of_them() -> None:
    rng = np.random.default_rng(0)
    few, many, held_out = (rng.standard_normal((rows, 20)) for rows in (24, 20000, 5000))
    alone = consumer(few).costs(np.ones(20, np.bool_)).sum() * consumer(few).understates(held_out)
    inverse = consumer(few).inverse
    assert alone == pytest.approx(np.square(held_out @ inverse / np.diag(inverse)).mean(axis=0).sum(), rel=1e-6)
    assert consumer(few).understates(held_out) > 5  # 19 columns seem to tell of the twentieth, which is noise
    assert consumer(many).understates(held_out) == pytest.approx(1, abs=0.02)
    assert consumer(many).understates(held_out / 2) == 1


@pytest.mark.parametrize(("rows", "more"), [(24, 100), (20000, 1)])
def test_the_damping_is_the_one_at_which_held_out_rows_cost_least(rows: int, more: int) -> None:
    rng = np.random.default_rng(0)
    fitted, held_out = rng.standard_normal((rows, 20)), rng.standard_normal((5000, 20))
    covariance = np.asarray(np.cov(fitted.T, bias=True), np.float64)
    columns = {1: (np.arange(20), np.arange(20)[:, None])}
    found = reconstruction._damped(covariance, np.ones((1, 20)), columns, held_out, 20)
    damping = more * reconstruction.DAMPING * np.diag(covariance).mean()
    assert found.inverse == pytest.approx(np.linalg.inv(covariance + damping * np.eye(20)), rel=1e-6, abs=1e-9)
    assert found.scale == found.understates(held_out)


@pytest.mark.parametrize(
    ("reader", "used"), [("y = Conv(h, w1) }", 64), ("p = GlobalAveragePool(h)\ny = Conv(p, w1) }", 90)]
)
def test_no_more_samples_are_looked_at_than_give_every_layer_thousands_of_rows(reader: str, used: int) -> None:
    proto = build(f"{HEAD.replace('8,8', '32,32')} float[5,8,1,1] w1> {NODES} {reader}")
    model = from_proto(proto)
    analysis = analyse(model, input_shapes={"x": (1, 3, 32, 32)})
    x = np.zeros((90, 3, 32, 32), np.float32)
    data = from_arrays({"x": x}, model, analysis.trace.shapes.inputs)
    with spilling() as spill:
        observed = observe_original(analysis.trace, model, data, spill, lambda *_: None)
    assert observed.data.count == sum(p.samples for p in observed.seen.parts) == used
