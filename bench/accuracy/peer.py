"""What Torch-Pruning keeps of a trained network at a budget of MACs: ``python -m bench.accuracy.peer NET SEED``.

Every importance that needs no fine-tuning, local and global, the pruning ratio bisected until the MACs fit,
measured as it comes out and with BatchNorm's statistics estimated again on the calibration images. Prints
JSON lines, one for each setting. At the narrowest alignment all settings are tried, at wider ones those that
were the best there at some budget. For developers: needs torch and torch-pruning.

Three kindnesses to it: Taylor and Hessian get the labels of the calibration images, which onnxprune does not;
the Hessian is summed over all samples here, because ``accumulate_grad`` of 1.6.1 keeps the last one only; and
C2f, whose chunk makes it raise, is tried once as it is and then with the split done by two convolutions.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.accuracy import cache, command_line
from bench.accuracy.digits import SIZE
from bench.accuracy.nets import SEGMENTING, head
from bench.accuracy.train import load, of_module
from bench.nets import C2f

BUDGETS, ALIGNS = (0.7, 0.5, 0.35), (1, 8, 16)
_STEPS = 8  #: of the bisection: to 0.4 % of the ratio
_BATCH = 64
_MULTIPLYING = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)

Gradients = dict[str, Tensor]


@dataclass(frozen=True)
class Attempt:
    """One setting's network: its share of the MACs, its metrics; ``failure`` instead, if there is none."""

    importance: str
    scope: str
    budget: float
    align: int
    macs: float | None = None
    plain: float | None = None
    reestimated: float | None = None
    failure: str = ""


@dataclass(frozen=True)
class Subject:
    """A trained module, what it is calibrated on, and its gradients by parameter for each importance."""

    module: nn.Module
    images: Tensor
    gradients: dict[str, Gradients]
    macs: int


