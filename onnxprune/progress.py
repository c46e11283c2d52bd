"""How far a stage is, and how long each took. Whoever watches is told: nothing below the command line prints."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
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


class Stopwatch:
    """Seconds by stage; announces each stage as it starts."""

    def __init__(self, announce: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self.announce = announce

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage."""
        self.announce(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 4)
