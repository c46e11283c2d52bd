"""Networks written in PyTorch for ``bench.torch_pruning``: what people export, without torchvision.

Each is a ``Net``: weights drawn from a fixed seed, the input it is traced with, and the layers whose width
is the meaning of an output, which a pruner that works on modules has to be told to leave alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, relu


@dataclass(frozen=True)
class Net:
    """A module in evaluation mode, its inputs, and the layers that write its outputs."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    heads: list[nn.Module]


def chain(layers: Iterable[nn.Module], x: Tensor) -> Tensor:
    """``x`` after each of ``layers`` in turn."""
    for layer in layers:
        x = layer(x)
    return x


def conv_bn(
    inside: int,
    outside: int,
    kernel: int = 3,
    *,
    stride: int = 1,
    groups: int = 1,
    act: nn.Module | None = None,
) -> nn.Sequential:
    """Make a Conv without bias that keeps the size at stride 1, its BatchNorm, and an activation if any."""
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outside), *([act] if act else []))


class UNet(nn.Module):
    """The U-Net of the rk3588 write-up: C, 2C, 4C, 8C, 8C down and 4C, 2C, C, C up, or the same with fewer steps."""

    def __init__(self, base: int = 32, steps: int = 4, classes: int = 3) -> None:
        super().__init__()
        down = [base << min(step, steps - 1) for step in range(steps + 1)]
        up = [*reversed(down[: steps - 1]), base]
        self.start = self.twice(1, base)
        self.down = nn.ModuleList(self.twice(a, b) for a, b in pairwise(down))
        self.up = nn.ModuleList(self.twice(2 * a, b) for a, b in zip(reversed(down[:-1]), up, strict=True))
        self.head = nn.Conv2d(base, classes, 1)

    @staticmethod
    def twice(inside: int, outside: int) -> nn.Sequential:
        """Conv, BatchNorm and ReLU, two times."""
        return nn.Sequential(conv_bn(inside, outside, act=nn.ReLU()), conv_bn(outside, outside, act=nn.ReLU()))

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1, H, W] -> [N, classes, H, W]."""
        skips = [chain(self.start, x)]
        for block in self.down:
            skips.append(block(max_pool2d(skips[-1], 2)))
        x = skips.pop()
        for block in self.up:
            x = interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
            x = block(torch.cat([skips.pop(), x], dim=1))
        return chain([self.head], x)


class BasicBlock(nn.Module):
    """ResNet's two 3x3 convolutions and their shortcut, a 1x1 convolution where the shape changes."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(conv_bn(inside, outside, stride=stride, act=nn.ReLU()), conv_bn(outside, outside))
        changes = stride != 1 or inside != outside
        self.shortcut = conv_bn(inside, outside, 1, stride=stride) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, inside, H, W] -> [N, outside, H/stride, W/stride]."""
        return relu(self.path(x) + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for ImageNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 64, 7, stride=2, act=nn.ReLU()), nn.MaxPool2d(3, 2, 1))
        blocks: list[nn.Module] = []
        for inside, outside in pairwise([64, 64, 128, 256, 512]):
            stride = 1 if inside == outside else 2
            blocks += [BasicBlock(inside, outside, stride), BasicBlock(outside, outside, 1)]
        self.body = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(512, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, 1000]."""
        return chain([self.stem, self.body, self.head], x)


class C2f(nn.Module):
    """YOLOv8's block: a 1x1 convolution split in two, bottlenecks on one half, all of it concatenated."""

    def __init__(self, inside: int, outside: int, depth: int) -> None:
        super().__init__()
        half = outside // 2
        self.enter = conv_bn(inside, outside, 1, act=nn.SiLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(conv_bn(half, half, act=nn.SiLU()), conv_bn(half, half, act=nn.SiLU())) for _ in range(depth)
        )
        self.leave = conv_bn((2 + depth) * half, outside, 1, act=nn.SiLU())

    def forward(self, x: Tensor) -> Tensor:
        """[N, inside, H, W] -> [N, outside, H, W]."""
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]))
        return chain([self.leave], torch.cat(parts, 1))


