"""Where calibration data is, and how it is read: what the options say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any

from onnxprune.option_fields import option

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: How many samples are used where nothing else is said.
DEFAULT_SAMPLES = 512

#: What a source that is no place is called.
IN_MEMORY = "arrays in memory"


def numbers(text: str | None) -> tuple[float, ...]:
    """Numbers separated by commas. Raises ValueError."""
    try:
        return tuple(float(v) for v in text.split(",")) if text else ()
    except ValueError:
        raise ValueError(f"'{text}' is not numbers separated by commas") from None


@dataclass(frozen=True)
class Data:
    """Where calibration data is and how to read it: the command line's options; README.md describes them.

    ``source``: also arrays in memory, {input: [N, ...]}.
    """

    source: str | Mapping[str, NDArray[Any]] = option(
        MISSING,
        "--data",
        metavar="PATH",
        shared=True,
        help="Calibration data: a folder, a glob, a file or module:function.",
    )
    samples: int = option(DEFAULT_SAMPLES, "--samples", kind=int, shown=True, help="Calibration samples to use.")
    mean: tuple[float, ...] = option(
        (),
        "--mean",
        read=numbers,
        metavar="R,G,B",
        help="Of pixels, in 0..255 units, as in an RKNN config. [default: 0]",
    )
    std: tuple[float, ...] = option(
        (),
        "--std",
        read=numbers,
        metavar="R,G,B",
        help="Of pixels, in 0..255 units, as in an RKNN config. [default: 1]",
    )
    layout: str | None = option(
        None, "--layout", kind=("NCHW", "NHWC"), help="How the model reads images. [default: by its shape]"
    )
    color: str = option("RGB", "--color", kind=("RGB", "BGR"), shown=True, help="How the model reads images.")

    def to_json(self) -> dict[str, Any]:
        """As plan and report write them."""
        given = {**vars(self), "source": self.source if isinstance(self.source, str) else IN_MEMORY}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in given.items()}
