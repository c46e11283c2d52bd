"""How far a stage is, as whoever watches is told: a callable, so that nothing below the command line prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Told what is being done, and, where it is counted, how much of it is."""

    def __call__(self, stage: str, done: int = 0, total: int = 0, /) -> None:
        """``stage`` has begun, or ``done`` of its ``total`` steps are made; a total of 0 is one that is not known."""


def silent(_stage: str, _done: int = 0, _total: int = 0, /) -> None:
    """Nobody watches."""


def counted(steps: Iterable[T], stage: str, total: int, progress: Progress) -> Iterator[T]:
    """``steps``, each told to ``progress`` once it is made."""
    progress(stage, 0, total)
    for done, step in enumerate(steps, 1):
        yield step
        progress(stage, done, total)