class Detector(nn.Module):
    """A detector in the manner of YOLOv8n: C2f stages, a pooling pyramid, one way up, two raw heads."""

    def __init__(self, base: int = 16, outputs: int = 64 + 80) -> None:
        super().__init__()
        widths = [3, base, 2 * base, 4 * base, 8 * base, 16 * base]
        steps = [conv_bn(a, b, stride=2, act=nn.SiLU()) for a, b in pairwise(widths)]
        stages = [C2f(width, width, depth) for width, depth in zip(widths[2:], (1, 2, 2, 1), strict=True)]
        self.stem = steps[0]
        self.stages = nn.ModuleList(map(nn.Sequential, steps[1:], stages))
        self.squeeze = conv_bn(16 * base, 8 * base, 1, act=nn.SiLU())
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.expand = conv_bn(32 * base, 16 * base, 1, act=nn.SiLU())
        self.merge = C2f(24 * base, 8 * base, 1)
        self.necks = nn.ModuleList(conv_bn(w * base, 64, act=nn.SiLU()) for w in (8, 16))
        self.heads = nn.ModuleList(nn.Conv2d(64, outputs, 1) for _ in range(2))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, 3, H, W] -> [N, outputs, H/16, W/16] and [N, outputs, H/32, W/32]."""
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        pyramid = [self.squeeze(maps[-1])]
        for _ in range(3):
            pyramid.append(self.pool(pyramid[-1]))
        deep = self.expand(torch.cat(pyramid, 1))
        fine = self.merge(torch.cat([interpolate(deep, scale_factor=2.0), maps[-2]], 1))
        return self.heads[0](self.necks[0](fine)), self.heads[1](self.necks[1](deep))


class InvertedResidual(nn.Module):
    """MobileNetV2's block: widen by 1x1, filter each channel on its own, narrow by 1x1 without activation."""

    def __init__(self, inside: int, outside: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = inside * expand
        widen = [conv_bn(inside, wide, 1, act=nn.ReLU6())] if expand > 1 else []
        depthwise = conv_bn(wide, wide, stride=stride, groups=wide, act=nn.ReLU6())
        self.path = nn.Sequential(*widen, depthwise, conv_bn(wide, outside, 1))
        self.residual = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        """[N, inside, H, W] -> [N, outside, H/stride, W/stride]."""
        y = chain(self.path, x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """MobileNetV2 at width 1.0 for ImageNet."""

    #: expansion, width, blocks, and stride of the first block, of each stage
    STAGES = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self) -> None:
        super().__init__()
        inside = 32
        layers: list[nn.Module] = [conv_bn(3, inside, stride=2, act=nn.ReLU6())]
        for expand, outside, blocks, stride in self.STAGES:
            for first in (True, *[False] * (blocks - 1)):
                layers.append(InvertedResidual(inside, outside, stride if first else 1, expand))
                inside = outside
        layers += [conv_bn(inside, 1280, 1, act=nn.ReLU6()), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, 1000]."""
        return chain([self.body, self.head], x)


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "U-Net": (UNet, (1, 1, 256, 256)),
    "ResNet-18": (ResNet18, (1, 3, 224, 224)),
    "C2f detector": (Detector, (1, 3, 320, 320)),
    "MobileNetV2": (MobileNetV2, (1, 3, 224, 224)),
}


def build(name: str) -> Net:
    """``MODULES[name]`` in evaluation mode, with the same random weights and statistics in every process."""
    make, shape = MODULES[name]
    torch.manual_seed(0)
    module = make().eval()
    randomise(module)
    heads = module.get_submodule("heads" if isinstance(module, Detector) else "head")
    return Net(module, (torch.zeros(shape),), list(heads.children()) or [heads])


def randomise(module: nn.Module) -> None:
    """Draw affine parameters and statistics of every BatchNorm, which all start out alike."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for key, values in layer.state_dict(keep_vars=True).items():
                low, high = {"weight": (0.5, 1.5), "running_var": (0.5, 1.5)}.get(key, (-0.3, 0.3))
                if values.is_floating_point():
                    nn.init.uniform_(values, low, high)
