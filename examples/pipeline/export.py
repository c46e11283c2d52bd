"""Export a model: yours in place of this one. Needs PyTorch; nothing after it does."""

from __future__ import annotations

import sys

import torch
from torch import nn


def block(into: int, out: int) -> nn.Sequential:
    """Conv, BatchNorm, ReLU, and half of the resolution."""
    return nn.Sequential(
        nn.Conv2d(into, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    net = nn.Sequential(block(3, 32), block(32, 64), block(64, 64), nn.Conv2d(64, 16, 1)).eval()
    names = {"input_names": ["images"], "output_names": ["maps"]}
    torch.onnx.export(net, (torch.zeros(1, 3, 64, 64),), sys.argv[1], opset_version=17, dynamo=False, **names)
