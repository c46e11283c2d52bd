"""How many bytes are left, plain and zipped, in each format: ``python -m bench.accuracy.sizes [NET ...]``.

Half of the MACs, 50 % zeros and weights of 4 bits; networks of ``bench.accuracy``, which must be trained, on its
samples, and ``nudenet`` out of its package, without data, which is no matter here. A folder is zipped whole.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Mapping, Sequence

import onnxprune
from bench.accuracy import cache, command_line
from bench.measure import publish
from fixtures import trained
from onnxprune.formats.export import export
from onnxprune.model.files import Folder
from onnxprune.model.onnx_model import Model
from onnxprune.model.opening import opened
from onnxprune.options import Options
from onnxprune.passes.bits import grids_of

NETS, SEGMENTING = ("ResNet-20", "MobileNetV2", "U-Net", "nudenet"), ("U-Net",)
FORMATS = ("float", "sparse", "qdq", "npy")
SHAPES = {"nudenet": {"images": (1, 3, 320, 320)}}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print one table."""
    parser = command_line.parser(__doc__, NETS)
    options = parser.parse_args(arguments)
    rows = [measure(name) for name in options.nets]
    publish({"Bytes, plain / zipped": [{n: str(v) for n, v in r.items()} for r in rows]}, {"rows": rows}, options.json)


def measure(name: str) -> dict[str, object]:
    """One network."""
    shapes = SHAPES.get(name, {})
    path = trained.path(name) if shapes else cache.TrainedNet(name, 0).folded
    data = "none" if shapes else str(cache.calibration(name in SEGMENTING))
    result = onnxprune.prune(
        path, budget="macs=0.5", sparsity=0.5, weights=4, data=data, input_shapes=shapes, check_n=1
    )
    model, grids = opened(result.model), grids_of(result.plan)
    row: dict[str, object] = {"network": name, "original": told({path.name: path.read_bytes()})}
    for form in FORMATS:
        content = export(Options(weights=4, format=form), model, grids, shapes).content
        row[form] = told(files(content))
    print(row, file=sys.stderr, flush=True)
    return row


def files(content: Model | Folder) -> Mapping[str, bytes]:
    """What is written, by name."""
    return content.files if isinstance(content, Folder) else {"model.onnx": b"".join(content.pieces())}


def told(content: Mapping[str, bytes]) -> str:
    """Bytes, and bytes of a zip of them."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, each in content.items():
            archive.writestr(name, each)
    return f"{sum(map(len, content.values()))} / {len(data.getvalue())}"


if __name__ == "__main__":
    main()
