"""Reporting progress to the caller, and timing stages: nothing below the command line prints anything."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """A function that is called when a stage begins, and after each of its steps."""

    def __call__(self, stage: str, done: int = 0, total: int = 0, /) -> None:
        """``stage`` has begun, or ``done`` of its ``total`` steps are finished; a total of 0 means unknown."""


def silent(_stage: str, _done: int = 0, _total: int = 0, /) -> None:
    """Ignore all progress."""


def counted(steps: Iterable[T], stage: str, total: int, progress: Progress) -> Iterator[T]:
    """Yield ``steps``, and tell ``progress`` after each one. ``total``: how many there are."""
    progress(stage, 0, total)
    for done, step in enumerate(steps, 1):
        yield step
        progress(stage, done, total)


class Stopwatch:
    """Measures the seconds that each stage takes, and announces each stage as it starts."""

    def __init__(self, announce: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self.announce = announce

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce the stage ``name`` and add the time spent inside to its seconds."""
        self.announce(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 4)
