"""Prune, train, measure, again, until accuracy has dropped by a point: the smallest network that held. Needs PyTorch.

    python examples/finetune_rounds.py FOLDER

docs/finetune.md walks through it. The network, its data and its training are those of finetune.py.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from finetune import bars, cut, export, network, resized, train

import onnxprune


class Training:
    """What stays between rounds lies in ``folder``: weights as they were trained, so that a killed run goes on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, _model: onnx.ModelProto, plan: Any, number: int) -> Path:
        """A round: the state_dict is cut as the model was, trained and exported."""
        place = self.folder / f"round{number}.json"
        place.write_text(plan.to_json(), encoding="utf-8")
        small = resized(network(), cut(torch.load(self.folder / f"round{number - 1}.pt"), place))
        train(small.train(), epochs=3, rate=1e-3)
        torch.save(small.state_dict(), self.folder / f"round{number}.pt")
        export(small, self.folder / f"round{number}.onnx")
        return self.folder / f"round{number}.onnx"


def right(seed: int) -> Any:
    """A metric: whether each of 1000 images is told right."""
    images, labels = (part.numpy() for part in bars(1000, seed))

    def each(session: Any) -> Any:
        return np.array([session.run(None, {"images": x[None]})[0][0].argmax() for x in images]) == labels

    return each


def main(folder: Path) -> None:
    """Train, export, and let the rounds go on."""
    torch.manual_seed(0)
    net = network()
    train(net, epochs=6, rate=3e-3)
    export(net, folder / "net.onnx")
    torch.save(net.state_dict(), folder / "round0.pt")
    result = onnxprune.prune(
        folder / "net.onnx",
        metric=right(seed=1),
        test_metric=right(seed=3),
        max_drop=0.01,
        finetune=Training(folder),
        step=0.4,
        align=4,
        fuse_bn=False,
        trials=folder / "trials.jsonl",
    )
    result.save(folder / "small.onnx")
    search = result.report.search
    assert search is not None
    assert search.test is not None
    for number, trial in enumerate(search.trials, 1):
        print(f"round {number}: {trial.macs:.3f} of the MACs, drop {trial.drop:.3f}: {trial.holds}")
    print(
        f"written: {result.report.macs.ratio:.3f} of the MACs, {result.report.parameters.ratio:.3f} of the parameters"
    )
    print(f"on other images: {search.test.original:.3f} -> {search.test.pruned:.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
