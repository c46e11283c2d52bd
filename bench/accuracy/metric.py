"""What is measured: accuracy of a classifier, mean IoU of a segmentation, on the test samples, by onnxruntime."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from bench.accuracy import cache

Array = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
_BATCH = 100


def of_file(path: Path) -> float:
    """The metric of a model file on all test samples; whether it segments is told by the rank of its output."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return of(lambda images: session.run(None, {name: images})[0])


def of(predict: Callable[[Array], Array]) -> float:
    """The metric of ``predict``: [N, 1, H, W] -> [N, classes] or [N, classes, H, W]."""
    with np.load(cache.test_samples()) as stored:
        images, labels, masks = (stored[key] for key in ("images", "labels", "masks"))
    batches = [images[at : at + _BATCH] for at in range(0, len(images), _BATCH)]
    found = np.concatenate([predict(batch).argmax(1) for batch in batches])
    return mean_iou(found, masks.astype(np.int64)) if found.ndim == 3 else float(np.mean(found == labels))


def mean_iou(found: Labels, true: Labels) -> float:
    """Intersection over union of each class, over all pixels of all images, then the mean over classes."""
    classes = int(true.max()) + 1
    counts = np.bincount((true * classes + found).ravel(), minlength=classes**2).reshape(classes, classes)
    both = np.diag(counts)
    return float(np.mean(both / (counts.sum(0) + counts.sum(1) - both)))


if __name__ == "__main__":
    sys.stdout.writelines(f"{of_file(Path(argument)):.4f} {argument}\n" for argument in sys.argv[1:])
