"""Where trained networks and their samples are kept: names of files, and no more."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

CACHE_VARIABLE = "ONNXPRUNE_ACCURACY_CACHE"
CALIBRATION_SAMPLES = 512
TEST_SAMPLES = 2000


def folder() -> Path:
    """The cache: what ``ONNXPRUNE_ACCURACY_CACHE`` names, or ``~/.cache/onnxprune/accuracy``; made if missing."""
    path = Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache/onnxprune/accuracy")
    path.mkdir(parents=True, exist_ok=True)
    return path


@dataclass(frozen=True)
class TrainedNet:
    """The files of one network from one seed of training."""

    name: str
    seed: int

    def _file(self, ending: str) -> Path:
        return folder() / f"{self.name}-{self.seed}{ending}"

    @property
    def state(self) -> Path:
        """PyTorch's state_dict."""
        return self._file(".pt")

    @property
    def folded(self) -> Path:
        """ONNX, BatchNormalization folded into what is before it wherever the exporter can."""
        return self._file(".onnx")

    @property
    def with_batchnorm(self) -> Path:
        """ONNX, every BatchNormalization a node."""
        return self._file(".bn.onnx")

    @property
    def record(self) -> Path:
        """JSON: how it was trained and its metric, in torch and of both files."""
        return self._file(".json")


def calibration(segmenting: bool) -> Path:
    """Unlabelled images for calibration, [512, 1, 40, 40], of a network that segments [128, 1, 40, 40]; .npy."""
    return folder() / ("calibration-128.npy" if segmenting else "calibration-512.npy")


def calibration_labels(segmenting: bool) -> Path:
    """Their labels or masks, only for Torch-Pruning's importances that need them; .npy."""
    return folder() / ("calibration-128-masks.npy" if segmenting else "calibration-512-labels.npy")


def test_samples() -> Path:
    """.npz with ``images`` [2000, 1, 40, 40], ``labels`` [2000] and ``masks`` [2000, 40, 40]."""
    return folder() / "test.npz"
