"""Fine-tune a pruned model where its training is: cut the state_dict by the plan, train, export. Needs PyTorch.

    python examples/finetune.py FOLDER

docs/finetune.md walks through it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

import onnxprune


def bars(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [count, 1, 16, 16] of a noisy bar in one of eight directions, and which: learnt in seconds."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 8, count)
    y, x = np.mgrid[-8:8, -8:8]
    angle, offset = (labels * np.pi / 8)[:, None, None], rng.uniform(-4, 4, (count, 1, 1))
    away = np.abs(x * np.sin(angle) - y * np.cos(angle) - offset)
    images = np.exp(-away) + rng.normal(0, 0.5, away.shape)
    return torch.tensor(images[:, None], dtype=torch.float32), torch.tensor(labels)


def network() -> nn.Sequential:
    """Your model."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 8)),
    )


def train(net: nn.Module, epochs: int, rate: float) -> None:
    """Your training."""
    images, labels = bars(1024, seed=0)
    optimizer = torch.optim.Adam(net.parameters(), rate)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[batch]), labels[batch]).backward()
            optimizer.step()
    net.eval()


def accuracy(net: nn.Module) -> float:
    """The share of 1000 new images that is told right."""
    images, labels = bars(1000, seed=1)
    with torch.no_grad():
        return float((net(images).argmax(1) == labels).float().mean())


def export(net: nn.Module, path: Path) -> None:
    """Write ONNX whose initializers are called as the state_dict's tensors: nothing is folded."""
    keep = {"training": torch.onnx.TrainingMode.PRESERVE, "do_constant_folding": False, "dynamo": False}
    names = {"input_names": ["images"], "output_names": ["scores"]}
    torch.onnx.export(net, (torch.zeros(1, 1, 16, 16),), str(path), opset_version=17, **names, **keep)


def cut(state: dict[str, torch.Tensor], plan: Path) -> dict[str, torch.Tensor]:
    """The state_dict with what the plan keeps of every tensor."""
    small = dict(state)
    for name, axes in json.loads(plan.read_text(encoding="utf-8"))["initializers"].items():
        for axis in axes:
            small[name] = small[name].index_select(axis["axis"], torch.tensor(axis["keep"]))
    return small


def resized(net: nn.Sequential, state: dict[str, torch.Tensor]) -> nn.Sequential:
    """The network at the widths of ``state``: each layer is as wide as its tensors are."""
    for name, module in net.named_modules():
        for kind, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if tensor.shape != state[f"{name}.{kind}"].shape:
                fitting = torch.empty_like(state[f"{name}.{kind}"])
                setattr(module, kind, nn.Parameter(fitting) if isinstance(tensor, nn.Parameter) else fitting)
    net.load_state_dict(state)
    return net


def main(folder: Path) -> None:
    """Train, export, prune, cut, fine-tune, export."""
    torch.manual_seed(0)
    net = network()
    train(net, epochs=6, rate=3e-3)
    print(f"trained: {accuracy(net):.3f} of the images right")

    export(net, folder / "net.onnx")
    result = onnxprune.prune(folder / "net.onnx", ratio=0.6, align=8, fuse_bn=False, data="none")
    result.save(folder / "pruned.onnx", plan=folder / "plan.json")
    left = result.report
    print(f"pruned: {left.parameters.ratio:.3f} of the parameters, {left.macs.ratio:.3f} of the MACs left")

    small = resized(network(), cut(net.state_dict(), folder / "plan.json")).eval()
    images, _ = bars(8, seed=2)
    session = onnxruntime.InferenceSession(folder / "pruned.onnx", providers=["CPUExecutionProvider"])
    scores = np.concatenate([session.run(None, {"images": image[None].numpy()})[0] for image in images])
    apart = float(np.abs(scores - small(images).detach().numpy()).max())
    print(f"cut: {accuracy(small):.3f} right; at most {apart:.1e} from what pruned.onnx gives")

    train(small.train(), epochs=3, rate=1e-3)
    export(small, folder / "finetuned.onnx")
    print(f"fine-tuned: {accuracy(small):.3f} right")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
