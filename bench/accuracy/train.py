"""Trains and exports the networks of ``bench.accuracy``: ``python -m bench.accuracy.train [NET ...] [--seeds N]``.

Everything lands in the cache (``bench.accuracy.cache``); a network that is there already is left alone. The
same seed gives the same network on the same machine. For developers: needs torch, mlxtend.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bench.accuracy import cache, command_line, metric
from bench.accuracy.digits import SIZE, Digits, Samples
from bench.accuracy.nets import NETS, SEGMENTING

OPSET = 17
TRAINING_SAMPLES, EPOCHS, BATCH = 16_000, 3, 64
PEAK_RATE, WEIGHT_DECAY = 4e-3, 1e-3
EXPORT_TOLERANCE = 0.001  #: of the metric: a sample on the fence may fall to the other side


def main(arguments: Sequence[str] | None = None) -> None:
    """Write samples and networks that are not there yet; print each network's metric."""
    parser = command_line.parser(__doc__, NETS, seeds=(0, 1), json=False)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    wanted = [cache.TrainedNet(name, seed) for seed in options.seeds for name in options.nets]
    missing = [net for net in wanted if not net.record.exists()]
    if missing:
        digits = Digits()
        if not cache.test_samples().exists():
            write_samples(digits)
        samples = digits.draw(TRAINING_SAMPLES, seed=0)
        for net in missing:
            finish(net, samples)
            print(net.name, net.seed, "done", flush=True)
    for net in wanted:
        print(net.name, net.seed, net.record.read_text().strip())


def write_samples(digits: Digits) -> None:
    """Write calibration and test samples; the test samples last, whose file says that all are there."""
    drawn = digits.draw(cache.CALIBRATION_SAMPLES, seed=1)
    few = drawn.images[:128]
    np.save(cache.calibration(segmenting=False), drawn.images)
    np.save(cache.calibration_labels(segmenting=False), drawn.labels)
    np.save(cache.calibration(segmenting=True), few)
    np.save(cache.calibration_labels(segmenting=True), drawn.masks[: len(few)])
    test = digits.draw(cache.TEST_SAMPLES, seed=2, test=True)
    np.savez(cache.test_samples(), images=test.images, labels=test.labels, masks=test.masks.astype(np.uint8))


def finish(net: cache.TrainedNet, samples: Samples) -> None:
    """Train, export both ways, measure, and write the record.

    Raises:
        RuntimeError: an exported file does not do what the module does.
    """
    started = time.perf_counter()
    module = train(net, samples)
    seconds = time.perf_counter() - started
    torch.save(module.state_dict(), net.state)
    export(module, net.folded)
    export(module, net.with_batchnorm, fold=False)
    record = {"torch": of_module(module), "folded": metric.of_file(net.folded)}
    record |= {"with_batchnorm": metric.of_file(net.with_batchnorm)}
    if np.ptp(list(record.values())) > EXPORT_TOLERANCE:
        raise RuntimeError(f"{net.name}: exported files differ from the module: {record}")
    net.record.write_text(json.dumps(record | {"seconds": round(seconds)}) + "\n")


def train(net: cache.TrainedNet, samples: Samples) -> nn.Module:
    """The network after ``EPOCHS`` over ``samples`` with AdamW and one cycle, in evaluation mode."""
    torch.manual_seed(net.seed)
    module = NETS[net.name]().to(memory_format=torch.channels_last)
    images = torch.from_numpy(samples.images).to(memory_format=torch.channels_last)
    targets = torch.from_numpy(samples.masks if net.name in SEGMENTING else samples.labels)
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=WEIGHT_DECAY)
    steps = EPOCHS * (len(samples) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps, pct_start=0.2)
    order = torch.cat([torch.randperm(len(samples)) for _ in range(EPOCHS)])
    for step in range(steps):
        batch = order[step * BATCH : (step + 1) * BATCH]
        optimizer.zero_grad()
        cross_entropy(module(images[batch]), targets[batch]).backward()
        optimizer.step()
        schedule.step()
    return module.to(memory_format=torch.contiguous_format).eval()


def load(net: cache.TrainedNet) -> nn.Module:
    """The trained module, in evaluation mode."""
    module = NETS[net.name]()
    module.load_state_dict(torch.load(net.state, weights_only=True))
    return module.eval()


def of_module(module: nn.Module) -> float:
    """The metric of a module."""
    with torch.no_grad():
        return metric.of(lambda images: module(torch.from_numpy(images)).numpy())


def export(module: nn.Module, path: Path, *, fold: bool = True) -> None:
    """Write ``module`` with a batch of any size; without ``fold``, BatchNormalization stays a node."""
    mode = torch.onnx.TrainingMode.EVAL if fold else torch.onnx.TrainingMode.PRESERVE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.zeros(1, 1, SIZE, SIZE),),
            str(path),
            opset_version=OPSET,
            dynamo=False,
            training=mode,
            input_names=["image"],
            output_names=["scores"],
            dynamic_axes={"image": {0: "batch"}, "scores": {0: "batch"}},
        )


if __name__ == "__main__":
    main()
