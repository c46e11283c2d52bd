"""PyTorch's first-order Taylor scores of the U-Net of the rk3588 write-up: ``python -m bench.taylor_reference``.

Writes ``fixtures/taylor.json``, which a test compares ``--importance taylor`` with. The network is written out
here once more, in PyTorch with its autograd; weights, images and labels are drawn by the functions that the test uses.
As the write-up does it: |mean over positions of activation x gradient| at each convolution, averaged over a
minibatch, moving average 0.9/0.1 over minibatches, L2-normalised by layer.

For developers: needs torch, which onnxprune never imports.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional as nn

from fixtures import build

MINIBATCH, DECAY, DIGITS = 8, 0.9, 6


class _UNet:
    """The network on the weights of `build.unet`, keeping every convolution's output and its gradient."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights
        self.convolved: dict[str, Tensor] = {}

    def conv(self, name: str, x: Tensor) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        y = nn.conv2d(x, weight, self.weights.get(f"{name}.bias"), padding=weight.shape[-1] // 2)
        y.retain_grad()
        self.convolved[name] = y
        return y

    def double_conv(self, name: str, x: Tensor) -> Tensor:
        for half in (f"{name}.0", f"{name}.1"):
            norm = [self.weights[f"{half}.bn.{k}"] for k in ("running_mean", "running_var", "weight", "bias")]
            x = nn.batch_norm(self.conv(f"{half}.conv", x), *norm, eps=build.EPSILON).relu()
        return x

    def __call__(self, x: Tensor) -> Tensor:
        skips = [self.double_conv("inc", x)]
        for level in range(1, 5):
            skips.append(self.double_conv(f"down{level}", nn.max_pool2d(skips[-1], 2)))
        x = skips.pop()
        for level in range(1, 5):
            x = nn.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
            x = self.double_conv(f"up{level}", torch.cat([skips.pop(), x], 1))
        return self.conv("outc", x)


def scores() -> dict[str, list[float]]:
    """{convolution: [channels]}."""
    proto, images, labels = build.labelled_unet()
    weights = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in proto.graph.initializer}
    average: dict[str, np.ndarray] = {}
    for start in range(0, len(images), MINIBATCH):
        net = _UNet(weights)
        x = torch.from_numpy(images[start : start + MINIBATCH]).requires_grad_()
        nn.cross_entropy(net(x), torch.from_numpy(labels[start : start + MINIBATCH])).backward()
        for name, y in net.convolved.items():
            new = (y * y.grad).mean(dim=(2, 3)).abs().mean(dim=0).detach().double().numpy()
            average[name] = DECAY * average[name] + (1 - DECAY) * new if name in average else new
    return {n: [float(f"{v:.{DIGITS}g}") for v in a / np.linalg.norm(a)] for n, a in average.items() if n != "outc"}


def main() -> None:
    """Write the fixture."""
    found = scores()
    lines = [f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in found.items()]
    build.TAYLOR.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{len(found)} convolutions, {sum(map(len, found.values()))} channels: {build.TAYLOR}")


if __name__ == "__main__":
    main()
