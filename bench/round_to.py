"""Torch-Pruning at a budget of MACs with its ``round_to``, for `bench.cycles`: writes the pruned network as ONNX.

    python -m bench.round_to U-Net 0.59 16 unet-tp16.onnx

For developers: needs torch and torch-pruning. NET is U-Net, at the size and with the class that `bench.rknn` has, or
an ONNX file, by its path or by its name in the zoo, read with onnx2torch.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import onnx
import torch
import torch_pruning

from bench import nets, zoo_nets
from bench.torch_pruning import by_l2, export_module

_HALVINGS = 7


def build(name: str) -> nets.Net:
    """The network, its inputs, and the layers that write its outputs."""
    if name.endswith(".onnx"):
        return read_back(Path(name))
    if name != "U-Net":
        return zoo_nets.build(name)
    torch.manual_seed(0)
    module = nets.UNet(classes=1).eval()
    nets.randomise(module)
    return nets.Net(module, (torch.zeros(1, 1, 256, 256),), [module.head])


def read_back(path: Path) -> nets.Net:
    """The network of a file whose one input has no dynamic dimensions."""
    import onnx2torch  # noqa: PLC0415

    model = onnx.load(path)
    torch.manual_seed(0)
    inputs = (torch.randn([d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]),)
    module = onnx2torch.convert(model).eval()
    return nets.Net(module, inputs, zoo_nets.heads(module, inputs))


def pruned(name: str, ratio: float, block: int) -> tuple[nets.Net, float]:
    """The network at one ratio for all layers, and its MACs."""
    net = build(name)
    by_l2(net, ratio, block)
    return net, float(torch_pruning.utils.count_ops_and_params(copy.deepcopy(net.module), net.inputs)[0])


def main() -> None:
    """Bisect the ratio; write the largest network within the budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("net")
    parser.add_argument("share", type=float)
    parser.add_argument("block", type=int)
    parser.add_argument("path", type=Path)
    options = parser.parse_args()
    _, whole = pruned(options.net, 0.0, 1)
    low, high, found = 0.0, 1.0, None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        net, macs = pruned(options.net, middle, options.block)
        if macs <= options.share * whole:
            high, found = middle, net
        else:
            low = middle
    if found is None:
        raise SystemExit("no ratio meets the budget")
    export_module(found.module, found.inputs, options.path)


if __name__ == "__main__":
    main()
