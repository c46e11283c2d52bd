"""LeNet-5, trained here on drawn digits in half a minute, and how many of them a model names right: numpy alone.

python lenet5.py                     writes lenet5.onnx, digits.npy (256, unlabelled) and test.npz (1 000)
python lenet5.py MODEL ...           accuracy of models on test.npz: of floats, or of integers alone
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from scipy.ndimage import map_coordinates

Array = NDArray[np.float32]

#: Digits as rows of five points.
GLYPHS = """0E111315 19110E  040C04040404 0E  0E1101020408 1F  1F020402 01110E  02060A121F0202
            1F101E01 01110E  060810 1E11110E  1F010204080808  0E11110E11110E  0E11110F01020C"""
SIZES = {"w1": (6, 1, 5, 5), "w2": (16, 6, 5, 5), "w3": (256, 120), "w4": (120, 84), "w5": (84, 10)}


def digits(count: int, rng: np.random.Generator) -> tuple[Array, NDArray[np.int64]]:
    """Images [count, 1, 28, 28] of digits, turned, sheared, moved, beside a piece of another, in noise; and names."""
    rows = np.frombuffer(bytes.fromhex("".join(GLYPHS.split())), np.uint8).reshape(10, 7, 1)
    glyphs = np.pad(np.unpackbits(rows, axis=2)[:, :, 3:].astype(np.float32), ((0, 0), (1, 1), (1, 1)))
    y, x = np.mgrid[:28, :28] - 13.5

    def drawn(glyph: Array, shift: float) -> Array:
        angle, size = rng.uniform(-0.4, 0.4), rng.uniform(2.2, 3.2)
        u, v = x - rng.uniform(-3, 3) - shift, y - rng.uniform(-3, 3)
        across = (np.cos(angle) * u + np.sin(angle) * v + rng.uniform(-0.3, 0.3) * v) / size + 3
        down = (np.cos(angle) * v - np.sin(angle) * u) / size + 4
        return np.asarray(map_coordinates(glyph, [down, across], order=1), np.float32)

    names = rng.integers(0, 10, count)
    whole = np.stack([drawn(glyphs[n], 0) for n in names])
    sides = zip(rng.integers(0, 10, count), rng.choice([-17, 17], count), strict=True)
    others = np.stack([drawn(glyphs[n], shift) for n, shift in sides])
    images = rng.uniform(0.6, 1, (count, 1, 1)) * np.maximum(whole, others) + 0.15 * rng.standard_normal(whole.shape)
    return images[:, None].astype(np.float32), names


def patches(x: Array) -> Array:
    """[n, c, h, w] -> [n, h - 4, w - 4, c * 25], what a kernel of 5 x 5 sees at each place."""
    seen = np.lib.stride_tricks.sliding_window_view(x, (5, 5), (2, 3))
    return seen.transpose(0, 2, 3, 1, 4, 5).reshape(len(x), seen.shape[2], seen.shape[3], -1)


def convolved(x: Array, w: Array, b: Array) -> tuple[Array, Array, Array, Array]:
    """Conv, Relu, MaxPool 2 x 2: what was seen, the largest, and where it was, by place."""
    seen = patches(x)
    y = np.maximum(seen @ w.reshape(len(w), -1).T + b, 0)
    n, h, v, c = y.shape
    four = y.reshape(n, h // 2, 2, v // 2, 2, c).transpose(0, 1, 3, 5, 2, 4).reshape(n, h // 2, v // 2, c, 4)
    top = four.max(axis=4)
    return seen, top.transpose(0, 3, 1, 2), four, top


def unpooled(grad: Array, four: Array, top: Array) -> Array:
    """The gradient before pool and Relu [n, h, w, c] from that behind [n, c, h/2, w/2]."""
    own = np.zeros_like(four)
    np.put_along_axis(own, four.argmax(axis=4)[..., None], (grad.transpose(0, 2, 3, 1) * (top > 0))[..., None], 4)
    n, h, v, c, _ = four.shape
    return own.reshape(n, h, v, c, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(n, 2 * h, 2 * v, c)


def gradients(p: dict[str, Array], x: Array, names: NDArray[np.int64]) -> dict[str, Array]:
    """Of the mean cross entropy."""
    seen1, h1, four1, top1 = convolved(x, p["w1"], p["b1"])
    seen2, h2, four2, top2 = convolved(h1, p["w2"], p["b2"])
    f = h2.reshape(len(x), -1)
    a3 = np.maximum(f @ p["w3"] + p["b3"], 0)
    a4 = np.maximum(a3 @ p["w4"] + p["b4"], 0)
    logits = a4 @ p["w5"] + p["b5"]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    d = shares / shares.sum(1, keepdims=True)
    d[np.arange(len(x)), names] -= 1
    d /= len(x)
    found = {}
    for layer, before in (("5", a4), ("4", a3), ("3", f)):
        found |= {"w" + layer: before.T @ d, "b" + layer: d.sum(0)}
        d = d @ p["w" + layer].T * ((before > 0) if layer != "3" else 1)
    d2 = unpooled(d.reshape(h2.shape), four2, top2)
    found["w2"] = (d2.reshape(-1, 16).T @ seen2.reshape(-1, 150)).reshape(p["w2"].shape)
    found["b2"] = d2.sum((0, 1, 2))
    back = (d2 @ p["w2"].reshape(16, -1)).reshape(len(x), 8, 8, 6, 5, 5)
    d1 = np.zeros_like(h1)
    for i in range(5):
        for j in range(5):
            d1[:, :, i : i + 8, j : j + 8] += back[..., i, j].transpose(0, 3, 1, 2)
    d0 = unpooled(d1, four1, top1)
    found["w1"] = (d0.reshape(-1, 6).T @ seen1.reshape(-1, 25)).reshape(p["w1"].shape)
    found["b1"] = d0.sum((0, 1, 2))
    return found


def trained(images: Array, names: NDArray[np.int64], rng: np.random.Generator, epochs: int = 8) -> dict[str, Array]:
    """Weights after some rounds of Adam."""
    p: dict[str, Array] = {}
    for name, shape in SIZES.items():
        fan = shape[0] if len(shape) == 2 else int(np.prod(shape[1:]))
        p[name] = (rng.standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32)
        p["b" + name[1:]] = np.zeros(shape[1] if len(shape) == 2 else shape[0], np.float32)
    m, v, steps = {n: 0.0 * a for n, a in p.items()}, {n: 0.0 * a for n, a in p.items()}, 0
    batches = len(images) // 64
    for _ in range(epochs):
        order = rng.permutation(len(images))
        for own in np.array_split(order, batches):
            steps += 1
            rate = 2e-3 * (1 - steps / (epochs * batches + 1))
            for name, g in gradients(p, images[own], names[own]).items():
                m[name] = 0.9 * m[name] + 0.1 * g
                v[name] = 0.999 * v[name] + 0.001 * g * g
                step = m[name] / (1 - 0.9**steps) / (np.sqrt(v[name] / (1 - 0.999**steps)) + 1e-8)
                p[name] = (p[name] - rate * step).astype(np.float32)
    return p


def exported(p: dict[str, Array]) -> onnx.ModelProto:
    """As an exporter writes it."""
    nodes, x = [], "image"
    for layer in "12":
        nodes += [
            helper.make_node("Conv", [x, "w" + layer, "b" + layer], ["c" + layer], "conv" + layer, kernel_shape=[5, 5]),
            helper.make_node("Relu", ["c" + layer], ["r" + layer], "relu" + layer),
            helper.make_node(
                "MaxPool", ["r" + layer], ["p" + layer], "pool" + layer, kernel_shape=[2, 2], strides=[2, 2]
            ),
        ]
        x = "p" + layer
    nodes.append(helper.make_node("Flatten", [x], ["f"], "flatten"))
    x = "f"
    for layer in "345":
        made = "scores" if layer == "5" else "g" + layer
        nodes.append(helper.make_node("Gemm", [x, "w" + layer, "b" + layer], [made], "fc" + layer))
        if layer != "5":
            nodes.append(helper.make_node("Relu", [made], ["a" + layer], "relu" + layer))
        x = "a" + layer
    image = helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 1, 28, 28])
    scores = helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(nodes, "lenet5", [image], [scores], [numpy_helper.from_array(a, n) for n, a in p.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def accuracy(path: Path, images: Array, names: NDArray[np.int64]) -> float:
    """The share that is named right; a model of integers says itself what a 1 at its input stands for."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    codes = json.loads(session.get_modelmeta().custom_metadata_map.get("onnxprune.integers", "{}"))
    if codes:
        own = codes["inputs"][given.name]
        images = np.clip(np.rint(images / own["scale"]) + own["zero_point"], 0, 255).astype(np.uint8)
    (scores,) = session.run(None, {given.name: images})
    return float((scores.argmax(1) == names).mean())


def main(models: list[str]) -> None:
    """Train, or measure."""
    if not models:
        rng = np.random.default_rng(0)
        Path("lenet5.onnx").write_bytes(exported(trained(*digits(6000, rng), rng)).SerializeToString())
        np.save("digits.npy", digits(256, rng)[0])
        images, names = digits(1000, rng)
        np.savez_compressed("test.npz", images=images, names=names)
        models = ["lenet5.onnx"]
    with np.load("test.npz") as test:
        for model in models:
            sys.stdout.write(f"{model}: {100 * accuracy(Path(model), test['images'], test['names']):.1f} % right\n")


if __name__ == "__main__":
    main(sys.argv[1:])