IMPORTANCES: dict[str, Callable[[], torch_pruning.importance.Importance]] = {
    "L2": lambda: torch_pruning.importance.GroupMagnitudeImportance(p=2),
    "BN scale": torch_pruning.importance.BNScaleImportance,
    "Taylor": torch_pruning.importance.GroupTaylorImportance,
    "Hessian": torch_pruning.importance.GroupHessianImportance,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Try every setting at the given budgets and widths."""
    parser = command_line.parser(__doc__, json=False)
    parser.add_argument("net")
    parser.add_argument("seed", type=int)
    parser.add_argument("--macs", type=float, nargs="+", default=BUDGETS)
    parser.add_argument("--align", type=int, nargs="+", default=ALIGNS)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    net = cache.TrainedNet(options.net, options.seed)
    module = load(net)
    if any(isinstance(layer, C2f) for layer in module.modules()):
        crash = next(attempts(subject(net, module), "L2", "local", 1, options.macs))
        print(json.dumps(asdict(dataclasses.replace(crash, importance="L2, C2f as it is"))), flush=True)
        module = without_chunks(module)
    whole = subject(net, module)
    settings = [(name, scope) for name in IMPORTANCES for scope in ("local", "global")]
    for align in sorted(options.align):
        tried = [attempt for setting in settings for attempt in attempts(whole, *setting, align, options.macs)]
        for attempt in tried:
            print(json.dumps(asdict(attempt)), flush=True)
        settings = promising(tried) or settings


def promising(tried: Sequence[Attempt]) -> list[tuple[str, str]]:
    """Settings that were the best at some budget, plain or not: with wider alignments only these are tried."""
    best: dict[tuple[str, str], None] = {}
    for budget in {attempt.budget: None for attempt in tried}:
        here = [a for a in tried if a.budget == budget and a.plain is not None and a.reestimated is not None]
        if here:
            for winner in (max(here, key=lambda a: a.plain or 0), max(here, key=lambda a: a.reestimated or 0)):
                best[winner.importance, winner.scope] = None
    return list(best)


def subject(net: cache.TrainedNet, module: nn.Module) -> Subject:
    """Take the gradients of ``net``'s module on its calibration images."""
    segmenting = net.name in SEGMENTING
    images = torch.from_numpy(np.load(cache.calibration(segmenting)))
    labels = torch.from_numpy(np.load(cache.calibration_labels(segmenting)))
    found = {"Taylor": _mean_gradient(module, images, labels), "Hessian": _mean_square(module, images, labels)}
    return Subject(module, images, found, macs(module))


class SplitC2f(nn.Module):
    """What Torch-Pruning's YOLOv8 example makes of a C2f: each half of the first convolution is one of its own."""

    def __init__(self, whole: C2f) -> None:
        super().__init__()
        self.halves = nn.ModuleList(_half(whole.enter, half) for half in (0, 1))
        self.blocks, self.leave = whole.blocks, whole.leave

    def forward(self, x: Tensor) -> Tensor:
        """[N, inside, H, W] -> [N, outside, H, W]."""
        parts = [half(x) for half in self.halves]
        for block in self.blocks:
            parts.append(parts[-1] + block(parts[-1]))
        return self.leave(torch.cat(parts, 1))


def _half(enter: nn.Sequential, half: int) -> nn.Sequential:
    """Copy one half of the output channels of Conv, BatchNorm and activation."""
    made = copy.deepcopy(enter)
    conv, norm = made[0], made[1]
    conv.weight = nn.Parameter(conv.weight.chunk(2)[half].clone())
    conv.out_channels = norm.num_features = len(conv.weight)
    norm.weight, norm.bias = (nn.Parameter(p.chunk(2)[half].clone()) for p in (norm.weight, norm.bias))
    norm.running_mean, norm.running_var = (b.chunk(2)[half].clone() for b in (norm.running_mean, norm.running_var))
    return made


def without_chunks(module: nn.Module) -> nn.Module:
    """The same function without C2f's chunk."""
    made = copy.deepcopy(module)
    for parent in list(made.modules()):
        for name, child in parent.named_children():
            if isinstance(child, C2f):
                setattr(parent, name, SplitC2f(child))
    return made.eval()


def _mean_gradient(module: nn.Module, images: Tensor, labels: Tensor) -> Gradients:
    module.zero_grad()
    for x, y in zip(images.split(_BATCH), labels.split(_BATCH), strict=True):
        (cross_entropy(module(x), y) * len(x) / len(images)).backward()
    return _taken(module)


def _mean_square(module: nn.Module, images: Tensor, labels: Tensor) -> Gradients:
    """Mean over samples of the squared gradient: the diagonal of the empirical Fisher matrix."""
    total: Gradients = {}
    for x, y in zip(images.split(1), labels.split(1), strict=True):
        module.zero_grad()
        cross_entropy(module(x), y).backward()
        total = {name: total.get(name, 0) + grad.square() / len(images) for name, grad in _taken(module).items()}
    return total


def _taken(module: nn.Module) -> Gradients:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def attempts(whole: Subject, name: str, scope: str, align: int, budgets: Sequence[float]) -> Iterator[Attempt]:
    """One setting at each of ``budgets``."""
    for budget in budgets:
        try:
            found = fitted(whole, name, scope, align, budget)
        except Exception as crash:  # noqa: BLE001  whatever it raises is a row of the table
            yield Attempt(name, scope, budget, align, failure=f"{type(crash).__name__}: {crash}"[:120])
            continue
        if found is None:
            yield Attempt(name, scope, budget, align, failure="no ratio meets the budget")
            continue
        found = found.to(memory_format=torch.channels_last)  # faster, the same function
        share, plain = macs(found) / whole.macs, of_module(found)
        yield Attempt(name, scope, budget, align, share, plain, of_module(reestimated(found, whole.images)))


def fitted(whole: Subject, name: str, scope: str, align: int, budget: float) -> nn.Module | None:
    """The largest network within ``budget`` that a bisection of the pruning ratio meets, if it meets any."""
    best, most, low, high = None, 0.0, 0.0, 1.0
    for _ in range(_STEPS):
        ratio = (low + high) / 2
        pruned = prune(whole, name, scope, align, ratio)
        share = macs(pruned) / whole.macs
        low, high = (ratio, high) if share > budget else (low, ratio)
        if most < share <= budget:
            best, most = pruned, share
    return best


def prune(whole: Subject, name: str, scope: str, align: int, ratio: float) -> nn.Module:
    """A copy of the module, pruned in one step."""
    module = copy.deepcopy(whole.module)
    for parameter, p in module.named_parameters():
        if name in whole.gradients and parameter in whole.gradients[name]:
            p.grad = whole.gradients[name][parameter].clone()
    pruner = torch_pruning.pruner.BasePruner(
        module,
        torch.zeros(1, 1, SIZE, SIZE),
        importance=IMPORTANCES[name](),
        global_pruning=scope == "global",
        pruning_ratio=ratio,
        ignored_layers=[head(module)],
        round_to=align if align > 1 else None,
    )
    pruner.step()
    return module


def reestimated(module: nn.Module, images: Tensor) -> nn.Module:
    """The module with the mean and variance of each BatchNorm taken from ``images``; changes ``module``."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean over batches
    with torch.no_grad():
        module.train()
        for batch in images.split(_BATCH):
            module(batch)
    return module.eval()


def macs(module: nn.Module) -> int:
    """Multiply-accumulates of one image, as ``bench.judge`` counts those of the exported file."""
    total = 0

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        nonlocal total
        total += output.numel() * layer.weight[0].numel()

    hooks = [layer.register_forward_hook(count) for layer in module.modules() if isinstance(layer, _MULTIPLYING)]
    with torch.no_grad():
        module(torch.zeros(1, 1, SIZE, SIZE))
    for hook in hooks:
        hook.remove()
    return total


if __name__ == "__main__":
    main()
