"""Pixels become what the model reads, as an RKNN config says it: (pixel - mean) / std, per channel, in 0..255 units.

Images are turned as their EXIF data says, converted to RGB (or grey, for an input of one channel) and resized to the
input's height and width with bilinear interpolation; nothing is cropped or padded. uint8 arrays for a float input are
pixels as well, laid out and ordered as the input has them: they only get mean and std.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import DataError, OptionError
from onnxprune.model.graph import Shape

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".gif"}

_CHANNELS = (1, 3)


@dataclass(frozen=True)
class Pixels:
    """``mean``, ``std``: one number, or one a channel, in the order of ``color``; none: 0 and 1.

    ``layout``: 'NCHW' or 'NHWC'; None: NHWC where only the last axis has 1 or 3 elements, else NCHW.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    layout: str | None = None
    color: str = "RGB"

    def __post_init__(self) -> None:
        """Raise OptionError for values out of range."""
        if not all(self.std):
            raise OptionError("must not be 0", where="--std")
        if self.layout not in (None, "NCHW", "NHWC"):
            raise OptionError(f"must be NCHW or NHWC, not {self.layout}", where="--layout")
        if self.color not in ("RGB", "BGR"):
            raise OptionError(f"must be RGB or BGR, not {self.color}", where="--color")

    def scaled(self, pixels: NDArray[np.uint8], dtype: np.dtype[Any], where: str) -> NDArray[Any]:
        """(pixel - mean) / std of one sample, which is laid out as the model reads it."""
        axis = self._channel_axis(pixels.shape)
        values = pixels.astype(np.float32)
        for option, numbers, apply in (("--mean", self.mean, np.subtract), ("--std", self.std, np.divide)):
            if not numbers:
                continue
            channels = 1 if axis is None else pixels.shape[axis]
            if len(numbers) not in (1, channels):
                hint = f"one number, or {channels}"
                raise OptionError(f"{len(numbers)} numbers for {channels} channels of {where}", where=option, hint=hint)
            along = [-1 if a == axis else 1 for a in range(values.ndim)]
            values = apply(values, np.asarray(numbers, np.float32).reshape(along if len(numbers) > 1 else -1))
        return values.astype(dtype)

    def read(self, path: Path, shape: Shape, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The image as one sample of ``shape``. Raises DataError where it cannot be read or does not fit."""
        if dtype != np.uint8 and dtype.kind != "f":
            raise DataError(f"is an image, and the model reads {dtype}", where=str(path), hint="give .npy samples")
        if dtype == np.uint8 and (self.mean or self.std):
            raise OptionError("the model reads uint8 pixels as they are", where="--mean, --std", hint="leave them out")
        axis = self._channel_axis(shape)
        core = [s for a, s in enumerate(shape) if a != axis and not (s == 1 and a < len(shape) - 3)]
        channels = 1 if axis is None else shape[axis]
        if len(core) != 2 or channels not in _CHANNELS:
            sizes = ",".join(map(str, shape))
            raise DataError(
                f"is an image, and a sample of the model's input has shape {sizes}",
                where=str(path),
                hint="give .npy samples, or say --layout",
            )
        pixels = _opened(path, core[0], core[1], grey=channels == 1).reshape(core[0], core[1], channels)
        if self.color == "BGR":
            pixels = pixels[:, :, ::-1]
        if axis is not None and axis < len(shape) - 1:
            pixels = pixels.transpose(2, 0, 1)
        laid_out = np.ascontiguousarray(pixels).reshape(shape)
        return laid_out if dtype == np.uint8 else self.scaled(laid_out, dtype, str(path))

    def _channel_axis(self, shape: Shape) -> int | None:
        """Of one sample: the last axis or the third but last; None where it has no channels."""
        rank = len(shape)
        if rank < 3:
            return None
        if self.layout is not None:
            return rank - 1 if self.layout == "NHWC" else rank - 3
        return rank - 1 if shape[-1] in _CHANNELS and shape[-3] not in _CHANNELS else rank - 3


@contextmanager
def _patient() -> Iterator[None]:
    """Pillow warns of large images and refuses very large ones, as decompression bombs: only the refusal is told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _opened(path: Path, height: int, width: int, *, grey: bool) -> NDArray[np.uint8]:
    """[height, width, 3] in RGB, or [height, width]."""
    try:
        from PIL import Image, ImageOps  # noqa: PLC0415 (optional)
    except ImportError:
        hint = "pip install 'onnxprune[images]'"
        raise DataError("images need Pillow, which is not installed", where=str(path), hint=hint) from None
    try:
        with _patient(), Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
            deep = image.mode[0] in "IF"
            if image.mode == "P":
                image = image.convert("RGBA")  # else its transparency is warned about
            image = image.convert("L" if grey else "RGB")
            if image.size != (width, height):
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            pixels = np.asarray(image)
    except Exception as error:  # noqa: BLE001 (decoders raise what they meet in a file)
        reason = str(error).replace(str(path), "it") or type(error).__name__
        raise DataError(f"cannot read the image: {reason}", where=str(path), hint="repair or remove it") from None
    if deep:
        raise DataError("has more than 8 bits a pixel", where=str(path), hint="save it with 8, or give .npy samples")
    return pixels
