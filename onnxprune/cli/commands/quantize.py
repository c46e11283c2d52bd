"""``onnxprune quantize``: `prune` with a ratio of 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxprune.calibration.data_options import NO_DATA
from onnxprune.cli import options as shared
from onnxprune.cli.commands.prune import run
from onnxprune.cli.config_file import Configured, configured, read
from onnxprune.constraints.bit_options import AUTO

#: Bits where nothing is said.
DEFAULT = 8


@click.command(cls=Configured)
@click.argument("model", type=click.Path(path_type=Path), required=False)
@configured(read, "Take options from this file. [default: onnxprune.toml or pyproject.toml here]")
@shared.of_prune
@shared.bounded
def quantize(**given: Any) -> None:
    """Round weights of MODEL to few bits; all channels stay: `onnxprune prune --ratio 0 --weights 8`.

    They are solved anew on their grid, so that every layer gives what it gave. Without --weights and --activations,
    both have 8 bits; with --data none, weights have. --budget bytes=0.1 means --weights auto.
    """
    from onnxprune.widths.request import bytes_left

    by_bytes = bytes_left(given["budget"]) is not None
    if by_bytes and given["weights"] is None:
        given["weights"] = AUTO
    if given["weights"] is None and given["activations"] is None and not given["bits_for"]:
        given["weights"] = DEFAULT
        given["activations"] = None if given["data"] == NO_DATA else DEFAULT
    run(**shared.without_channels(given, *(["budget"] if given["weights"] == AUTO else [])))
