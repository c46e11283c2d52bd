"""Crops of the photographs that come with scikit-image, scikit-learn and matplotlib."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources

import numpy as np
from PIL import Image, ImageEnhance

#: Package and file. Each picture is for one use only: crops of one photograph are too much alike.
CALIBRATION = (
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    ("sklearn.datasets", "images/china.jpg"),
    ("skimage.data", "chelsea.png"),
    ("skimage.data", "motorcycle_left.png"),
    ("skimage.data", "camera.png"),
    ("skimage.data", "grass.png"),
    ("skimage.data", "ihc.png"),
)
TEST = (
    ("skimage.data", "astronaut.png"),
    ("skimage.data", "coffee.png"),
    ("skimage.data", "rocket.jpg"),
    ("sklearn.datasets", "images/flower.jpg"),
    ("skimage.data", "brick.png"),
    ("skimage.data", "retina.jpg"),
)


def crops(pictures: tuple[tuple[str, str], ...], count: int, seed: int, size: int) -> Iterator[Image.Image]:
    """``count`` square RGB pieces of ``size`` pixels: anywhere, half to all of the picture's height, some mirrored."""
    whole = [Image.open(str(resources.files(package) / file)).convert("RGB") for package, file in pictures]
    rng = np.random.default_rng(seed)
    for number in range(count):
        picture = whole[number % len(whole)]
        side = int(rng.uniform(0.5, 1) * min(picture.size))
        left, top = (int(rng.integers(0, length - side + 1)) for length in picture.size)
        piece = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BILINEAR)
        if rng.random() < 0.5:
            piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        yield ImageEnhance.Brightness(piece).enhance(rng.uniform(0.7, 1.3))
