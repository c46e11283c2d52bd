"""Small networks of the families that people prune, for ``bench.accuracy``: one grey channel in."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from bench.accuracy.digits import CLASSES
from bench.nets import BasicBlock, C2f, InvertedResidual, UNet, chain, conv_bn


class DenseLayer(nn.Module):
    """DenseNet's layer: BatchNorm and ReLU before the convolution, its output beside its input."""

    def __init__(self, inside: int, growth: int) -> None:
        super().__init__()
        self.path = nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU(), nn.Conv2d(inside, growth, 3, 1, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """[N, inside, H, W] -> [N, inside + growth, H, W]."""
        return torch.cat([x, chain(self.path, x)], 1)


def classifier(body: list[nn.Module], width: int) -> nn.Sequential:
    """``body``, the mean over positions of its ``width`` channels, and a Linear."""
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES))


def resnet20() -> nn.Module:
    """Make CIFAR's ResNet-20: three stages of three blocks, 16, 32 and 64 channels."""
    body: list[nn.Module] = [conv_bn(1, 16, stride=2, act=nn.ReLU())]
    for inside, outside in pairwise([16, 16, 32, 64]):
        stride = 1 if inside == outside else 2
        body += [BasicBlock(inside, outside, stride), BasicBlock(outside, outside, 1), BasicBlock(outside, outside, 1)]
    return classifier(body, 64)


def vgg8() -> nn.Module:
    """Make seven plain convolutions, of 24, 48 and 96 channels, and a Linear."""
    body: list[nn.Module] = []
    for inside, outside in pairwise([1, 24, 24, 48, 48, 96, 96, 96]):
        body.append(conv_bn(inside, outside, act=nn.ReLU()))
        if len(body) in (1, 4, 7):
            body.append(nn.MaxPool2d(2))
    return classifier(body, 96)


def mobilenet_v2() -> nn.Module:
    """Make MobileNetV2 with eight blocks: expansion, width and stride of each."""
    stages = [(1, 12, 1), (4, 16, 1), (4, 16, 1), (4, 24, 2), (4, 24, 1), (4, 24, 1), (4, 40, 2), (4, 40, 1)]
    body: list[nn.Module] = [conv_bn(1, 16, stride=2, act=nn.ReLU6())]
    inside = 16
    for expand, outside, stride in stages:
        body.append(InvertedResidual(inside, outside, stride, expand))
        inside = outside
    return classifier([*body, conv_bn(inside, 128, 1, act=nn.ReLU6())], 128)


def densenet() -> nn.Module:
    """Make three blocks of four layers that each add 12 channels, with halving transitions between."""
    width = 24
    body: list[nn.Module] = [nn.Conv2d(1, width, 3, 2, 1, bias=False)]
    for block in range(3):
        if block:
            body += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
            width //= 2
        for _ in range(4):
            body.append(DenseLayer(width, 12))
            width += 12
    return classifier([*body, nn.BatchNorm2d(width), nn.ReLU()], width)


def c2f() -> nn.Module:
    """Make the backbone of a YOLOv8 in small: strided convolutions, C2f stages, SiLU."""
    body: list[nn.Module] = [conv_bn(1, 16, stride=2, act=nn.SiLU()), C2f(16, 24, 1)]
    for inside, outside in pairwise([24, 48, 64]):
        body += [conv_bn(inside, outside, stride=2, act=nn.SiLU()), C2f(outside, outside, 2)]
    return classifier(body, 64)


def unet() -> nn.Module:
    """Make the U-Net with three steps down; a pixel is of the digit or not."""
    return UNet(12, steps=3, classes=2)


NETS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-20": resnet20,
    "VGG-8": vgg8,
    "MobileNetV2": mobilenet_v2,
    "DenseNet": densenet,
    "U-Net": unet,
    "C2f": c2f,
}
SEGMENTING = {"U-Net"}


def head(net: nn.Module) -> nn.Module:
    """The layer whose width is the classes, which a pruner that works on modules has to be told to leave alone."""
    return net.head if isinstance(net, UNet) else list(net.children())[-1]
