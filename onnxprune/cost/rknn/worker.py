"""Runs rknn-toolkit2. A script of its own, for whichever interpreter has the toolkit: it imports nothing of onnxprune.

    python worker.py JOB.json

The job names the target, the data type, and the models to build; the toolkit's log goes to standard output, with a
marker before and after each model, and a return code for each to the job's ``result`` (JSON).
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

MARK = "@@onnxprune"


def main(path: str) -> None:
    """Build every model of the job."""
    job = json.loads(Path(path).read_text(encoding="utf-8"))
    rknn_class = importlib.import_module("rknn.api").RKNN
    codes = []
    for index, model in enumerate(job["models"]):
        _mark("begin", index)
        try:
            codes.append(_build(rknn_class, job, model))
        except Exception as error:  # noqa: BLE001 (the toolkit raises many types)
            sys.stdout.write(f"E {type(error).__name__}: {error}\n")
            codes.append(1)
        _mark("end", index)
    result = {"codes": codes, "version": metadata.version("rknn-toolkit2")}
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")


def _build(rknn_class: Any, job: dict[str, Any], model: dict[str, Any]) -> int:
    """Load, build, export and simulate one model; the toolkit's first return code that is not zero, or zero."""
    rknn = rknn_class(verbose=True)
    quantized = job["dtype"] == "int8"
    steps: list[Any] = [
        lambda: rknn.config(target_platform=job["target"]),
        lambda: rknn.load_onnx(model["path"], inputs=model["inputs"], input_size_list=model["shapes"]),
        lambda: rknn.build(do_quantization=quantized, dataset=model["dataset"]),
    ]
    if model["output"]:
        steps.append(lambda: rknn.export_rknn(model["output"]))
    if model["simulated"]:
        steps.append(rknn.init_runtime)
    try:
        for step in steps:
            code = step()
            if code:
                return int(code)
        if model["simulated"]:
            _simulate(rknn, model)
    finally:
        rknn.release()
    return 0


def _simulate(rknn: Any, model: dict[str, Any]) -> None:
    numpy = importlib.import_module("numpy")
    with numpy.load(model["fed"]) as file:
        inputs = [file[name] for name in file.files]
    formats = ["nchw" if a.ndim == 4 else None for a in inputs]
    given = formats if all(formats) else None
    numpy.savez(model["simulated"], *rknn.inference(inputs, data_format=given))


def _mark(what: str, index: int) -> None:
    """The toolkit writes from C too: the marker goes where its lines go, after them."""
    sys.stdout.flush()
    os.write(1, f"\n{MARK} {what} {index}\n".encode())


if __name__ == "__main__":
    main(sys.argv[1])
