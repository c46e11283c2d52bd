"""The options about calibration data: where it is, and how it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import TYPE_CHECKING, Any

from onnxprune.option_declarations import ensure_types, numbers_of, option

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: How many samples are used where nothing else is said.
DEFAULT_SAMPLES = 512

#: What sources that are no place are called, and what stands for no source at all.
IN_MEMORY, DRAWN, NO_DATA = "arrays in memory", "drawn inputs", "none"


@dataclass(frozen=True)
class Data:
    """Where calibration data is and how it is read; the fields are options of the command line (see README.md).

    ``source`` may also be arrays in memory, {input: [N, ...]}; None means that inputs are drawn
    (`onnxprune.calibration.synthetic`). ``samples``: None means 512, or, of drawn inputs, as many as help.
    """

    source: str | Mapping[str, NDArray[Any]] | None = option(
        MISSING,
        "--data",
        metavar="PATH",
        shared=True,
        help="Calibration data: a folder, a glob, a file or module:function; none: use no data, and leave weights as "
        "they are. [default: inputs are drawn]",
    )
    samples: int | None = option(
        None,
        "--samples",
        kind=int,
        help="Number of calibration samples to use. [default: 512, or as many drawn ones as help]",
    )
    mean: tuple[float, ...] = option(
        (),
        "--mean",
        read=numbers_of,
        metavar="R,G,B",
        help="Mean of the pixels in 0..255 units, as in an RKNN config. [default: 0]",
    )
    std: tuple[float, ...] = option(
        (),
        "--std",
        read=numbers_of,
        metavar="R,G,B",
        help="Standard deviation of the pixels in 0..255 units, as in an RKNN config. [default: 1]",
    )
    layout: str | None = option(
        None, "--layout", kind=("NCHW", "NHWC"), help="Layout of the model's image inputs. [default: by their shape]"
    )
    color: str = option(
        "RGB", "--color", kind=("RGB", "BGR"), shown=True, help="Channel order of the model's image inputs."
    )

    input_range: str | None = option(
        None,
        "--input-range",
        metavar="LOW..HIGH",
        help="Value range of drawn pictures, as -1..1, 0..255 or imagenet. [default: found in the model]",
    )

    def __post_init__(self) -> None:
        """Raise OptionError for values of the wrong type."""
        ensure_types(self)

    @property
    def drawn(self) -> bool:
        """Whether inputs are drawn because no source was given."""
        return self.source is None

    @property
    def named(self) -> str | None:
        """The source, where it is one by name."""
        return self.source if isinstance(self.source, str) else None

    def to_json(self) -> dict[str, Any]:
        """The options as plans and reports write them."""
        source = DRAWN if self.source is None else self.source if isinstance(self.source, str) else IN_MEMORY
        samples = self.samples if self.drawn else self.samples or DEFAULT_SAMPLES
        given = {**vars(self), "source": source, "samples": samples}
        told = {n: v for n, v in given.items() if n != "input_range" or v is not None}
        return {n: list(v) if isinstance(v, tuple) else v for n, v in told.items()}
