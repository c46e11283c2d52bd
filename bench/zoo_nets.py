"""The files of the zoo as PyTorch modules, for Torch-Pruning.

torchvision and timm build the architectures that they have; the U-Net of the write-up is written in ``bench.nets``;
what was made for the zoo is read back from its file by onnx2torch, as far as that goes. Weights are random: which
layers can be pruned does not depend on them.

For developers: needs torch, torchvision, timm and onnx2torch, which onnxprune never imports.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.nets import Net, UNet, randomise
from fixtures.skeleton import load_skeleton

FOLDER = Path(__file__).parents[1] / "fixtures" / "zoo"
SPATIAL = 64  #: for an input dimension that the file leaves open, but the first

#: What a name in the index is in its library, where that takes more than the name.
TORCHVISION: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_small": (
        "VisionTransformer",
        {"image_size": 64, "patch_size": 16, "num_layers": 4, "num_heads": 4, "hidden_dim": 128, "mlp_dim": 256}
        | {"num_classes": 10},
    ),
    "googlenet": ("googlenet", {"aux_logits": False, "init_weights": False}),
    "deeplabv3_mobilenet_v3_large": ("segmentation.deeplabv3_mobilenet_v3_large", {"weights_backbone": None}),
    "lraspp_mobilenet_v3_large": ("segmentation.lraspp_mobilenet_v3_large", {"weights_backbone": None}),
}


class NotBuiltError(Exception):
    """There is no module of a file."""


class Out(nn.Module):
    """A segmentation network without the dictionary around its output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """The main output."""
        return self.network(x)["out"]


@cache
def index() -> dict[str, dict[str, Any]]:
    """Return the rows of the zoo's index, by name."""
    return {row["name"]: row for row in json.loads((FOLDER / "index.json").read_text())}


def build(name: str) -> Net:
    """Make the module of the file ``name`` of the zoo, in evaluation mode, and inputs of the file's shapes.

    Raises:
        NotBuiltError: onnx2torch does not read any of the files of this architecture.
    """
    row = index()[name]
    torch.manual_seed(0)
    inputs = tuple(_input(shape) for shape in row["inputs"].values())
    module = _module(row).eval()
    randomise(module)
    return Net(module, inputs, heads(module, inputs))


def _input(shape: list[int | str]) -> Tensor:
    return torch.randn([d if isinstance(d, int) else SPATIAL if axis else 1 for axis, d in enumerate(shape)])


def _module(row: dict[str, Any]) -> nn.Module:
    library, arch = row["lib"], str(row["arch"])
    name = arch.partition("_")[2]
    if library == "timm":
        import timm  # noqa: PLC0415

        return timm.create_model(name, pretrained=False)
    if library == "torchvision":
        import torchvision  # noqa: PLC0415

        function, options = TORCHVISION.get(name, (name, {}))
        found = torchvision.models
        for part in function.split("."):
            found = getattr(found, part)
        module = found(**options)
        return Out(module) if function.startswith("segmentation") else module
    if arch == "own_unet_bilinear":
        return UNet()
    return _read_back(arch)


def _read_back(arch: str) -> nn.Module:
    """Convert the first file of ``arch`` that onnx2torch reads."""
    import onnx2torch  # noqa: PLC0415

    reasons: list[str] = []
    for row in index().values():
        if row["arch"] == arch:
            try:
                return onnx2torch.convert(load_skeleton(FOLDER / f"{row['name']}.onnx"))
            except Exception as reason:  # noqa: BLE001  onnx2torch raises whatever its code runs into
                reasons.append(f"{type(reason).__name__}: {reason}")
    raise NotBuiltError(reasons[0].replace("\n", " "))


def heads(module: nn.Module, inputs: tuple[Tensor, ...]) -> list[nn.Module]:
    """Find the layers whose width is the meaning of an output: the first on each way up from the outputs."""
    layers = {
        id(weight): layer for layer in module.modules() for weight in layer.parameters(recurse=False) if weight.ndim > 1
    }
    found: dict[int, nn.Module] = {}
    with torch.enable_grad():
        given = module(*(x.clone() for x in inputs))
    stack = [y.grad_fn for y in (given if isinstance(given, tuple | list) else (given,)) if y.grad_fn is not None]
    seen: set[Any] = set()
    while stack:
        step = stack.pop()
        if step in seen:
            continue
        seen.add(step)
        above = [source for source, _ in step.next_functions if source is not None]
        own = [layers[id(weight)] for weight in map(_weight, above) if id(weight) in layers]
        found.update((id(layer), layer) for layer in own)
        stack.extend(above if not own else [])
    return list(found.values())


def _weight(step: Any) -> Tensor | None:
    """Return the parameter that ``step`` of autograd's graph reads as it is or transposed."""
    while len(step.next_functions) == 1 and step.name() in ("TBackward0", "TransposeBackward0", "PermuteBackward0"):
        step = step.next_functions[0][0]
    return getattr(step, "variable", None)
