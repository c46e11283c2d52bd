"""The arguments that most of these take: which networks, from which seeds, and where all that was measured goes."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.accuracy.cache import TrainedNet


def parser(
    about: str | None, nets: Iterable[str] = (), *, metavar: str = "NET", seeds: Sequence[int] = (), json: bool = True
) -> argparse.ArgumentParser:
    """A parser for ``about``, with ``nets`` and ``seeds`` as they are where none are named; ``json``: with --json."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawTextHelpFormatter)
    if names := [*nets]:
        made.add_argument("nets", nargs="*", metavar=metavar, default=names, help=", ".join(names))
    if seeds:
        made.add_argument("--seeds", type=int, nargs="+", default=seeds)
    if json:
        made.add_argument("--json", type=Path, metavar="PATH")
    return made


def networks(options: argparse.Namespace) -> list[TrainedNet]:
    """The networks that were asked for, from each seed."""
    return [TrainedNet(name, seed) for name in options.nets for seed in options.seeds]
