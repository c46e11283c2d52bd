"""What a run may take of the machine, or of the container that it runs in: memory, and threads of BLAS."""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

A = TypeVar("A")
B = TypeVar("B")

#: Where Linux says what a container may use: version 2 and version 1 of control groups, by the controllers' names.
_CGROUPS = {"": ("/sys/fs/cgroup", "memory.max"), "memory": ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")}

#: Where nothing says how much there is.
_UNKNOWN = 1 << 40


@cache
def total_memory() -> int:
    """Bytes of memory that the machine has, or that its container may use, if that is less."""
    limits = [limit for path in _limits() if (limit := _limit(path)) is not None]
    return min([_machine(), *limits])


def _machine() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on this system
        return _UNKNOWN


def _limits() -> Iterator[Path]:
    """Where limits may be: of the group that this process is in, and of those above it."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        for controller in controllers.split(","):
            if controller in _CGROUPS:
                root, name = _CGROUPS[controller]
                own = Path(group.lstrip("/"))
                yield from (Path(root, part, name) for part in (own, *own.parents))


def _limit(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdecimal() else None  # 'max': no limit


def size_text(count: float) -> str:
    """A number of bytes as people write it."""
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


#: Runs a function with arguments, now or later, in the order in which it is asked to.
Doing = Callable[..., None]


def at_once(function: Callable[..., None], *arguments: Any) -> None:
    """Now."""
    function(*arguments)


#: What waits for the thread beside this one: more would only take memory.
_WAITING = 4


@contextmanager
def another_thread() -> Iterator[Doing]:
    """Inside, what does things in another thread, one by one and in order, so that nothing depends on the threads.

    All is done when this ends; what a thing raises is raised by one of those that follow, or at the end.
    """
    with ThreadPoolExecutor(1) as worker:
        asked: deque[Future[None]] = deque()

        def do(function: Callable[..., None], *arguments: Any) -> None:
            while len(asked) >= _WAITING:
                asked.popleft().result()
            asked.append(worker.submit(function, *arguments))

        yield do
        for future in asked:
            future.result()


@contextmanager
def meanwhile(function: Callable[..., object], *arguments: Any) -> Iterator[None]:
    """Inside, ``function`` runs in another thread. It is done when this ends, and what it raises is raised then."""
    with ThreadPoolExecutor(1) as worker:
        future = worker.submit(function, *arguments)
        yield
        future.result()


def in_threads(function: Callable[[A], B], values: Iterable[A]) -> list[B]:
    """``function`` of each value, in their order, two of them at a time where this process is alone on the machine."""
    with ThreadPoolExecutor(1 if _sharing else 2) as workers:
        return list(workers.map(function, values))


_sharing: list[bool] = []


def share_the_machine() -> None:
    """From now on this process is one of several: what it runs in onnxruntime has one thread."""
    _sharing[:] = [True]


def session_threads() -> int:
    """Threads of a session; 0: as many as onnxruntime finds cores for."""
    return len(_sharing)


#: glibc's names of what `keep_what_is_freed` sets, and how far: arrays up to so many bytes lie on the heap (older ones
#: take no more than the last), which may have so many free at its end.
_MMAP_THRESHOLD, _TRIM_THRESHOLD, _ON_HEAP, _FREE = -3, -1, (128 << 20, 32 << 20), 256 << 20


def keep_what_is_freed() -> None:
    """From now on memory of arrays goes from one to the next, where the C library is glibc.

    Else each page of each batch is fetched from the system anew, and zeroed: a tenth of the time of calibration.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    any(mallopt(_MMAP_THRESHOLD, size) for size in _ON_HEAP)
    mallopt(_TRIM_THRESHOLD, _FREE)


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for BLAS inside: sums are then the same on any number of cores.

    Products of calibration are small, and threads for them cost more than they earn: on two busy cores four times the
    seconds, on two free ones the same.
    """
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 (only where there is calibration)

    with threadpool_limits(1, user_api="blas"):
        yield
