"""``onnxprune sparsify``: `prune` with a ratio of 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxprune.cli import options as shared
from onnxprune.cli.commands.prune import run
from onnxprune.cli.config_file import Configured, configured, read

#: What is made zero where nothing is said.
DEFAULT = 0.5


@click.command(cls=Configured)
@click.argument("model", type=click.Path(path_type=Path), required=False)
@configured(read, "Take options from this file. [default: onnxprune.toml or pyproject.toml here]")
@shared.of_prune
@shared.bounded
def sparsify(**given: Any) -> None:
    """Make weights of MODEL zero; all channels stay: `onnxprune prune --ratio 0 --sparsity 0.5`.

    The other weights are solved anew, so that every layer gives what it gave. Without --sparsity, half become zero.
    """
    silent = given["sparsity"] is None and not given["sparsity_for"] and given["mask"] is None
    if silent and ":" not in given["pattern"].removeprefix("block:"):
        given["sparsity"] = DEFAULT
    run(**shared.without_channels(given))
