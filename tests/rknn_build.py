"""Convert an ONNX model with the real rknn-toolkit2, run it in the simulator, read what its compiler charges.

The toolkit prints the cycles from C, litters the working directory and configures the logging of its process.
So it runs in a process of its own (this file as a script), whose output is parsed here. The cycles are the
compiler's estimate, not a measurement on a board.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: ID, OpType, DataType, Target, shapes, Cycles(DDR/NPU/Total), on some targets SparseRatio, RW(KB), FullName
ROW = re.compile(r"\] \d+ +(\S+) +\S+ +(\S+) .* (\d+)/(\d+)/(\d+) +(?:\d+% +)?\d+ +(\S.*)")


@dataclass(frozen=True)
class Layer:
    """A row of the compiler's layer table; ``total`` is the larger of ``ddr`` and ``npu``, in cycles."""

    op: str  #: as fused by the compiler: "ConvRelu"
    device: str  #: "NPU" or "CPU"
    ddr: int
    npu: int
    total: int
    name: str  #: "Conv:down1.0.conv"


@dataclass(frozen=True)
class RknnBuild:
    """What the toolkit made of a model: its layers, and the simulator's outputs in the model's order."""

    layers: tuple[Layer, ...]
    outputs: tuple[Array, ...]

    @property
    def cycles(self) -> int:
        return sum(layer.total for layer in self.layers)


def build(path: Path, out: Path, inputs: Mapping[str, Array], target: str = "rk3588") -> RknnBuild:
    """Convert the model at ``path`` to ``out`` in fp16, with the shapes of ``inputs``, and simulate it.

    Raises:
        RuntimeError: the toolkit refused the model; its last lines are in the message.
    """
    with tempfile.TemporaryDirectory() as folder:
        fed, simulated = Path(folder, "inputs.npz"), Path(folder, "outputs.npz")
        np.savez(fed, *inputs.values())
        paths = map(str, (path.resolve(), out.resolve(), fed, simulated))
        command = [sys.executable, __file__, target, *paths, *inputs]
        done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False)
        if done.returncode != 0:
            raise RuntimeError(f"rknn-toolkit2 failed on {path}:\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
        with np.load(simulated) as file:
            outputs = tuple(file.values())
    return RknnBuild(parse(done.stdout), outputs)


def parse(log: str) -> tuple[Layer, ...]:
    """Read the layer tables of a verbose build."""
    rows = (ROW.search(line) for line in log.splitlines())
    return tuple(Layer(row[1], row[2], int(row[3]), int(row[4]), int(row[5]), row[6].strip()) for row in rows if row)


def main(target: str, path: str, out: str, fed: str, simulated: str, *names: str) -> None:
    """Build, export and simulate one model: the part that runs in a process of its own."""
    with np.load(fed) as file:
        inputs = list(file.values())
    rknn = importlib.import_module("rknn.api").RKNN(verbose=True)
    shapes = [list(array.shape) for array in inputs]
    succeeded(rknn.config(target_platform=target))
    succeeded(rknn.load_onnx(path, inputs=list(names), input_size_list=shapes))
    succeeded(rknn.build(do_quantization=False))
    succeeded(rknn.export_rknn(out))
    succeeded(rknn.init_runtime())
    np.savez(simulated, *rknn.inference(inputs, data_format=["nchw"] * len(inputs)))


def succeeded(code: int) -> None:
    """Exit with the toolkit's return code if it is not zero: the log already says why."""
    if code != 0:
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
