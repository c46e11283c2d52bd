"""Running the command line in this process, and the models that it is run on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from tests.models import build

CHAIN = """(float[1,3,8,8] x) => (float[1,4,8,8] y)
<float[16,3,1,1] w0, float[16] b0, float[32,16,1,1] w1, float[4,32,1,1] w2>
{ a = Conv(x, w0, b0)
  b = Relu(a)
  c = Conv(b, w1)
  d = Relu(c)
  y = Conv(d, w2) }"""
FIXED = """(float[1,3,8,8] x) => (float[1,4,8,8] y)
<float[4,3,1,1] w0, float[4] s, float[4] o, float[4] m, float[4] var>
{ a = Conv(x, w0)
  y = BatchNormalization(a, s, o, m, var) }"""
SKIP = """(float[1,3,H,W] x) => (float[1,4,h,w] y)
<float[8,3,1,1] w0, float[4,16,1,1] w1, float[4] scales = {1, 1, 2, 2}>
{ a = Conv(x, w0)
  b = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
  c = Resize<mode="nearest">(b, , scales)
  d = Concat<axis=1>(a, c)
  y = Conv(d, w1) }"""

#: How a module of metrics begins: what the original, chain.onnx in the folder, gives for seeded inputs.
AGAINST_THE_ORIGINAL = """
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

X = np.random.default_rng(0).standard_normal((40, 1, 3, 8, 8)).astype(np.float32)


def outputs(session):
    return np.stack([session.run(None, {"x": x})[0][0].argmax(0) for x in X])


TRUE = outputs(onnxruntime.InferenceSession("chain.onnx"))
"""


@dataclass(frozen=True)
class Outcome:
    """What a run left: its exit code, and its lines."""

    code: int
    out: str
    err: str


Run = Callable[..., Outcome]


def put(path: Path, text: str) -> Path:
    onnx.save(build(text), path)
    return path


def put_branched(folder: Path) -> tuple[Path, Path]:
    """A model with an If that has a name, and 70 samples of its two inputs."""
    model = build("""(float[1,3,8,8] x, bool c) => (float[1,4,8,8] y) <float[8,3,1,1] w0, float[4,8,1,1] w1> {
        a = Conv(x, w0)
        b = If(c) <then_branch = one () => (float[1,8,8,8] t) { t = Relu(a) },
                   else_branch = two () => (float[1,8,8,8] e) { e = Sigmoid(a) }>
        y = Conv(b, w1) }""")
    model.graph.node[1].name = "choice"
    onnx.save(model, folder / "if.onnx")
    x = np.random.default_rng(0).standard_normal((70, 1, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "x.npz", x=x, c=np.ones(70, bool))
    return folder / "if.onnx", folder / "x.npz"


def files_in(folder: Path) -> dict[str, str]:
    """Every file below ``folder``, hidden ones too, with its hash."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


def beside_stages(err: str) -> str:
    """What a command of its own said, but for the stages that took long, as on a busy machine they do."""
    return re.sub(r"^[a-z][^:\n]*: \d+\.\d s\n", "", err, flags=re.MULTILINE)


def assert_one_line(err: str, *says: str) -> None:
    err = beside_stages(err)
    assert err.count("\n") == 1
    assert err.startswith("onnxprune: ")
    assert "Traceback" not in err
    for part in says:
        assert part in err


NORM = """(float[1,3,8,8] x) => (float[1,4,8,8] y)
<float[16,3,1,1] w0, float[16] s, float[16] o, float[16] m, float[16] var, float[4,16,1,1] w1>
{ a = Conv(x, w0)
  b = BatchNormalization(a, s, o, m, var)
  y = Conv(b, w1) }"""


def weights(path: Path) -> dict[str, Any]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def widths(path: Path) -> list[int]:
    """Output channels of the weights of CHAIN."""
    held = weights(path)
    return [held[n].shape[0] for n in ("w0", "w1", "w2") if n in held]
